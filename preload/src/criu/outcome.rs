//! How a restore ended, for the report: criu tells by its exit status.

use super::clock;
use ckpt_image::criu::Rewrite;
use ckpt_image::report::{Failure, Outcome, Report};
use ckpt_restart::report;
use parking_lot::Mutex;
use std::ffi::{c_int, c_void};

unsafe extern "C" {
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

/// What advice made of the image, and in which process that is known.
static DONE: Mutex<Option<(u32, Rewrite)>> = Mutex::new(None);

/// Reports at the end of this process what became of the restore.
pub fn report_at_exit(rewrite: Rewrite) {
    let before = DONE.lock().replace((std::process::id(), rewrite));
    if before.is_none() {
        // SAFETY: the function lives as long as the process: the library is never
        // unloaded. Without memory for it the report stays as it is.
        unsafe { on_exit(at_exit, std::ptr::null_mut()) };
    }
}

/// Nothing more is to be reported: it has been refused.
pub fn forget() {
    *DONE.lock() = None;
}

extern "C" fn at_exit(status: c_int, _: *mut c_void) {
    // A forked child may exit while its parent held the lock.
    let Some(mut done) = DONE.try_lock() else {
        return;
    };
    // Taken, since it may be called twice.
    let Some((_, rewrite)) = done.take().filter(|(pid, _)| *pid == std::process::id()) else {
        return;
    };
    let microseconds = Some(clock::microseconds());
    if status == 0 {
        return report::write(&Report {
            microseconds,
            ..rewrite.report(Outcome::Restarted)
        });
    }
    report::write(&Report {
        microseconds,
        failure: Some(Failure {
            errno: None,
            message: format!("criu ended with status {status}"),
        }),
        ..rewrite.report(Outcome::Failed)
    });
}
