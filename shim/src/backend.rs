//! Who keeps the advice: a kernel that has the call, or a table in this process.
#![forbid(unsafe_code)]

mod kernel;
mod table;

pub use table::{Table, current, leave, settle};

use crate::Error;
use crate::environment::{CRADVISE_BACKEND, CRADVISE_NR, KERNEL, TABLE};
use std::ffi::c_int;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Who keeps the advice of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel, through the system call with this number.
    Kernel(i64),
    /// A table in this process.
    Table,
    /// Nobody: every call fails with this error.
    Nobody(Error),
}

/// Why it is that [`Backend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// CRADVISE_NR has no number, so the kernel is not asked.
    NotConfigured,
    /// CRADVISE_NR has the number of a call that exists.
    Configured,
    /// CRADVISE_NR has the number of a call that answers ENOSYS.
    NoSuchCall(i64),
    /// CRADVISE_BACKEND says so.
    Forced,
    /// A variable has a bad value.
    BadVariable,
}

/// Which backend is in force, and why: for people and logs, not to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who keeps the advice.
    pub backend: Backend,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.backend {
            Backend::Kernel(number) => write!(f, "kernel, call {number}")?,
            Backend::Table => write!(f, "userspace table")?,
            Backend::Nobody(_) => write!(f, "none")?,
        }
        match (self.reason, self.backend) {
            (Reason::NotConfigured, Backend::Table) => write!(f, ": CRADVISE_NR is not set"),
            (Reason::NotConfigured, _) => {
                write!(f, ": CRADVISE_BACKEND=kernel, and CRADVISE_NR is not set")
            }
            (Reason::Configured, _) => write!(f, ": CRADVISE_NR is set"),
            (Reason::NoSuchCall(number), _) => {
                write!(f, ": CRADVISE_NR={number}, and that call answers ENOSYS")
            }
            (Reason::Forced, _) => write!(f, ": CRADVISE_BACKEND is set"),
            (Reason::BadVariable, Backend::Nobody(error)) => write!(f, ": {error}"),
            (Reason::BadVariable, _) => Ok(()),
        }
    }
}

/// Which backend is in force in this process, and why. Never fails.
///
/// ```
/// println!("advice is kept by: {}", cradvise::status());
/// ```
pub fn status() -> Status {
    match (CRADVISE_NR.get(), CRADVISE_BACKEND.get()) {
        (Err(error), _) | (_, Err(error)) => Status {
            backend: Backend::Nobody(error),
            reason: Reason::BadVariable,
        },
        (Ok(number), Ok(forced)) => decide(number, forced, exists),
    }
}

fn decide(number: Option<i64>, forced: Option<i64>, exists: impl FnOnce(i64) -> bool) -> Status {
    let table_unless_forced = match forced {
        Some(KERNEL) => Backend::Nobody(Error::NoCall(CRADVISE_NR.name())),
        _ => Backend::Table,
    };
    let (backend, reason) = match number {
        _ if forced == Some(TABLE) => (Backend::Table, Reason::Forced),
        None => (table_unless_forced, Reason::NotConfigured),
        Some(number) if !exists(number) => (table_unless_forced, Reason::NoSuchCall(number)),
        Some(number) if forced == Some(KERNEL) => (Backend::Kernel(number), Reason::Forced),
        Some(number) => (Backend::Kernel(number), Reason::Configured),
    };
    Status { backend, reason }
}

/// Asks the configured call once.
fn exists(number: i64) -> bool {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    match ANSWER.load(Relaxed) {
        UNKNOWN => {
            let yes = kernel::exists(number);
            ANSWER.store(if yes { YES } else { NO }, Relaxed);
            yes
        }
        answer => answer == YES,
    }
}

/// Sets the advice of a number.
pub fn set(fd: RawFd, advice: c_int) -> Result<(), Error> {
    match status().backend {
        Backend::Kernel(number) => kernel::set(number, fd, advice),
        Backend::Table => table::current().set(fd, advice),
        Backend::Nobody(error) => Err(error),
    }
}

/// The advice of a number.
pub fn query(fd: RawFd) -> Result<c_int, Error> {
    match status().backend {
        Backend::Kernel(number) => kernel::query(number, fd),
        Backend::Table => table::current().query(fd),
        Backend::Nobody(error) => Err(error),
    }
}

/// Sets or clears PRESERVE, and leaves IGNORE as it is.
pub fn preserve(fd: RawFd, on: bool) -> Result<(), Error> {
    match status().backend {
        Backend::Kernel(number) => kernel::preserve(number, fd, on),
        Backend::Table => table::current().preserve(fd, on),
        Backend::Nobody(error) => Err(error),
    }
}

/// Clears all advice.
pub fn reset() -> Result<(), Error> {
    match status().backend {
        Backend::Kernel(number) => kernel::reset(number),
        Backend::Table => table::current().reset(),
        Backend::Nobody(error) => Err(error),
    }
}

/// Every number that has advice, in order, with it.
pub fn for_each(each: impl FnMut(RawFd, c_int)) -> Result<(), Error> {
    match status().backend {
        Backend::Kernel(number) => kernel::for_each(number, each),
        Backend::Table => table::current().for_each(each),
        Backend::Nobody(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(number: Option<i64>, forced: Option<i64>, there: bool) -> (Backend, Reason) {
        let Status { backend, reason } = decide(number, forced, |_| there);
        (backend, reason)
    }

    #[test]
    fn the_kernel_where_it_is_configured_and_there() {
        use Backend::{Kernel, Nobody, Table};
        let none = Nobody(Error::NoCall("CRADVISE_NR"));
        let kernel = Some(KERNEL);
        let nr = Some(500);
        assert_eq!(decided(nr, None, true), (Kernel(500), Reason::Configured));
        assert_eq!(decided(nr, kernel, true), (Kernel(500), Reason::Forced));
        assert_eq!(decided(nr, None, false), (Table, Reason::NoSuchCall(500)));
        assert_eq!(decided(nr, kernel, false), (none, Reason::NoSuchCall(500)));
        assert_eq!(decided(None, None, true), (Table, Reason::NotConfigured));
        assert_eq!(decided(None, kernel, true), (none, Reason::NotConfigured));
    }

    #[test]
    fn a_number_is_not_tried_where_the_table_is_forced() {
        let status = decide(Some(500), Some(TABLE), |_| panic!("tried"));
        assert_eq!(status.backend, Backend::Table);
    }
}
