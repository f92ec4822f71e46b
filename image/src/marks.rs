//! Marks: what a running program advises of its own descriptors, as its memory has
//! them (ckpt_image(5), FILES).
//!
//! A program keeps its advice in tables of words, one for each number. A table is a
//! private anonymous mapping, so that fork(2) copies it and a checkpoint takes it
//! along. It lies right behind a page that nobody may access, so that the kernel never
//! joins it to a mapping in front, and begins with a header: whoever looks at
//! /proc/PID/maps from outside reads the first bytes of few mappings, and no others.
//!
//! ```text
//!  0  magic "ckptmark"        8  version, 32 bits      12  first number, 32 bits
//! 16  words, 32 bits         20  zeroes                64  the words, 64 bits each
//! ```
//!
//! All in the machine's byte order. A word is 0, or has the advice of its number:
//!
//! ```text
//! bit 0  PRESERVE
//! bit 1  IGNORE
//! bit 2  IGNORE was given while the number was open: it is for that file, too
//! 3-63   with bits 0 or 2: the file, as `identity` names it
//! ```
//!
//! The memory is the program's, and is as little to be trusted.

use crate::fnv::Fnv;
use std::collections::BTreeMap;
use std::fmt;

/// Bit 0 of a word.
pub const PRESERVE: u64 = 1;
/// Bit 1 of a word.
pub const IGNORE: u64 = 2;
/// Bit 2 of a word.
pub const OF_FILE: u64 = 4;
/// Above these bits a word has the identity of a file.
pub const BITS: u32 = 3;

/// All bits below that.
pub const FLAGS: u64 = PRESERVE | IGNORE | OF_FILE;

/// What a table begins with.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"ckptmark");
/// The layout of tables.
pub const VERSION: u32 = 1;
/// The length of the header in words.
pub const HEADER: usize = 8;
/// The words of a table that follow its header.
pub const WORDS: usize = 1024;
/// The bytes of a header.
pub const HEADER_BYTES: usize = HEADER * 8;
/// The bytes of a whole table.
pub const TABLE_BYTES: usize = (HEADER + WORDS) * 8;

/// A process that seems to have more tables is forged.
pub const MOST_TABLES: usize = 4096;

/// The header of a table, as words.
///
/// * `first`: the number whose word is the first.
pub fn header(first: i32) -> [u64; HEADER] {
    let pair = |low: u32, high: u32| {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&low.to_ne_bytes());
        bytes[4..].copy_from_slice(&high.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    };
    let (version, words) = (pair(VERSION, first.unsigned_abs()), pair(WORDS as u32, 0));
    [MAGIC, version, words, 0, 0, 0, 0, 0]
}

/// The number whose word is the first of a table; `None` where the bytes are not the
/// header of one that is known here.
pub fn first_number(bytes: &[u8]) -> Option<i32> {
    let word = |at: usize| {
        Some(u64::from_ne_bytes(
            bytes.get(at * 8..)?.get(..8)?.try_into().ok()?,
        ))
    };
    let first = u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?);
    let first = i32::try_from(first).ok()?;
    let known = header(first)
        .iter()
        .enumerate()
        .all(|(at, &h)| word(at) == Some(h));
    (known && (first as usize).is_multiple_of(WORDS)).then_some(first)
}

/// The numbers of a table that have a word other than 0, with that word and where it
/// is, in bytes from the beginning.
///
/// * `bytes`: the table, or as much of it as could be read.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = (i32, u64, usize)> {
    let first = first_number(bytes);
    let words = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let numbered = words.chunks_exact(8).take(WORDS).enumerate();
    numbered.filter_map(move |(index, word)| {
        let number = first?.checked_add(index as i32)?;
        match u64::from_ne_bytes(word.try_into().ok()?) {
            0 => None,
            word => Some((number, word, HEADER_BYTES + index * 8)),
        }
    })
}

/// Where tables may begin: the addresses of private, writable mappings without a name
/// that lie right behind one that nobody may access.
///
/// * `maps`: what /proc/PID/maps has.
pub fn places(maps: &[u8]) -> Vec<u64> {
    let mut places = Vec::new();
    let mut guard_ends = None;
    for line in maps.split(|&b| b == b'\n') {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split_ascii_whitespace();
        let mut next = || fields.next().unwrap_or_default();
        let (range, rights, _, _, inode, name) = (next(), next(), next(), next(), next(), next());
        let address = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((start, end)) = range
            .split_once('-')
            .and_then(|(a, b)| Some((address(a)?, address(b)?)))
        else {
            continue;
        };
        let is_nameless = inode == "0" && name.is_empty();
        if rights == "rw-p" && is_nameless && guard_ends == Some(start) {
            places.push(start);
        }
        guard_ends = (rights == "---p").then_some(end);
    }
    places
}

/// A word.
///
/// * `identity`: of the file that the number has, if it is open.
/// * `advice`: [`PRESERVE`] and [`IGNORE`].
pub fn word(identity: Option<u64>, advice: u64) -> u64 {
    let own = match advice & IGNORE {
        0 => 0,
        _ => OF_FILE,
    };
    match identity {
        Some(identity) if advice != 0 => identity << BITS | own | advice,
        _ => advice,
    }
}

/// The file that a word was made for; `None` where it is for the number alone.
pub fn identity_of(word: u64) -> Option<u64> {
    (word & (PRESERVE | OF_FILE) != 0).then_some(word >> BITS)
}

/// What stays of a word when its number is closed: what is for the number alone, or a note
/// of what a kernel keeps.
pub fn of_number(word: u64) -> u64 {
    match identity_of(word) {
        None | Some(0) => word,
        Some(_) => word & IGNORE,
    }
}

/// A file as stat(2) and /proc tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// The type, of `st_mode`.
    pub kind: u32,
    /// When a regular file or a directory was made, where that is known: the
    /// inode number of one that is gone is soon used anew.
    pub born: (i64, u32),
    /// What /proc/PID/fd shows, where the inode has no type: eventfds, epoll sets and
    /// their kin all share one.
    pub link: &'a [u8],
}

/// How much of a link counts.
pub const LINK: usize = 64;

/// A number of 61 bits that names a file: the same for the same file, and for others
/// different but by a chance of 2^-61. Not a name of the open file description.
pub fn identity(file: &File<'_>) -> u64 {
    let mut hash = Fnv::new();
    hash.write(&file.device.to_ne_bytes());
    hash.write(&file.inode.to_ne_bytes());
    hash.write(&file.kind.to_ne_bytes());
    hash.write(&file.born.0.to_ne_bytes());
    hash.write(&file.born.1.to_ne_bytes());
    hash.write(&file.link[..file.link.len().min(LINK)]);
    hash.value() >> BITS
}

/// Whether a mark is for what its number has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    InForce,
    /// The number has another file by now.
    Stale,
    /// The number is not open.
    Closed,
    /// It was never for a descriptor of the program's, but for a number of an image
    /// that the program might restart.
    NumberOnly,
}

impl State {
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            State::InForce => "in force",
            State::Stale => "stale",
            State::Closed => "closed",
            State::NumberOnly => "number",
        }
    }
}

/// What a program says of one of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number.
    pub number: i32,
    /// The word.
    pub word: u64,
    /// Whether it is to be acted on.
    pub state: State,
}

impl Mark {
    /// The descriptor is to be left out of an image.
    pub fn leaves_out(&self) -> bool {
        self.state == State::InForce && self.word & OF_FILE != 0
    }

    /// Whoever restarts the program may give theirs.
    pub fn asks(&self) -> bool {
        self.state == State::InForce && self.word & PRESERVE != 0
    }

    /// [`PRESERVE`] and [`IGNORE`].
    pub fn advice(&self) -> u64 {
        self.word & (PRESERVE | IGNORE)
    }
}

/// The advice of a mark, in words.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.advice() {
            PRESERVE => "preserve",
            IGNORE => "ignore",
            _ => "preserve,ignore",
        })
    }
}

/// Collects the marks of one process.
///
/// A program that has several tables for one number (the library linked into several
/// parts of it) means what all say that are in force.
#[derive(Debug, Default)]
pub struct Marks(BTreeMap<i32, Mark>);

impl Marks {
    /// One word more.
    ///
    /// * `identity`: names the file that the number has now; `None` where it is not open.
    pub fn add(&mut self, number: i32, word: u64, identity: impl FnOnce() -> Option<u64>) {
        let state = match identity_of(word) {
            // Noted only: a kernel has the advice.
            Some(0) => return,
            None if word & IGNORE == 0 => return,
            None => State::NumberOnly,
            Some(made_for) => match identity() {
                Some(now) if now == made_for => State::InForce,
                Some(_) => State::Stale,
                None => State::Closed,
            },
        };
        let mark = Mark {
            number,
            word,
            state,
        };
        self.0
            .entry(number)
            .and_modify(|before| match (before.state, state) {
                (State::InForce, State::InForce) => before.word |= word & FLAGS,
                (_, State::InForce) => *before = mark,
                _ => {}
            })
            .or_insert(mark);
    }

    /// All of them, ascending.
    pub fn into_vec(self) -> Vec<Mark> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(first: i32, set: &[(usize, u64)]) -> Vec<u8> {
        let mut words = header(first).to_vec();
        words.resize(HEADER + WORDS, 0);
        set.iter().for_each(|&(at, word)| words[HEADER + at] = word);
        words.into_iter().flat_map(u64::to_ne_bytes).collect()
    }

    #[test]
    fn what_is_written_is_found() {
        let bytes = table(1024, &[(0, 2), (1023, 8 | 1)]);
        assert_eq!(bytes.len(), TABLE_BYTES);
        let found: Vec<_> = words(&bytes).collect();
        assert_eq!(found, [(1024, 2, 64), (2047, 9, 64 + 1023 * 8)]);
        let last = table(i32::MAX - 1023, &[(1023, 2)]);
        assert_eq!(words(&last).next(), Some((i32::MAX, 2, 64 + 1023 * 8)));
    }

    #[test]
    fn what_is_forged_or_cut_off_is_no_table() {
        let whole = table(0, &[(7, 2), (9, 2)]);
        for at in (0..HEADER_BYTES).filter(|at| !(12..16).contains(at)) {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert_eq!(words(&other).next(), None, "byte {at}");
        }
        for first in [1_u32, 1023, 1025, i32::MAX as u32, 1 << 31, u32::MAX] {
            let mut other = whole.clone();
            other[12..16].copy_from_slice(&first.to_ne_bytes());
            assert_eq!(words(&other).next(), None, "first {first}");
        }
        for length in 0..HEADER_BYTES + 64 {
            assert_eq!(words(&whole[..length]).next(), None, "{length} bytes");
        }
        assert_eq!(words(&whole[..HEADER_BYTES + 64]).count(), 1);
    }

    #[test]
    fn tables_lie_behind_guards() {
        let maps = b"\
1000-2000 ---p 00000000 00:00 0 
2000-5000 rw-p 00000000 00:00 0 
5000-6000 rw-p 00000000 00:00 0 [heap]
6000-7000 ---p 00000000 00:00 0 
7000-8000 r--p 00000000 00:00 0 
9000-a000 ---p 00000000 08:01 7 /lib/a b
a000-b000 rw-p 00000000 08:01 7 /lib/a b
b000-c000 ---p 00000000 00:00 0 
d000-e000 rw-p 00000000 00:00 0 
e000-f000 ---p 00000000 00:00 0 
f000-10000 rw-p 00000000 00:00 0 [anon:name]
10000-11000 ---s 00000000 00:00 0 
11000-12000 rw-p 00000000 00:00 0 
what is this
12000-13000 ---p 00000000 00:00 0 
13000-14000 rw-p 00000000 00:00 0 
";
        assert_eq!(places(maps), [0x2000, 0x13000]);
        assert_eq!(places(b""), [0_u64; 0]);
    }

    #[test]
    fn a_mark_is_for_the_file_that_it_was_made_for() {
        let state = |word, now: Option<u64>| {
            let mut marks = Marks::default();
            marks.add(7, word, || now);
            marks
                .into_vec()
                .first()
                .map(|mark| (mark.state, mark.leaves_out(), mark.asks()))
        };
        let ignore = word(Some(5), IGNORE);
        assert_eq!(state(ignore, Some(5)), Some((State::InForce, true, false)));
        assert_eq!(state(ignore, Some(6)), Some((State::Stale, false, false)));
        assert_eq!(state(ignore, None), Some((State::Closed, false, false)));
        let number = word(None, IGNORE);
        assert_eq!(
            state(number, Some(5)),
            Some((State::NumberOnly, false, false))
        );
        let both = word(Some(5), IGNORE | PRESERVE);
        assert_eq!(state(both, Some(5)), Some((State::InForce, true, true)));
        let preserve = word(Some(5), PRESERVE);
        assert_eq!(
            state(preserve, Some(5)),
            Some((State::InForce, false, true))
        );
        // IGNORE of a number that was closed since, then PRESERVE of another file.
        assert_eq!(
            state(preserve | IGNORE, Some(5)),
            Some((State::InForce, false, true))
        );
        // Noted where a kernel keeps the advice; nonsense.
        assert_eq!(state(PRESERVE | IGNORE, Some(0)), None);
        assert_eq!(state(5 << BITS, Some(5)), None);
    }

    #[test]
    fn what_is_for_the_number_outlives_its_file() {
        for (before, after) in [
            (word(Some(5), IGNORE), IGNORE),
            (word(Some(5), PRESERVE), 0),
            (word(Some(5), PRESERVE | IGNORE), IGNORE),
            (word(None, IGNORE), IGNORE),
            (PRESERVE | IGNORE, PRESERVE | IGNORE),
            (0, 0),
        ] {
            assert_eq!(of_number(before), after, "{before:#x}");
        }
    }

    #[test]
    fn a_hash_takes_everything_in() {
        let file = File {
            device: 1,
            inode: 2,
            kind: 3,
            born: (4, 5),
            link: b"anon_inode:[eventfd]",
        };
        let long = [b'x'; LINK + 1];
        let others = [
            File { device: 2, ..file },
            File { inode: 3, ..file },
            File { kind: 4, ..file },
            File {
                born: (5, 5),
                ..file
            },
            File {
                born: (4, 6),
                ..file
            },
            File { link: b"", ..file },
            File {
                link: &long,
                ..file
            },
        ];
        let mut all: Vec<u64> = others.iter().map(identity).collect();
        all.push(identity(&file));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|identity| identity >> (64 - BITS) == 0));
        let cut = File {
            link: &long[..LINK],
            ..file
        };
        assert_eq!(
            identity(&cut),
            identity(&others[6]),
            "as much as the call itself looks at"
        );
    }

    #[test]
    fn what_several_tables_say_counts_where_it_is_in_force() {
        let mut marks = Marks::default();
        marks.add(7, word(Some(4), IGNORE), || Some(5));
        marks.add(7, word(Some(5), PRESERVE), || Some(5));
        marks.add(7, word(Some(4), IGNORE), || Some(5));
        assert_eq!(marks.0[&7].word, word(Some(5), PRESERVE));
        marks.add(7, word(Some(5), IGNORE), || Some(5));
        assert_eq!(marks.0[&7].word, word(Some(5), PRESERVE | IGNORE));
    }
}
