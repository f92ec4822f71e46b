//! Terminals for tests.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A new terminal: its master, and its slave. What other tests start does not get them.
///
/// # Panics
/// There is none.
pub fn pair() -> (OwnedFd, OwnedFd) {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes an integer.
    let master = owned(unsafe { libc::posix_openpt(flags) });
    // SAFETY: they take integers only.
    let slave = unsafe {
        assert_eq!(libc::unlockpt(master.as_raw_fd()), 0);
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    };
    (master, owned(slave))
}

fn owned(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "a terminal: {}", io::Error::last_os_error());
    // SAFETY: it was made just now, for nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
