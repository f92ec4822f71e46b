//! The one error type of this crate.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::{fmt, io};

/// Why a call was refused.
///
/// It owns nothing, so that it can be made in a signal handler. The functions
/// named after system calls return its [`errno`](Error::errno) as an
/// [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Advice with a bit that has no meaning (EINVAL).
    UnknownBits(c_int),
    /// A negative number, or one to preserve that is not open (EBADF).
    NotOpen(RawFd),
    /// A number to preserve that is not below RLIMIT_NOFILE at the restart (EBADF).
    TooHigh(RawFd),
    /// A number to preserve that holds another file than when it was advised
    /// (ESTALE).
    Stale(RawFd),
    /// A change asked for by a task that shares memory with the process whose
    /// table it would change: a child of vfork(2) (ENOTSUP).
    SharedMemory,
    /// The table could not grow (ENOMEM).
    NoMemory,
    /// A variable of the environment has a bad value (EINVAL).
    Variable(&'static str),
    /// No system call is configured by this variable, or the configured one
    /// does not exist (ENOSYS).
    NoCall(&'static str),
    /// The advice cannot be carried out on this image; the errno says why.
    Refused(i32),
    /// The library that a command is to be given cannot be loaded; the errno says why.
    NotLoadable(i32),
    /// What the kernel answered.
    Kernel(i32),
}

impl Error {
    /// The errno that a call which fails for this reason gives.
    pub fn errno(self) -> i32 {
        match self {
            Error::UnknownBits(_) | Error::Variable(_) => libc::EINVAL,
            Error::NotOpen(_) | Error::TooHigh(_) => libc::EBADF,
            Error::Stale(_) => libc::ESTALE,
            Error::SharedMemory => libc::ENOTSUP,
            Error::NoMemory => libc::ENOMEM,
            Error::NoCall(_) => libc::ENOSYS,
            Error::Kernel(errno) | Error::Refused(errno) | Error::NotLoadable(errno) => errno,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::UnknownBits(advice) => write!(
                f,
                "advice {advice:#x} has unknown bits: use CR_ADV_PRESERVE (1) and CR_ADV_IGNORE (2)"
            ),
            Error::NotOpen(fd) => write!(
                f,
                "descriptor {fd} is not open: open it before it is advised"
            ),
            Error::TooHigh(fd) => write!(
                f,
                "descriptor {fd} is not below RLIMIT_NOFILE, and the tasks could not have it: \
                 raise the limit (ulimit -n), or clear its advice"
            ),
            Error::Stale(fd) => write!(
                f,
                "descriptor {fd} holds another file than when it was advised: advise it again, \
                 or clear its advice"
            ),
            Error::SharedMemory => write!(
                f,
                "this task shares memory with another process, which its advice would change: \
                 advise before vfork(2), or use fork(2)"
            ),
            Error::NoMemory => write!(f, "no memory for the table of advice"),
            Error::Variable("CRADVISE_BACKEND") => write!(
                f,
                "CRADVISE_BACKEND is neither kernel nor table: correct it or unset it"
            ),
            Error::Variable(name) => write!(
                f,
                "{name} is not the number of a system call: correct it or unset it"
            ),
            Error::NoCall(name) => write!(
                f,
                "this kernel has no such call as far as is known: where it has, set {name} to \
                 its number"
            ),
            Error::Refused(errno) => write!(
                f,
                "the advice cannot be carried out on this image: {}",
                io::Error::from_raw_os_error(errno)
            ),
            Error::NotLoadable(libc::EINVAL) => write!(
                f,
                "LD_PRELOAD cannot name the library: give its path without a space or a colon, by \
                 a link if need be"
            ),
            Error::NotLoadable(errno) => write!(
                f,
                "the library cannot be loaded ({}): give the path of libckptadv.so, or its name \
                 where the loader finds it",
                io::Error::from_raw_os_error(errno)
            ),
            Error::Kernel(errno) => io::Error::from_raw_os_error(errno).fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    /// Only the errno goes over: an [`io::Error`] that carried more would need
    /// the heap, and have no `raw_os_error()`.
    fn from(error: Error) -> Self {
        io::Error::from_raw_os_error(error.errno())
    }
}
