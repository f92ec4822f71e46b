//! What advice costs a restore by criu, and an edited image beside crit(1). Restores with and without take turns;
//! medians and what half of the rounds lie between, of whole runs of criu. As root, with the criu of `tests/setup`.
//!
//! ```text
//! cargo bench --package ckptadv-tests --bench criu [-- ROUNDS]
//! ```

use harness::build::product;
use harness::criu::{Image, World};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.find_map(|word| word.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let Some(world) = World::new() else {
        println!("SKIPPED: not root");
        return;
    };
    println!("criu restore with CKPT_IGNORE=7 beside itself, {rounds} rounds");
    println!("targets for the library: 0.3 ms with 10 descriptors, 5 ms with 10,000");
    for (files, memory) in [(10, 1), (1000, 256), (10_000, 1)] {
        let held = ["7=reg:@f".to_owned(), format!("0=memory:{memory}")];
        let held = held.map(|word| word.replace('@', &world.path("")));
        let many = format!("20=many:{files}");
        let words = [&held[0], &held[1], many.as_str()];
        let image = world.hold(&words).dump();
        restoring(
            &image,
            &format!("{files} descriptors, {memory} MiB"),
            rounds,
        );
        if files == 10_000 {
            editing(&world, &image, rounds.min(5));
        }
        fs::remove_dir_all(&image.directory).expect("the image goes");
    }
}

fn restoring(image: &Image<'_>, what: &str, rounds: usize) {
    let report = image.directory.join("report");
    let plain = || image.restore();
    let advised = || image.restore().advice("IGNORE", "7");
    let advised = || advised().advice("REPORT", &report.to_string_lossy());
    let mut own = Vec::new();
    let mut times = [const { Vec::new() }; 2];
    for round in 0..2 * rounds {
        // Who comes first changes, too.
        let ours = (round + round / 2) % 2;
        let restore = if ours == 1 { advised() } else { plain() };
        let start = Instant::now();
        let outcome = restore.run();
        times[ours].push(start.elapsed());
        outcome.restored();
        if ours == 1 {
            own.push(own_time(&report));
        }
    }
    let [plain, advised] = times.map(Spread::of);
    let ratio = advised.median.as_secs_f64() / plain.median.as_secs_f64();
    let own = Spread::of(own);
    println!("  {what:28} {ratio:.3}  ({advised} beside {plain}); of it in the library {own}");
}

/// What the library says that it took.
fn own_time(report: &Path) -> Duration {
    let report = fs::read(report).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    Duration::from_micros(report["microseconds"].as_u64().expect("a number"))
}

/// `ckptadv rewrite` of a whole image, beside crit decode and encode of the two files that such an edit concerns.
fn editing(world: &World, image: &Image<'_>, rounds: usize) {
    let crit = std::env::var("CRIT").unwrap_or_else(|_| "crit".to_owned());
    let mut found = Command::new(&crit);
    found.arg("--help");
    found.stdout(Stdio::null()).stderr(Stdio::null());
    if !found.status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: no crit (CRIT names one): nothing to compare rewriting with");
        return;
    }
    let (from, new) = (image.directory.clone(), world.path("edited"));
    let concerned = |name: &String| name == "files.img" || name.starts_with("fdinfo-");
    let files: Vec<_> = image.files().into_keys().filter(concerned).collect();
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        let start = Instant::now();
        for file in files.iter().map(|name| from.join(name)) {
            let text = world.path("decoded");
            run(Command::new(&crit)
                .args(["decode", "-i"])
                .arg(file)
                .args(["-o", &text]));
            run(Command::new(&crit)
                .args(["encode", "-i", &text, "-o"])
                .arg(world.path("encoded")));
        }
        times[0].push(start.elapsed());
        let start = Instant::now();
        let mut ours = Command::new(product("ckptadv"));
        run(ours
            .args(["rewrite", "--ignore", "7"])
            .arg(&from)
            .args(["-o", &new]));
        times[1].push(start.elapsed());
        fs::remove_dir_all(&new).expect("what was rewritten goes");
    }
    let [crit, ours] = times.map(Spread::of);
    let ratio = crit.median.as_secs_f64() / ours.median.as_secs_f64();
    println!("ckptadv rewrite beside crit decode and encode, 10,000 descriptors");
    println!("  {ratio:.0} times as fast  ({ours} beside {crit})");
}

fn run(command: &mut Command) {
    let status = command.status().expect("it starts");
    assert!(status.success(), "{command:?}: {status}");
}

/// The median of some times, and the quartiles.
struct Spread {
    least: Duration,
    median: Duration,
    most: Duration,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 4];
        Spread {
            least: at(1),
            median: at(2),
            most: at(3),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let (least, most) = (ms(&self.least), ms(&self.most));
        write!(f, "{:.2} ms [{least:.2}, {most:.2}]", ms(&self.median))
    }
}
