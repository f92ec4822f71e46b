//! Single fields of records, and those that say the same twice: what no kernel takes.
//!
//! A value that a kernel writes and does not take back (a terminal that is open for writing
//! only) is not among them: whoever has it may be dropped.

use super::forms::{Field, Form, Values};
use super::layout::{FMODE_LSEEK, FMODE_READ, FMODE_WRITE, Version, file_type};
use super::records::Record;
use crate::Error;

/// The flags with which a kernel refuses to open a file again: to create it, to fail
/// where it is there, to take no terminal, to truncate it.
const REFUSED_FLAGS: u32 = 0o100 | 0o200 | 0o400 | 0o1000;
const ACCESS: u32 = FMODE_READ | FMODE_WRITE;
/// The bits of a file with offsets: it can be moved, and read and written at one.
const SEEKS: u32 = FMODE_LSEEK | 8 | 0x10;
/// Of eventfd2(2): it is a semaphore, or has flags of its descriptor.
const EVENTFD_FLAGS: u32 = 1 | 0o4000 | 0o200_0000;

/// A task that only waits for its parent, as its two states have it.
const TASK_DEAD: u32 = 64;
const EXIT_ZOMBIE: u32 = 16;
const MASTER: u16 = 1;
/// Flags of a terminal: its line discipline is there, is being changed, is open; it was hung up.
const LDISC: u64 = 1 << 9;
const LDISC_CHANGING: u64 = 1 << 10;
const LDISC_OPEN: u64 = 1 << 11;
const HUPPED: u64 = 1 << 18;

/// Holds a record against what its form says of its fields.
///
/// # Errors
/// [`Error::Image`] for a value that no kernel takes.
pub fn check(record: &Record<'_>, form: &Form, version: &Version) -> Result<(), Error> {
    form.fields(version)
        .iter()
        .try_for_each(|field| check_one(record, field))
}

fn check_one(record: &Record<'_>, field: &Field) -> Result<(), Error> {
    let (at, name) = (field.at, field.name);
    let value = match field.len {
        1 => i64::from(record.u8(at)?),
        2 => i64::from(record.u16(at)?),
        4 => i64::from(record.i32(at)?),
        _ => record.u64(at)?.cast_signed(),
    };
    let why = match field.values {
        Values::Within(least, most) if !(least..=most).contains(&value) => {
            format!("{name} {value}: a kernel takes {least} to {most}")
        }
        Values::OneOf(known) if !known.contains(&value) => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            format!("{name} {value}: a kernel takes {}", known.join(", "))
        }
        Values::Bits(known) if value.cast_unsigned() & !known != 0 => {
            format!("{name} {value:#x}: no kernel has these")
        }
        _ => return Ok(()),
    };
    Err(record.error(why))
}

/// The two states of a TASK.
///
/// # Errors
/// [`Error::Image`] for a task that is dead by the one and not by the other.
pub fn check_task(record: &Record<'_>) -> Result<(), Error> {
    let (state, exit) = (record.u32(8)?, record.u32(12)?);
    match state == TASK_DEAD && exit != EXIT_ZOMBIE {
        true => Err(record.error(format!("a dead task that is no zombie: exit state {exit}"))),
        false => Ok(()),
    }
}

/// The fields of a FILE, by its type.
///
/// # Errors
/// [`Error::Image`] for a file that no kernel makes.
pub fn check_file(record: &Record<'_>, version: &Version) -> Result<(), Error> {
    let (of, mode, flags) = (record.u32(8)?, record.u32(12)?, record.u32(16)?);
    let by_path = matches!(of, file_type::GENERIC | file_type::FIFO);
    if by_path && flags & REFUSED_FLAGS != 0 {
        return Err(record.error(format!(
            "flags {flags:#o} would create or truncate the file, which no kernel restores"
        )));
    }
    let (saved, opened) = (mode & ACCESS, flags.wrapping_add(1) & ACCESS);
    let agrees = match of {
        // A file system that was made read-only takes the writing from files that are open.
        file_type::GENERIC if opened & FMODE_WRITE != 0 && saved & FMODE_WRITE == 0 => {
            saved == (opened & FMODE_READ) | (saved & FMODE_READ)
        }
        file_type::GENERIC | file_type::PIPE | file_type::FIFO => saved == opened,
        file_type::TTY => saved != 0,
        _ => saved == ACCESS,
    };
    if !agrees {
        return Err(record.error(format!("mode {mode:#x} of a file with flags {flags:#o}")));
    }
    if !matches!(of, file_type::GENERIC | file_type::PIPE) && mode & SEEKS != 0 {
        return Err(record.error(format!("mode {mode:#x} of a file that has no offset")));
    }
    if of == file_type::EVENTFD {
        let flags = record.u32(version.file_len as usize + 8)?;
        if flags & !EVENTFD_FLAGS != 0 {
            return Err(record.error(format!("an eventfd with flags {flags:#o}")));
        }
    }
    Ok(())
}

/// What a TTY says.
pub struct Terminal {
    /// The number of the master's file, or 0.
    pub file: i32,
    /// Its line discipline is in the image.
    pub has_discipline: bool,
    /// And its input is read.
    pub reads: bool,
}

/// The fields of a TTY that have to do with each other.
///
/// * `id`: its number.
///
/// # Errors
/// [`Error::Image`] for a terminal that no kernel makes.
pub fn terminal(record: &Record<'_>, id: i32) -> Result<Terminal, Error> {
    let (link, file, flags) = (record.i32(12)?, record.i32(16)?, record.u64(32)?);
    if link == id {
        return Err(record.error("a terminal that is its own master"));
    }
    let is_master = record.u16(10)? == MASTER;
    let hung_up = flags & HUPPED != 0;
    let why = match is_master {
        true if link != 0 => format!("a master whose master is object {link}"),
        true if file <= 0 => format!("a master with file {file}"),
        true if hung_up => "a master that was hung up".to_owned(),
        false if link == 0 => "a slave without a master".to_owned(),
        false if file != 0 => format!("a slave with file {file}, which is its master's"),
        _ => {
            let open = LDISC | LDISC_OPEN;
            return Ok(Terminal {
                file,
                has_discipline: !hung_up,
                reads: flags & (open | LDISC_CHANGING) == open,
            });
        }
    };
    Err(record.error(why))
}
