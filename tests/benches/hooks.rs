//! What the hooks of the library cost at calls that programs make all the time: the same program without the
//! library, with it and no advice (where a hook may cost 10 ns, and a tenth of the call), and with advice that the
//! calls have nothing to do with. The least of several runs that took turns.
//!
//! ```text
//! cargo bench --package ckptadv-tests --bench hooks
//! ```

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use harness::build::product;

const ROUNDS: usize = 25;
const CALLS: u32 = 50_000;
/// The calls, as the child makes them. Nothing is open at 900.
const MEASURED: &[&str] = &[
    "close(900)",
    "fcntl(0, F_GETFD)",
    "dup2(0, 0)",
    "read(0, 1 byte)",
    "syscall(getppid)",
];

fn call(index: usize) {
    let mut byte = 0u8;
    // SAFETY: integers, and one byte that can be written.
    let result = unsafe {
        match index {
            0 => libc::close(black_box(900)).into(),
            1 => libc::fcntl(black_box(0), libc::F_GETFD).into(),
            2 => libc::dup2(black_box(0), 0).into(),
            3 => libc::read(black_box(0), (&raw mut byte).cast(), 1) as i64,
            _ => libc::syscall(libc::SYS_getppid),
        }
    };
    black_box(result);
}

fn main() {
    if std::env::args().any(|word| word == "child") {
        return child();
    }
    let library = product("libckptadv.so");
    let ways: [&[(&str, &str)]; 3] = [
        &[],
        &[("LD_PRELOAD", library.to_str().unwrap())],
        &[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("CRADVISE_TABLE", "1,7=2"),
        ],
    ];
    let mut least = [[f64::INFINITY; MEASURED.len()]; 3];
    for _ in 0..ROUNDS {
        for (way, least) in ways.iter().zip(&mut least) {
            for (least, time) in least.iter_mut().zip(times(way)) {
                *least = least.min(time);
            }
        }
    }
    println!("nanoseconds           without   library  advised   ratios");
    for (index, name) in MEASURED.iter().enumerate() {
        let [without, with, advised] = [0, 1, 2].map(|way: usize| least[way][index]);
        let ratio = |time: f64| time / without;
        println!(
            "{name:20} {without:8.1}  {with:8.1} {advised:8.1}   {:.2} {:.2}",
            ratio(with),
            ratio(advised)
        );
    }
}

fn times(environment: &[(&str, &str)]) -> Vec<f64> {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("child")
        .env_remove("LD_PRELOAD")
        .envs(environment.iter().copied())
        .stdin(std::fs::File::open("/dev/zero").unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace()
        .map(|time| time.parse().unwrap())
        .collect()
}

fn child() {
    for index in 0..MEASURED.len() {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call(index));
        println!("{}", start.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
}
