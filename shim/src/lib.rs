//! `cradvise()`: advise what becomes of a descriptor when this process restarts
//! another from a checkpoint.
//!
//! The call was proposed for Linux in 2010 and never merged. This crate makes
//! it where a kernel has it ([`status`] says), and otherwise answers as that
//! kernel would, from a table in the process. What advice means, and every
//! error, is in the man page cradvise(2).
//!
//! ```
//! use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise, cradvise_query};
//! use std::os::fd::AsRawFd;
//!
//! let log = std::fs::File::open("/dev/null")?;
//! // The restarted tasks get our log, whatever they had at its number …
//! cradvise(log.as_raw_fd(), CR_ADV_PRESERVE | CR_ADV_IGNORE)?;
//! assert_eq!(cradvise_query(log.as_raw_fd())?, 3);
//! // … and come back without their descriptor 4000.
//! cradvise(4000, CR_ADV_IGNORE)?;
//! # std::io::Result::Ok(())
//! ```
//!
//! [`cradvise`], [`cradvise_query`] and [`cradvise_reset`] take no lock and
//! touch no heap: they may be called from any thread, from a signal handler and
//! between fork(2) and execve(2). In a child of vfork(2), which shares its
//! parent's memory, the table answers queries and refuses changes (ENOTSUP).
#![deny(missing_docs)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
compile_error!("cradvise supports x86_64 Linux with glibc");

mod backend;
mod command;
mod environment;
mod error;
mod handover;
mod life;
mod radix;
mod restart;
mod sys;
#[doc(hidden)]
pub mod upkeep;

pub use backend::{Backend, Reason, Status, status};
pub use command::Advised;
pub use error::Error;
pub use restart::restart;

use ckpt_image::advice::{Action, Item, Target};
use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

/// No advice: the number is what the image says.
pub const CR_ADV_NORMAL: c_int = 0;
/// The restarted tasks get the caller's descriptor of this number. Alone, it is
/// refused at restart (EEXIST) where the image has the number too.
pub const CR_ADV_PRESERVE: c_int = 1;
/// What the image has at this number is dropped.
pub const CR_ADV_IGNORE: c_int = 2;

/// The descriptor flag that stands for [`CR_ADV_PRESERVE`] in `F_GETFD` and
/// `F_SETFD`, beside `FD_CLOEXEC`. A kernel without it ignores the bit; the
/// preload library is what makes it work.
pub const FD_CR_PRESERVE: c_int = 2;

/// What the items of [`advice`] say they came from.
pub const CALL: &str = "cradvise";

/// Sets the advice of descriptor number `fd` in this process, in place of what
/// was set before.
///
/// `advice` is [`CR_ADV_NORMAL`], or [`CR_ADV_PRESERVE`] and [`CR_ADV_IGNORE`]
/// in any combination. It is a plain number, as in C: bits without a meaning
/// today are refused, so that they can have one tomorrow.
///
/// # Errors
/// * EINVAL: `advice` has an unknown bit; or `CRADVISE_NR` or
///   `CRADVISE_BACKEND` has a bad value.
/// * EBADF: `fd` is negative; or PRESERVE was asked of a number that is not open.
///   IGNORE alone needs no open file: it names a number of the image.
/// * ENOTSUP: a child of vfork(2), on the table.
/// * ENOMEM: no memory for the table.
/// * ENOSYS: the kernel backend was forced, and there is none.
/// * What fstat(2) gives for a file that cannot be examined.
///
/// Man page: cradvise(2).
///
/// ```
/// use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise};
///
/// cradvise(5000, CR_ADV_IGNORE)?;
/// let refused = cradvise(5000, CR_ADV_PRESERVE).unwrap_err();
/// assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
/// # std::io::Result::Ok(())
/// ```
pub fn cradvise(fd: RawFd, advice: c_int) -> io::Result<()> {
    Ok(backend::set(fd, advice)?)
}

/// The advice of descriptor number `fd` in this process, as the `CR_ADV_` bits.
///
/// # Errors
/// * EBADF: `fd` is negative.
/// * ESTALE: the number was advised PRESERVE, and holds another file by now
///   (table without libckptadv.so only: a kernel and the library clear the mark
///   when the number is closed).
/// * EINVAL, ENOSYS: as for [`cradvise`].
///
/// A number that is merely closed by now has lost its PRESERVE; that is no error.
///
/// Man page: cradvise(2).
///
/// ```
/// use cradvise::{CR_ADV_NORMAL, cradvise_query};
///
/// assert_eq!(cradvise_query(6000)?, CR_ADV_NORMAL);
/// # std::io::Result::Ok(())
/// ```
pub fn cradvise_query(fd: RawFd) -> io::Result<c_int> {
    Ok(backend::query(fd)?)
}

/// Clears the advice of every number of this process.
///
/// # Errors
/// ENOTSUP, EINVAL and ENOSYS, as for [`cradvise`].
///
/// Man page: cradvise(2).
///
/// ```standalone_crate
/// use cradvise::{CR_ADV_IGNORE, cradvise, cradvise_query, cradvise_reset};
///
/// cradvise(7000, CR_ADV_IGNORE)?;
/// cradvise_reset()?;
/// assert_eq!(cradvise_query(7000)?, 0);
/// # std::io::Result::Ok(())
/// ```
pub fn cradvise_reset() -> io::Result<()> {
    Ok(backend::reset()?)
}

/// All the advice of this process, by number, in the vocabulary of restarts:
/// PRESERVE alone adds, PRESERVE with IGNORE preserves, IGNORE ignores. Each
/// item is written as `cradvise=N`.
///
/// Unlike the calls, it allocates.
///
/// # Errors
/// [`Error::Stale`] where a number to preserve holds another file by now: to
/// hand that file to somebody would be a mistake that nobody notices. A number
/// that is closed by now has lost its PRESERVE. [`Error::TooHigh`] where one is not
/// below RLIMIT_NOFILE, which was lowered since: no task could have it.
/// [`Error::Variable`] and [`Error::NoCall`], as for [`cradvise`].
///
/// ```standalone_crate
/// cradvise::cradvise(7, cradvise::CR_ADV_IGNORE)?;
/// assert_eq!(cradvise::advice().unwrap()[0].to_string(), "cradvise=7");
/// # std::io::Result::Ok(())
/// ```
pub fn advice() -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    let limit = sys::descriptor_limit();
    let mut beyond = None;
    backend::for_each(|fd, advice| {
        if advice & CR_ADV_PRESERVE != 0 && fd as u64 >= limit {
            beyond.get_or_insert(fd);
        }
        let action = match advice {
            CR_ADV_PRESERVE => Action::Add,
            CR_ADV_IGNORE => Action::Ignore,
            _ => Action::Preserve,
        };
        items.push(Item {
            action,
            task: None,
            target: Target::Number(fd),
            variable: CALL.to_owned(),
            text: fd.to_string(),
        });
    })?;
    match beyond {
        Some(fd) => Err(Error::TooHigh(fd)),
        None => Ok(items),
    }
}
