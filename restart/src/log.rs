//! One line, where the user sees it: on the standard error that the process was
//! started with, or in CKPT_LOG_FILE.
//!
//! No descriptor is held between two messages, so that none can leak into a
//! restarted task, and stderr is only written to while it is still the file that
//! it was in the beginning: a program that opens something else as 2 does not
//! find our words in it.

use crate::errno;
use ckpt_image::report::{Outcome, Report};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something was refused.
    Error,
    /// Something may not be as meant.
    Warn,
    /// What was done.
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The level of this name in CKPT_LOG.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            "trace" => Level::Trace,
            _ => return None,
        })
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
static FILE: OnceLock<CString> = OnceLock::new();
/// Device and inode of standard error at the beginning; 0 and 0: closed then.
static STDERR: (AtomicU64, AtomicU64) = (AtomicU64::new(0), AtomicU64::new(0));

/// Remembers what standard error is, and how much to say. Called once, early.
pub fn start(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    let (device, inode) = crate::caller::identity(2).unwrap_or((0, 0));
    STDERR.0.store(device, Ordering::Relaxed);
    STDERR.1.store(inode, Ordering::Relaxed);
}

/// Sends messages to a file from now on. It is made if need be, and appended to.
///
/// # Errors
/// What open(2) says of it.
pub fn to_file(path: &Path) -> io::Result<()> {
    // Programs change their directory.
    let path = CString::new(std::path::absolute(path)?.as_os_str().as_bytes())?;
    let fd = open_for_append(&path)?;
    close(fd);
    let _ = FILE.set(path);
    Ok(())
}

/// Whether something that matters this much is said.
pub fn says(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Says something. `errno` is left as it was.
pub fn say(level: Level, message: fmt::Arguments<'_>) {
    if !says(level) {
        return;
    }
    let kind = match level {
        Level::Error => "",
        Level::Warn => "warning: ",
        Level::Info => "info: ",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    };
    // Names of files come from the image and may hold what a terminal acts on.
    let line = format!("ckptadv: {kind}{message}").replace(char::is_control, "?") + "\n";
    errno::keeping(|| {
        if to_the_file(&line) {
            return;
        }
        let was = (
            STDERR.0.load(Ordering::Relaxed),
            STDERR.1.load(Ordering::Relaxed),
        );
        if was != (0, 0) && crate::caller::identity(2).ok() == Some(was) {
            write_whole(2, line.as_bytes());
        }
    });
}

/// Whether a line went into the file; where it did not, stderr has it.
fn to_the_file(line: &str) -> bool {
    let Some(fd) = FILE.get().and_then(|path| open_for_append(path).ok()) else {
        return false;
    };
    let written = write_whole(fd, line.as_bytes());
    close(fd);
    written
}

/// Says that a restart is refused: nothing is restored.
pub fn refused(error: &crate::Error) {
    match error {
        crate::Error::DryRun => say(Level::Error, format_args!("{error}")),
        error => say(Level::Error, format_args!("restart refused: {error}")),
    }
}

/// Says that a dump is refused: the tasks go on as they were.
pub fn dump_refused(error: &crate::Error) {
    match error {
        crate::Error::DryRun => say(Level::Error, format_args!("dry run: nothing is dumped")),
        error => say(Level::Error, format_args!("dump refused: {error}")),
    }
}

/// Says what a request comes to: the plan where it is only asked for, otherwise
/// what is done; and what may not be as meant.
pub fn report(report: &Report<'_>) {
    for change in report.changes {
        if report.outcome == Outcome::Planned {
            say(Level::Error, format_args!("plan: {change}"));
        } else {
            say(Level::Info, format_args!("{change}"));
        }
    }
    for warning in report.warnings.iter().chain(report.unmatched) {
        say(Level::Warn, format_args!("{warning}"));
    }
}

/// Says that something was refused.
#[macro_export]
macro_rules! refuse {
    ($($arg:tt)*) => { $crate::log::say($crate::log::Level::Error, format_args!($($arg)*)) };
}

/// Says what may not be as meant.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log::say($crate::log::Level::Warn, format_args!($($arg)*)) };
}

/// Says what was done.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::say($crate::log::Level::Info, format_args!($($arg)*)) };
}

/// Says why something was done.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::say($crate::log::Level::Debug, format_args!($($arg)*)) };
}

fn open_for_append(path: &CString) -> io::Result<i32> {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOCTTY
        // A fifo that nobody reads is refused, not waited for.
        | libc::O_NONBLOCK;
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o666) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Where nobody reads any more, nothing is said; the signal of it is not the program's.
fn write_whole(fd: i32, mut bytes: &[u8]) -> bool {
    let _masked = WithoutSigpipe::new();
    while !bytes.is_empty() {
        // SAFETY: the pointer and length are those of a live slice.
        let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => bytes = &bytes[n..],
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
    true
}

/// SIGPIPE blocked in this thread while it lives, and what came of it meanwhile taken.
struct WithoutSigpipe {
    before: libc::sigset_t,
    pipe: libc::sigset_t,
    waited: bool,
}

impl WithoutSigpipe {
    fn new() -> Self {
        // SAFETY: sigset_t is plain data; all sets are writable.
        unsafe {
            let mut it: Self = std::mem::zeroed();
            let mut pending: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut it.pipe, libc::SIGPIPE);
            libc::sigpending(&mut pending);
            it.waited = libc::sigismember(&pending, libc::SIGPIPE) == 1;
            libc::pthread_sigmask(libc::SIG_BLOCK, &it.pipe, &mut it.before);
            it
        }
    }
}

impl Drop for WithoutSigpipe {
    fn drop(&mut self) {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the sets are valid, and no information is asked for.
        unsafe {
            if !self.waited {
                libc::sigtimedwait(&self.pipe, std::ptr::null_mut(), &now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

fn close(fd: i32) {
    // SAFETY: fd was opened here and is used by nobody else.
    unsafe { libc::close(fd) };
}
