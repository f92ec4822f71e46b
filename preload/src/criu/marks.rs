//! Marks of a program that is being restored.
//!
//! A mark names the file that it was made for by device and inode. A restore gives many
//! files new ones: pipes, sockets and their kin always, others on another machine, and
//! what whoever restores gives is another file altogether. So when criu lets a restored
//! task go, which is still stopped, the marks that were in force when it was dumped are
//! made anew, for what their numbers have now. Nothing else of the task is touched.

use ckpt_image::criu::record::Ask;
use ckpt_restart::{errno, marks, tasks, warn};
use libc::{c_int, c_uint};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// By the task's pid in the image: numbers, each with the word that asks for it.
static ASKED: Mutex<BTreeMap<i32, Vec<(i32, u64)>>> = Mutex::new(BTreeMap::new());

/// What the program asks for that is going to be restored.
pub fn asked(asks: &[Ask]) {
    let mut asked = ASKED.lock();
    asked.clear();
    for ask in asks {
        asked
            .entry(ask.task)
            .or_default()
            .push((ask.number, ask.mark));
    }
}

/// ptrace(2), before it.
pub fn before_ptrace(request: c_uint, thread: c_int) {
    if request != libc::PTRACE_DETACH {
        return;
    }
    let mut asked = ASKED.lock();
    if asked.is_empty() {
        return;
    }
    errno::keeping(|| {
        if let Some(numbers) = tasks::pid_of_process(thread).and_then(|pid| asked.remove(&pid))
            && let Err(error) = marks::renew(thread, &numbers)
        {
            warn!("the marks of task {thread} cannot be made anew, and do not count: {error}");
        }
    });
}
