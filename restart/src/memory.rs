//! Files that live in memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

/// Makes one, empty.
///
/// * `name`: what /proc shows of it.
/// * `close_on_exec`: whether programs that are started do not get it.
///
/// # Errors
/// What memfd_create(2) gives.
pub fn file(name: &CStr, close_on_exec: bool) -> io::Result<File> {
    let flags = if close_on_exec { libc::MFD_CLOEXEC } else { 0 };
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, for nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}
