//! The fuzz targets, with the seeds of their corpus and mutations of them: always the same, so that what is found can
//! be found again. `cargo fuzz` (fuzz/README.md) finds more, and takes longer.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

#[path = "../fuzz/cases/advice_list.rs"]
mod advice_list;
#[path = "../fuzz/cases/advised.rs"]
mod advised;
#[path = "../fuzz/cases/criu_record.rs"]
mod criu_record;
#[path = "../fuzz/cases/criu_rewrite.rs"]
mod criu_rewrite;
#[path = "../fuzz/cases/linux_cr_rewrite.rs"]
mod linux_cr_rewrite;
#[path = "../fuzz/cases/linux_cr_survey.rs"]
mod linux_cr_survey;
#[path = "../fuzz/cases/marks.rs"]
mod marks;

/// No input grows longer, in bytes.
const LONGEST: usize = 64 << 10;
/// What counts, lengths and numbers are tried with.
const TELLING: [u32; 12] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0x1000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
];

/// A generator of numbers (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0 to `end - 1`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Changes an input a little.
///
/// * `other`: another one, of which a part may be taken.
fn mutate(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(input.len());
    let length = 1 + chance.below(40);
    let end = input.len().min(at + length);
    match chance.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
        1 if !input.is_empty() => input[at] = chance.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let copy = input[at..end].to_vec();
            let to = chance.below(input.len() + 1);
            input.splice(to..to, copy);
        }
        4 => input.truncate(at),
        5 => {
            let from = chance.below(other.len());
            let piece = &other[from..other.len().min(from + length)];
            input.splice(at..end, piece.iter().copied());
        }
        // Numbers in images lie at multiples of four.
        6 | 7 => {
            let at = at & !3;
            if let Some(place) = input.get_mut(at..at + 4) {
                place.copy_from_slice(&TELLING[chance.below(TELLING.len())].to_le_bytes());
            }
        }
        _ => {
            if let Some(place) = input.get_mut(at & !3..(at & !3) + 4) {
                let number = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
                let other = number.wrapping_add(chance.below(9) as u32).wrapping_sub(4);
                place.copy_from_slice(&other.to_le_bytes());
            }
        }
    }
    input.truncate(LONGEST);
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus.join(target))
        .expect("a corpus")
        .map(|entry| entry.expect("a seed").path())
        .collect();
    paths.sort();
    let read = |path| fs::read(path).expect("a seed");
    paths.into_iter().map(read).collect()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}

/// * `runs`: how many mutations take about two seconds.
fn fuzz(target: &str, runs: u64, run: fn(&[u8])) {
    let attempt = |input: &[u8]| {
        if panic::catch_unwind(|| run(input)).is_ok() {
            return;
        }
        let name = format!("ckptadv-fuzz-{target}-{}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::write(&place, input).expect("a file for the input");
        panic!("{target}: the input is in {}", place.display());
    };
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds.iter().for_each(|seed| attempt(seed));
    let mut chance = Chance(number("FUZZ_SEED").unwrap_or(1));
    for _ in 0..number("FUZZ_RUNS").unwrap_or(runs) {
        let mut input = seeds[chance.below(seeds.len())].clone();
        let other = &seeds[chance.below(seeds.len())];
        for _ in 0..1 + chance.below(6) {
            mutate(&mut input, other, &mut chance);
        }
        attempt(&input);
    }
}

#[test]
fn linux_cr_images_are_surveyed() {
    fuzz("linux_cr_survey", 4000, linux_cr_survey::run);
}

#[test]
fn linux_cr_images_are_rewritten() {
    fuzz("linux_cr_rewrite", 2000, linux_cr_rewrite::run);
}

#[test]
fn criu_images_are_rewritten() {
    fuzz("criu_rewrite", 4000, criu_rewrite::run);
}

#[test]
fn lists_are_read() {
    fuzz("advice_list", 20_000, advice_list::run);
}

#[test]
fn records_are_read() {
    fuzz("criu_record", 20_000, criu_record::run);
}

#[test]
fn marks_are_read() {
    fuzz("marks", 20_000, marks::run);
}
