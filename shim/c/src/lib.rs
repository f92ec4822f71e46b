//! libcradvise: the crate `cradvise` for C, as `cradvise.h` declares it.
#![deny(missing_docs)]

#[cfg(test)]
mod answers;
mod exec;
#[cfg(test)]
mod header;
mod status;
#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
mod support;

pub use exec::cradvise_exec;
pub use status::cradvise_status;

use std::ffi::{c_int, c_long, c_ulong};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// [`cradvise::cradvise`].
#[unsafe(no_mangle)]
pub extern "C" fn cradvise(fd: c_int, advice: c_int) -> c_int {
    answer(|| cradvise::cradvise(fd, advice).map(|()| 0))
}

/// [`cradvise::cradvise_query`].
#[unsafe(no_mangle)]
pub extern "C" fn cradvise_query(fd: c_int) -> c_int {
    answer(|| cradvise::cradvise_query(fd))
}

/// [`cradvise::cradvise_reset`].
#[unsafe(no_mangle)]
pub extern "C" fn cradvise_reset() -> c_int {
    answer(|| cradvise::cradvise_reset().map(|()| 0))
}

/// [`cradvise::restart()`].
#[unsafe(no_mangle)]
pub extern "C" fn cradvise_restart(
    pid: libc::pid_t,
    image_fd: c_int,
    flags: c_ulong,
    log_fd: c_int,
) -> c_long {
    answer(|| cradvise::restart(pid, image_fd, flags, log_fd))
}

/// As C wants it: the answer, or -1 and errno. A success leaves errno as it was. What fails in here must not end
/// the program: a panic is EIO.
fn answer<T: From<i8>>(call: impl FnOnce() -> io::Result<T>) -> T {
    // SAFETY: always a valid pointer to the errno of this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let (value, after) = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => (value, before),
        Ok(Err(error)) => (T::from(-1), error.raw_os_error().unwrap_or(libc::EIO)),
        Err(_) => (T::from(-1), libc::EIO),
    };
    // SAFETY: as above.
    unsafe { *errno = after };
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno() -> i32 {
        io::Error::last_os_error().raw_os_error().unwrap()
    }

    #[test]
    fn a_refusal_is_minus_one_and_errno() {
        assert_eq!((cradvise(-1, 0), errno()), (-1, libc::EBADF));
        assert_eq!((cradvise(5, 4), errno()), (-1, libc::EINVAL));
        assert_eq!((cradvise_query(-1), errno()), (-1, libc::EBADF));
        assert_eq!(
            (cradvise_restart(0, -1, 0, -1), errno()),
            (-1, libc::ENOSYS)
        );
    }

    #[test]
    fn a_panic_ends_the_call_and_not_the_program() {
        assert_eq!(
            (answer::<c_int>(|| panic!("a fault")), errno()),
            (-1, libc::EIO)
        );
    }

    #[test]
    fn a_success_leaves_errno_alone() {
        const NUMBER: i32 = 700;
        // SAFETY: numbers of this test.
        unsafe { libc::dup2(libc::open(c"/dev/null".as_ptr(), 0), NUMBER) };
        assert_eq!(cradvise(NUMBER, cradvise::CR_ADV_PRESERVE), 0);
        // SAFETY: as above.
        unsafe { libc::close(NUMBER) };
        assert_eq!((cradvise_query(-1), errno()), (-1, libc::EBADF));
        // To find that it is closed, fstat(2) fails.
        // SAFETY: always a valid pointer.
        unsafe { *libc::__errno_location() = libc::ENOTTY };
        assert_eq!((cradvise_query(NUMBER), errno()), (0, libc::ENOTTY));
    }
}
