//! What the kernel says of one descriptor, as if what is left out had been closed: of epoll
//! sets, which criu then asks the kernel about by what it has read, and of locks.

use super::super::files::in_memory;
use super::{DUMP, listings};
use ckpt_image::criu::dump::{Watch, without_locks};
use ckpt_restart::tasks;
use libc::{c_int, c_long};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, IntoRawFd};

/// criu reads of /proc/PID/fdinfo: of a task's, or of its own copy of an epoll set.
/// `None` where the kernel's text is right.
///
/// * `directory`: /proc/PID.
/// * `open`: the real call.
pub(super) fn read(
    directory: c_int,
    number: i32,
    open: impl Fn() -> c_int,
    flags: c_int,
) -> Option<io::Result<c_int>> {
    let dump = DUMP.lock();
    let plan = dump.as_ref()?.stage.plan()?;
    if plan.sets.is_empty() && plan.unlocked.is_empty() {
        return None;
    }
    let task = listings::task_of_directory(directory)?;
    // SAFETY: getpid takes nothing.
    let edit: &dyn Fn(&[u8]) -> Vec<u8> = if task == unsafe { libc::getpid() } {
        let mut sets = plan.sets.iter();
        let (_, shown) = sets.find(|(set, _)| tasks::is_a_copy_of(number, *set))?;
        &|text| shown.text(text)
    } else if plan.unlocked.contains(&(task, number)) {
        &without_locks
    } else {
        return None;
    };
    let fd = open();
    if fd < 0 {
        return Some(Err(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was opened just now, for nobody else.
    let mut file = unsafe { File::from_raw_fd(fd) };
    let mut text = Vec::new();
    let read = file
        .read_to_end(&mut text)
        .and_then(|_| in_memory(&edit(&text), flags & libc::O_CLOEXEC != 0));
    Some(read.map(IntoRawFd::into_raw_fd))
}

/// kcmp(2): whether a set watches something, by what was shown of it.
///
/// * `task`, `what`, `slot`: the second, third and last argument.
/// * `real`: the real call, for another last one.
///
/// # Safety
/// The arguments are what the program gave, as for kcmp(2).
pub unsafe fn on_kcmp(
    task: c_long,
    what: c_long,
    slot: c_long,
    real: impl Fn(c_long) -> c_long,
) -> c_long {
    if what != c_long::from(tasks::KCMP_EPOLL_TFD) || slot == 0 {
        return real(slot);
    }
    let asked = slot as *const tasks::Slot;
    // SAFETY: the kernel would read it, too.
    let asked = unsafe { asked.read_unaligned() };
    // Where it is held, it is this library that asks.
    let translated = DUMP.try_lock().and_then(|dump| {
        let place = (i32::try_from(task).ok()?, i32::try_from(asked.set).ok()?);
        let mut sets = dump.as_ref()?.stage.plan()?.sets.iter();
        let (_, shown) = sets.find(|(set, _)| *set == place)?;
        let number = i32::try_from(asked.number).ok()?;
        let nth = asked.nth;
        let watch = shown.real(Watch { number, nth })?;
        Some(tasks::Slot::new(place, watch))
    });
    match translated {
        Some(slot) => real((&raw const slot) as c_long),
        None => real(slot),
    }
}
