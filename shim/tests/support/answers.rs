//! The calls, their arguments and their answers: the same in Rust and in C, and on both backends.

use cradvise::{CR_ADV_IGNORE, CR_ADV_NORMAL, CR_ADV_PRESERVE};
use libc::{EBADF, EINVAL};

/// Both flags.
pub const BOTH: i32 = CR_ADV_PRESERVE | CR_ADV_IGNORE;

/// A number that is open.
pub const OPEN: i32 = 500;
/// One that is not.
pub const CLOSED: i32 = 501;

/// cradvise(fd, advice): errno, then cradvise_query(fd): advice or -errno.
pub const SET: &[(i32, i32, i32, i32)] = &[
    (OPEN, CR_ADV_PRESERVE, 0, CR_ADV_PRESERVE),
    (OPEN, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (OPEN, BOTH, 0, BOTH),
    (OPEN, BOTH, 0, BOTH),
    (OPEN, 4, EINVAL, BOTH),
    (OPEN, -1, EINVAL, BOTH),
    (OPEN, i32::MIN, EINVAL, BOTH),
    (OPEN, CR_ADV_PRESERVE | 8, EINVAL, BOTH),
    (OPEN, CR_ADV_NORMAL, 0, CR_ADV_NORMAL),
    (CLOSED, CR_ADV_PRESERVE, EBADF, CR_ADV_NORMAL),
    (CLOSED, BOTH, EBADF, CR_ADV_NORMAL),
    (CLOSED, CR_ADV_NORMAL, 0, CR_ADV_NORMAL),
    (CLOSED, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (CLOSED, CR_ADV_PRESERVE, EBADF, CR_ADV_IGNORE),
    (CLOSED, 4, EINVAL, CR_ADV_IGNORE),
    (1 << 20, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (1 << 20, CR_ADV_PRESERVE, EBADF, CR_ADV_IGNORE),
    (i32::MAX, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (i32::MAX, CR_ADV_PRESERVE, EBADF, CR_ADV_IGNORE),
    (-1, CR_ADV_NORMAL, EBADF, -EBADF),
    (-1, CR_ADV_PRESERVE, EBADF, -EBADF),
    (-1, CR_ADV_IGNORE, EBADF, -EBADF),
    (-1, 4, EINVAL, -EBADF),
    (i32::MIN, CR_ADV_IGNORE, EBADF, -EBADF),
];
