//! Advice kept by a kernel that has the proposed call, `cradvise(fd, advice,
//! op)`.
#![forbid(unsafe_code)]

use super::table;
use crate::{CR_ADV_PRESERVE, Error, sys};
use ckpt_restart::caller;
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::os::fd::RawFd;

const SET: i64 = 0;
const QUERY: i64 = 1;
const RESET: i64 = 2;
/// The lowest number with advice that is not below `fd`.
const NEXT: i64 = 3;

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

/// Sets or clears PRESERVE, and leaves IGNORE as it is.
pub fn preserve(number: i64, fd: RawFd, on: bool) -> Result<(), Error> {
    let was = query(number, fd)?;
    let new = match on {
        true => was | CR_ADV_PRESERVE,
        false => was & !CR_ADV_PRESERVE,
    };
    match was == new {
        true => Ok(()),
        false => set(number, fd, new),
    }
}

/// Every number that has advice, in order, with it.
pub fn for_each(number: i64, mut each: impl FnMut(RawFd, c_int)) -> Result<(), Error> {
    let mut from: RawFd = 0;
    loop {
        let fd = match call(number, from, 0, NEXT) {
            Ok(fd) => fd as RawFd,
            Err(Error::Kernel(libc::ENOENT)) => return Ok(()),
            // The call as it was proposed first has no such operation.
            Err(Error::Kernel(libc::EINVAL)) if from == 0 => return ask_each(number, each),
            Err(error) => return Err(error),
        };
        match query(number, fd)? {
            0 => {}
            advice => each(fd, advice),
        }
        match fd.checked_add(1) {
            Some(next) if fd >= from => from = next,
            _ => return Ok(()),
        }
    }
}

/// Asks for every number that is open, and those that this process advised itself.
fn ask_each(number: i64, mut each: impl FnMut(RawFd, c_int)) -> Result<(), Error> {
    let mut numbers: BTreeSet<RawFd> = table::current().marks().map(|(fd, _)| fd).collect();
    match caller::open_numbers() {
        Ok(open) => numbers.extend(open),
        // Without /proc.
        Err(_) => numbers.extend(0..RawFd::try_from(sys::descriptor_limit()).unwrap_or(RawFd::MAX)),
    }
    for fd in numbers {
        match query(number, fd)? {
            0 => {}
            advice => each(fd, advice),
        }
    }
    Ok(())
}
