//! The program while it runs: what it is started with, the signals for it, its end.
//!
//! It is in our process group, so that it can use the terminal; what the terminal sends
//! reaches both, and only what other processes send is passed on.

use crate::standard;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Status(u8),
    /// A signal ended it.
    Signal(i32),
}

/// Signals that are passed on.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// Starts a program and waits for its end. Signals stay blocked afterwards.
///
/// # Errors
/// What execve(2) says.
pub fn run(command: &mut Command) -> io::Result<Ended> {
    let mut wanted = set(PASSED_ON);
    let sigchld_ignored = standard::is_ignored(libc::SIGCHLD);
    // SAFETY: the sets are plain data, valid and writable. An ignored SIGCHLD would have
    // the status thrown away.
    let before = unsafe {
        let mut before = set([]);
        libc::sigaddset(&raw mut wanted, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const wanted, &raw mut before);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        before
    };
    let give_back = move || {
        let restore = |ignored, signal| match ignored {
            // SAFETY: signal gets a signal and a disposition.
            true => unsafe { libc::signal(signal, libc::SIG_IGN) },
            false => libc::SIG_DFL,
        };
        restore(sigchld_ignored, libc::SIGCHLD);
        restore(standard::sigpipe_ignored(), libc::SIGPIPE);
        for number in standard::closed() {
            // SAFETY: what Rust has opened there is nobody's in the child.
            unsafe { libc::close(number) };
        }
        // SAFETY: the set is valid.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: only system calls are made, on what was copied into the closure.
    unsafe { command.pre_exec(give_back) };
    let child = command.spawn()?.id().cast_signed();
    loop {
        // SAFETY: siginfo_t is plain data, of which all zeroes is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is valid, and the information writable.
        let signal = unsafe { libc::sigwaitinfo(&raw const wanted, &raw mut info) };
        if signal == libc::SIGCHLD {
            if let Some(ended) = look_after(child) {
                return Ok(ended);
            }
        } else if signal > 0 && info.si_code <= 0 {
            // From a process, not from the kernel.
            // SAFETY: the child has not been waited for, so its pid is its own.
            unsafe { libc::kill(child, signal) };
        }
    }
}

fn set(signals: impl IntoIterator<Item = i32>) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// How the child has ended; `None` where it has not. Where it was stopped from a
/// terminal, this process stops, too.
fn look_after(child: i32) -> Option<Ended> {
    let options = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG;
    let mut stopped = false;
    loop {
        // SAFETY: siginfo_t is plain data, of which all zeroes is a value, and writable.
        let (pid, code, status) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, child.cast_unsigned(), &raw mut info, options);
            (info.si_pid(), info.si_code, info.si_status())
        };
        match code {
            _ if pid == 0 => break,
            libc::CLD_EXITED => return Some(Ended::Status((status & 0xff) as u8)),
            libc::CLD_KILLED | libc::CLD_DUMPED => return Some(Ended::Signal(status)),
            libc::CLD_STOPPED => {
                stopped = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&status);
            }
            _ => stopped = false,
        }
    }
    // SAFETY: the set is plain data and writable; a signal for this process itself.
    unsafe {
        let mut waiting = set([]);
        libc::sigpending(&raw mut waiting);
        if stopped && libc::sigismember(&raw const waiting, libc::SIGCONT) == 0 {
            libc::raise(libc::SIGSTOP);
        }
    }
    None
}
