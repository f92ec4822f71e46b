//! Images with filled pipes: a Linux-CR kernel takes what was in a pipe out of the image in one go, so where the image
//! is decides what it gets. Each through the C restart program, the library and the model.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;

use harness::criu::library;
use harness::edit;
use harness::linux_cr::{Feed, Outcome, Restart, Verdict, exit_code, image};

const FILE_DESC: u32 = 302;
const PIPE_BUF: u32 = 305;
const PGARR: u32 = 403;
/// What a pipe holds.
const FULL: usize = 65536;
const FEEDS: [Feed; 3] = [Feed::File, Feed::Option, Feed::Pipe];

fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i % 251) as u8 ^ (i / 4096) as u8)
        .collect()
}

/// The image with so many bytes in its pipes, in the order of the image.
fn filled(image: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut image = image.to_vec();
    for (index, &length) in lengths.iter().enumerate() {
        let mut pipes = edit::places(&image).into_iter();
        let pipe = pipes
            .by_ref()
            .filter(|place| place.kind == PIPE_BUF)
            .nth(index)
            .unwrap();
        let new = edit::record(PIPE_BUF, &bytes(length));
        image = edit::splice(&image, pipe.at, pipe.length, &new);
    }
    image
}

fn restart(name: &str, image: &[u8]) -> Restart {
    Restart::new(image).scenario(name).preload(library())
}

/// What is in a pipe of a task that also has its other end open, or had.
#[track_caller]
fn assert_holds(outcome: &Outcome, task: i32, number: i32, length: usize) {
    let mut found = vec![0; length];
    let mut reader = File::from(outcome.take(task, number));
    reader.read_exact(&mut found).unwrap();
    assert!(found == bytes(length), "{length} bytes on {number}");
}

#[test]
fn a_full_pipe_arrives_whole() {
    if !harness::is_root() {
        return;
    }
    for length in [61440, 65528, 65529, FULL] {
        let image = filled(&image("pipe"), &[length]);
        for feed in FEEDS {
            for arguments in [&[][..], &["--self"]] {
                let mut outcome = restart("pipe", &image)
                    .feed(feed)
                    .args(arguments.iter().copied())
                    .env("CKPT_IGNORE", "0")
                    .env("CKPT_LOG", "debug")
                    .run();
                outcome.assert_restarted();
                let task = outcome.tasks[0].0;
                assert_eq!(outcome.numbers(task), [1, 2, 3, 4, 5, 6, 9]);
                assert_holds(&outcome, task, 3, length);
                let ended = exit_code(outcome.finish());
                assert!(ended == 0 || !arguments.is_empty(), "{ended}");
                let in_a_file = outcome.stderr().contains("goes into a file in");
                assert_eq!(in_a_file, length > 65528 || !arguments.is_empty());
            }
        }
    }
}

#[test]
fn several_filled_pipes_arrive_one_after_the_other() {
    if !harness::is_root() {
        return;
    }
    let pipes = |lengths: [usize; 2]| filled(&image("pipe-tree"), &lengths);
    for (lengths, in_a_file) in [
        ([60_000, 65_000], false),
        ([65_528, 65_528], false),
        ([30_000, FULL], true),
        ([FULL, FULL], true),
    ] {
        for feed in FEEDS {
            let mut outcome = restart("pipe-tree", &pipes(lengths))
                .feed(feed)
                .env("CKPT_IGNORE", "0")
                .env("CKPT_LOG", "debug")
                .run();
            outcome.assert_restarted();
            assert_holds(&outcome, 667, 3, lengths[0]);
            assert_holds(&outcome, 665, 5, lengths[1]);
            outcome.finish();
            let said = outcome.stderr();
            assert_eq!(said.contains("goes into a file in"), in_a_file, "{said}");
        }
    }
}

/// A second task with a pipe of its own, so many bytes into the image.
fn late_pipe(length: usize) -> Vec<u8> {
    let image = image("pipe-tree");
    let places = edit::places(&image);
    let table = places.iter().filter(|place| place.kind == 301).nth(1);
    let table = table.expect("a second table").at;
    let last = places.iter().rfind(|place| place.kind == FILE_DESC);
    let end = last.map(|place| place.at + place.length).unwrap();
    let own = [
        edit::file_announcement(100),
        edit::file(2, 1, 0, 1, 0, &[101, 0]),
        edit::record(PIPE_BUF, &bytes(length)),
        edit::descriptor(100, 7),
    ];
    let mut image = edit::splice(&image, end, 0, &own.concat());
    let count = edit::u32_at(&image, table + 8);
    edit::set_u32(&mut image, table + 8, count + 1);
    // Memory in front of it: 400 pages.
    let pages = places
        .iter()
        .position(|place| place.kind == PGARR && edit::u32_at(&image, place.at + 8) > 0);
    let (array, buffer) = (places[pages.unwrap()], places[pages.unwrap() + 1]);
    let more = edit::record(4, &vec![0; 400 * (8 + 4096)]);
    let mut image = edit::splice(&image, buffer.at, buffer.length, &more);
    edit::set_u32(&mut image, array.at + 8, 400);
    image
}

#[test]
fn what_is_met_too_late_is_refused_and_a_file_will_do() {
    if !harness::is_root() {
        return;
    }
    let late = |length: usize, feed| {
        restart("pipe-tree", &late_pipe(length))
            .feed(feed)
            .env("CKPT_IGNORE", "0")
            .run()
    };
    let outcome = late(60_000, Feed::Pipe);
    outcome.assert_restarted();
    assert_holds(&outcome, 667, 7, 60_000);
    let outcome = late(FULL, Feed::File);
    outcome.assert_restarted();
    assert_holds(&outcome, 667, 7, FULL);
    let mut outcome = late(FULL, Feed::Pipe);
    assert_ne!(outcome.verdict, Verdict::Restarted);
    assert_ne!(exit_code(outcome.wait()), 0);
    let said = outcome.stderr();
    assert!(
        said.contains("restart refused: image: a pipe with 65536 bytes"),
        "{said}"
    );
    assert!(said.contains("the image as a file"), "{said}");
}

#[test]
fn what_no_pipe_holds_is_refused_before_any_task() {
    if !harness::is_root() {
        return;
    }
    let image = filled(&image("pipe"), &[FULL + 1]);
    for feed in FEEDS {
        let mut outcome = restart("pipe", &image)
            .feed(feed)
            .env("CKPT_IGNORE", "0")
            .run();
        assert_ne!(outcome.verdict, Verdict::Restarted);
        assert_ne!(exit_code(outcome.wait()), 0);
        assert!(outcome.tasks.is_empty());
        let said = outcome.stderr();
        assert!(said.contains("a new pipe holds 65536"), "{said}");
        if feed != Feed::Pipe {
            assert_eq!(outcome.verdict, Verdict::NoRestart);
        }
    }
}

/// The file is written before the call, from what a feeder gives when every task has told it of itself.
#[test]
fn a_root_task_that_is_gone_keeps_no_file_waiting() {
    if !harness::is_root() {
        return;
    }
    let image = filled(&image("pipe"), &[FULL]);
    let mut outcome = restart("pipe", &image)
        .args(["--root-task", "/nowhere"])
        .env("CKPT_IGNORE", "0")
        .run();
    assert_ne!(outcome.verdict, Verdict::Restarted);
    assert_ne!(exit_code(outcome.wait()), 0);
}

#[test]
fn a_full_disk_is_told_and_restarts_nothing() {
    if !harness::is_root() {
        return;
    }
    let image = filled(&image("pipe"), &[FULL]);
    for feed in FEEDS {
        let mut outcome = restart("pipe", &image)
            .feed(feed)
            .prepare(|| {
                std::fs::create_dir("/mnt/small").unwrap();
                let [kind, place, size] =
                    ["tmpfs", "/mnt/small", "size=64k"].map(|s| CString::new(s).unwrap());
                // SAFETY: strings that outlive the call.
                let mounted = unsafe {
                    let data = size.as_ptr().cast();
                    libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, data)
                };
                assert_eq!(mounted, 0);
            })
            .env("TMPDIR", "/mnt/small")
            .env("CKPT_IGNORE", "0")
            .run();
        assert_ne!(outcome.verdict, Verdict::Restarted);
        assert_ne!(exit_code(outcome.wait()), 0);
        assert!(outcome.tasks.is_empty());
        let said = outcome.stderr();
        assert!(
            said.contains("restart refused: no room for the rewritten image in /mnt/small"),
            "{said}"
        );
        assert!(said.contains("set TMPDIR"), "{said}");
        let left = outcome.enter(|| std::fs::read_dir("/mnt/small").unwrap().count());
        assert_eq!(left, 0);
    }
}
