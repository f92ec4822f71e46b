//! What a dump left out of an image, and what the dumped program asks whoever restores
//! it for, as the file beside the image tells it (ckpt_image(5), FILES).
//!
//! ```text
//! {"ckptadv":1,"dump":52881,"left_out":[
//!  {"task":17,"fd":7,"id":0,"flags":2,"kind":"chr","file":"/dev/fuse"}
//! ],"asks":[
//!  {"task":17,"fd":5,"mark":20881,"kind":"reg","file":"/var/log/a"}
//! ]}
//! ```
//!
//! The file comes with an image and is as little to be trusted. Keys that nobody
//! here knows are passed over, so that a later version can say more.

use crate::Error;
use crate::advice::{Action, Item, Kind, Target, TaskSelector, parse_kind};
use crate::json::{Json, Object};
use crate::plan::Asked;
use std::collections::BTreeSet;
use std::fmt::{self, Write};

/// The name of the file in the directory of the image.
pub const RECORD: &str = "ckptadv.json";

/// A longer file is refused, and need not be read.
pub const LONGEST: u64 = 16 << 20;

const VERSION: u64 = 1;

/// Objects and arrays within each other, at most.
const DEEPEST: usize = 32;

/// A descriptor that a task had when it was dumped, and that the image lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The task, by its pid in the image.
    pub task: i32,
    /// The descriptor.
    pub number: i32,
    /// Entries with the same one were the same open file description.
    pub id: u32,
    /// Its flags, as open(2) has them: of the description, and O_CLOEXEC.
    pub flags: i32,
    /// What kind of file it was.
    pub kind: Kind,
    /// What /proc/PID/fd showed.
    pub file: String,
}

impl LeftOut {
    /// The flags of the descriptor itself, as F_GETFD gives them.
    pub(super) fn fd_flags(&self) -> u32 {
        match self.flags & libc::O_CLOEXEC {
            0 => 0,
            _ => libc::FD_CLOEXEC.unsigned_abs(),
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeftOut {
            task,
            number,
            kind,
            file,
            ..
        } = self;
        write!(
            f,
            "task {task} descriptor {number} ({kind} {file}) was left out of the image"
        )
    }
}

/// A descriptor of which a program said itself, by a mark, that whoever restores it may
/// give theirs. It names a number, and never a file: the image's is told for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The task, by its pid in the image.
    pub task: i32,
    /// The descriptor.
    pub number: i32,
    /// The word that its memory had ([`crate::marks`]), and has in the image.
    pub mark: u64,
    /// What kind of file it was.
    pub kind: Kind,
    /// What /proc/PID/fd showed.
    pub file: String,
}

/// What items that come from marks say they came from.
const MARK: &str = "mark";

impl Ask {
    /// As an item of advice.
    pub fn item(&self) -> Item {
        mark_item(Action::Preserve, self.task, self.number)
    }

    /// * `is_missing`: the dump left it out.
    pub(super) fn asked(&self, is_missing: bool) -> Asked {
        Asked {
            item: self.item(),
            not_offered: self.not_offered(is_missing),
        }
    }

    /// Why it comes to nothing, where it was not offered.
    ///
    /// * `is_missing`: the dump left it out.
    pub fn not_offered(&self, is_missing: bool) -> String {
        let Ask {
            number, kind, file, ..
        } = self;
        let instead = match is_missing {
            true => format!("it is without one ({kind} {file} was left out of the image)"),
            false => format!("it gets the image's ({kind} {file})"),
        };
        format!(
            "the program asks for the {number} of whoever restores it, and that is not offered \
             (CKPT_ACCEPT={number}): {instead}"
        )
    }
}

/// What a mark comes to, as an item of advice.
pub(super) fn mark_item(action: Action, task: i32, number: i32) -> Item {
    Item {
        action,
        task: Some(TaskSelector::Pid(task)),
        target: Target::Number(number),
        variable: MARK.to_owned(),
        text: format!("{task}:{number}"),
    }
}

/// All that the file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Of which dump it is ([`super::moment`]); `None` where that is not told.
    pub dump: Option<u64>,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
    /// What is asked for.
    pub asks: Vec<Ask>,
}

/// How much of a file of an image is read at most, in bytes: one more than
/// [`LONGEST`] of this file, everything of others.
pub fn at_most(name: &str) -> u64 {
    if name == RECORD {
        LONGEST + 1
    } else {
        u64::MAX
    }
}

/// The bytes of the file.
pub fn write(record: &Record) -> Vec<u8> {
    let mut text = format!("{{\"ckptadv\":{VERSION}");
    if let Some(dump) = record.dump {
        // A string takes whatever is written.
        let _ = write!(text, ",\"dump\":{dump}");
    }
    list("left_out", &record.left_out, &mut text);
    if !record.asks.is_empty() {
        list("asks", &record.asks, &mut text);
    }
    text.push_str("}\n");
    text.into_bytes()
}

/// Entries, each on a line.
fn list(name: &str, entries: &[impl Json], text: &mut String) {
    // A string takes whatever is written.
    let _ = write!(text, ",\"{name}\":[");
    for (index, entry) in entries.iter().enumerate() {
        text.push_str(if index == 0 { "\n " } else { ",\n " });
        let _ = entry.json(text);
    }
    text.push_str("\n]");
}

impl Json for LeftOut {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("task", &self.task)?
            .field("fd", &self.number)?
            .field("id", &self.id)?
            .field("flags", &self.flags)?
            .field("kind", self.kind.name())?
            .field("file", &self.file)?
            .end()
    }
}

impl Json for Ask {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("task", &self.task)?
            .field("fd", &self.number)?
            .field("mark", &self.mark)?
            .field("kind", self.kind.name())?
            .field("file", &self.file)?
            .end()
    }
}

/// Reads the file.
///
/// # Errors
/// [`Error::Image`] where it is not JSON, of a version that is not known here, or
/// does not say of each descriptor what it must.
pub fn read(bytes: &[u8]) -> Result<Record, Error> {
    let mut reader = Reader { bytes, at: 0 };
    if bytes.len() as u64 > LONGEST {
        return Err(reader.error("the file is too long"));
    }
    let mut record = Record::default();
    reader.expect(b'{')?;
    if reader.string()? != "ckptadv" {
        return Err(reader.error("it does not begin with {\"ckptadv\":"));
    }
    reader.expect(b':')?;
    if reader.number()? != VERSION {
        return Err(reader.error(format!("only version {VERSION} of this file is known")));
    }
    let mut keys = BTreeSet::new();
    while reader.another(b'}')? {
        let key = reader.string()?;
        if !keys.insert(key.clone()) {
            return Err(reader.error(format!("\"{key}\" stands twice")));
        }
        reader.expect(b':')?;
        match key.as_str() {
            "dump" => record.dump = Some(reader.number()?),
            "left_out" => entries(&mut reader, |fields| {
                record.left_out.push(fields.left_out()?);
                Some(())
            })?,
            "asks" => entries(&mut reader, |fields| {
                record.asks.push(fields.ask()?);
                Some(())
            })?,
            _ => reader.pass_over()?,
        }
    }
    reader.space();
    if reader.at != bytes.len() {
        return Err(reader.error("something follows the end"));
    }
    Ok(record)
}

/// * `add`: takes an entry, unless it lacks something.
fn entries(
    reader: &mut Reader<'_>,
    mut add: impl FnMut(Fields) -> Option<()>,
) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    reader.expect(b'[')?;
    let mut first = true;
    while reader.element(&mut first, b']')? {
        let fields = Fields::read(reader)?;
        let place = (fields.task, fields.number);
        if let ((Some(task), Some(number)), false) = (place, seen.insert(place)) {
            return Err(reader.error(format!("descriptor {number} of task {task} stands twice")));
        }
        if add(fields).is_none() {
            return Err(reader.error(
                "an entry lacks one of task, fd, kind and file, or of id and flags (of what was \
                 left out) or mark (of what is asked for)",
            ));
        }
    }
    Ok(())
}

/// What an entry of either kind can say.
#[derive(Default)]
struct Fields {
    task: Option<i32>,
    number: Option<i32>,
    id: Option<u32>,
    flags: Option<i32>,
    mark: Option<u64>,
    kind: Option<Kind>,
    file: Option<String>,
}

impl Fields {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut fields = Fields::default();
        reader.expect(b'{')?;
        let mut first = true;
        while reader.element(&mut first, b'}')? {
            let key = reader.string()?;
            reader.expect(b':')?;
            match key.as_str() {
                "task" => fields.task = Some(reader.small()?),
                "fd" => fields.number = Some(reader.small()?),
                "id" => fields.id = Some(reader.small()?.unsigned_abs()),
                "flags" => fields.flags = Some(reader.small()?),
                "mark" => fields.mark = Some(reader.number()?),
                "kind" => {
                    let kind = parse_kind(&reader.string()?);
                    fields.kind = Some(kind.unwrap_or(Kind::Other));
                }
                "file" => fields.file = Some(reader.string()?),
                _ => reader.pass_over()?,
            }
        }
        Ok(fields)
    }

    fn left_out(self) -> Option<LeftOut> {
        Some(LeftOut {
            task: self.task?,
            number: self.number?,
            id: self.id?,
            flags: self.flags?,
            kind: self.kind?,
            file: self.file?,
        })
    }

    fn ask(self) -> Option<Ask> {
        Some(Ask {
            task: self.task?,
            number: self.number?,
            mark: self.mark?,
            kind: self.kind?,
            file: self.file?,
        })
    }
}

/// JSON, read where it lies and once.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Image {
            file: RECORD.to_owned(),
            offset: self.at as u64,
            reason: reason.into(),
        }
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, which stays to be read.
    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return Err(self.error(format!("expected '{}'", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    /// After an element: whether another follows, or the end.
    fn another(&mut self, end: u8) -> Result<bool, Error> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.error(format!("expected ',' or '{}'", char::from(end)))),
        }
    }

    /// Whether an element follows, the first one or another.
    fn element(&mut self, first: &mut bool, end: u8) -> Result<bool, Error> {
        if std::mem::replace(first, false) && self.peek() != Some(end) {
            return Ok(true);
        }
        self.another(end)
    }

    fn number(&mut self) -> Result<u64, Error> {
        self.space();
        let rest = &self.bytes[self.at..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let text = std::str::from_utf8(&rest[..digits]).unwrap_or("");
        let number = text.parse().map_err(|_| self.error("expected a number"))?;
        self.at += digits;
        Ok(number)
    }

    fn small(&mut self) -> Result<i32, Error> {
        let number = self.number()?;
        i32::try_from(number).map_err(|_| self.error("the number is too large"))
    }

    fn string(&mut self) -> Result<String, Error> {
        self.expect(b'"')?;
        let mut string = Vec::new();
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.error("a string without an end"));
            };
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    let mut buffer = [0; 4];
                    let c = self.escaped()?;
                    string.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                }
                0..0x20 => return Err(self.error("a control character in a string")),
                byte => string.push(byte),
            }
        }
        String::from_utf8(string).map_err(|_| self.error("a string is not UTF-8"))
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, Error> {
        let letter = self.bytes.get(self.at).copied();
        self.at += 1;
        Ok(match letter {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let digits = self.bytes.get(self.at..self.at + 4);
                let code = digits
                    .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .ok_or_else(|| self.error("expected four hexadecimal digits"))?;
                self.at += 4;
                // What lies above is written as it is.
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(self.error("an escape that is none")),
        })
    }

    /// Passes over one value of any kind.
    fn pass_over(&mut self) -> Result<(), Error> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string()?),
                Some(byte @ (b'{' | b'[')) => {
                    if open.len() == DEEPEST {
                        return Err(self.error("too deep"));
                    }
                    self.at += 1;
                    open.push(byte + 2); // The bracket that closes it.
                    if self.peek() != open.last().copied() {
                        if byte == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => self.word(),
                _ => return Err(self.error("expected a value")),
            }
            loop {
                let Some(&end) = open.last() else {
                    return Ok(());
                };
                // An empty one ends at once.
                if self.another(end)? {
                    if end == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }

    fn key(&mut self) -> Result<(), Error> {
        self.string()?;
        self.expect(b':')
    }

    /// A number, true, false or null: nothing depends on which.
    fn word(&mut self) {
        let of_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().take_while(|b| of_word(b)).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out() -> Vec<LeftOut> {
        let entry = |task, number, id, kind, file: &str| LeftOut {
            task,
            number,
            id,
            flags: libc::O_RDWR,
            kind,
            file: file.to_owned(),
        };
        vec![
            entry(17, 7, 0, Kind::Chr, "/dev/fuse"),
            entry(17, 8, 1, Kind::Reg, "/a \"b\"\\c\n\u{9b}ü\u{1f600}"),
            entry(18, 7, 0, Kind::Chr, "/dev/fuse"),
        ]
    }

    fn asks() -> Vec<Ask> {
        let ask = |number, mark| Ask {
            task: 17,
            number,
            mark,
            kind: Kind::Reg,
            file: "/var/log/a".to_owned(),
        };
        vec![ask(5, 9), ask(6, u64::MAX)]
    }

    fn record() -> Record {
        Record {
            dump: Some(u64::MAX),
            left_out: left_out(),
            asks: asks(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let whole = record();
        assert_eq!(read(&write(&whole)), Ok(whole));
        let only = |left_out, asks| Record {
            dump: None,
            left_out,
            asks,
        };
        for record in [
            only(left_out(), vec![]),
            only(vec![], asks()),
            only(vec![], vec![]),
        ] {
            assert_eq!(read(&write(&record)), Ok(record));
        }
    }

    #[test]
    fn every_byte_of_it_is_agreed_upon() {
        let text = |record: &Record| String::from_utf8(write(record)).expect("text");
        let whole = "{\"ckptadv\":1,\"dump\":18446744073709551615,\"left_out\":[\n \
             {\"task\":17,\"fd\":7,\"id\":0,\"flags\":2,\"kind\":\"chr\",\"file\":\"/dev/fuse\"},\n \
             {\"task\":17,\"fd\":8,\"id\":1,\"flags\":2,\"kind\":\"reg\",\
             \"file\":\"/a \\\"b\\\"\\\\c\\u000a\\u009bü\u{1f600}\"},\n \
             {\"task\":18,\"fd\":7,\"id\":0,\"flags\":2,\"kind\":\"chr\",\"file\":\"/dev/fuse\"}\n\
             ],\"asks\":[\n \
             {\"task\":17,\"fd\":5,\"mark\":9,\"kind\":\"reg\",\"file\":\"/var/log/a\"},\n \
             {\"task\":17,\"fd\":6,\"mark\":18446744073709551615,\"kind\":\"reg\",\
             \"file\":\"/var/log/a\"}\n]}\n";
        assert_eq!(text(&record()), whole);
        let nothing = "{\"ckptadv\":1,\"left_out\":[\n]}\n";
        assert_eq!(text(&Record::default()), nothing);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let text = br#"{ "ckptadv" : 1, "more": [{"a":[],"b":{}}, -1.5e3, null, "x\u0041"],
            "left_out": [ {"task":1,"new":{"deep":[[1],[]]},"fd":2,"id":0,"flags":1,"kind":"future","file":"f"} ],
            "last": true }"#;
        let expected = LeftOut {
            task: 1,
            number: 2,
            id: 0,
            flags: libc::O_WRONLY,
            kind: Kind::Other,
            file: "f".to_owned(),
        };
        assert_eq!(read(text).map(|record| record.left_out), Ok(vec![expected]));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = write(&record());
        for length in 0..whole.len() - 1 {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
        let deep = format!("{{\"ckptadv\":1,\"a\":{}", "[".repeat(100_000));
        for text in [
            "[]",
            "{\"version\":1}",
            "{\"ckptadv\":2,\"left_out\":7}",
            "{\"ckptadv\":1,\"left_out\":[{}]}",
            "{\"ckptadv\":1,\"left_out\":[{\"task\":1,\"fd\":4294967296}]}",
            "{\"ckptadv\":1,\"left_out\":[,]}",
            "{\"ckptadv\":1,\"asks\":[{\"task\":1,\"fd\":5,\"kind\":\"reg\",\"file\":\"f\"}]}",
            "{\"ckptadv\":1,\"asks\":[{\"task\":1,\"fd\":-5}]}",
            "{\"ckptadv\":1,\"asks\":[{\"task\":1,\"fd\":5,\"mark\":18446744073709551616}]}",
            "{\"ckptadv\":1,\"a\":[}]}",
            "{\"ckptadv\":1,\"a\":\"\\u12\"}",
            "{\"ckptadv\":1} x",
            "{\"ckptadv\":1,\"left_out\":[],\"left_out\":[]}",
            &deep,
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert_eq!(error.errno(), libc::EINVAL);
        }
        let mut twice = record();
        twice.left_out.push(left_out()[0].clone());
        assert!(read(&write(&twice)).is_err());
        let mut twice = record();
        twice.asks.push(asks()[0].clone());
        assert!(read(&write(&twice)).is_err());
    }
}
