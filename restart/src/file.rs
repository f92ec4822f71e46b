//! Telling one file from another, as marks do ([`marks::identity`]). No heap and no lock:
//! this is asked in signal handlers, and between fork(2) and execve(2).

use crate::errno;
use ckpt_image::marks;
use libc::c_int;
use std::ffi::CStr;
use std::fmt::Arguments;
use std::io::Write;

/// Names the file that a number of this process has.
///
/// # Errors
/// The errno of fstat(2): EBADF where it is not open.
pub fn of_own(number: i32) -> Result<u64, c_int> {
    let mut buffer = [0; LONGEST];
    let link = path(&mut buffer, format_args!("/proc/self/fd/{number}"));
    of((number, c"", libc::AT_EMPTY_PATH), link)
}

/// Names the file that a number of another process has.
///
/// # Errors
/// The errno of stat(2): ENOENT where it is not open.
pub fn of_process(pid: i32, number: i32) -> Result<u64, c_int> {
    let mut buffer = [0; LONGEST];
    let link = path(&mut buffer, format_args!("/proc/{pid}/fd/{number}"));
    of((libc::AT_FDCWD, link, 0), link)
}

/// A path with two numbers, and its end.
const LONGEST: usize = 32;

fn path<'a>(buffer: &'a mut [u8; LONGEST], path: Arguments<'_>) -> &'a CStr {
    // What does not fit is no path of a number; the last byte stays 0.
    let _ = (&mut buffer[..LONGEST - 1]).write_fmt(path);
    CStr::from_bytes_until_nul(buffer).unwrap_or_default()
}

/// * `file`: as fstatat(2) takes it.
/// * `link`: what /proc has of it.
fn of(file: (c_int, &CStr, c_int), link: &CStr) -> Result<u64, c_int> {
    let stat = stat(file)?;
    let kind = stat.st_mode & libc::S_IFMT;
    let mut target = [0; marks::LINK];
    Ok(marks::identity(&marks::File {
        device: stat.st_dev,
        inode: stat.st_ino,
        kind,
        born: match kind {
            libc::S_IFREG | libc::S_IFDIR => born(file),
            _ => (0, 0),
        },
        link: match kind {
            0 => read_link(link, &mut target),
            _ => &[],
        },
    }))
}

fn stat((directory, path, flags): (c_int, &CStr, c_int)) -> Result<libc::stat, c_int> {
    // SAFETY: stat is plain integers, for which zeros are a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a NUL; stat is writable and of the right type.
    match unsafe { libc::fstatat(directory, path.as_ptr(), &mut stat, flags) } {
        0 => Ok(stat),
        _ => Err(errno::get()),
    }
}

/// Seconds and nanoseconds; zeroes where nobody knows.
fn born((directory, path, flags): (c_int, &CStr, c_int)) -> (i64, u32) {
    // SAFETY: statx is plain integers, for which zeros are a value.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    let wanted = libc::STATX_BTIME;
    // SAFETY: the path ends in a NUL; writes one statx where it is told to.
    match unsafe { libc::statx(directory, path.as_ptr(), flags, wanted, &mut statx) } {
        0 if statx.stx_mask & wanted != 0 => (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec),
        _ => (0, 0),
    }
}

/// Nothing where it cannot be read, as without /proc.
fn read_link<'a>(path: &CStr, target: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: the path ends in a NUL; at most so many bytes are written.
    let length = unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    usize::try_from(length)
        .ok()
        .and_then(|length| target.get(..length))
        .unwrap_or_default()
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
        let of = |file: &File| of_own(file.as_raw_fd()).unwrap();
        assert_ne!(of(&null), of(&zero));
        assert_eq!(of(&null), of(&again));
        assert_eq!(of(&null), of(&null.try_clone().unwrap()));
    }

    #[test]
    fn a_closed_number_is_no_file() {
        let me = std::process::id() as i32;
        assert_eq!(of_own(-1), Err(libc::EBADF));
        assert_eq!(of_own(i32::MAX), Err(libc::EBADF));
        assert_eq!(of_process(me, i32::MAX), Err(libc::ENOENT));
    }

    #[test]
    fn a_file_is_named_alike_from_inside_and_outside() {
        let me = std::process::id() as i32;
        // SAFETY: both take integers.
        let without_inode = unsafe { [libc::eventfd(0, 0), libc::epoll_create1(0)] };
        let regular = File::open("/proc/self/exe").unwrap();
        let directory = File::open("/").unwrap();
        let others = [regular.as_raw_fd(), directory.as_raw_fd()];
        let named = without_inode.into_iter().chain(others).map(|fd| {
            assert_eq!(of_own(fd), of_process(me, fd));
            of_own(fd).unwrap()
        });
        let named: std::collections::BTreeSet<u64> = named.collect();
        assert_eq!(named.len(), 4);
        // SAFETY: they were opened above, for nobody else.
        without_inode.iter().for_each(|&fd| unsafe {
            libc::close(fd);
        });
    }
}
