//! The table of what is interposed: each entry is one line into one function,
//! which gets the real call to make or not.
//!
//! What is looked up at the start exists in every glibc, since redhook has no
//! optional entries.

#![allow(missing_docs, clippy::missing_safety_doc)]
#![allow(clippy::undocumented_unsafe_blocks)] // The real calls, with the caller's own arguments.

use crate::{criu, linux_cr};
use libc::{
    DIR, c_char, c_int, c_long, c_uint, c_void, dirent64, mode_t, msghdr, pid_t, size_t, ssize_t,
};
use redhook::{hook, real};

hook! {
    unsafe fn read(fd: c_int, buffer: *mut c_void, count: size_t) -> ssize_t => on_read {
        linux_cr::on_read(fd, buffer, count, unsafe { real!(read)(fd, buffer, count) })
    }
}

hook! {
    unsafe fn __read_chk(fd: c_int, buffer: *mut c_void, count: size_t, size: size_t) -> ssize_t
        => on_read_chk {
        linux_cr::on_read(fd, buffer, count, unsafe { real!(__read_chk)(fd, buffer, count, size) })
    }
}

hook! {
    unsafe fn close(fd: c_int) -> c_int => on_close {
        linux_cr::on_close(fd, || unsafe { real!(close)(fd) })
    }
}

// Of glibc 2.34: the calls are made as it makes them, and not looked up.
hook! {
    unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => on_close_range {
        linux_cr::on_close_range(first, last, |first, last| unsafe {
            libc::syscall(libc::SYS_close_range, first, last, flags) as c_int
        })
    }
}

hook! {
    unsafe fn closefrom(least: c_int) => on_closefrom {
        linux_cr::on_closefrom(least, || unsafe { real!(closefrom)(least) })
    }
}

hook! {
    unsafe fn chroot(path: *const c_char) -> c_int => on_chroot {
        unsafe { linux_cr::on_chroot(path, || real!(chroot)(path)) }
    }
}

hook! {
    unsafe fn dup2(from: c_int, to: c_int) -> c_int => on_dup2 {
        linux_cr::before_feeding(from, to);
        linux_cr::on_dup(from, to, || unsafe { real!(dup2)(from, to) })
    }
}

hook! {
    unsafe fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int => on_dup3 {
        linux_cr::on_dup(from, to, || unsafe { real!(dup3)(from, to, flags) })
    }
}

// syscall(2) is variadic; all six arguments are handed on, whatever the call.
hook! {
    unsafe fn syscall(
        number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long
    ) -> c_long => on_syscall {
        let real = |fd: c_long| unsafe { real!(syscall)(number, a, fd, c, d, e, f) };
        linux_cr::on_syscall(number, [a, b, c, d], real)
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
        criu::dump::on_closedir(listing);
        unsafe { real!(closedir)(listing) }
    }
}

/// Looks the real functions up before there are threads and forks.
pub fn resolve() {
    real!(read);
    real!(__read_chk);
    real!(close);
    real!(dup2);
    real!(dup3);
    real!(chroot);
    real!(syscall);
    real!(openat);
    real!(openat64);
    real!(ptrace);
    real!(recvmsg);
    real!(fdopendir);
    real!(readdir64);
    real!(closedir);
}
