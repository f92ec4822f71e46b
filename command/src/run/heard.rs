//! What the library tells of restarts (`ckpt_restart::handshake`), and what that comes
//! to.

use super::child::Ended;
use crate::advice::REFUSED;
use ckpt_image::json::{Array, Json, Lines, Object};
use ckpt_image::report::Outcome;
use ckpt_restart::handshake::{Address, VERSION};
use ckpt_restart::memory;
use serde_json::Value;
use std::ffi::CString;
use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;

/// No more is read of what was told.
const MOST: u64 = 256 << 20;

/// The version of what [`Run`] is as JSON. A field that goes or changes its meaning
/// makes it a higher one, a field that comes does not.
const SCHEMA: u32 = 1;

/// Where the library tells what happens.
pub struct Listener {
    file: File,
    address: Address,
}

impl Listener {
    /// Makes the place.
    ///
    /// # Errors
    /// What the system says, of /proc above all.
    pub fn new() -> io::Result<Self> {
        let mut token = [0; 8];
        // SAFETY: the buffer is writable and of the length told.
        if unsafe { libc::getrandom(token.as_mut_ptr().cast(), token.len(), 0) } != 8 {
            return Err(io::Error::last_os_error());
        }
        // In another pid namespace than that of /proc, getpid(2) tells something else.
        let me = std::fs::read_link("/proc/self")?;
        let pid = me.to_str().and_then(|pid| pid.parse().ok());
        let mut address = Address {
            pid: pid.ok_or(io::ErrorKind::InvalidData)?,
            number: 0,
            token: u64::from_ne_bytes(token),
        };
        let name = CString::new(address.name())?;
        let file = memory::file(&name, true)?;
        address.number = file.as_raw_fd().cast_unsigned();
        address.open()?;
        Ok(Listener { file, address })
    }

    /// For the environment of the program.
    pub fn address(&self) -> Address {
        self.address
    }

    /// What has been told so far.
    ///
    /// # Errors
    /// What reading gives.
    pub fn heard(mut self) -> io::Result<Heard> {
        let mut text = Vec::new();
        self.file.rewind()?;
        self.file.take(MOST).read_to_end(&mut text)?;
        Ok(Heard::read(&text))
    }
}

/// A process in which the library was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u64,
    program: String,
}

/// What was told of a restart.
#[derive(Debug)]
struct Restart {
    process: Process,
    /// `None` where it is one that this version does not know.
    outcome: Option<Outcome>,
    report: Value,
}

/// The outcomes as they are counted, the best first.
const OUTCOMES: [Outcome; 6] = [
    Outcome::Restarted,
    Outcome::Dumped,
    Outcome::Restarting,
    Outcome::Planned,
    Outcome::Failed,
    Outcome::Refused,
];

/// All that was told.
#[derive(Debug, Default)]
pub struct Heard {
    loaded: Vec<Process>,
    restarts: Vec<Restart>,
    /// Something that this version does not understand.
    foreign: bool,
}

impl Heard {
    fn read(text: &[u8]) -> Self {
        let mut heard = Heard::default();
        // A line without an end is being written by somebody who outlives the program.
        for line in text.split_inclusive(|&b| b == b'\n') {
            if line.ends_with(b"\n") {
                heard.add(line);
            }
        }
        heard
    }

    fn add(&mut self, line: &[u8]) {
        let line: Value = serde_json::from_slice(line).unwrap_or_default();
        let (Some(pid), Some(program)) = (line["pid"].as_u64(), line["program"].as_str()) else {
            self.foreign = true;
            return;
        };
        if line["ckptadv"] != VERSION {
            self.foreign = true;
            return;
        }
        let process = Process {
            pid,
            program: program.to_owned(),
        };
        let report = &line["report"];
        if report.is_null() {
            self.loaded.push(process);
            return;
        }
        let mut outcomes = OUTCOMES.into_iter();
        let restart = Restart {
            process,
            outcome: outcomes.find(|outcome| report["outcome"] == outcome.name()),
            report: report.clone(),
        };
        // How it went on.
        let mut known = self.restarts.iter_mut().rev();
        let known = known.find(|other| other.process.pid == pid);
        match known.filter(|before| before.outcome == Some(Outcome::Restarting)) {
            Some(before) => {
                (before.outcome, before.report) = (restart.outcome, restart.report);
            }
            None => self.restarts.push(restart),
        }
    }

    /// The names of the first few programs.
    fn programs(&self) -> String {
        const MOST: usize = 4;
        let mut names: Vec<&str> = Vec::new();
        for process in &self.loaded {
            if names.len() > MOST {
                break;
            }
            if !names.contains(&process.program.as_str()) {
                names.push(&process.program);
            }
        }
        if names.len() > MOST {
            names[MOST] = "others";
        }
        names.join(", ")
    }

    fn of(&self, outcome: Outcome) -> usize {
        let all = self.restarts.iter();
        all.filter(|it| it.outcome == Some(outcome)).count()
    }
}

/// A run that is over.
pub struct Run {
    /// The program, as the user called it.
    pub program: String,
    /// How it ended.
    pub ended: Ended,
    /// What was heard meanwhile.
    pub heard: Heard,
}

impl Run {
    /// The exit status: that of the program, unless there is something to say.
    pub fn status(&self) -> u8 {
        const NOT_SEEN: u8 = 120;
        match self.ended {
            _ if self.heard.restarts.is_empty() => NOT_SEEN,
            _ if self.heard.of(Outcome::Refused) > 0 => REFUSED,
            Ended::Status(status) => status,
            Ended::Signal(signal) => (128 + signal) as u8,
        }
    }

    fn end(&self) -> String {
        match self.ended {
            Ended::Status(status) => format!("{} ended with status {status}", self.program),
            Ended::Signal(signal) => format!("{} was ended by signal {signal}", self.program),
        }
    }
}

impl fmt::Display for Run {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.heard.restarts.as_slice() {
            [] => {
                let end = self.end();
                write!(f, "no restart was seen: {end}, and the library ")?;
                match self.heard.loaded.as_slice() {
                    _ if self.heard.foreign => {
                        f.write_str("is of another version: install both from one release")
                    }
                    [] => f.write_str(
                        "was loaded into nothing: who starts the restart program may give it an \
                         environment of its own (LIMITATIONS in ckptadv(1))",
                    ),
                    _ => write!(f, "was loaded into {}", self.heard.programs()),
                }
            }
            [restart] => write!(f, "{restart}"),
            all => {
                write!(f, "{} restarts: ", all.len())?;
                let mut separator = "";
                for outcome in OUTCOMES {
                    let count = self.heard.of(outcome);
                    if count > 0 {
                        write!(f, "{separator}{count} {}", outcome.name())?;
                        separator = ", ";
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Restart {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let count = |field: &str| report[field].as_array().map_or(0, Vec::len);
        let message = report["error"]["message"].as_str();
        match self.outcome {
            Some(outcome @ (Outcome::Refused | Outcome::Failed)) => {
                let message = message.unwrap_or("for an unknown reason");
                return write!(f, "{}: {message}", outcome.name());
            }
            Some(Outcome::Planned) => f.write_str("dry run, and nothing was done")?,
            Some(Outcome::Restarting) => f.write_str("restarted, and how it ended was not told")?,
            Some(outcome @ (Outcome::Restarted | Outcome::Dumped)) => {
                f.write_str(outcome.name())?
            }
            None => {
                let name = report["outcome"].as_str();
                f.write_str(name.unwrap_or("something else happened"))?;
            }
        }
        let would = match self.outcome {
            Some(Outcome::Planned) => "would be ",
            _ => "",
        };
        match count("changes") {
            0 => write!(f, ": every descriptor {would}as it was")?,
            1 => write!(f, ": 1 descriptor {would}as advised")?,
            changes => write!(f, ": {changes} descriptors {would}as advised")?,
        }
        match count("unmatched") {
            0 => Ok(()),
            1 => f.write_str("; 1 item matched nothing"),
            unmatched => write!(f, "; {unmatched} items matched nothing"),
        }
    }
}

impl Json for Run {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let (status, signal) = match self.ended {
            Ended::Status(status) => (Some(u32::from(status)), None),
            Ended::Signal(signal) => (None, Some(signal)),
        };
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("program", &self.program)?
            .field("status", &status)?
            .field("signal", &signal)?
            .field("exit_status", &u32::from(self.status()))?
            .field("loaded", &Array(self.heard.loaded.iter()))?
            .field("restarts", &Lines(self.heard.restarts.iter()))?
            .end()
    }
}

impl Json for Process {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let (pid, program) = (&self.pid, &self.program);
        Object::new(out)
            .field("pid", pid)?
            .field("program", program)?
            .end()
    }
}

impl Json for Restart {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("pid", &self.process.pid)?
            .field("program", &self.process.program)?
            .field("report", &Parsed(&self.report))?
            .end()
    }
}

/// What was JSON before.
struct Parsed<'a>(&'a Value);

impl Json for Parsed<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Run {
        Run {
            program: "restart".to_owned(),
            ended: Ended::Status(3),
            heard: Heard::read(text.as_bytes()),
        }
    }

    fn line(pid: u32, report: &str) -> String {
        format!("{{\"ckptadv\":1,\"pid\":{pid},\"program\":\"criu\",\"report\":{report}}}\n")
    }

    fn report(outcome: &str) -> String {
        format!(
            "{{\"outcome\":\"{outcome}\",\"changes\":[1,2],\"unmatched\":[\"\"],\
             \"error\":{{\"message\":\"because\"}}}}"
        )
    }

    #[test]
    fn what_is_heard_last_of_a_restart_counts() {
        let text = [
            line(7, "null"),
            line(7, &report("restarting")),
            line(8, &report("restarting")),
            line(7, &report("restarted")),
        ];
        let both = run(&text.concat());
        assert_eq!((both.heard.loaded.len(), both.heard.restarts.len()), (1, 2));
        assert_eq!(both.to_string(), "2 restarts: 1 restarted, 1 restarting");
        assert_eq!(both.status(), 3);
        let one = run(&text[3]);
        assert_eq!(
            one.to_string(),
            "restarted: 2 descriptors as advised; 1 item matched nothing"
        );
        let unknown = run(&line(7, &report("cloned")));
        assert!(unknown.to_string().starts_with("cloned: 2 descriptors"));
        let refused = run(&[&text[3][..], &line(7, &report("refused"))].concat());
        assert_eq!(refused.status(), 121);
        assert_eq!(
            run(&line(1, &report("refused"))).to_string(),
            "refused: because"
        );
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_not_taken_for_a_restart() {
        let whole = line(7, &report("restarted"));
        for text in [
            "",
            &whole[..whole.len() - 1],
            &whole.replace("\"ckptadv\":1", "\"ckptadv\":2"),
            "nonsense\n",
            "{\"ckptadv\":1}\n",
        ] {
            let run = run(text);
            assert_eq!(run.status(), 120, "{text}");
            assert!(
                run.to_string().starts_with("no restart was seen: "),
                "{run}"
            );
        }
        assert!(run("nonsense\n").to_string().contains("another version"));
    }
}
