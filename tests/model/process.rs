//! What /proc says about a task.

use libc::{c_int, pid_t};

/// The lines of /proc/TID/status that matter here.
pub struct Status {
    /// Its thread group.
    pub tgid: pid_t,
    /// The thread group of its parent.
    pub ppid: pid_t,
    /// Its number in every pid namespace it is in, ours first.
    pub pids: Vec<pid_t>,
    pending: u64,
    caught: u64,
    ignored: u64,
}

impl Status {
    /// None if there is no such task.
    pub fn of(tid: pid_t) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let number = |name| field(name)?.parse().ok();
        let mask = |name| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            tgid: number("Tgid")?,
            ppid: number("PPid")?,
            pids: field("NSpid")?
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect(),
            pending: mask("SigPnd")? | mask("ShdPnd")?,
            caught: mask("SigCgt")?,
            ignored: mask("SigIgn")?,
        })
    }

    /// Whether a signal waits that would end an interruptible sleep of who blocks only these. For a traced task the kernel also queues
    /// those that it would have thrown away.
    pub fn would_wake(&self, blocked: u64) -> bool {
        let bit = |signal: c_int| 1u64 << (signal - 1);
        let harmless =
            bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGURG) | bit(libc::SIGWINCH);
        self.pending & !blocked & !self.ignored & (self.caught | !harmless) != 0
    }
}

/// Names the pid namespace of a task.
pub fn pid_namespace(tid: pid_t) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{tid}/ns/pid")).ok()
}
