//! What the calls cost on the table, beside the least that a program can ask the kernel about a descriptor.
//!
//! After the tables of divan come ratios to fcntl(F_GETFD). Below 1 are those that have no question for the kernel:
//! to set advice is to ask who asks, whether the number is open and which file it is (fstat(2), of a regular file
//! statx(2) as well), and the latter is asked, in a process without libckptadv.so, to answer that PRESERVE is still
//! set.

use cradvise::{CR_ADV_IGNORE, CR_ADV_NORMAL, CR_ADV_PRESERVE, cradvise, cradvise_query};
use divan::{Bencher, black_box};
use std::time::Instant;

const ADVISED: i32 = 900;
const IGNORED: i32 = 901;
const PLAIN: i32 = 902;
const REGULAR: i32 = 903;
const REGULAR_ADVISED: i32 = 904;
const CALLS: u32 = 200_000;
const ROUNDS: usize = 7;

fn main() {
    // SAFETY: numbers that are nobody's.
    unsafe {
        libc::dup2(0, ADVISED);
        libc::dup2(0, PLAIN);
        let file = libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY);
        libc::dup2(file, REGULAR);
        libc::dup2(file, REGULAR_ADVISED);
    }
    cradvise(ADVISED, CR_ADV_PRESERVE).unwrap();
    cradvise(REGULAR_ADVISED, CR_ADV_PRESERVE).unwrap();
    cradvise(IGNORED, CR_ADV_IGNORE).unwrap();
    divan::main();
    ratios();
}

fn getfd() {
    // SAFETY: takes integers.
    black_box(unsafe { libc::fcntl(black_box(PLAIN), libc::F_GETFD) });
}

fn fstat() {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: writes one stat.
    black_box(unsafe { libc::fstat(black_box(PLAIN), stat.as_mut_ptr()) });
}

fn query(fd: i32) {
    let _ = black_box(cradvise_query(black_box(fd)));
}

fn set(fd: i32, advice: i32) {
    let _ = black_box(cradvise(black_box(fd), advice));
}

/// Each of these changes something; to clear advice costs the same for every number.
fn set_ignore() {
    set(IGNORED, CR_ADV_NORMAL);
    set(IGNORED, CR_ADV_IGNORE);
}

fn set_preserve(fd: i32) {
    set(fd, CR_ADV_PRESERVE);
    set(fd, CR_ADV_PRESERVE | CR_ADV_IGNORE);
}

fn set_and_clear_preserved() {
    set(PLAIN, CR_ADV_PRESERVE);
    set(PLAIN, CR_ADV_NORMAL);
}

/// What is measured, how often it calls, and the most that it may be of an fcntl(F_GETFD).
type Measured = (&'static str, fn(), u32, f64);

const MEASURED: &[Measured] = &[
    ("query a number without advice", || query(PLAIN), 1, 1.0),
    ("query IGNORE", || query(IGNORED), 1, 1.0),
    ("set IGNORE, or clear it", set_ignore, 2, 3.0),
    ("set PRESERVE", || set_preserve(PLAIN), 2, 6.0),
    (
        "set PRESERVE of a regular file",
        || set_preserve(REGULAR),
        2,
        9.0,
    ),
    (
        "query PRESERVE, without the library",
        || query(ADVISED),
        1,
        3.0,
    ),
    (
        "query PRESERVE of a regular file, without the library",
        || query(REGULAR_ADVISED),
        1,
        8.0,
    ),
    ("fstat", fstat, 1, f64::INFINITY),
];

/// Nanoseconds for one call.
fn time(job: fn(), calls: u32) -> f64 {
    let start = Instant::now();
    (0..CALLS / calls).for_each(|_| job());
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

/// The least of several rounds, in which all take turns.
fn ratios() {
    let least = |a: f64, b: f64| a.min(b);
    let mut unit = f64::INFINITY;
    let mut times = vec![f64::INFINITY; MEASURED.len()];
    for _ in 0..ROUNDS {
        unit = least(unit, time(getfd, 1));
        for (at, &(_, job, calls, _)) in times.iter_mut().zip(MEASURED) {
            *at = least(*at, time(job, calls));
        }
    }
    println!("\nfcntl(F_GETFD) takes {unit:.0} ns; in units of it:");
    for (time, (name, _, _, most)) in times.iter().zip(MEASURED) {
        println!("{:>6.2}  {name}", time / unit);
        assert!(time / unit < *most, "{name} costs more than {most} of it");
    }
}

#[divan::bench]
fn fcntl_getfd(bencher: Bencher) {
    bencher.bench(getfd);
}

#[divan::bench(args = [PLAIN, IGNORED, ADVISED])]
fn query_number(bencher: Bencher, fd: i32) {
    bencher.bench(|| query(fd));
}

#[divan::bench]
fn set_and_clear_ignore(bencher: Bencher) {
    bencher.bench(set_ignore);
}

#[divan::bench]
fn set_and_clear_preserve(bencher: Bencher) {
    bencher.bench(set_and_clear_preserved);
}

/// What is advised, among a million numbers of which few or all are.
#[divan::bench(args = [10, 1_000_000])]
fn list_advice(bencher: Bencher, count: i32) {
    for fd in 0..count {
        set(1_000 + fd, CR_ADV_IGNORE);
    }
    bencher.bench(|| black_box(cradvise::advice().map(|items| items.len())));
    for fd in 0..count {
        set(1_000 + fd, CR_ADV_NORMAL);
    }
}
