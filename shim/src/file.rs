//! Telling one file from another.
#![forbid(unsafe_code)]

use crate::sys;
use std::ffi::CStr;
use std::io::Write;
use std::os::fd::RawFd;

/// A number that names the file behind `fd`: the same for the same device,
/// inode and kind of file, and for others different but by a chance of 2^-62.
/// Two bits are free at the top. Not a name of the open file description: the
/// same file opened again has the same identity.
///
/// # Errors
/// The errno of fstat(2): EBADF where `fd` is not open.
pub fn identity(fd: RawFd) -> Result<u64, i32> {
    let stat = sys::fstat(fd)?;
    let kind = stat.st_mode & libc::S_IFMT;
    let mut hash = Fnv::new();
    hash.write(&stat.st_dev.to_ne_bytes());
    hash.write(&stat.st_ino.to_ne_bytes());
    hash.write(&kind.to_ne_bytes());
    if kind == 0 {
        // Eventfds, epoll sets and their kin all share one inode, which has no
        // kind; only /proc tells them apart.
        let mut link = [0; 64];
        if let Some(link) = name_in_proc(fd, &mut link) {
            hash.write(link);
        }
    }
    Ok(hash.0 >> 2)
}

fn name_in_proc(fd: RawFd, link: &mut [u8]) -> Option<&[u8]> {
    let mut path = [0; 32];
    write!(&mut path[..], "/proc/self/fd/{fd}\0").ok()?;
    sys::readlink(CStr::from_bytes_until_nul(&path).ok()?, link)
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn files_differ_and_duplicates_do_not() {
        let null = File::open("/dev/null").unwrap();
        let zero = File::open("/dev/zero").unwrap();
        let again = File::open("/dev/null").unwrap();
        let of = |file: &File| identity(file.as_raw_fd());
        assert_ne!(of(&null), of(&zero));
        assert_eq!(of(&null), of(&again));
        assert_eq!(of(&null), of(&null.try_clone().unwrap()));
    }

    #[test]
    fn a_closed_number_is_no_file() {
        assert_eq!(identity(-1), Err(libc::EBADF));
        assert_eq!(identity(i32::MAX), Err(libc::EBADF));
    }
}
