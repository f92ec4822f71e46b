//! What the Linux-CR engine costs for each descriptor, and advice for each item: the same at 10 and at 100,000.

#[path = "../tests/generator/build.rs"]
#[allow(dead_code)]
mod build;

use build::{File, Kind, Name, Process, Recipe, build};
use ckpt_image::advice::{self, Action, Advice, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile};
use ckpt_image::linux_cr::rewrite::Rewriter;
use ckpt_image::linux_cr::survey::Surveyor;
use ckpt_image::plan::Planner;
use divan::Bencher;
use divan::counter::ItemsCount;
use std::fmt;

const SIZES: [i32; 5] = [10, 100, 1_000, 10_000, 100_000];
/// How much is read at once.
const CHUNK: usize = 64 << 10;

fn main() {
    divan::main();
}

/// Which descriptors advice is for.
#[derive(Clone, Copy)]
enum Wanted {
    Nothing,
    /// One is dropped.
    One,
    /// All are dropped.
    All,
    /// All are dropped, each by an item of its own.
    Each,
    /// All come from the caller.
    Given,
}

struct Case(i32, Wanted);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = match self.1 {
            Wanted::Nothing => "no advice",
            Wanted::One => "one dropped",
            Wanted::All => "all dropped",
            Wanted::Each => "each dropped",
            Wanted::Given => "all given",
        };
        write!(f, "{wanted:12} of {:6}", self.0)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    use Wanted::{All, Each, Given, Nothing, One};
    let each = |wanted| SIZES.map(|size| Case(size, wanted));
    [Nothing, One, All, Each, Given].into_iter().flat_map(each)
}

/// One process; every kind of file that may be dropped, every tenth on a second number, and one watched.
fn image(descriptors: i32) -> Vec<u8> {
    let kind = |index: i32| match index % 8 {
        0 => Kind::Fifo(0),
        1 => Kind::Eventfd(7),
        2 => Kind::Device,
        3 => Kind::Directory,
        4 => Kind::Pipe(index.to_le_bytes()[0] / 8, index % 16 == 4, 0),
        5 => Kind::Listener(Name::Path),
        _ => Kind::Regular(2, false, 9),
    };
    let file = |index| File {
        kind: kind(index),
        own_cred: false,
    };
    let mut files: Vec<File> = (0..descriptors).map(file).collect();
    files[6].kind = Kind::Epoll(vec![(1, 1)]);
    let shared = |number: i32| if number % 10 == 9 { number - 1 } else { number };
    let entry = |number: i32| (number, (usize::try_from(shared(number)).unwrap(), false));
    build(&Recipe {
        processes: vec![Process {
            table: (0..descriptors).map(entry).collect(),
            ..Process::default()
        }],
        files,
        ..Recipe::default()
    })
}

fn list(wanted: Wanted, descriptors: i32) -> String {
    match wanted {
        Wanted::Nothing => String::new(),
        Wanted::One => "7".to_owned(),
        Wanted::All | Wanted::Given => "0-".to_owned(),
        Wanted::Each => numbers(descriptors),
    }
}

fn numbers(count: i32) -> String {
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    numbers.join(",")
}

fn parse(list: &str, action: &Action) -> Vec<advice::Item> {
    parse_list("CKPT_IGNORE", list.as_bytes(), action, u64::MAX).unwrap()
}

/// A caller with this many files, of its own each.
fn caller(numbers: i32) -> Caller {
    let file = |number: i32| CallerFile {
        kind: advice::Kind::Reg,
        access: Access {
            read: true,
            write: true,
        },
        flags: libc::O_RDWR,
        f_mode: 0x1f,
        close_on_exec: false,
        description: number,
        name: format!("/proc/self/fd/{number}").into_bytes(),
        link: format!("/tmp/file{number}"),
        pollable: false,
        not_given: None,
    };
    Caller {
        files: (0..numbers).map(|number| (number, file(number))).collect(),
        ..Caller::default()
    }
}

fn planner(&Case(descriptors, wanted): &Case) -> Planner {
    let given = matches!(wanted, Wanted::Given);
    let action = if given {
        Action::Preserve
    } else {
        Action::Ignore
    };
    let advice = Advice {
        items: parse(&list(wanted, descriptors), &action),
        ..Advice::default()
    };
    let caller = caller(if given { descriptors } else { 0 });
    Planner::new(&advice, caller, false).unwrap()
}

#[divan::bench(args = cases())]
fn rewrite(bencher: Bencher<'_, '_>, case: &Case) {
    let image = image(case.0);
    bencher
        .counter(ItemsCount::new(u32::try_from(case.0).unwrap()))
        .with_inputs(|| Rewriter::new(planner(case), Box::new(|_| Some(0))))
        .bench_local_refs(|rewriter| {
            for chunk in image.chunks(CHUNK) {
                rewriter.feed(chunk).unwrap();
                divan::black_box(rewriter.output()).clear();
            }
            rewriter.finish().unwrap();
        });
}

#[divan::bench(args = SIZES)]
fn survey(bencher: Bencher<'_, '_>, descriptors: i32) {
    let image = image(descriptors);
    bencher
        .counter(ItemsCount::new(u32::try_from(descriptors).unwrap()))
        .with_inputs(Surveyor::default)
        .bench_local_values(|mut surveyor| {
            for chunk in image.chunks(CHUNK) {
                surveyor.feed(chunk).unwrap();
            }
            surveyor.finish().unwrap()
        });
}

#[divan::bench(args = SIZES)]
fn advice_list(bencher: Bencher<'_, '_>, items: i32) {
    let list = numbers(items);
    bencher
        .counter(ItemsCount::new(u32::try_from(items).unwrap()))
        .bench_local(|| parse(divan::black_box(&list), &Action::Ignore));
}
