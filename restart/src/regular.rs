//! Regular files, opened so that what is none holds up nobody.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The flags with which what should be a regular file is to be opened: nobody waits for
/// the other end of a fifo.
pub const OPENS: i32 = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;

/// Opens a regular file for reading.
///
/// # Errors
/// What open(2) says; or it is none.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    checked(options.read(true).custom_flags(OPENS).open(path)?)
}

/// A file that was opened with [`OPENS`].
///
/// # Errors
/// It is no regular file.
pub fn checked(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}
