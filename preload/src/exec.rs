//! execve(2) and its kin: the program that comes finds the table in its environment.
//!
//! Called in children of vfork(2) and in signal handlers: no heap and no lock. The
//! new environment lies in memory that the thread keeps for its next exec; a vfork
//! child, which has its parent's threads' memory, finds and leaves it there.

use crate::table;
use ckpt_restart::errno;
use cradvise::upkeep::{self, CRADVISE_TABLE};
use libc::{c_char, c_int};
use std::cell::Cell;
use std::ffi::CStr;
use std::fmt::{self, Write};
use std::ptr::null_mut;

/// An array of strings that ends in a null, as exec has them.
pub type Strings = *const *const c_char;

unsafe extern "C" {
    static environ: Strings;
}

/// The environment of this process.
pub fn current() -> Strings {
    // SAFETY: a variable of libc's, read as execv(3) reads it.
    unsafe { environ }
}

/// Makes a call with an environment that has the table, as it is now.
///
/// * `refused`: what the call gives where there is no memory; errno is ENOMEM then.
///
/// # Safety
/// `environment` is null, or as for execve(2).
pub unsafe fn with_table<R>(
    environment: Strings,
    refused: impl FnOnce() -> R,
    call: impl FnOnce(Strings) -> R,
) -> R {
    if !table::is_used() {
        return call(environment);
    }
    let before = errno::get();
    // SAFETY: as the caller promises.
    match unsafe { extended(environment) } {
        Some(extended) => {
            errno::set(before);
            call(extended)
        }
        None => {
            errno::set(libc::ENOMEM);
            refused()
        }
    }
}

/// execve(2), for the members of its family that are not variadic.
///
/// # Safety
/// As for [`with_table`].
pub unsafe fn exec(environment: Strings, call: impl FnOnce(Strings) -> c_int) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { with_table(environment, || -1, call) }
}

/// posix_spawn(3) gives its errors as its result.
///
/// # Safety
/// As for [`with_table`].
pub unsafe fn spawn(environment: Strings, call: impl FnOnce(Strings) -> c_int) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { with_table(environment, || libc::ENOMEM, call) }
}

/// A copy of an environment, with the table as it is now and no other.
///
/// # Safety
/// As for [`with_table`].
unsafe fn extended(environment: Strings) -> Option<Strings> {
    // SAFETY: as the caller promises; what is counted is what is there.
    let count = unsafe { length(environment) };
    let pointers = (count + 2) * size_of::<*const c_char>();
    loop {
        let mut counted = Bounded {
            at: null_mut(),
            room: 0,
            length: 0,
        };
        let _ = upkeep::write(&mut counted);
        // A little more, for what other threads advise meanwhile.
        let room = counted.length + CRADVISE_TABLE.len() + 256;
        let memory = scratch(pointers + room)?;
        let entries: *mut *const c_char = memory.cast();
        // SAFETY: the memory has room for the pointers, then for the text.
        let at = unsafe { memory.add(pointers) };
        let mut text = Bounded {
            at,
            room,
            length: 0,
        };
        let written = write!(text, "{CRADVISE_TABLE}=").and_then(|()| {
            let name = text.length;
            upkeep::write(&mut text)?;
            let anything = text.length > name;
            text.write_char('\0')?;
            Ok(anything)
        });
        let Ok(anything) = written else {
            continue;
        };
        let mut end = 0;
        for index in 0..count {
            // SAFETY: below the count of both arrays; the entries are strings.
            unsafe {
                let entry = *environment.add(index);
                if !is_table(CStr::from_ptr(entry)) {
                    *entries.add(end) = entry;
                    end += 1;
                }
            }
        }
        // SAFETY: there is room for two more than the environment had.
        unsafe {
            if anything {
                *entries.add(end) = at.cast();
                end += 1;
            }
            *entries.add(end) = null_mut();
        }
        return Some(entries.cast_const());
    }
}

/// Whether an entry of an environment is the table.
pub fn is_table(entry: &CStr) -> bool {
    value_of_table(entry).is_some()
}

/// The table, if that is what an entry of an environment has.
pub fn value_of_table(entry: &CStr) -> Option<&[u8]> {
    let rest = entry.to_bytes().strip_prefix(CRADVISE_TABLE.as_bytes())?;
    rest.strip_prefix(b"=")
}

/// How many strings an array has.
///
/// # Safety
/// Null, or an array that ends in a null.
pub unsafe fn length(strings: Strings) -> usize {
    let mut count = 0;
    if !strings.is_null() {
        // SAFETY: not beyond the null.
        while unsafe { !(*strings.add(count)).is_null() } {
            count += 1;
        }
    }
    count
}

/// Writes as far as there is room, and counts what it is given.
struct Bounded {
    at: *mut u8,
    room: usize,
    length: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let begin = self.length;
        self.length += text.len();
        if self.length <= self.room {
            // SAFETY: `at` has room for so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.at.add(begin), text.len()) };
            return Ok(());
        }
        match self.at.is_null() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

thread_local! {
    /// This thread's memory, and its length.
    static SCRATCH: Cell<(*mut u8, usize)> = const { Cell::new((null_mut(), 0)) };
}

/// Memory of the thread's, aligned as a page; what it held before is lost.
fn scratch(length: usize) -> Option<*mut u8> {
    let (memory, room) = SCRATCH.get();
    if room >= length {
        return Some(memory);
    }
    let wanted = length.checked_next_multiple_of(1 << 16)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping; the old one is this thread's alone and used no more.
    unsafe {
        let new = libc::mmap(null_mut(), wanted, protection, flags, -1, 0);
        if new == libc::MAP_FAILED {
            return None;
        }
        SCRATCH.set((new.cast(), wanted));
        if !memory.is_null() {
            libc::munmap(memory.cast(), room);
        }
        Some(new.cast())
    }
}
