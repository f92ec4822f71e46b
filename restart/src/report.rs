//! What a restart came to, where CKPT_REPORT wants it: a file for programs to
//! read, which is whole whenever it is there.

use crate::error::Error;
use crate::{errno, handshake, log, warn};
use ckpt_image::json::Json;
use ckpt_image::listing::Engine;
use ckpt_image::report::{Failure, Outcome, Report};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// Sends reports to a file from now on. One that is there is of another restart,
/// and goes at once.
///
/// # Errors
/// As [`make_way`].
pub fn to_file(path: &Path) -> io::Result<()> {
    // Programs change their directory.
    let path = std::path::absolute(path)?;
    make_way(&path)?;
    let _ = PATH.set(path);
    Ok(())
}

/// Removes a report that is there, and makes sure that one can be written.
///
/// # Errors
/// What the system says of making a file there and renaming it; EINVAL for what
/// is no regular file and would be lost.
pub fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => {
            let why = "something that is no regular file is there";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        _ => {}
    }
    let new = beside(path);
    create(&new)?;
    let moved = fs::rename(&new, path).and_then(|()| fs::remove_file(path));
    if moved.is_err() {
        let _ = fs::remove_file(&new);
    }
    moved
}

/// Tells `ckptadv run`, and writes a report in place of the one before, if one is
/// wanted. That it cannot be written is a warning. `errno` is left as it was.
pub fn write(report: &Report<'_>) {
    errno::keeping(|| {
        handshake::tell(Some(report));
        if let Some(path) = PATH.get()
            && let Err(error) = replace(path, report)
        {
            warn!("CKPT_REPORT={}: {error}", path.display());
        }
    });
}

/// Writes JSON to a file that is whole whenever it is there.
///
/// # Errors
/// What the system says.
pub fn replace(path: &Path, report: &dyn Json) -> io::Result<()> {
    let new = beside(path);
    let written = create(&new)
        .and_then(|file| print(report, file))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Says that a restart is refused, and reports it. A plan that was asked for has
/// been reported as such.
pub fn refused(engine: Engine, error: &Error) {
    log::refused(error);
    failed(engine, error);
}

/// Reports a refusal that has been said.
pub fn failed(engine: Engine, error: &Error) {
    if matches!(error, Error::DryRun) {
        return;
    }
    write(&Report {
        failure: Some(failure(error)),
        ..Report::new(engine, Outcome::Refused)
    });
}

/// Why a restart was refused.
pub fn failure(error: &Error) -> Failure {
    Failure {
        errno: Some(error.errno()),
        message: error.to_string(),
    }
}

/// Writes JSON, and a newline.
///
/// # Errors
/// What writing gives.
pub fn print(value: &dyn Json, out: impl Write) -> io::Result<()> {
    let mut out = Text {
        out: BufWriter::new(out),
        failed: None,
    };
    let _ = value.json(&mut out);
    if let Some(error) = out.failed {
        return Err(error);
    }
    out.out.write_all(b"\n")?;
    out.out.flush()
}

/// Bytes that go out as text.
struct Text<W: Write> {
    out: BufWriter<W>,
    failed: Option<io::Error>,
}

impl<W: Write> fmt::Write for Text<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_all(text.as_bytes()).map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}

/// The name of a report while it is written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

/// Paths of an image may be nobody else's business.
fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
