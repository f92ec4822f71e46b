//! The calls, their arguments and their answers: the same on both backends.

mod support;

use ckpt_image::advice::{Action, Target};
use cradvise::{Backend, CR_ADV_IGNORE, CR_ADV_NORMAL, CR_ADV_PRESERVE, status};
use cradvise::{cradvise, cradvise_query, cradvise_reset};
use libc::{EBADF, EINVAL};
use support::{errno, open_at, run_alone, simulated_kernel};

const BOTH: i32 = CR_ADV_PRESERVE | CR_ADV_IGNORE;

/// A number that is open, and one that is not.
const OPEN: i32 = 500;
const CLOSED: i32 = 501;

/// cradvise(fd, advice): errno, then cradvise_query(fd): advice or -errno.
const SET: &[(i32, i32, i32, i32)] = &[
    (OPEN, CR_ADV_PRESERVE, 0, CR_ADV_PRESERVE),
    (OPEN, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (OPEN, BOTH, 0, BOTH),
    (OPEN, BOTH, 0, BOTH),
    (OPEN, 4, EINVAL, BOTH),
    (OPEN, -1, EINVAL, BOTH),
    (OPEN, i32::MIN, EINVAL, BOTH),
    (OPEN, CR_ADV_PRESERVE | 8, EINVAL, BOTH),
    (OPEN, CR_ADV_NORMAL, 0, CR_ADV_NORMAL),
    (CLOSED, CR_ADV_PRESERVE, EBADF, CR_ADV_NORMAL),
    (CLOSED, BOTH, EBADF, CR_ADV_NORMAL),
    (CLOSED, CR_ADV_NORMAL, 0, CR_ADV_NORMAL),
    (CLOSED, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (CLOSED, CR_ADV_PRESERVE, EBADF, CR_ADV_IGNORE),
    (CLOSED, 4, EINVAL, CR_ADV_IGNORE),
    (1 << 20, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (1 << 20, CR_ADV_PRESERVE, EBADF, CR_ADV_IGNORE),
    (i32::MAX, CR_ADV_IGNORE, 0, CR_ADV_IGNORE),
    (i32::MAX, CR_ADV_PRESERVE, EBADF, CR_ADV_IGNORE),
    (-1, CR_ADV_NORMAL, EBADF, -EBADF),
    (-1, CR_ADV_PRESERVE, EBADF, -EBADF),
    (-1, CR_ADV_IGNORE, EBADF, -EBADF),
    (-1, 4, EINVAL, -EBADF),
    (i32::MIN, CR_ADV_IGNORE, EBADF, -EBADF),
];

fn every_row() {
    open_at("/dev/null", OPEN);
    for &(fd, advice, refusal, then) in SET {
        assert_eq!(errno(cradvise(fd, advice)), refusal, "{fd} {advice}");
        let query = cradvise_query(fd).unwrap_or_else(|error| -error.raw_os_error().unwrap());
        assert_eq!(query, then, "{fd} {advice}");
    }

    cradvise(OPEN, CR_ADV_PRESERVE).unwrap();
    open_at("/dev/null", OPEN + 2);
    cradvise(OPEN + 2, BOTH).unwrap();
    let items = cradvise::advice().unwrap();
    let found: Vec<_> = items.iter().map(|i| (&i.target, &i.action)).collect();
    assert_eq!(
        found,
        [
            (&Target::Number(OPEN), &Action::Add),
            (&Target::Number(CLOSED), &Action::Ignore),
            (&Target::Number(OPEN + 2), &Action::Preserve),
            (&Target::Number(1 << 20), &Action::Ignore),
            (&Target::Number(i32::MAX), &Action::Ignore),
        ]
    );
    assert_eq!(items[0].to_string(), "cradvise=500");
    assert!(items.iter().all(|item| item.task.is_none()));

    cradvise_reset().unwrap();
    assert!(cradvise::advice().unwrap().is_empty());
}

#[test]
fn answers_of_the_table() {
    run_alone("alone_on_the_table", &[]);
    run_alone("alone_on_the_table", &[("CRADVISE_BACKEND", "table")]);
}

#[test]
#[ignore = "run by answers_of_the_table"]
fn alone_on_the_table() {
    assert_eq!(status().backend, Backend::Table);
    every_row();
}

#[test]
fn answers_of_the_kernel() {
    for number in [
        simulated_kernel::NUMBER,
        simulated_kernel::NUMBER_WITHOUT_LIST,
    ] {
        let number = number.to_string();
        run_alone("alone_on_the_kernel", &[("CRADVISE_NR", &number)]);
        let forced = [
            ("CRADVISE_NR", number.as_str()),
            ("CRADVISE_BACKEND", "kernel"),
        ];
        run_alone("alone_on_the_kernel", &forced);
    }
}

#[test]
#[ignore = "run by answers_of_the_kernel"]
fn alone_on_the_kernel() {
    simulated_kernel::install();
    let number = std::env::var("CRADVISE_NR").unwrap().parse().unwrap();
    assert_eq!(status().backend, Backend::Kernel(number));
    every_row();
}
