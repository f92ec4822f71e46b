//! The marks of a process that runs, or is stopped, as its memory has them.
//!
//! It is only looked at: its memory is read where a table may begin, and of the
//! numbers that are marked it is asked which file they have now.

use crate::file;
use ckpt_image::marks::{self, Mark, Marks};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

/// The marks of a process, ascending; none where it has ended, or has no memory.
///
/// # Errors
/// EACCES or EPERM where the caller may not look into it (ptrace(2), access mode
/// checking); EINVAL where its memory has more tables than a program makes; what else
/// reading /proc gives.
pub fn of(pid: i32) -> io::Result<Vec<Mark>> {
    let mut marks = Marks::default();
    let memory = match memory(pid, File::options().read(true)) {
        Ok(memory) => memory,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
        Err(error) => return Err(error),
    };
    for (_, table) in memory.iter().flat_map(|memory| &memory.tables) {
        for (number, word, _) in marks::words(table) {
            marks.add(number, word, || file::of_process(pid, number).ok());
        }
    }
    Ok(marks.into_vec())
}

/// Makes marks of a process that was restored be for what their numbers have now, and ends
/// what was for a file where a number has none. It must be stopped.
///
/// * `made`: numbers, each with the word that it must still have.
///
/// # Errors
/// As [`of`].
pub fn renew(pid: i32, made: &BTreeSet<(i32, u64)>) -> io::Result<()> {
    let Some(memory) = memory(pid, File::options().read(true).write(true))? else {
        return Ok(());
    };
    for (address, table) in memory.tables {
        for (number, word, at) in marks::words(&table) {
            let new = match file::of_process(pid, number) {
                Ok(now) if made.contains(&(number, word)) => {
                    now << marks::BITS | word & marks::FLAGS
                }
                Err(libc::ENOENT) => marks::of_number(word),
                _ => continue,
            };
            if new != word {
                memory
                    .file
                    .write_all_at(&new.to_ne_bytes(), address + at as u64)?;
            }
        }
    }
    Ok(())
}

/// The memory of a process, where there are tables in it.
struct Memory {
    file: File,
    /// Address and bytes.
    tables: Vec<(u64, Vec<u8>)>,
}

/// `None` where there can be no tables.
fn memory(pid: i32, options: &OpenOptions) -> io::Result<Option<Memory>> {
    let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
    let places = marks::places(&maps);
    if places.is_empty() {
        return Ok(None);
    }
    let file = options.open(format!("/proc/{pid}/mem"))?;
    let mut tables = Vec::new();
    for address in places {
        let mut header = [0; marks::HEADER_BYTES];
        let read = file.read_exact_at(&mut header, address);
        if read.is_err() || marks::first_number(&header).is_none() {
            continue;
        }
        if tables.len() == marks::MOST_TABLES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut table = vec![0; marks::TABLE_BYTES];
        if file.read_exact_at(&mut table, address).is_ok() {
            tables.push((address, table));
        }
    }
    Ok(Some(Memory { file, tables }))
}
