//! The calls, their arguments and their answers: the same on both backends.

mod support;

use ckpt_image::advice::{Action, Target};
use cradvise::{Backend, CR_ADV_PRESERVE, status};
use cradvise::{cradvise, cradvise_query, cradvise_reset};
use support::answers::{BOTH, CLOSED, OPEN, SET};
use support::{errno, open_at, run_alone, simulated_kernel};

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
