//! A word for every descriptor number that there can be, 0 until it is set.
//!
//! Three levels of 2048, 1024 and 1024 hold every positive `int`: a number of an
//! image may lie above this process's RLIMIT_NOFILE, even above the system's
//! nr_open (by default 2^20, one branch). Two levels would want either a root of
//! megabytes or leaves that cost pages to walk; one reserved mapping for all
//! would want 16 GiB of address space, which RLIMIT_AS or strict overcommit
//! denies.
//!
//! A level is mapped when a number below it is first set and stays for the life
//! of the process. mmap(2) is a bare system call: no lock and no heap, so that a
//! signal handler and a child of fork(2) may grow the table. Readers are
//! wait-free (three loads), and so are writers: who loses the race to map a
//! level takes the winner's. There is no state in between that fork(2) could
//! copy.
//!
//! What lies lowest are tables of marks as [`ckpt_image::marks`] has them, to be found
//! from outside and to travel with a checkpoint.

use crate::Error;
use crate::sys;
use ckpt_image::marks;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicPtr, AtomicU64};

const FAN: usize = marks::WORDS;
const ROOT: usize = (1 << 31) / FAN / FAN;

#[repr(C)]
struct Leaf {
    header: [AtomicU64; marks::HEADER],
    words: [AtomicU64; FAN],
}

#[repr(C)]
struct Branch([AtomicPtr<Leaf>; FAN]);

/// The table. All of it is atomics and mapped memory, so that two copies of this
/// crate in one process can work on one.
#[repr(C)]
pub struct Radix([AtomicPtr<Branch>; ROOT]);

/// A level that can live in memory from mmap(2).
///
/// # Safety
/// All zeros is a value of the type, which has nothing to drop and no alignment
/// above a page's.
unsafe trait Level: Sync + 'static {
    /// Before anybody else sees it.
    fn begin(&self, _first: i32) {}
}

// SAFETY: atomics; zeros are null pointers and the number 0.
unsafe impl Level for Leaf {
    fn begin(&self, first: i32) {
        for (word, value) in self.header.iter().zip(marks::header(first)) {
            word.store(value, Relaxed);
        }
    }
}
// SAFETY: as above.
unsafe impl Level for Branch {}

fn existing<T: Level>(link: &AtomicPtr<T>) -> Option<&'static T> {
    // SAFETY: null, or a level that `grown` published and nobody ever unmaps.
    unsafe { link.load(Acquire).as_ref() }
}

/// * `first`: the lowest number that it is for.
fn grown<T: Level>(link: &AtomicPtr<T>, first: usize) -> Result<&'static T, Error> {
    if let Some(level) = existing(link) {
        return Ok(level);
    }
    let new = sys::map(size_of::<T>()).ok_or(Error::NoMemory)?;
    // SAFETY: zeroed memory of a Level's size.
    unsafe { &*new.cast::<T>() }.begin(first as i32);
    match link.compare_exchange(null_mut(), new.cast(), AcqRel, Acquire) {
        // SAFETY: zeroed memory of a Level's size, which stays mapped.
        Ok(_) => Ok(unsafe { &*new.cast() }),
        Err(winner) => {
            // SAFETY: mapped above, published to nobody.
            unsafe { sys::unmap(new, size_of::<T>()) };
            // SAFETY: links go from null to a level once; this one has gone.
            Ok(unsafe { &*winner })
        }
    }
}

/// Where a number that is not negative has its word.
fn path(number: i32) -> Option<(usize, usize, usize)> {
    let number = usize::try_from(number).ok()?;
    Some((number / FAN / FAN, number / FAN % FAN, number % FAN))
}

impl Radix {
    /// Every word is 0.
    pub const fn new() -> Self {
        Radix([const { AtomicPtr::new(null_mut()) }; ROOT])
    }

    /// The word of a number; `None` where it never was anything but 0.
    pub fn get(&self, number: i32) -> Option<&AtomicU64> {
        let (root, branch, leaf) = path(number)?;
        let branch = existing(&self.0[root]).and_then(|b| existing(&b.0[branch]))?;
        Some(&branch.words[leaf])
    }

    /// The word of a number, to be set.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::NotOpen`] of a negative number.
    pub fn grow(&self, number: i32) -> Result<&AtomicU64, Error> {
        let (root, branch, leaf) = path(number).ok_or(Error::NotOpen(number))?;
        let above = grown(&self.0[root], root * FAN * FAN)?;
        let level = grown(&above.0[branch], (root * FAN + branch) * FAN)?;
        Ok(&level.words[leaf])
    }

    /// Every number with a word that is not 0, in order. Only levels that exist
    /// are walked.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &AtomicU64)> {
        self.between(0, i32::MAX)
    }

    /// The same, of the numbers from `first` to `last`, which are not negative.
    pub fn between(&self, first: i32, last: i32) -> impl Iterator<Item = (i32, &AtomicU64)> {
        fn levels<T: Level>(
            links: &[AtomicPtr<T>],
            before: usize,
            (first, last): (usize, usize),
        ) -> impl Iterator<Item = (usize, &'static T)> {
            let begin = first.saturating_sub(before).min(links.len());
            let end = (last + 1).saturating_sub(before).clamp(begin, links.len());
            let numbered = (before + begin..).zip(&links[begin..end]);
            numbered.filter_map(|(at, link)| Some((at, existing(link)?)))
        }
        let (first, last) = (first.max(0) as usize, last.max(0) as usize);
        levels(&self.0, 0, (first / FAN / FAN, last / FAN / FAN))
            .flat_map(move |(at, branch)| levels(&branch.0, at * FAN, (first / FAN, last / FAN)))
            .flat_map(|(at, leaf)| (at * FAN..).zip(&leaf.words))
            .filter(move |&(number, word)| {
                word.load(Acquire) != 0 && (first..=last).contains(&number)
            })
            .map(|(number, word)| (number as i32, word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_own_word() {
        let radix = Radix::new();
        let numbers = [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1024, i32::MAX];
        for &number in numbers.iter().rev() {
            assert!(radix.get(number).is_none_or(|w| w.load(Relaxed) == 0));
            radix
                .grow(number)
                .unwrap()
                .store(number as u64 + 1, Relaxed);
        }
        let found: Vec<(i32, u64)> = radix.iter().map(|(n, w)| (n, w.load(Relaxed))).collect();
        assert_eq!(found, numbers.map(|n| (n, n as u64 + 1)));
        let between = |first, last| {
            radix
                .between(first, last)
                .map(|(n, _)| n)
                .collect::<Vec<_>>()
        };
        assert_eq!(between(1, 1024), [1, 1023, 1024]);
        assert_eq!(between(1024, 1024), [1024]);
        assert_eq!(between(1025, i32::MAX - 1), [1 << 20, (1 << 20) + 1024]);
        assert_eq!(between(i32::MAX, i32::MAX), [i32::MAX]);
        assert_eq!(between(2, 1), []);
        assert!(radix.get(5 << 20).is_none());
        assert!(radix.get(-1).is_none());
        assert_eq!(radix.grow(-1).err(), Some(Error::NotOpen(-1)));
    }

    #[test]
    fn who_loses_the_race_to_grow_takes_the_winners_level() {
        for _ in 0..100 {
            let radix = Radix::new();
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let radix = &radix;
                    scope.spawn(move || radix.grow(number).unwrap().store(1, Relaxed));
                }
            });
            assert_eq!(radix.iter().count(), 8);
        }
    }
}
