//! What the whole costs: rewriting beside cat(1), a restart program with the library beside itself without, and
//! memory. Prints ratios of runs that took turns; 1.00 is as fast as the other.
//!
//! ```text
//! cargo bench --package ckptadv-tests --bench whole [-- ROUNDS]
//! ```

use std::fs::File;
use std::io::{Seek, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::build::{product, program, shared_object};
use harness::large::{Large, MOST_PAGES};

const GIB: u64 = 1 << 30;
const ROUNDS: usize = 7;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.find_map(|word| word.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    for pages in [MOST_PAGES, 4] {
        let image = Large::new(1000, pages, GIB);
        println!("image of 1 GiB, {pages} pages in a record, 1,000 descriptors");
        rewriting(&on_disk(&image), image.size(), rounds);
        restarting(&on_disk(&image), image.size(), rounds);
    }
    println!("peak of the resident set of ckptadv rewrite");
    for advice in [&[][..], &["--ignore", "3"], &["--ignore", "0-"]] {
        let wanted = advice.join(" ");
        memory(
            &Large::new(1000, MOST_PAGES, 16 * GIB),
            "16 GiB, 1,000 descriptors",
            advice,
            &wanted,
            8,
        );
        memory(
            &Large::new(100_000, MOST_PAGES, 0),
            "100,000 descriptors",
            advice,
            &wanted,
            64,
        );
    }
}

fn memory(image: &Large, what: &str, advice: &[&str], wanted: &str, most: u64) {
    let peak = image.peak(Command::new(product("ckptadv")).arg("rewrite").args(advice));
    let peak = peak as f64 / 1024.0;
    println!("  {what}, {wanted:13}{peak:5.1} MiB (at most {most})");
}

/// The image in a file that has no name, so that nothing is left of it.
fn on_disk(image: &Large) -> File {
    let path = std::env::temp_dir().join(format!("ckptadv-whole-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = file.expect("a file for an image");
    std::fs::remove_file(&path).expect("its name");
    image.write(&mut file).expect("room for an image");
    file.flush().expect("room for an image");
    file
}

fn rewriting(image: &File, size: u64, rounds: usize) {
    let cat = "cat | cat | cat >/dev/null";
    let ours = "cat | \"$CKPTADV\" rewrite --ignore 3 | cat >/dev/null";
    let run = |script: &str| {
        shell(
            image,
            script,
            &[("CKPTADV", product("ckptadv").as_os_str())],
        )
    };
    compare("rewrite / cat", size, rounds, || run(cat), || run(ours));
}

fn restarting(image: &File, size: u64, rounds: usize) {
    let (restart, drain) = (program("restart"), shared_object("drain"));
    let library = product("libckptadv.so");
    let mut both = library.into_os_string();
    both.push(":");
    both.push(&drain);
    let restart = restart.as_os_str();
    for (what, script) in [
        ("restart, file", "LD_PRELOAD=$PRELOAD exec \"$RESTART\""),
        ("restart, pipe", "cat | LD_PRELOAD=$PRELOAD \"$RESTART\""),
    ] {
        let without = [("RESTART", restart), ("PRELOAD", drain.as_os_str())];
        let with = [
            ("RESTART", restart),
            ("PRELOAD", both.as_os_str()),
            ("CKPT_IGNORE", "3".as_ref()),
        ];
        compare(
            what,
            size,
            rounds,
            || shell(image, script, &without),
            || shell(image, script, &with),
        );
    }
}

/// Runs a script with the image as its standard input; how long it took.
fn shell(image: &File, script: &str, environment: &[(&str, &std::ffi::OsStr)]) -> Duration {
    let mut input = image.try_clone().expect("a descriptor");
    input.rewind().expect("a file");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .stdin(input)
        .stdout(Stdio::null());
    shell.envs(environment.iter().copied());
    let start = Instant::now();
    let status = shell.status().expect("a shell");
    assert!(status.success(), "{script}: {status}");
    start.elapsed()
}

/// Prints how fast the second is beside the first.
fn compare(
    what: &str,
    size: u64,
    rounds: usize,
    mut other: impl FnMut() -> Duration,
    mut ours: impl FnMut() -> Duration,
) {
    let times: Vec<[f64; 2]> = (0..rounds)
        .map(|_| [other().as_secs_f64(), ours().as_secs_f64()])
        .collect();
    let rate =
        |index: usize| size as f64 / (1 << 20) as f64 / median(times.iter().map(|t| t[index]));
    println!(
        "  {what:14} {:.2}  ({:.0} beside {:.0} MiB/s)",
        median(times.iter().map(|[other, ours]| other / ours)),
        rate(1),
        rate(0),
    );
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
