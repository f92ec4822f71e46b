//! A kernel that has the call keeps the marks exact by itself.

mod support;

use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise, cradvise_query};
use support::{close, open_at, run_alone, simulated_kernel};

const BOTH: i32 = CR_ADV_PRESERVE | CR_ADV_IGNORE;
const OPEN: i32 = 500;
const CLOSED: i32 = 501;

/// The life of advice, on a kernel that keeps it: what the table can only guess.
#[test]
fn a_kernel_sees_what_is_closed() {
    run_alone(
        "closed_alone",
        &[("CRADVISE_NR", "10000"), ("CRADVISE_BACKEND", "kernel")],
    );
}

#[test]
#[ignore = "run by a_kernel_sees_what_is_closed"]
fn closed_alone() {
    simulated_kernel::install();
    open_at("/dev/null", OPEN);
    cradvise(OPEN, BOTH).unwrap();
    close(OPEN);
    open_at("/dev/null", OPEN);
    assert_eq!(cradvise_query(OPEN).unwrap(), CR_ADV_IGNORE);
    cradvise(OPEN, CR_ADV_PRESERVE).unwrap();
    open_at("/dev/null", OPEN);
    assert_eq!(cradvise_query(OPEN).unwrap(), 0);
    // A number that was advised before this process knew of it, as over exec.
    // SAFETY: the simulated call takes integers.
    let set = unsafe { libc::syscall(simulated_kernel::NUMBER, CLOSED, CR_ADV_IGNORE, 0) };
    assert_eq!(set, 0);
    let listed = cradvise::advice().unwrap();
    assert_eq!(
        listed.len(),
        1,
        "op 3 lists a number that is not open: {listed:?}"
    );
}
