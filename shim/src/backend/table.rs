//! Advice kept in this process, where no kernel keeps it.
//!
//! A number has one word: its advice, and the identity of the file that it was
//! given for. One word is read and replaced whole, so that there are no locks, no
//! half-written marks, and nothing to repair after fork(2).
#![forbid(unsafe_code)]

use crate::radix::Radix;
use crate::{CR_ADV_IGNORE, CR_ADV_PRESERVE, Error, sys};
use ckpt_image::marks::{self, IGNORE, OF_FILE, PRESERVE, identity_of};
use ckpt_restart::file;
use std::ffi::c_int;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

const ADVICE: u64 = PRESERVE | IGNORE;

/// Goes up, with the name of the exported table, when the layout changes.
const LAYOUT: u32 = 1;
const MAGIC: u64 = u64::from_be_bytes(*b"cradvise");

/// The advice of a process.
///
/// Laid out to be shared by copies of this crate that were built apart: atomics
/// and mapped memory, no code pointers.
#[repr(C)]
pub struct Table {
    magic: u64,
    layout: u32,
    size: u32,
    /// Not 0: hooks tell this table of every number that is closed.
    watched: u32,
    /// Not 0 once there was advice.
    used: AtomicU32,
    /// Keeps the layout, which had something here.
    unused: u64,
    words: Radix,
}

static OWN: Table = Table::new();
static CURRENT: AtomicPtr<Table> = AtomicPtr::new(null_mut());

/// The table of this process.
///
/// The one place that decides which table that is. A program may have this crate
/// several times, linked into itself, in a shared library and inside a preloaded
/// libckptadv.so, and advice given through one copy must be found through the
/// others. The preloaded library exports its table, under a name that has the
/// version of the layout. Every copy looks for it when the program starts, and
/// uses its own only where there is none.
pub fn current() -> &'static Table {
    // A table is never unmapped or changed in kind: all that find it find the same.
    match CURRENT.load(Acquire) {
        found if !found.is_null() => sys::forever(found),
        _ => find(),
    }
}

#[cold]
fn find() -> &'static Table {
    let exported =
        sys::symbol(c"cradvise_table_1").map(|table| sys::forever::<Table>(table.cast()));
    let table = exported.filter(|table| table.is_known()).unwrap_or(&OWN);
    CURRENT.store(std::ptr::from_ref(table).cast_mut(), Release);
    table
}

/// Looks for the table before main, where the search may use the heap.
pub fn settle() {
    current();
}

/// Clears a table that only this copy of the crate knows. Where that is in a plugin that is
/// unloaded, nobody else could, and its marks would be found by whoever dumps the process. At
/// exit others may still use it: nothing of it is unmapped.
pub fn leave() {
    let table = current();
    if std::ptr::eq(table, &OWN) && table.is_used() {
        // Refused to a vfork(2) child that calls exit(3): the table is its parent's.
        let _ = table.reset();
    }
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
    // IGNORE alone may be for a number of an image, and needs no file.
    let identity = match advice {
        0 => None,
        CR_ADV_IGNORE => identity(fd).unwrap_or(None),
        _ => Some(identity(fd)?.ok_or(Error::NotOpen(fd))?),
    };
    Ok(marks::word(identity, advice as u64))
}

/// `None` where the number is not open.
fn identity(fd: RawFd) -> Result<Option<u64>, Error> {
    match file::of_own(fd) {
        Ok(identity) => Ok(Some(identity)),
        Err(libc::EBADF) => Ok(None),
        Err(errno) => Err(Error::Kernel(errno)),
    }
}

impl Table {
    /// A table without advice.
    pub(crate) const fn new() -> Self {
        Table {
            magic: MAGIC,
            layout: LAYOUT,
            size: size_of::<Table>() as u32,
            watched: 0,
            used: AtomicU32::new(0),
            unused: 0,
            words: Radix::new(),
        }
    }

    /// A table without advice, which hooks keep exact.
    pub const fn watched() -> Self {
        Table {
            watched: 1,
            ..Table::new()
        }
    }

    fn is_known(&self) -> bool {
        let expected = (MAGIC, LAYOUT, size_of::<Table>() as u32);
        (self.magic, self.layout, self.size) == expected
    }

    /// Whether hooks keep it exact.
    pub fn is_watched(&self) -> bool {
        self.watched != 0
    }

    /// Whether there ever was advice.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed) != 0
    }

    /// Refuses a change by a task that is not the process: a vfork(2) child has
    /// its parent's memory, and would change its parent's advice.
    ///
    /// Asked each time. No pid is kept to tell the process by: the number comes again, and is
    /// another's in another pid namespace.
    fn may_change(&self) -> Result<(), Error> {
        match sys::may_share_memory() {
            true => Err(Error::SharedMemory),
            false => Ok(()),
        }
    }

    fn word(&self, fd: RawFd) -> Result<&AtomicU64, Error> {
        let word = self.words.grow(fd)?;
        self.used.store(1, Relaxed);
        Ok(word)
    }

    /// What is recorded of a number; 0 where nothing is.
    #[inline]
    pub fn mark(&self, fd: RawFd) -> u64 {
        self.words.get(fd).map_or(0, |word| word.load(Acquire))
    }

    /// Sets the advice of a number.
    pub fn set(&self, fd: RawFd, advice: c_int) -> Result<(), Error> {
        let new = mark(fd, advice)?;
        if self.mark(fd) == new {
            return Ok(());
        }
        self.may_change()?;
        self.word(fd)?.store(new, Release);
        Ok(())
    }

    /// Sets or clears PRESERVE, and leaves IGNORE as it is.
    pub fn preserve(&self, fd: RawFd, on: bool) -> Result<(), Error> {
        loop {
            let was = self.mark(fd);
            let now = match on {
                true => mark(fd, CR_ADV_PRESERVE)?,
                false => was & !PRESERVE,
            };
            // IGNORE goes on being for the file that it was for, and for no other.
            let new = match was & OF_FILE != 0 && identity_of(was) == identity_of(now | OF_FILE) {
                true => now | was & (IGNORE | OF_FILE),
                false if on => now | was & IGNORE,
                false => was & IGNORE,
            };
            if was == new || !on && was & PRESERVE == 0 {
                return Ok(());
            }
            self.may_change()?;
            let replaced = self.word(fd)?.compare_exchange(was, new, Release, Acquire);
            if replaced.is_ok() {
                return Ok(());
            }
        }
    }

    /// The advice of a number.
    pub fn query(&self, fd: RawFd) -> Result<c_int, Error> {
        if fd < 0 {
            return Err(Error::NotOpen(fd));
        }
        let Some(word) = self.words.get(fd) else {
            return Ok(0);
        };
        if self.is_watched() {
            return Ok(advice_of(word.load(Acquire)));
        }
        self.in_force(fd, word)
    }

    /// Clears all advice.
    pub fn reset(&self) -> Result<(), Error> {
        self.may_change()?;
        self.words
            .iter()
            .for_each(|(_, word)| word.store(0, Release));
        Ok(())
    }

    /// Every number that has advice, in order, with it.
    pub fn for_each(&self, mut each: impl FnMut(RawFd, c_int)) -> Result<(), Error> {
        for (fd, word) in self.words.iter() {
            match self.in_force(fd, word)? {
                0 => {}
                advice => each(fd, advice),
            }
        }
        Ok(())
    }

    /// The number is being closed, or refers to another file: what was for that ends, if
    /// it is still the mark that was seen, and IGNORE of the number stays. Nothing comes
    /// of it in a vfork(2) child, nor where the mark is for no file: for a number alone, or
    /// a note of what a kernel keeps.
    pub fn end(&self, fd: RawFd, seen: u64) {
        let left = marks::of_number(seen);
        if left == seen || self.may_change().is_err() {
            return;
        }
        if let Some(word) = self.words.get(fd) {
            let _ = word.compare_exchange(seen, left, Release, Acquire);
        }
    }

    /// Remembers that a number was advised, where the advice itself is kept
    /// elsewhere.
    pub fn note(&self, fd: RawFd) -> Result<(), Error> {
        self.adopt(fd, ADVICE)
    }

    /// Whatever was noted or advised, in order, with what is recorded of it.
    pub fn marks(&self) -> impl Iterator<Item = (RawFd, u64)> {
        self.marks_between(0, RawFd::MAX)
    }

    /// The same, of the numbers from `first` to `last`.
    pub fn marks_between(&self, first: RawFd, last: RawFd) -> impl Iterator<Item = (RawFd, u64)> {
        let words = self.words.between(first, last);
        let loaded = words.map(|(fd, word)| (fd, word.load(Acquire)));
        loaded.filter(|&(_, mark)| mark != 0)
    }

    /// Takes over what another program recorded, as it is.
    pub fn adopt(&self, fd: RawFd, mark: u64) -> Result<(), Error> {
        if mark == 0 {
            return Ok(());
        }
        self.word(fd)?.store(mark, Release);
        Ok(())
    }

    /// What is recorded of a number, as far as it is still so for the calling task,
    /// also if that is a vfork(2) child, whose closing the table cannot know.
    pub fn for_this_task(&self, fd: RawFd, mark: u64) -> u64 {
        let Some(made_for) = identity_of(mark) else {
            return mark;
        };
        match identity(fd) {
            Ok(None) => mark & IGNORE,
            Ok(Some(now)) if now != made_for && sys::may_share_memory() => mark & IGNORE,
            _ => mark,
        }
    }

    /// The advice that a mark still gives: PRESERVE is for the file that it was
    /// given for, and no other.
    fn in_force(&self, fd: RawFd, word: &AtomicU64) -> Result<c_int, Error> {
        let mark = word.load(Acquire);
        if mark & PRESERVE == 0 {
            return Ok(advice_of(mark));
        }
        match identity(fd)? {
            Some(now) if identity_of(mark) == Some(now) => Ok(advice_of(mark)),
            Some(_) => match word.load(Acquire) {
                // Not advised anew while we looked.
                now if now == mark => Err(Error::Stale(fd)),
                now => Ok(advice_of(now)),
            },
            None => {
                // close(2) ends PRESERVE; IGNORE belongs to the number and stays.
                self.end(fd, mark);
                Ok(advice_of(mark & IGNORE))
            }
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

    #[test]
    fn what_ends_is_the_mark_that_was_seen() {
        let table = Table::new();
        let null = File::open("/dev/null").unwrap();
        let fd = null.as_raw_fd();
        table.set(fd, CR_ADV_PRESERVE | CR_ADV_IGNORE).unwrap();
        let seen = table.mark(fd);
        table.set(fd, CR_ADV_PRESERVE).unwrap();
        table.end(fd, seen);
        assert_eq!(table.query(fd).unwrap(), CR_ADV_PRESERVE, "marked anew");
        table.end(fd, table.mark(fd));
        assert_eq!(table.query(fd).unwrap(), 0);
        table.set(fd, CR_ADV_IGNORE).unwrap();
        table.end(fd, table.mark(fd));
        assert_eq!(table.query(fd).unwrap(), CR_ADV_IGNORE);
    }

    #[test]
    fn what_a_kernel_keeps_is_no_mark_and_closing_makes_none() {
        let table = Table::new();
        table.note(7).unwrap();
        table.end(7, table.mark(7));
        let mut found = marks::Marks::default();
        let noted = table
            .marks()
            .inspect(|&(fd, word)| found.add(fd, word, || None));
        assert_eq!(noted.count(), 1, "still to be asked for");
        assert_eq!(found.into_vec(), []);
    }

    #[test]
    fn preserve_goes_on_and_off_beside_ignore() {
        let table = Table::new();
        let null = File::open("/dev/null").unwrap();
        let fd = null.as_raw_fd();
        table.set(fd, CR_ADV_IGNORE).unwrap();
        table.preserve(fd, true).unwrap();
        assert_eq!(table.query(fd).unwrap(), CR_ADV_PRESERVE | CR_ADV_IGNORE);
        table.preserve(fd, false).unwrap();
        assert_eq!(table.query(fd).unwrap(), CR_ADV_IGNORE);
        assert_eq!(
            table.preserve(i32::MAX, true),
            Err(Error::NotOpen(i32::MAX))
        );
        assert_eq!(table.preserve(i32::MAX, false), Ok(()));
    }
}
