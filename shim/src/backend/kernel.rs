//! Advice kept by a kernel that has the proposed call, `cradvise(fd, advice,
//! op)`.
#![forbid(unsafe_code)]

use super::table;
use crate::{Error, sys};
use std::ffi::c_int;
use std::os::fd::RawFd;

const SET: i64 = 0;
const QUERY: i64 = 1;
const RESET: i64 = 2;

fn call(number: i64, fd: RawFd, advice: c_int, op: i64) -> Result<i64, Error> {
    sys::call(number, [fd.into(), advice.into(), op, 0]).map_err(Error::Kernel)
}

/// True unless the call answers ENOSYS. Changes nothing, and is asked of a
/// configured number only.
pub fn exists(number: i64) -> bool {
    call(number, 0, 0, QUERY) != Err(Error::Kernel(libc::ENOSYS))
}

/// Sets the advice of a number.
pub fn set(number: i64, fd: RawFd, advice: c_int) -> Result<(), Error> {
    if fd >= 0 && advice != 0 {
        table::current().note(fd)?;
    }
    call(number, fd, advice, SET).map(drop)
}

/// The advice of a number.
pub fn query(number: i64, fd: RawFd) -> Result<c_int, Error> {
    call(number, fd, 0, QUERY).map(|advice| advice as c_int)
}

/// Clears all advice.
pub fn reset(number: i64) -> Result<(), Error> {
    call(number, -1, 0, RESET).map(drop)
}

/// Every number that has advice, in order, with it.
///
/// The call has no operation to list them: every number that can be open is
/// asked for, and those above that this process advised itself.
pub fn for_each(number: i64, mut each: impl FnMut(RawFd, c_int)) -> Result<(), Error> {
    let limit = RawFd::try_from(sys::descriptor_limit()).unwrap_or(RawFd::MAX);
    let above = table::current().noted().filter(|&fd| fd >= limit);
    for fd in (0..limit).chain(above) {
        match query(number, fd)? {
            0 => {}
            advice => each(fd, advice),
        }
    }
    Ok(())
}
