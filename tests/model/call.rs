//! The restart call as it looks in the registers.
//!
//! Today's kernel uses the numbers of restart(2) for other calls, which the same programs make too, so the
//! number alone says nothing: a call is taken for a restart only if all its arguments fit one.

use libc::{pid_t, user_regs_struct};

/// The caller restarts itself, from an image of one task.
pub const TASKSELF: u64 = 1;
/// Internet sockets that do not listen are closed.
pub const CONN_RESET: u64 = 0x10;
const GHOST: u64 = 4;
const KNOWN_FLAGS: u64 = 0x1f;
/// Larger than any descriptor, smaller than any pointer.
const DESCRIPTOR_END: u64 = 1 << 20;

/// A restart call.
#[derive(Clone)]
pub enum Call {
    /// A task that waits for its turn; a ghost, which has none, looks the same and waits for the end.
    Task,
    /// The call that reads the image.
    Coordinator {
        /// The root task, in the caller's pid namespace.
        root: pid_t,
        /// The caller's descriptor of the image.
        image: i32,
        /// Of the five known ones.
        flags: u64,
        /// The caller's descriptor for the kernel's complaints, or -1.
        log: i32,
    },
}

impl Call {
    /// The restart call that these registers make, if they make one.
    pub fn of(regs: &user_regs_struct) -> Option<Self> {
        // Callers pass ints through a variadic function: only 32 bits of each mean anything.
        let (pid, log) = (regs.rdi as i32, regs.r10 as i32);
        let (image, flags) = (regs.rsi, regs.rdx & 0xffff_ffff);
        let pointer = |value: u64| value >> 32 != 0 && value >> 32 != 0xffff_ffff;
        if pid == 0 && (flags == 0 || flags == GHOST) && log == -1 && !pointer(regs.r10) {
            return Some(Self::Task);
        }
        let plausible_log = log == -1 || (0..DESCRIPTOR_END as i32).contains(&log);
        (pid > 0
            && image < DESCRIPTOR_END
            && flags & !KNOWN_FLAGS == 0
            && plausible_log
            && !pointer(regs.r10))
        .then_some(Self::Coordinator {
            root: pid,
            image: image as i32,
            flags,
            log,
        })
    }

    /// Whether this call reads an image.
    pub fn is_coordinator(&self) -> bool {
        matches!(self, Self::Coordinator { .. })
    }
}
