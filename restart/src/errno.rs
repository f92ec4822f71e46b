//! errno of the calling thread: hooks leave it as they found it, or give the one
//! that they mean.

use std::ffi::c_int;
use std::io;

/// What it is.
pub fn get() -> c_int {
    // SAFETY: errno is a plain thread-local int.
    unsafe { *libc::__errno_location() }
}

/// Makes it another.
pub fn set(errno: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Does something again while a signal interrupts it (EINTR): copy_file_range(2), which
/// std's copies use, is not begun again there.
///
/// # Errors
/// What else it gives.
pub fn uninterrupted<T>(mut job: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match job() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Does something that leaves it as it was.
pub fn keeping<R>(job: impl FnOnce() -> R) -> R {
    let before = get();
    let result = job();
    set(before);
    result
}
