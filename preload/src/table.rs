//! The table of cradvise(2) in this process: the one that every copy of the crate
//! uses while this library is loaded, and that the hooks keep exact.

use ckpt_image::advice::{Action, Advice, Item, Target};
use ckpt_restart::settings::Settings;
use ckpt_restart::{Error, errno};
use cradvise::FD_CR_PRESERVE;
use cradvise::upkeep::{self, Table};
use std::ffi::{c_int, c_uint};

/// What the copies look for. The number in the name is the version of the layout.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static cradvise_table_1: Table = Table::watched();

/// Whether there ever was advice.
#[inline]
pub fn is_used() -> bool {
    cradvise_table_1.is_used()
}

/// Before a number is closed, which ends what it is marked for. After it another thread
/// may have the number with the same file and mark. A close(2) that fails (EBADF) is of a
/// number that is not open, and has no file to be marked for.
pub fn closing(fd: c_int) {
    if is_used() {
        errno::keeping(|| cradvise_table_1.end(fd, cradvise_table_1.mark(fd)));
    }
}

/// Before numbers are closed by a call that is going to succeed.
pub fn closing_all(first: c_uint, last: c_uint) {
    if !is_used() {
        return;
    }
    let number = |n: c_uint| c_int::try_from(n).unwrap_or(c_int::MAX);
    errno::keeping(|| {
        for (fd, mark) in cradvise_table_1.marks_between(number(first), number(last)) {
            cradvise_table_1.end(fd, mark);
        }
    });
}

/// dup2(2) and dup3(2): where they succeed, `to` is closed first.
pub fn on_dup(from: c_int, to: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if !is_used() {
        return real();
    }
    let mark = cradvise_table_1.mark(to);
    let result = real();
    if result >= 0 && from != to {
        errno::keeping(|| cradvise_table_1.end(to, mark));
    }
    result
}

/// Whether fcntl(2) is asked to mark a descriptor, which is how advice may begin.
#[inline]
pub fn marks(command: c_int, argument: usize) -> bool {
    command == libc::F_SETFD && argument as c_int & FD_CR_PRESERVE != 0
}

/// fcntl(2): FD_CR_PRESERVE is a flag beside FD_CLOEXEC.
pub fn on_fcntl(fd: c_int, command: c_int, argument: usize, real: impl FnOnce() -> c_int) -> c_int {
    match command {
        libc::F_SETFD if marks(command, argument) => {
            let before = errno::get();
            if let Err(error) = upkeep::preserve(fd, true) {
                errno::set(error.raw_os_error().unwrap_or(libc::EINVAL));
                return -1;
            }
            errno::set(before);
            real()
        }
        libc::F_SETFD => {
            let result = real();
            if result == 0 {
                errno::keeping(|| upkeep::preserve(fd, false).ok());
            }
            result
        }
        libc::F_GETFD => match real() {
            flags if flags >= 0 && errno::keeping(|| upkeep::preserves(fd)) => {
                flags | FD_CR_PRESERVE
            }
            result => result,
        },
        _ => real(),
    }
}

/// The advice of the environment and of cradvise(2), as it is now.
///
/// One number may have both. What the environment gives it wins; an IGNORE there and
/// a PRESERVE here are what PRESERVE and IGNORE are together. A range there need not
/// have the number: it means what was open when the program started.
///
/// # Errors
/// ESTALE and others of cradvise(2).
pub fn advice(settings: &Settings) -> Result<Advice, Error> {
    let mut advice = settings.advice.clone();
    let refused = |error: cradvise::Error| {
        let errno = std::io::Error::from_raw_os_error(error.errno());
        Error::system(format!("cradvise: {error}"), errno)
    };
    for mut item in cradvise::advice().map_err(refused)? {
        let Target::Number(number) = item.target else {
            continue;
        };
        let covers = |given: &&Item| {
            let numbers = given.target.numbers();
            given.task.is_none() && numbers.is_some_and(|(a, b)| (a..=b).contains(&number))
        };
        let given: Vec<_> = settings.advice.items.iter().filter(covers).collect();
        let wins = |given: &&Item| match given.action {
            Action::Ignore => false,
            Action::Substitute(_) => true,
            Action::Preserve | Action::Add => given.target == item.target,
        };
        if given.iter().any(wins) {
            continue;
        }
        if item.action == Action::Add && !given.is_empty() {
            item.action = Action::Preserve;
        }
        advice.items.push(item);
    }
    Ok(advice)
}
