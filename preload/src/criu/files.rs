//! Image files: read through criu's own directory descriptor, and handed to it
//! from memory.

use ckpt_image::Error;
use ckpt_image::criu::Directory;
use ckpt_restart::directory::contents;
use ckpt_restart::{memory, regular};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::FromRawFd;

/// An image directory that criu has open.
pub struct Opened<'a> {
    /// Opens a file of it with [`regular::OPENS`] and the real openat(2).
    pub open: &'a dyn Fn(&CStr) -> i32,
}

impl Directory for Opened<'_> {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let open = || -> io::Result<File> {
            let path = CString::new(name)?;
            let fd = (self.open)(&path);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor was opened just now, for nobody else.
            regular::checked(unsafe { File::from_raw_fd(fd) })
        };
        contents(open(), name)
    }
}

/// A file that lives in memory, at its beginning.
///
/// # Errors
/// What memfd_create(2) and write(2) give.
pub fn in_memory(bytes: &[u8], close_on_exec: bool) -> io::Result<File> {
    let mut file = memory::file(c"ckptadv", close_on_exec)?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
