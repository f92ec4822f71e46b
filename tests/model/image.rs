//! The bytes of the image, taken from the caller's descriptor the way restart(2) takes them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

/// One attempt to read.
pub enum Taken {
    /// That many bytes.
    Bytes(usize),
    /// Nothing now; the reader has to sleep until the descriptor can be read.
    Empty,
    /// Nothing ever again.
    End,
}

/// An image being read. Of a pipe, what was in it when the reader last slept is moved to a pipe of our own:
/// on one CPU its writer fills it only while the reader sleeps, and what can be spliced at once depends on that.
pub struct Image {
    file: OwnedFd,
    batch: Option<Batch>,
    position: u64,
}

struct Batch {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Image {
    /// An image behind this descriptor, which shares its position with the caller's.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let batch = if is_pipe(&file) {
            let (reader, writer) = pipe(libc::O_NONBLOCK)?;
            // SAFETY: no memory is involved.
            unsafe {
                let size = libc::fcntl(file.as_raw_fd(), libc::F_GETPIPE_SZ);
                libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, size);
            }
            Some(Batch { reader, writer })
        } else {
            None
        };
        Ok(Self {
            file,
            batch,
            position: 0,
        })
    }

    /// What to wait on.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Bytes read so far, as the kernel counts them.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes what there is, at most a buffer full.
    pub fn take(&mut self, buffer: &mut [u8]) -> io::Result<Taken> {
        let from = self
            .batch
            .as_ref()
            .map_or(&self.file, |batch| &batch.reader);
        // SAFETY: writes within the buffer.
        let n = unsafe { libc::read(from.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match counted(n) {
            Ok(0) => Ok(Taken::End),
            Ok(n) => {
                self.position += n as u64;
                Ok(Taken::Bytes(n))
            }
            Err(error) if self.batch.is_some() && error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Taken::Empty)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes over what the image pipe holds now; false when it has ended.
    pub fn refill(&mut self) -> io::Result<bool> {
        let Some(batch) = &self.batch else {
            return Ok(true);
        };
        loop {
            match splice(&self.file, &batch.writer, 1 << 30) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether nothing is left of what was taken over.
    pub fn exhausted(&self) -> bool {
        let Some(batch) = &self.batch else {
            return false;
        };
        let mut left: c_int = 0;
        // SAFETY: a valid place for the number.
        unsafe { libc::ioctl(batch.reader.as_raw_fd(), libc::FIONREAD, &mut left) };
        left == 0
    }

    /// Moves bytes into a pipe without reading them: as many as go at once.
    pub fn splice_into(&mut self, pipe: &OwnedFd, bytes: usize) -> io::Result<usize> {
        if let Some(batch) = &self.batch {
            return splice(&batch.reader, pipe, bytes);
        }
        let mut moved = 0;
        while moved < bytes {
            match splice(&self.file, pipe, bytes - moved) {
                Ok(0) => break,
                Ok(n) => moved += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }
}

/// A pipe: its reader and its writer.
pub fn pipe(flags: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which nobody else owns.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), flags | libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

fn splice(from: &OwnedFd, to: &OwnedFd, bytes: usize) -> io::Result<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let none = std::ptr::null_mut();
    // SAFETY: no memory is involved.
    counted(unsafe { libc::splice(from, none, to, none, bytes, libc::SPLICE_F_NONBLOCK) })
}

fn is_pipe(file: &OwnedFd) -> bool {
    // SAFETY: no memory is involved; fails on anything but a pipe.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETPIPE_SZ) >= 0 }
}

fn counted(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}
