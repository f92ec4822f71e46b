//! What was found, and what cures it: as text and as JSON.

use ckpt_image::json::{Array, Json, Lines, Object};
use ckpt_image::listing::Engine;
use ckpt_image::report::Failure;
use std::borrow::Cow;
use std::fmt::{self, Write};

/// The version of what [`Findings`] is as JSON. A field that goes or changes its meaning
/// makes it a higher one, a field that comes does not.
const SCHEMA: u32 = 1;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The restore would fail, or hang.
    Fails,
    /// It depends on what cannot be seen.
    MayFail,
    /// It would succeed, and something would not be as it was.
    Lost,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Fails => "fails",
            Verdict::MayFail => "may fail",
            Verdict::Lost => "lost",
        }
    }
}

/// One way to cure it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Options of this command, each with its LIST.
    Advice(Vec<(&'static str, String)>),
    /// An option of criu restore.
    Criu(String),
    /// What to do on the machine.
    Action(String),
}

impl Cure {
    /// One option.
    pub fn option(option: &'static str, list: String) -> Self {
        Cure::Advice(vec![(option, list)])
    }
}

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cure::Advice(options) => {
                let words = options
                    .iter()
                    .map(|(option, list)| format!("{option} {}", quoted(list)));
                f.write_str(&words.collect::<Vec<_>>().join(" "))
            }
            Cure::Criu(option) => write!(f, "criu restore {option}"),
            Cure::Action(action) => f.write_str(action),
        }
    }
}

/// As a shell takes it for one word.
pub fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,:+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', r"'\''"))),
    }
}

/// What an image would fail on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    /// In a word, for programs.
    pub what: &'static str,
    /// The open file description; of the image as a whole there is none.
    pub about: Option<About>,
    /// In words.
    pub why: String,
    /// One of them is enough.
    pub cures: Vec<Cure>,
}

/// The open file description that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub id: u64,
    pub kind: &'static str,
    pub name: String,
    /// Tasks and numbers.
    pub descriptors: Vec<(i32, i32)>,
    /// Its descriptors, or what else refers to it, in short.
    pub held: String,
}

impl Finding {
    /// Of the image as a whole.
    ///
    /// * `why`: what fails, and what to do.
    pub fn of_image(why: String) -> Self {
        Finding {
            verdict: Verdict::Fails,
            what: "image",
            about: None,
            why,
            cures: Vec::new(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.verdict.name())?;
        if let Some(about) = &self.about {
            f.write_str(about.kind)?;
            for part in [&about.name, &about.held] {
                if !part.is_empty() {
                    write!(f, " {part}")?;
                }
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.why)
    }
}

/// All that there is to say of an image.
pub struct Findings {
    pub engine: Engine,
    pub format: Option<String>,
    pub failure: Option<Failure>,
    pub findings: Vec<Finding>,
    /// What was not looked at.
    pub unjudged: Vec<String>,
}

impl Findings {
    /// None.
    pub fn none(engine: Engine, failure: Option<Failure>) -> Self {
        Findings {
            engine,
            format: None,
            failure,
            findings: Vec::new(),
            unjudged: Vec::new(),
        }
    }
}

impl Json for Findings {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("engine", self.engine.name())?
            .field("format", &self.format)?
            .field("error", &self.failure)?
            .field("findings", &Lines(self.findings.iter()))?
            .field("unjudged", &Lines(self.unjudged.iter()))?
            .end()
    }
}

impl Json for Finding {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let about = self.about.as_ref();
        let descriptors = about.into_iter().flat_map(|about| &about.descriptors);
        let descriptors = descriptors.map(|(task, number)| format!("{task}:{number}"));
        Object::new(out)
            .field("verdict", self.verdict.name())?
            .field("what", self.what)?
            .field("description", &about.map(|about| about.id))?
            .field("kind", &about.map(|about| about.kind))?
            .field("name", &about.map(|about| about.name.as_str()))?
            .field("descriptors", &Array(descriptors))?
            .field("why", &self.why)?
            .field("cures", self.cures.as_slice())?
            .end()
    }
}

impl Json for Cure {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let object = Object::new(out);
        match self {
            Cure::Advice(options) => object.field("advice", &Array(options.iter().map(Given)))?,
            Cure::Criu(option) => object.field("criu", option)?,
            Cure::Action(action) => object.field("action", action)?,
        }
        .end()
    }
}

struct Given<'a>(&'a (&'static str, String));

impl Json for Given<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let (option, list) = self.0;
        Object::new(out)
            .field("option", *option)?
            .field("list", list)?
            .end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_list_as_one_word() {
        assert_eq!(quoted("7=/tmp/a.log"), "7=/tmp/a.log");
        assert_eq!(quoted("7=/tmp/a b"), "'7=/tmp/a b'");
        assert_eq!(quoted("7=/it's"), r"'7=/it'\''s'");
        assert_eq!(quoted(r"7=/a\,b"), r"'7=/a\,b'");
    }
}
