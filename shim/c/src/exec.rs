//! [`cradvise::Advised`] for C.

use cradvise::Advised;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{mem, ptr};

/// execvp(3) of a program that carries out the advice of this process.
///
/// # Safety
/// Each is NULL or a string that ends in a zero byte; `arguments` is NULL or an array of such strings that ends in
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cradvise_exec(
    library: *const c_char,
    file: *const c_char,
    arguments: *const *const c_char,
) -> c_int {
    crate::answer(|| {
        // SAFETY: the caller's promise.
        let (library, file) = unsafe { (string(library), string(file)) };
        // SAFETY: as above.
        let mut arguments = unsafe { strings(arguments) }.into_iter();
        let (Some(file), Some(name)) = (file, arguments.next()) else {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        };
        let mut command = Command::new(file);
        command.arg0(name).args(arguments);
        command.advised(library.unwrap_or(OsStr::new("libckptadv.so")))?;
        let signals = Signals::now();
        // SAFETY: system calls only.
        unsafe { command.pre_exec(move || signals.restore()) };
        Err(command.exec())
    })
}

/// What the program inherits of signals. Rust's exec sets it anew, which is not for a library to do.
#[derive(Clone, Copy)]
struct Signals {
    mask: libc::sigset_t,
    pipe: libc::sigaction,
}

impl Signals {
    fn now() -> Self {
        // SAFETY: plain integers, for which zeros are a value.
        let mut signals: Signals = unsafe { mem::zeroed() };
        // SAFETY: both write one structure where they are told to.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut signals.mask);
            libc::sigaction(libc::SIGPIPE, ptr::null(), &mut signals.pipe);
        }
        signals
    }

    fn restore(&self) -> io::Result<()> {
        // SAFETY: both read what they gave.
        unsafe {
            libc::sigaction(libc::SIGPIPE, &self.pipe, ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut());
        }
        Ok(())
    }
}

/// A string of the caller's; `None` for NULL.
///
/// # Safety
/// NULL, or it ends in a zero byte and outlives `'a`.
unsafe fn string<'a>(text: *const c_char) -> Option<&'a OsStr> {
    // SAFETY: the caller's promise.
    let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })?;
    Some(OsStr::from_bytes(text.to_bytes()))
}

/// Strings of the caller's.
///
/// # Safety
/// NULL, or an array that ends in NULL, of strings as [`string`] takes them.
unsafe fn strings<'a>(mut array: *const *const c_char) -> Vec<&'a OsStr> {
    let mut found = Vec::new();
    while !array.is_null() {
        // SAFETY: the caller's promise; what is NULL ends it.
        match unsafe { string(*array) } {
            Some(text) => found.push(text),
            None => break,
        }
        // SAFETY: it was not the last.
        array = unsafe { array.add(1) };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{open_at, run_alone};

    fn exec(arguments: &[&CStr]) -> Option<i32> {
        let mut array: Vec<*const c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
        array.push(ptr::null());
        // SAFETY: every string ends in a zero byte, and the array in NULL. A library that every program has anyway.
        let answer = unsafe { cradvise_exec(c"libc.so.6".as_ptr(), array[0], array.as_ptr()) };
        assert_eq!(answer, -1);
        io::Error::last_os_error().raw_os_error()
    }

    #[test]
    fn the_program_has_the_advice_and_the_descriptors() {
        let output = run_alone_until_exec("exec::tests::alone");
        assert!(output.contains("\nadvice 1,500=1:"), "{output}");
        assert!(output.contains(",7000=2\n"), "{output}");
        assert!(output.contains("\n/dev/null\n"), "{output}");
    }

    #[test]
    fn the_program_has_the_signal_mask() {
        let output = run_alone_until_exec("exec::tests::alone_with_a_mask");
        assert!(output.contains("\nSigBlk:\t0000000000000200\n"), "{output}");
    }

    #[test]
    #[ignore = "run by the_program_has_the_signal_mask"]
    fn alone_with_a_mask() {
        // SAFETY: a set is made, and blocks a signal that nobody sends.
        unsafe {
            let mut set = mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGUSR1);
            libc::pthread_sigmask(libc::SIG_SETMASK, &set, ptr::null_mut());
        }
        // Not a shell, which has a mask of its own.
        let errno = exec(&[c"cat", c"/proc/self/status"]);
        panic!("{errno:?}");
    }

    /// What a test says whose process becomes another program.
    fn run_alone_until_exec(test: &str) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                test,
                "--ignored",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env_remove("LD_PRELOAD")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    #[ignore = "run by the_program_has_the_advice_and_the_descriptors"]
    fn alone() {
        open_at("/dev/null", 500);
        // SAFETY: a number of this test.
        unsafe { libc::fcntl(500, libc::F_SETFD, libc::FD_CLOEXEC) };
        assert_eq!(crate::cradvise(500, cradvise::CR_ADV_PRESERVE), 0);
        assert_eq!(crate::cradvise(7000, cradvise::CR_ADV_IGNORE), 0);
        let script = c"echo; echo advice $CRADVISE_TABLE; readlink /proc/self/fd/500";
        let errno = exec(&[c"sh", c"-c", script]);
        panic!("{errno:?}");
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        run_alone("exec::tests::refusals_alone", &[]);
    }

    #[test]
    #[ignore = "run by what_cannot_be_started_is_told"]
    fn refusals_alone() {
        assert_eq!(exec(&[c"/nowhere"]), Some(libc::ENOENT));
        open_at("/dev/null", 500);
        assert_eq!(crate::cradvise(500, cradvise::CR_ADV_PRESERVE), 0);
        open_at("/dev/zero", 500);
        assert_eq!(exec(&[c"/bin/true"]), Some(libc::ESTALE));
        for (library, expected) in [
            (c"", libc::EINVAL),
            (c"/a b.so", libc::EINVAL),
            (c"/none.so", libc::ENOENT),
        ] {
            let arguments = [c"true".as_ptr(), ptr::null()];
            // SAFETY: as in `exec`.
            let answer =
                unsafe { cradvise_exec(library.as_ptr(), arguments[0], arguments.as_ptr()) };
            assert_eq!(answer, -1);
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(expected));
        }
        let none = ptr::null();
        for (file, arguments) in [
            (ptr::null(), &[c"true".as_ptr(), none]),
            (c"/bin/true".as_ptr(), &[none, none]),
        ] {
            // SAFETY: the array ends in NULL.
            assert_eq!(unsafe { cradvise_exec(none, file, arguments.as_ptr()) }, -1);
            let errno = io::Error::last_os_error().raw_os_error();
            assert_eq!(errno, Some(libc::EFAULT));
        }
    }
}
