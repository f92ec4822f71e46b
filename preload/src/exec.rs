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

/// execve(2), for the members of its family that are not variadic; ENOMEM where there
/// is no memory for the table.
///
/// # Safety
/// `environment` is null, or as for execve(2).
pub unsafe fn exec(environment: Strings, call: impl FnOnce(Strings) -> c_int) -> c_int {
    if !table::is_used() {
        return call(environment);
    }
    let before = errno::get();
    let mut memory = KEPT.get();
    // Who succeeds here leaves it to the thread that made it, and to its next child.
    let is_child = upkeep::may_share_memory();
    if !is_child {
        // A signal handler that comes meanwhile makes its own.
        KEPT.set(Memory::NONE);
    }
    // What is too small stays mapped, since an exec that was interrupted may be using it;
    // as memory doubles, that is as much again at most.
    // SAFETY: as the caller promises.
    let extended = unsafe { extended(environment, &mut memory, |_| {}) };
    if is_child {
        KEPT.set(memory);
    }
    let result = match extended {
        Some(extended) => {
            errno::set(before);
            call(extended)
        }
        None => {
            errno::set(libc::ENOMEM);
            -1
        }
    };
    if !is_child {
        // SAFETY: what a handler has left, whose exec has ended as this one has.
        unsafe { KEPT.replace(memory).unmap() };
    }
    result
}

/// posix_spawn(3), which gives its errors as its result, and needs the environment no
/// longer when it returns.
///
/// # Safety
/// As for [`exec`].
pub unsafe fn spawn(environment: Strings, call: impl FnOnce(Strings) -> c_int) -> c_int {
    if !table::is_used() {
        return call(environment);
    }
    let before = errno::get();
    let mut memory = Memory::NONE;
    // SAFETY: as the caller promises; the memory is nobody else's.
    let extended = unsafe { extended(environment, &mut memory, |outgrown| outgrown.unmap()) };
    errno::set(before);
    let result = extended.map_or(libc::ENOMEM, call);
    // SAFETY: the program that was started has its own copy.
    unsafe { memory.unmap() };
    result
}

/// A copy of an environment, with the table as it is now and no other.
///
/// * `memory`: where it is to lie, which grows if need be.
/// * `outgrown`: what becomes of it then.
///
/// # Safety
/// As for [`exec`].
unsafe fn extended(
    environment: Strings,
    memory: &mut Memory,
    outgrown: impl Fn(Memory),
) -> Option<Strings> {
    // SAFETY: as the caller promises; what is counted is what is there.
    let count = unsafe { length(environment) };
    let pointers = (count + 2) * size_of::<*const c_char>();
    let mut least = pointers + CRADVISE_TABLE.len();
    let (at, anything) = loop {
        if memory.length < least {
            outgrown(std::mem::replace(memory, Memory::new(least)?));
        }
        // SAFETY: the memory has room for the pointers, then for the text.
        let at = unsafe { memory.at.add(pointers) };
        let mut text = Bounded {
            at,
            room: memory.length - pointers,
            length: 0,
        };
        let written = write!(text, "{CRADVISE_TABLE}=").and_then(|()| {
            let name = text.length;
            upkeep::write(&mut text)?;
            let anything = text.length > name;
            text.write_char('\0')?;
            Ok(anything)
        });
        match written {
            Ok(anything) => break (at, anything),
            Err(fmt::Error) => least = memory.length + 1,
        }
    };
    let entries: *mut *const c_char = memory.at.cast();
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
    Some(entries.cast_const())
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

/// Writes as far as there is room.
struct Bounded {
    at: *mut u8,
    room: usize,
    length: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > self.room - self.length {
            return Err(fmt::Error);
        }
        // SAFETY: behind what was written there is room for so many bytes more.
        unsafe {
            let at = self.at.add(self.length);
            std::ptr::copy_nonoverlapping(text.as_ptr(), at, text.len());
        }
        self.length += text.len();
        Ok(())
    }
}

thread_local! {
    /// This thread's, while it uses none.
    static KEPT: Cell<Memory> = const { Cell::new(Memory::NONE) };
}

/// A mapping of its own.
#[derive(Clone, Copy)]
struct Memory {
    at: *mut u8,
    length: usize,
}

impl Memory {
    const NONE: Memory = Memory {
        at: null_mut(),
        length: 0,
    };

    /// New memory of this many bytes or more; twice as much each time that it must be more.
    fn new(least: usize) -> Option<Self> {
        let length = least.checked_next_power_of_two()?.max(1 << 16);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(null_mut(), length, protection, flags, -1, 0) };
        (at != libc::MAP_FAILED).then_some(Memory {
            at: at.cast(),
            length,
        })
    }

    /// Gives it back.
    ///
    /// # Safety
    /// Nobody uses it any more.
    unsafe fn unmap(self) {
        if !self.at.is_null() {
            // SAFETY: as the caller promises.
            unsafe { libc::munmap(self.at.cast(), self.length) };
        }
    }
}
