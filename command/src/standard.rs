//! The standard descriptors and SIGPIPE as the command was started with them: before
//! main, Rust opens /dev/null in place of what is closed, and ignores the signal.

use ckpt_image::json::Json;
use ckpt_restart::{Error, report};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);

// SAFETY: the entries of .init_array are functions of this type.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = {
    extern "C" fn look() {
        for (number, closed) in (0..).zip(&CLOSED) {
            // SAFETY: fcntl gets integers only.
            closed.store(unsafe { libc::fcntl(number, libc::F_GETFD) } < 0, Relaxed);
        }
        SIGPIPE_IGNORED.store(is_ignored(libc::SIGPIPE), Relaxed);
    }
    look
};

/// Whether a signal is ignored now.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data, writable, and nothing is set.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Those of 0, 1 and 2 that were closed.
pub fn closed() -> impl Iterator<Item = RawFd> {
    let all = (0..).zip(&CLOSED);
    all.filter_map(|(number, closed)| closed.load(Relaxed).then_some(number))
}

/// Whether SIGPIPE was ignored.
pub fn sigpipe_ignored() -> bool {
    SIGPIPE_IGNORED.load(Relaxed)
}

/// Standard output.
///
/// # Errors
/// EBADF where it was closed.
pub fn output() -> Result<StdoutLock<'static>, Error> {
    match closed().any(|number| number == 1) {
        false => Ok(io::stdout().lock()),
        true => {
            let error = io::Error::from_raw_os_error(libc::EBADF);
            Err(failed(error))
        }
    }
}

/// Shows something on standard output, as JSON or as text.
///
/// # Errors
/// It was closed, or cannot be written.
pub fn show(
    json: bool,
    it: &dyn Json,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    match json {
        true => self::json(it),
        false => text(write),
    }
}

/// The same as JSON.
///
/// # Errors
/// As [`show`].
pub fn json(it: &dyn Json) -> Result<(), Error> {
    let out = output()?;
    report::print(it, out).map_err(failed)
}

/// The same as text.
///
/// # Errors
/// As [`show`].
pub fn text(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut out = BufWriter::new(output()?);
    write(&mut out).and_then(|()| out.flush()).map_err(failed)
}

fn failed(error: io::Error) -> Error {
    Error::system("standard output", error)
}
