//! Image files: read through criu's own directory descriptor, and handed to it
//! from memory.

use ckpt_image::Error;
use ckpt_image::criu::{Directory, record};
use ckpt_restart::memory;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::FromRawFd;

/// An image directory that criu has open.
pub struct Opened<'a> {
    /// Opens a file of it for reading, with the real openat(2).
    pub open: &'a dyn Fn(&CStr) -> i32,
}

impl Directory for Opened<'_> {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let failed = |error: io::Error| Error::Image {
            file: name.to_owned(),
            offset: 0,
            reason: format!("cannot be read: {error}"),
        };
        let path = CString::new(name).map_err(|error| failed(error.into()))?;
        let fd = (self.open)(&path);
        if fd < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(failed(error)),
            };
        }
        // SAFETY: the descriptor was opened just now, for nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut bytes = Vec::new();
        let mut file = file.take(record::at_most(name));
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
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
