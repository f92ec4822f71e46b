//! Marks of a program that is being restored.
//!
//! A mark names the file that it was made for by device and inode. A restore gives many
//! files new ones: pipes, sockets and their kin always, others on another machine, and
//! what whoever restores gives is another file altogether. So when criu lets a restored
//! task go, which is still stopped, the marks that were in force when it was dumped are
//! made anew, for what their numbers have now; and of what it comes back without, only what
//! is for the number stays, as after close(2). Nothing else of the task is touched.

use ckpt_image::criu::record::Ask;
use ckpt_restart::{errno, marks, tasks, warn};
use libc::{c_int, c_uint};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// Tasks whose marks are to be looked at, by their pids in the image: the numbers that they
/// ask for, each with the word that does.
static RESTORED: Mutex<BTreeMap<i32, BTreeSet<(i32, u64)>>> = Mutex::new(BTreeMap::new());

/// What is going to be restored.
///
/// * `asks`: what the program asks for.
/// * `lacking`: the tasks that come back without some of their descriptors.
pub fn restored(asks: &[Ask], lacking: impl IntoIterator<Item = i32>) {
    let mut restored = RESTORED.lock();
    *restored = lacking
        .into_iter()
        .map(|task| (task, BTreeSet::new()))
        .collect();
    for ask in asks {
        restored
            .entry(ask.task)
            .or_default()
            .insert((ask.number, ask.mark));
    }
}

/// ptrace(2), before it.
pub fn before_ptrace(request: c_uint, thread: c_int) {
    if request != libc::PTRACE_DETACH {
        return;
    }
    // A criu has one thread. Elsewhere it is empty, and nobody waits: not a debugger's signal
    // handler, nor a child that was forked when another thread was here.
    let Some(mut restored) = RESTORED.try_lock() else {
        return;
    };
    if restored.is_empty() {
        return;
    }
    errno::keeping(|| {
        if let Some(numbers) = tasks::pid_of_process(thread).and_then(|pid| restored.remove(&pid))
            && let Err(error) = marks::renew(thread, &numbers)
        {
            warn!("the marks of task {thread} cannot be made anew, and do not count: {error}");
        }
    });
}
