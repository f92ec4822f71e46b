//! For libckptadv.so, whose hooks keep the table exact and hand it on at exec.
//! No interface for programs: it changes with the library.
//!
//! Everything but [`advice`](crate::advice) may be called wherever a system call may:
//! in signal handlers, between fork(2) and execve(2), in vfork(2) children.
#![forbid(unsafe_code)]

use crate::{CR_ADV_PRESERVE, backend};
use std::io;
use std::os::fd::RawFd;

pub use crate::backend::Table;
pub use crate::handover::{CRADVISE_TABLE, read, write};
pub use crate::sys::may_share_memory;

/// F_SETFD: sets or clears PRESERVE, and leaves IGNORE as it is.
///
/// # Errors
/// As for [`cradvise`](crate::cradvise).
pub fn preserve(fd: RawFd, on: bool) -> io::Result<()> {
    Ok(backend::preserve(fd, on)?)
}

/// F_GETFD: whether a number is advised PRESERVE. One that holds another file is not.
pub fn preserves(fd: RawFd) -> bool {
    backend::query(fd).is_ok_and(|advice| advice & CR_ADV_PRESERVE != 0)
}
