//! The table of what is interposed: each entry is one line into one function,
//! which gets the real call to make or not.
//!
//! What programs call all the time has a lean hook, the rest one of redhook. What
//! that looks up exists in every glibc, since it has no optional entries.

#![allow(missing_docs, clippy::missing_safety_doc)]
#![allow(clippy::undocumented_unsafe_blocks)] // The real calls, with the caller's own arguments.

use crate::exec::{self, Strings};
use crate::state::is_quiet;
use crate::{criu, lean_hooks, linux_cr, table};
use libc::{
    DIR, FILE, c_char, c_int, c_long, c_uint, c_void, dirent64, mode_t, msghdr, pid_t, size_t,
    ssize_t,
};
use redhook::{hook, real};

lean_hooks! {
    fn read(fd: c_int, buffer: *mut c_void, count: size_t) -> ssize_t, quiet is_quiet(), |real| {
        linux_cr::on_read(fd, buffer, count, unsafe { real(fd, buffer, count) })
    };

    fn __read_chk(fd: c_int, buffer: *mut c_void, count: size_t, size: size_t) -> ssize_t,
        quiet is_quiet(), |real| {
        linux_cr::on_read(fd, buffer, count, unsafe { real(fd, buffer, count, size) })
    };

    fn close(fd: c_int) -> c_int, quiet is_quiet(), |real| {
        linux_cr::on_close(fd, || unsafe { real(fd) })
    };

    fn dup2(from: c_int, to: c_int) -> c_int, quiet is_quiet(), |real| {
        linux_cr::before_feeding(from, to);
        linux_cr::on_dup(from, to, || unsafe { real(from, to) })
    };

    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int, quiet is_quiet(), |real| {
        linux_cr::on_dup(from, to, || unsafe { real(from, to, flags) })
    };

    // fcntl(2) is variadic; one argument is handed on, whatever the command.
    fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int,
        quiet is_quiet() && !table::marks(command, argument), |real| {
        table::on_fcntl(fd, command, argument, || unsafe { real(fd, command, argument) })
    };

    fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int,
        quiet is_quiet() && !table::marks(command, argument), |real| {
        table::on_fcntl(fd, command, argument, || unsafe { real(fd, command, argument) })
    };

    // Called between fork(2) and execve(2), too. Of glibc 2.34: nobody calls it before.
    fn closefrom(least: c_int) -> (), quiet is_quiet(), |real| {
        linux_cr::on_closefrom(least, || unsafe { real(least) })
    };

    fn fclose(stream: *mut FILE) -> c_int, quiet is_quiet(), |real| {
        table::closing(unsafe { libc::fileno(stream) });
        unsafe { real(stream) }
    };

    // syscall(2) is variadic; all six arguments are handed on, whatever the call.
    fn syscall(
        number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long
    ) -> c_long, quiet is_quiet(), |real| {
        if number == libc::SYS_kcmp {
            return unsafe { criu::dump::on_kcmp(b, c, e, |e| real(number, a, b, c, d, e, f)) };
        }
        let real = |fd: c_long| unsafe { real(number, a, fd, c, d, e, f) };
        linux_cr::on_syscall(number, [a, b, c, d], real)
    };
}

// Of glibc 2.34: the calls are made as it makes them, and not looked up.
hook! {
    unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => on_close_range {
        let closes = flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0;
        linux_cr::on_close_range(first, last, closes, |first, last| unsafe {
            libc::syscall(libc::SYS_close_range, first, last, flags) as c_int
        })
    }
}

hook! {
    unsafe fn chroot(path: *const c_char) -> c_int => on_chroot {
        unsafe { linux_cr::on_chroot(path, || real!(chroot)(path)) }
    }
}

// openat(2) is variadic: the mode is handed on also where the program gave none.
hook! {
    unsafe fn openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int
        => on_openat {
        let real = |path, flags| unsafe { real!(openat)(at, path, flags, mode) };
        unsafe { criu::on_openat(at, path, flags, real) }
    }
}

hook! {
    unsafe fn openat64(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int
        => on_openat64 {
        let real = |path, flags| unsafe { real!(openat64)(at, path, flags, mode) };
        unsafe { criu::on_openat(at, path, flags, real) }
    }
}

hook! {
    unsafe fn ptrace(request: c_uint, pid: pid_t, address: *mut c_void, data: *mut c_void) -> c_long
        => on_ptrace {
        criu::marks::before_ptrace(request, pid);
        let result = unsafe { real!(ptrace)(request, pid, address, data) };
        criu::dump::after_ptrace(request, pid, result == 0);
        result
    }
}

hook! {
    unsafe fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t => on_recvmsg {
        let real = |message| unsafe { real!(recvmsg)(fd, message, flags) };
        unsafe { criu::dump::on_recvmsg(fd, message, flags, &real) }
    }
}

hook! {
    unsafe fn fdopendir(fd: c_int) -> *mut DIR => on_fdopendir {
        criu::dump::on_fdopendir(fd, unsafe { real!(fdopendir)(fd) })
    }
}

hook! {
    unsafe fn readdir64(listing: *mut DIR) -> *mut dirent64 => on_readdir64 {
        let real = |listing| unsafe { real!(readdir64)(listing) };
        unsafe { criu::dump::on_readdir(listing, real) }
    }
}

hook! {
    unsafe fn closedir(listing: *mut DIR) -> c_int => on_closedir {
        if !listing.is_null() {
            table::closing(unsafe { libc::dirfd(listing) });
        }
        criu::dump::on_closedir(listing);
        unsafe { real!(closedir)(listing) }
    }
}

// Of librt before glibc 2.34: a close, made as libc makes it, and not looked up.
hook! {
    unsafe fn mq_close(queue: c_int) -> c_int => on_mq_close {
        linux_cr::on_close(queue, || unsafe { libc::syscall(libc::SYS_close, queue) as c_int })
    }
}

hook! {
    unsafe fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int
        => on_execve {
        unsafe { exec::exec(environment, |with| real!(execve)(path, arguments, with)) }
    }
}

hook! {
    unsafe fn execv(path: *const c_char, arguments: Strings) -> c_int => on_execv {
        unsafe { exec::exec(exec::current(), |with| real!(execve)(path, arguments, with)) }
    }
}

hook! {
    unsafe fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int
        => on_execvpe {
        unsafe { exec::exec(environment, |with| real!(execvpe)(file, arguments, with)) }
    }
}

hook! {
    unsafe fn execvp(file: *const c_char, arguments: Strings) -> c_int => on_execvp {
        unsafe { exec::exec(exec::current(), |with| real!(execvpe)(file, arguments, with)) }
    }
}

hook! {
    unsafe fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int => on_fexecve {
        unsafe { exec::exec(environment, |with| real!(fexecve)(fd, arguments, with)) }
    }
}

// Of glibc 2.34: made as it makes it, and not looked up.
hook! {
    unsafe fn execveat(
        at: c_int, path: *const c_char, arguments: Strings, environment: Strings, flags: c_int
    ) -> c_int => on_execveat {
        unsafe {
            exec::exec(environment, |with| {
                libc::syscall(libc::SYS_execveat, at, path, arguments, with, flags) as c_int
            })
        }
    }
}

hook! {
    unsafe fn posix_spawn(
        pid: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Strings, environment: Strings
    ) -> c_int => on_posix_spawn {
        unsafe {
            exec::spawn(environment, |with| {
                real!(posix_spawn)(pid, path, actions, attributes, arguments, with)
            })
        }
    }
}

hook! {
    unsafe fn posix_spawnp(
        pid: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Strings, environment: Strings
    ) -> c_int => on_posix_spawnp {
        unsafe {
            exec::spawn(environment, |with| {
                real!(posix_spawnp)(pid, file, actions, attributes, arguments, with)
            })
        }
    }
}

/// A hook for a variadic member of the exec family, which cannot be written in Rust:
/// lays the arguments that came in registers before those on the stack, and calls
/// `$call` with the first and the address of the array that they make.
macro_rules! variadic_exec {
    ($($name:ident => $call:path;)*) => {$(
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(path: *const c_char, first: *const c_char) -> c_int {
            std::arch::naked_asm!(
                "pop r11",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push r11",
                "call {call}",
                "pop r11",
                "add rsp, 40",
                "push r11",
                "ret",
                call = sym $call,
            )
        }
    )*};
}

variadic_exec! {
    execl => on_execl;
    execlp => on_execlp;
    execle => on_execle;
}

unsafe extern "C" fn on_execl(path: *const c_char, arguments: Strings) -> c_int {
    unsafe { on_execv(path, arguments) }
}

unsafe extern "C" fn on_execlp(file: *const c_char, arguments: Strings) -> c_int {
    unsafe { on_execvp(file, arguments) }
}

/// The environment comes after the null that ends the arguments.
unsafe extern "C" fn on_execle(path: *const c_char, arguments: Strings) -> c_int {
    unsafe {
        let environment = arguments.add(exec::length(arguments) + 1);
        on_execve(path, arguments, (*environment).cast())
    }
}

/// Looks the real functions up before there are threads and forks.
pub fn resolve() {
    resolve_lean();
    real!(chroot);
    real!(openat);
    real!(openat64);
    real!(ptrace);
    real!(recvmsg);
    real!(fdopendir);
    real!(readdir64);
    real!(closedir);
    real!(execve);
    real!(execvpe);
    real!(fexecve);
    real!(posix_spawn);
    real!(posix_spawnp);
}
