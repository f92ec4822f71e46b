//! What the tests share.
#![allow(dead_code, reason = "no test uses all of it")]

pub mod answers;
pub mod simulated_kernel;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Command, Output};

/// The errno of a refusal; 0 of a success.
pub fn errno<T>(answer: io::Result<T>) -> i32 {
    answer.map_or_else(|error| error.raw_os_error().unwrap(), |_| 0)
}

/// A copy of `file` at `number`. Numbers in the hundreds are never taken by a
/// test that runs beside, so that they stay closed once closed.
pub fn open_at(file: &str, number: RawFd) {
    let file = File::options().read(true).open(file).unwrap();
    // SAFETY: the number belongs to the test that calls.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
}

/// Closes what [`open_at`] opened.
pub fn close(number: RawFd) {
    // SAFETY: as above.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

/// The exit status of a child of fork(2) that runs `child`, which may do only
/// what a signal handler may.
pub fn forked(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls nothing that is not async-signal-safe.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = child();
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(status) };
    }
    assert!(pid > 0);
    let mut status = 0;
    // SAFETY: the child is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    libc::WEXITSTATUS(status)
}

/// Runs one ignored test of this test program in a process of its own, with
/// these variables in its environment.
pub fn run_alone(test: &str, variables: &[(&str, &str)]) -> Output {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env_remove("CRADVISE_NR")
        .env_remove("CRADVISE_BACKEND")
        .env_remove("CKPT_RESTART_NR")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} {variables:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
