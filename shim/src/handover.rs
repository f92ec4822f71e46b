//! The table as text, to hand it on over execve(2) in the variable
//! [`CRADVISE_TABLE`].
//!
//! ```text
//! 1,7=1:2f0c55d6a1,9-12=2      version, number=advice:identity, first-last=advice
//! ```
//!
//! The advice is the low bits of a word of [`ckpt_image::marks`].
//!
//! Only a program with libckptadv.so reads it or keeps it up to date. Nothing here
//! uses the heap: exec happens in vfork(2) children and signal handlers.
#![forbid(unsafe_code)]

use crate::backend::{self, Backend, Table};
use ckpt_image::marks::{FLAGS, identity_of};
use std::fmt::{self, Write};
use std::os::fd::RawFd;

pub use crate::environment::CRADVISE_TABLE;

const VERSION: &str = "1";

/// Writes the advice of this process as the calling task would hand it on; nothing
/// where there is none, and where a kernel keeps it, which does so over exec as well.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write) -> fmt::Result {
    if backend::current().is_used() && backend::status().backend == Backend::Table {
        return write_table(backend::current(), out);
    }
    Ok(())
}

fn write_table(table: &Table, out: &mut impl Write) -> fmt::Result {
    let mut begun = false;
    let mut run: Option<(RawFd, RawFd)> = None;
    let here = table
        .marks()
        .map(|(fd, mark)| (fd, table.for_this_task(fd, mark)));
    for (fd, mark) in here.filter(|&(_, mark)| mark != 0) {
        if !begun {
            out.write_str(VERSION)?;
            begun = true;
        }
        if let Some(identity) = identity_of(mark) {
            write_run(out, run.take())?;
            write!(out, ",{fd}={}:{identity:x}", mark & FLAGS)?;
            continue;
        }
        // Without an identity it is IGNORE alone.
        run = match run {
            Some((first, last)) if last + 1 == fd => Some((first, fd)),
            other => {
                write_run(out, other)?;
                Some((fd, fd))
            }
        };
    }
    write_run(out, run)
}

fn write_run(out: &mut impl Write, run: Option<(RawFd, RawFd)>) -> fmt::Result {
    match run {
        None => Ok(()),
        Some((first, last)) if first == last => write!(out, ",{first}=2"),
        Some((first, last)) => write!(out, ",{first}-{last}=2"),
    }
}

/// Takes over the advice that another program handed on, but PRESERVE of what exec has
/// closed. False where the text is not what this version writes, of which nothing is
/// taken, or there is no memory.
pub fn read(text: &[u8]) -> bool {
    let table = backend::current();
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    items(text, |_, _, _| true)
        && items(text, |first, last, mark| {
            (first..=last).all(|fd| table.adopt(fd, table.for_this_task(fd, mark)).is_ok())
        })
}

/// Calls back for each item, with its numbers and mark, until that gives false;
/// false then, and where the text is malformed.
fn items(text: &str, mut each: impl FnMut(RawFd, RawFd, u64) -> bool) -> bool {
    let mut parts = text.split(',');
    parts.next() == Some(VERSION)
        && parts.all(|part| {
            item(part).is_some_and(|(first, last, mark)| first <= last && each(first, last, mark))
        })
}

fn item(part: &str) -> Option<(RawFd, RawFd, u64)> {
    let number = |text: &str| text.parse::<RawFd>().ok().filter(|&fd| fd >= 0);
    let (numbers, advice) = part.split_once('=')?;
    match (numbers.split_once('-'), advice.split_once(':')) {
        (None, Some((advice @ ("1" | "3" | "6" | "7"), identity))) => {
            let identity = u64::from_str_radix(identity, 16).ok()?;
            let mark = identity.checked_mul(FLAGS + 1)? | advice.parse::<u64>().ok()?;
            Some((number(numbers)?, number(numbers)?, mark))
        }
        (None, None) if advice == "2" => Some((number(numbers)?, number(numbers)?, 2)),
        (Some((first, last)), None) if advice == "2" => Some((number(first)?, number(last)?, 2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CR_ADV_IGNORE, CR_ADV_PRESERVE};
    use std::fs::File;
    use std::os::fd::AsRawFd;

    fn text(table: &Table) -> String {
        let mut text = String::new();
        write_table(table, &mut text).unwrap();
        text
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let table = Table::new();
        assert_eq!(text(&table), "");
        let null = File::open("/dev/null").unwrap();
        let fd = null.as_raw_fd();
        table.set(fd, CR_ADV_PRESERVE | CR_ADV_IGNORE).unwrap();
        for ignored in [5000, 5001, 5002, 6000, i32::MAX] {
            table.set(ignored, CR_ADV_IGNORE).unwrap();
        }
        let written = text(&table);
        let identity = table.mark(fd) >> 3;
        assert_eq!(
            written,
            format!("1,{fd}=7:{identity:x},5000-5002=2,6000=2,2147483647=2")
        );
        let copy = Table::new();
        assert!(items(&written, |first, last, mark| {
            (first..=last).for_each(|fd| copy.adopt(fd, mark).unwrap());
            true
        }));
        assert!(copy.marks().eq(table.marks()));
    }

    #[test]
    fn what_was_closed_is_not_handed_on() {
        let table = Table::new();
        let null = File::open("/dev/null").unwrap();
        table.adopt(1 << 29, 1 << 20 | 3).unwrap();
        table.adopt((1 << 29) + 1, 1 << 20 | 1).unwrap();
        assert_eq!(text(&table), "1,536870912=2");
        // Another file: whoever uses it finds it stale.
        table.adopt(null.as_raw_fd(), 1 << 20 | 1).unwrap();
        assert!(text(&table).contains(&format!("{}=1:{:x}", null.as_raw_fd(), 1 << 17)));
    }

    #[test]
    fn what_this_version_does_not_write_is_refused() {
        for good in [
            "1",
            "1,0=2",
            "1,3-3=2",
            "1,7=1:0",
            "1,7=3:1fffffffffffffff",
            "1,7=6:5",
        ] {
            assert!(items(good, |_, _, _| true), "{good}");
        }
        for bad in [
            "",
            "2",
            "2,7=2",
            "1,",
            "1,7",
            "1,7=",
            "1,7=1",
            "1,7=0",
            "1,7=4",
            "1,7=2:5",
            "1,7=5:5",
            "1,-1=2",
            "1,9-7=2",
            "1,7-9=1:5",
            "1,7=1:",
            "1,7=1:x",
            "1,7=1:2000000000000000",
            "1,2147483648=2",
            "1,7=2 ",
        ] {
            assert!(!items(bad, |_, _, _| true), "{bad}");
        }
    }
}
