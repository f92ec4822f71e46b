//! Telling one file from another.
#![forbid(unsafe_code)]

use crate::sys;
use ckpt_image::marks;
use std::ffi::CStr;
use std::io::Write;
use std::os::fd::RawFd;

/// Names the file behind `fd`, as [`marks::identity`] does.
///
/// # Errors
/// The errno of fstat(2): EBADF where `fd` is not open.
pub fn identity(fd: RawFd) -> Result<u64, i32> {
    let stat = sys::fstat(fd)?;
    let kind = stat.st_mode & libc::S_IFMT;
    let mut buffer = [0; marks::LINK];
    Ok(marks::identity(&marks::File {
        device: stat.st_dev,
        inode: stat.st_ino,
        kind,
        born: match kind {
            libc::S_IFREG | libc::S_IFDIR => sys::born(fd),
            _ => (0, 0),
        },
        link: match kind {
            0 => name_in_proc(fd, &mut buffer).unwrap_or_default(),
            _ => &[],
        },
    }))
}

fn name_in_proc(fd: RawFd, link: &mut [u8]) -> Option<&[u8]> {
    let mut path = [0; 32];
    write!(&mut path[..], "/proc/self/fd/{fd}\0").ok()?;
    sys::readlink(CStr::from_bytes_until_nul(&path).ok()?, link)
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
