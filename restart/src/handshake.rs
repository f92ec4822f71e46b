//! What `ckptadv run` hears of: that the library is loaded, and what came of each
//! restart.
//!
//! It has a file in memory, to which a line of JSON is appended for each. CKPT_RUN
//! says where, as a name below /proc and not as a descriptor, so that nothing is
//! open between two lines that a task could inherit. Programs outlive who started
//! them, and pids and numbers are taken again: what is found under the name must be
//! called by the token, too.

use crate::{report, warn};
use ckpt_image::json::{Json, Object};
use ckpt_image::report::Report;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

/// The version of a line. A field that goes or changes its meaning makes it a higher
/// one, a field that comes does not.
pub const VERSION: u32 = 1;

/// Where the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The pid of who listens, as /proc has it.
    pub pid: u32,
    /// The descriptor that it has of the file.
    pub number: u32,
    /// What no other file's name has.
    pub token: u64,
}

impl Address {
    /// Reads what Display writes.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.splitn(3, ':');
        let address = Address {
            pid: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
            token: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        (address.to_string() == text).then_some(address)
    }

    /// The name of the file, as for memfd_create(2).
    pub fn name(&self) -> String {
        format!("ckptadv-run-{:x}", self.token)
    }

    /// Opens the file, to append to it.
    ///
    /// # Errors
    /// What the system says; ENOENT where something else is there by now.
    pub fn open(&self) -> io::Result<File> {
        let path = format!("/proc/{}/fd/{}", self.pid, self.number);
        let link = format!("/memfd:{} (deleted)", self.name());
        if fs::read_link(&path)?.as_os_str() != link.as_str() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        File::options().append(true).open(path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:x}", self.pid, self.number, self.token)
    }
}

/// Where to tell it, and of which program.
static LISTENER: OnceLock<(Address, String)> = OnceLock::new();

/// Tells that the library is loaded, and from now on what reports are written.
///
/// * `program`: by which name this one was started.
pub fn start(address: Address, program: &[u8]) {
    let name = Path::new(OsStr::from_bytes(program)).file_name();
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    if LISTENER.set((address, name)).is_ok() {
        tell(None);
    }
}

/// Appends a line: of a restart, or that this program is there. Who does not listen
/// any more is none of the program's concern; that a restart cannot be told is a
/// warning, as it will be said that none was seen.
pub(crate) fn tell(report: Option<&Report<'_>>) {
    let Some((address, program)) = LISTENER.get() else {
        return;
    };
    match append(address, &Line { program, report }) {
        Err(error) if report.is_some() && error.kind() != io::ErrorKind::NotFound => {
            warn!("ckptadv run cannot be told of this: {error}");
        }
        _ => {}
    }
}

fn append(address: &Address, line: &Line<'_>) -> io::Result<()> {
    let mut file = address.open()?;
    let mut text = Vec::new();
    report::print(line, &mut text)?;
    // Newlines within are white space of JSON, and strings have none.
    text.retain(|&byte| byte != b'\n');
    text.push(b'\n');
    // In one piece, since others append, too.
    file.write_all(&text)
}

struct Line<'a> {
    program: &'a str,
    report: Option<&'a Report<'a>>,
}

impl Json for Line<'_> {
    fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        Object::new(out)
            .field("ckptadv", &VERSION)?
            .field("pid", &std::process::id())?
            .field("program", self.program)?
            .field("report", &self.report)?
            .end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let address = Address {
            pid: 123,
            number: 4,
            token: 0xab12,
        };
        assert_eq!(address.to_string(), "123:4:ab12");
        assert_eq!(Address::parse(b"123:4:ab12"), Some(address));
        for bad in [
            "", "1", "1:2", "1:2:", "1:2:3:4", "+1:2:3", "1:2:0x3", "01:2:3",
        ] {
            assert_eq!(Address::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn another_file_under_the_number_is_left_alone() {
        use std::os::fd::AsRawFd;
        let other = File::open("/dev/null").unwrap();
        let address = Address {
            pid: std::process::id(),
            number: other.as_raw_fd().cast_unsigned(),
            token: 1,
        };
        let error = address.open().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
