//! The functions give the answers of the crate, on both backends.

use crate::status::{CR_BACKEND_KERNEL, CR_BACKEND_TABLE, CStatus};
use crate::support::answers::{OPEN, SET};
use crate::support::{open_at, run_alone, simulated_kernel};
use crate::{cradvise, cradvise_query, cradvise_reset, cradvise_status};
use std::io;

/// The answer of a function, or -errno.
fn answer(value: i32) -> i32 {
    match value {
        -1 => -io::Error::last_os_error().raw_os_error().unwrap(),
        value => value,
    }
}

fn every_row() {
    open_at("/dev/null", OPEN);
    for &(fd, advice, refusal, then) in SET {
        assert_eq!(answer(cradvise(fd, advice)), -refusal, "{fd} {advice}");
        assert_eq!(answer(cradvise_query(fd)), then, "{fd} {advice}");
    }
    assert_eq!(cradvise_reset(), 0);
    for &(fd, ..) in SET.iter().filter(|row| row.0 >= 0) {
        assert_eq!(cradvise_query(fd), 0);
    }
}

fn backend() -> u32 {
    let mut status = std::mem::MaybeUninit::<CStatus>::uninit();
    // SAFETY: the size is right.
    let answer = unsafe { cradvise_status(status.as_mut_ptr(), size_of::<CStatus>()) };
    assert_eq!(answer, 0);
    // SAFETY: written whole.
    unsafe { status.assume_init() }.backend
}

#[test]
fn of_the_table() {
    run_alone("answers::alone_on_the_table", &[]);
}

#[test]
#[ignore = "run by of_the_table"]
fn alone_on_the_table() {
    assert_eq!(backend(), CR_BACKEND_TABLE);
    every_row();
}

#[test]
fn of_the_kernel() {
    let number = simulated_kernel::NUMBER.to_string();
    run_alone("answers::alone_on_the_kernel", &[("CRADVISE_NR", &number)]);
}

#[test]
#[ignore = "run by of_the_kernel"]
fn alone_on_the_kernel() {
    simulated_kernel::install();
    assert_eq!(backend(), CR_BACKEND_KERNEL);
    every_row();
}
