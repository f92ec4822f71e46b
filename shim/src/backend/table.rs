//! Advice kept in this process, where no kernel keeps it.
//!
//! A number has one word: its advice, and the identity of the file that it was
//! given for. One word is read and replaced whole, so that there are no locks, no
//! half-written marks, and nothing to repair after fork(2).
#![forbid(unsafe_code)]

use crate::radix::Radix;
use crate::{CR_ADV_IGNORE, CR_ADV_PRESERVE, Error, file, sys};
use std::ffi::c_int;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

const ADVICE: u64 = (CR_ADV_PRESERVE | CR_ADV_IGNORE) as u64;

/// The advice of a process.
#[repr(C)]
pub struct Table(Radix);

/// The table of this process.
///
/// The one place that decides which table that is. A program may have this crate
/// twice, linked into itself and inside a preloaded libckptadv.so, and advice
/// given through one copy must be found through the other. So far each copy has
/// its own. [`Table`] is laid out to be shared (atomics and mapped memory, no
/// code pointers): it takes a symbol exported by the preloaded copy, named after
/// the version of the layout, which the other copies look up here when the
/// program starts.
pub fn current() -> &'static Table {
    static TABLE: Table = Table::new();
    &TABLE
}

fn advice_of(mark: u64) -> c_int {
    (mark & ADVICE) as c_int
}

/// The mark of a number.
fn mark(fd: RawFd, advice: c_int) -> Result<u64, Error> {
    if advice & !(CR_ADV_PRESERVE | CR_ADV_IGNORE) != 0 {
        return Err(Error::UnknownBits(advice));
    }
    if fd < 0 {
        return Err(Error::NotOpen(fd));
    }
    if advice & CR_ADV_PRESERVE == 0 {
        return Ok(advice as u64);
    }
    let identity = identity(fd)?.ok_or(Error::NotOpen(fd))?;
    // As dup2(2) judges a number: what no descriptor can have, none is given.
    if fd as u64 >= sys::descriptor_limit() {
        return Err(Error::NotOpen(fd));
    }
    Ok(identity << 2 | advice as u64)
}

/// `None` where the number is not open.
fn identity(fd: RawFd) -> Result<Option<u64>, Error> {
    match file::identity(fd) {
        Ok(identity) => Ok(Some(identity)),
        Err(libc::EBADF) => Ok(None),
        Err(errno) => Err(Error::Kernel(errno)),
    }
}

impl Table {
    /// A table without advice.
    pub const fn new() -> Self {
        Table(Radix::new())
    }

    /// Sets the advice of a number.
    pub fn set(&self, fd: RawFd, advice: c_int) -> Result<(), Error> {
        let new = mark(fd, advice)?;
        if self.0.get(fd).map_or(0, |word| word.load(Acquire)) == new {
            return Ok(());
        }
        if sys::may_share_memory() {
            return Err(Error::SharedMemory);
        }
        self.0.grow(fd)?.store(new, Release);
        Ok(())
    }

    /// The advice of a number.
    pub fn query(&self, fd: RawFd) -> Result<c_int, Error> {
        if fd < 0 {
            return Err(Error::NotOpen(fd));
        }
        self.0.get(fd).map_or(Ok(0), |word| in_force(fd, word))
    }

    /// Clears all advice.
    pub fn reset(&self) -> Result<(), Error> {
        if sys::may_share_memory() {
            return Err(Error::SharedMemory);
        }
        self.0.iter().for_each(|(_, word)| word.store(0, Release));
        Ok(())
    }

    /// Every number that has advice, in order, with it.
    pub fn for_each(&self, mut each: impl FnMut(RawFd, c_int)) -> Result<(), Error> {
        for (fd, word) in self.0.iter() {
            match in_force(fd, word)? {
                0 => {}
                advice => each(fd, advice),
            }
        }
        Ok(())
    }

    /// Remembers that a number was advised, where the advice itself is kept
    /// elsewhere.
    pub fn note(&self, fd: RawFd) -> Result<(), Error> {
        self.0.grow(fd)?.store(ADVICE, Release);
        Ok(())
    }

    /// Whatever was noted or advised, in order.
    pub fn noted(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|(fd, _)| fd)
    }
}

/// The advice that a mark still gives: PRESERVE is for the file that it was
/// given for, and no other.
fn in_force(fd: RawFd, word: &AtomicU64) -> Result<c_int, Error> {
    let mark = word.load(Acquire);
    if advice_of(mark) & CR_ADV_PRESERVE == 0 {
        return Ok(advice_of(mark));
    }
    match identity(fd)? {
        Some(identity) if identity == mark >> 2 => Ok(advice_of(mark)),
        Some(_) => match word.load(Acquire) {
            // Not advised anew while we looked.
            now if now == mark => Err(Error::Stale(fd)),
            now => Ok(advice_of(now)),
        },
        None => {
            // close(2) ends PRESERVE; IGNORE belongs to the number and stays. A
            // vfork child's close was not its parent's.
            let left = mark & CR_ADV_IGNORE as u64;
            if !sys::may_share_memory() {
                let _ = word.compare_exchange(mark, left, Release, Acquire);
            }
            Ok(advice_of(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn threads_see_whole_marks() {
        static TABLE: Table = Table::new();
        let null = File::open("/dev/null").unwrap();
        let fd = null.as_raw_fd();
        std::thread::scope(|scope| {
            for advice in [0, 1, 2, 3] {
                scope.spawn(move || {
                    for _ in 0..2000 {
                        TABLE.set(fd, advice).unwrap();
                        // A torn mark would be stale.
                        TABLE.query(fd).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_million_numbers() {
        let table = Table::new();
        for fd in 0..1 << 20 {
            table.set(fd, CR_ADV_IGNORE).unwrap();
        }
        let mut count = 0;
        table.for_each(|_, _| count += 1).unwrap();
        assert_eq!(count, 1 << 20);
        table.reset().unwrap();
        table.for_each(|fd, _| panic!("{fd}")).unwrap();
    }
}
