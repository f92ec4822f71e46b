//! The door to the kernel and the C library: every system call of this crate
//! goes through here, and none of them allocates or locks.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;

/// The error of the last call of this thread.
pub fn errno() -> i32 {
    // SAFETY: always a valid pointer to the errno of this thread.
    unsafe { *libc::__errno_location() }
}

/// Makes system call `number`; the errno where it fails. Unused arguments are 0.
pub fn call(number: i64, arguments: [i64; 4]) -> Result<i64, i32> {
    let [a, b, c, d] = arguments;
    // SAFETY: callers pass integers to calls that take no pointers, and only
    // numbers that the environment configured as such calls.
    let answer = unsafe { libc::syscall(number, a, b, c, d) };
    if answer == -1 {
        Err(errno())
    } else {
        Ok(answer)
    }
}

/// Takes close-on-exec off a descriptor.
pub fn keep_over_exec(fd: RawFd) -> Result<(), i32> {
    // SAFETY: takes integers.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, crate::FD_CR_PRESERVE) } {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

/// Where a symbol is that some object of the process exports.
pub fn symbol(name: &CStr) -> Option<*mut u8> {
    // SAFETY: name ends in a zero byte.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address.cast())
}

/// What a pointer of this crate's leads to: a static, here or in a library that was
/// loaded with the program.
pub fn forever<T: Sync>(pointer: *mut T) -> &'static T {
    // SAFETY: both callers have it from a static of this type or from the symbol
    // that is named after its layout; neither is ever unmapped.
    unsafe { &*pointer }
}

/// The soft limit of RLIMIT_NOFILE: the first number that no new descriptor gets.
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes one rlimit where it is told to.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => 0,
    }
}

/// True in a child of vfork(2), and in any other task that a bare clone(2)
/// made: one that may share its memory with a process that is not its own.
///
/// The kernel forgets a task's robust futex list at clone(2). The C library
/// registers one for every thread, and for every child of fork(2), and cannot do
/// so for a child of vfork(2). Asking costs one call and keeps no state, so that
/// there is none that a vfork child could set wrong.
pub fn may_share_memory() -> bool {
    let mut head: usize = 0;
    let mut length: usize = 0;
    // SAFETY: writes two words where it is told to.
    let answer = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &mut head, &mut length) };
    answer == 0 && head == 0
}

/// The value of an environment variable. It stays valid until the program
/// changes that variable; the caller keeps none of it.
pub fn with_variable<R>(name: &CStr, look: impl FnOnce(Option<&[u8]>) -> R) -> R {
    // SAFETY: name ends in a zero byte.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return look(None);
    }
    // SAFETY: not null, so a string of the environment, which outlives `look`.
    look(Some(unsafe { CStr::from_ptr(value) }.to_bytes()))
}

/// A page of x86_64.
const PAGE: usize = 4096;

/// New zeroed memory, right behind a page that nobody may access. Address space only,
/// until it is written.
pub fn map(length: usize) -> Option<*mut u8> {
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let guard = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE + length,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if guard == libc::MAP_FAILED {
        return None;
    }
    let memory: *mut u8 = guard.cast::<u8>().wrapping_add(PAGE);
    // SAFETY: of the mapping made just now, all but the first page.
    match unsafe { libc::mprotect(memory.cast(), length, libc::PROT_READ | libc::PROT_WRITE) } {
        0 => Some(memory),
        _ => {
            // SAFETY: nobody has it.
            unsafe { unmap(memory, length) };
            None
        }
    }
}

/// Gives back what [`map`] gave.
///
/// # Safety
/// `memory` is what [`map`] gave for this length, and nothing refers to it.
pub unsafe fn unmap(memory: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(memory.wrapping_sub(PAGE).cast(), PAGE + length) };
}

/// A descriptor of the program's that can be read, for the length of its call.
///
/// # Errors
/// EBADF, where read(2) would give that.
pub fn readable<'a>(fd: i32) -> Result<BorrowedFd<'a>, i32> {
    // SAFETY: takes integers.
    match unsafe { libc::fcntl(fd, libc::F_GETFL) } {
        -1 => Err(errno()),
        flags if flags & libc::O_PATH != 0 || flags & libc::O_ACCMODE == libc::O_WRONLY => {
            Err(libc::EBADF)
        }
        // SAFETY: it is open, and so no negative number; whoever uses it here only asks the
        // kernel about it or duplicates it.
        _ => Ok(unsafe { BorrowedFd::borrow_raw(fd) }),
    }
}
