//! The CKPT_ variables (ckpt_advice(7)), read once and never changed.

use crate::handshake::Address;
use crate::log::{self, Level};
use crate::report;
use ckpt_image::Error;
use ckpt_image::advice::{Action, Advice, Item, Source, Strictness, parse_list};
use std::path::PathBuf;

/// What the environment asks for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The advice, and what an unmatched item does.
    pub advice: Advice,
    /// CKPT_ACCEPT: numbers and ranges that an image may ask for.
    pub accept: Vec<Item>,
    /// CKPT_DRY_RUN: print the plan and refuse the restart.
    pub dry_run: bool,
    /// CKPT_LOG.
    pub log: Option<Level>,
    /// CKPT_LOG_FILE.
    pub log_file: Option<PathBuf>,
    /// CKPT_REPORT.
    pub report: Option<PathBuf>,
    /// CKPT_SOURCE_ROOT: paths as source are looked up below this directory, and never outside it.
    pub source_root: Option<PathBuf>,
    /// CKPT_RESTART_NR.
    pub restart_nr: Option<i64>,
    /// CKPT_RUN: where `ckptadv run` is told what happens.
    pub run: Option<Address>,
    /// Variables whose name begins with CKPT_ and that nobody knows.
    pub unknown: Vec<String>,
    /// The first value that cannot be read, or cannot be obeyed yet. It must
    /// refuse a restart, also where there is no advice.
    pub mistake: Option<Error>,
}

/// The variables that are known, for checks of documentation against code.
pub const VARIABLES: &[&str] = &[
    "CKPT_PRESERVE",
    "CKPT_IGNORE",
    "CKPT_SUBSTITUTE",
    "CKPT_STRICT",
    "CKPT_DRY_RUN",
    "CKPT_LOG",
    "CKPT_LOG_FILE",
    "CKPT_REPORT",
    "CKPT_ACCEPT",
    "CKPT_SOURCE_ROOT",
    "CKPT_RESTART_NR",
    "CKPT_RUN",
];

impl Settings {
    /// Nothing is asked for.
    pub const NONE: Settings = Settings {
        advice: Advice {
            items: Vec::new(),
            strictness: Strictness::Warn,
        },
        accept: Vec::new(),
        dry_run: false,
        log: None,
        log_file: None,
        report: None,
        source_root: None,
        restart_nr: None,
        run: None,
        unknown: Vec::new(),
        mistake: None,
    };

    /// Reads the settings out of an environment.
    ///
    /// * `environment`: names and values; those that do not begin with `CKPT_`
    ///   are passed over, empty values are as good as none.
    /// * `limit`: RLIMIT_NOFILE.
    ///
    /// All are read also where one has a mistake, so that the mistake is told
    /// where CKPT_LOG_FILE wants it.
    pub fn read(environment: impl Iterator<Item = (Vec<u8>, Vec<u8>)>, limit: u64) -> Self {
        let mut settings = Settings::NONE;
        let mut ignore: Vec<Item> = Vec::new();
        for (name, value) in environment {
            if !name.starts_with(b"CKPT_") || value.is_empty() {
                continue;
            }
            let name = String::from_utf8_lossy(&name).into_owned();
            if let Err(mistake) = settings.set(name, value, limit, &mut ignore) {
                settings.mistake.get_or_insert(mistake);
            }
        }
        settings.advice.items.append(&mut ignore);
        settings
    }

    fn set(
        &mut self,
        name: String,
        value: Vec<u8>,
        limit: u64,
        ignore: &mut Vec<Item>,
    ) -> Result<(), Error> {
        let list = |action: Action| parse_list(&name, &value, &action, limit);
        match name.as_str() {
            "CKPT_PRESERVE" => self.advice.items.extend(list(Action::Preserve)?),
            "CKPT_IGNORE" => *ignore = list(Action::Ignore)?,
            "CKPT_SUBSTITUTE" => {
                let stand_in = Action::Substitute(Source::Descriptor(0));
                self.advice.items.extend(list(stand_in)?);
            }
            "CKPT_STRICT" => self.advice.strictness = strictness(&name, &value)?,
            "CKPT_DRY_RUN" => self.dry_run = switch(&name, &value)?,
            "CKPT_LOG" => self.log = Some(level(&name, &value)?),
            "CKPT_LOG_FILE" => self.log_file = Some(path(value)),
            "CKPT_SOURCE_ROOT" => self.source_root = Some(absolute(&name, value)?),
            "CKPT_RESTART_NR" => self.restart_nr = Some(number(&name, &value)?),
            "CKPT_ACCEPT" => {
                self.accept = list(Action::Preserve)?;
                if let Some(item) = self.accept.iter().find(|item| item.task.is_some()) {
                    let reason = "expected numbers and ranges: what is offered is offered to every \
                                  task that asks";
                    return Err(bad(&name, item.text.as_bytes(), reason));
                }
            }
            "CKPT_REPORT" => self.report = Some(path(value)),
            "CKPT_RUN" => {
                let address = Address::parse(&value);
                let bad = || bad(&name, &value, "expected what ckptadv run sets");
                self.run = Some(address.ok_or_else(bad)?);
            }
            _ => self.unknown.push(name),
        }
        Ok(())
    }

    /// Whether anybody wants to know what became of a restart.
    pub fn reports(&self) -> bool {
        self.report.is_some() || self.run.is_some()
    }

    /// What an engine does first, once it sees a restart: sends messages and the
    /// report where they are wanted, and refuses where a variable has a mistake.
    ///
    /// # Errors
    /// The mistake; or what the system says of CKPT_LOG_FILE and CKPT_REPORT.
    pub fn begin(&self) -> Result<(), crate::Error> {
        if let Some(path) = &self.log_file {
            log::to_file(path).map_err(|e| {
                crate::Error::system(format!("CKPT_LOG_FILE={}", path.display()), e)
            })?;
        }
        if let Some(path) = &self.report {
            report::to_file(path)
                .map_err(|e| crate::Error::system(format!("CKPT_REPORT={}", path.display()), e))?;
        }
        if let Some(mistake) = &self.mistake {
            return Err(mistake.clone().into());
        }
        for name in &self.unknown {
            crate::warn!("{name} is no variable of this library: see ckpt_advice(7)");
        }
        Ok(())
    }
}

fn bad(name: &str, value: &[u8], reason: &str) -> Error {
    Error::Syntax {
        variable: name.to_owned(),
        item: String::from_utf8_lossy(value).into_owned(),
        column: 1,
        reason: reason.to_owned(),
    }
}

/// The strictness of this name.
///
/// # Errors
/// [`Error::Syntax`] for any other.
pub fn strictness(name: &str, value: &[u8]) -> Result<Strictness, Error> {
    match value {
        b"best-effort" => Ok(Strictness::BestEffort),
        b"warn" => Ok(Strictness::Warn),
        b"strict" => Ok(Strictness::Strict),
        _ => Err(bad(name, value, "expected best-effort, warn or strict")),
    }
}

fn switch(name: &str, value: &[u8]) -> Result<bool, Error> {
    match value {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => Err(bad(name, value, "expected 1 (or 0, or nothing)")),
    }
}

fn level(name: &str, value: &[u8]) -> Result<Level, Error> {
    std::str::from_utf8(value)
        .ok()
        .and_then(Level::from_name)
        .ok_or_else(|| bad(name, value, "expected error, warn, info, debug or trace"))
}

fn number(name: &str, value: &[u8]) -> Result<i64, Error> {
    let text = std::str::from_utf8(value).unwrap_or("");
    match text.parse::<i64>() {
        Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) && number < 1 << 20 => Ok(number),
        _ => Err(bad(name, value, "expected the number of a system call")),
    }
}

fn absolute(name: &str, value: Vec<u8>) -> Result<PathBuf, Error> {
    match value.first() {
        Some(b'/') => Ok(path(value)),
        _ => Err(bad(name, &value, "expected an absolute path")),
    }
}

fn path(value: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Settings {
        let environment = pairs
            .iter()
            .map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec()));
        Settings::read(environment, 1024)
    }

    #[test]
    fn every_variable_with_a_bad_value_is_an_error() {
        for name in VARIABLES {
            if matches!(*name, "CKPT_LOG_FILE" | "CKPT_REPORT") {
                continue;
            }
            let error = read(&[(name, "!")]).mistake.expect(name);
            assert_eq!(error.errno(), libc::EINVAL, "{name}");
            assert!(error.to_string().starts_with(name), "{error}");
            assert_eq!(read(&[(name, "")]).mistake, None, "{name}");
        }
    }

    #[test]
    fn a_mistake_does_not_hide_where_it_is_to_be_told() {
        let settings = read(&[("CKPT_IGNORE", "3x"), ("CKPT_LOG_FILE", "/tmp/l")]);
        assert!(settings.mistake.is_some());
        assert_eq!(settings.log_file, Some("/tmp/l".into()));
    }

    #[test]
    fn what_is_accepted_are_numbers_of_no_task() {
        let settings = read(&[("CKPT_ACCEPT", "3,5-9")]);
        assert_eq!((settings.mistake, settings.accept.len()), (None, 2));
        assert!(settings.advice.is_empty());
        for bad in ["root:3", "/log", "type=tty", "3,,4"] {
            let error = read(&[("CKPT_ACCEPT", bad)]).mistake.expect(bad);
            assert_eq!(error.errno(), libc::EINVAL, "{bad}");
        }
    }

    #[test]
    fn others_are_passed_over_and_unknown_ones_remembered() {
        let settings = read(&[
            ("HOME", "/"),
            ("CKPT_IGNORED", "1"),
            ("CKPT_IGNORE", "3"),
            ("CKPT_PRESERVE", "1"),
            ("CKPT_STRICT", "strict"),
        ]);
        assert_eq!(settings.mistake, None);
        assert_eq!(settings.unknown, ["CKPT_IGNORED"]);
        assert_eq!(settings.advice.items.len(), 2);
        assert_eq!(settings.advice.strictness, Strictness::Strict);
    }
}
