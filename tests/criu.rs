//! End to end, with a real criu: what becomes of the descriptors of a program
//! that is dumped and restored with advice, seen in /proc/PID/fd.

use harness::criu::{Image, Restore, Restored, World};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

type Links = BTreeMap<i32, String>;

/// Holds and dumps; words may name the test's directory `@`. `None` where these
/// tests cannot run here, or this criu cannot dump it.
fn dump<'w>(world: &'w World, words: &[&str], options: &[&str]) -> Option<Image<'w>> {
    let at = world.path("");
    let words: Vec<String> = words.iter().map(|w| w.replace('@', &at)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match world.hold(&words).dump_with(options) {
        Ok(image) => Some(image),
        Err(said) => {
            let of_this_criu = said.contains("Can't get 1:16 opt");
            assert!(of_this_criu, "criu dump of {words:?}: {said}");
            eprintln!("SKIPPED: this criu cannot dump {words:?}");
            None
        }
    }
}

/// The tables of all tasks.
fn tables(image: &Image<'_>, restored: &Restored) -> Vec<Links> {
    image.pids.iter().map(|&pid| restored.links(pid)).collect()
}

/// What a plain restore gives, and that the image is untouched by all that
/// follows.
fn native(image: &Image<'_>, options: &[&str]) -> Vec<Links> {
    let restored = image.restore().options(options).run().restored();
    tables(image, &restored)
}

struct Row {
    words: &'static [&'static str],
    options: &'static [&'static str],
    /// CKPT_IGNORE
    ignore: &'static str,
    /// The task (0: the root) and the numbers that it lacks afterwards.
    lacks: &'static [(usize, &'static [i32])],
}

const fn row(words: &'static [&'static str], ignore: &'static str, gone: &'static [i32]) -> Row {
    match gone {
        [7] => Row {
            words,
            options: &[],
            ignore,
            lacks: &[(0, &[7])],
        },
        [8] => Row {
            words,
            options: &[],
            ignore,
            lacks: &[(0, &[8])],
        },
        [7, 8] => Row {
            words,
            options: &[],
            ignore,
            lacks: &[(0, &[7, 8])],
        },
        [9] => Row {
            words,
            options: &[],
            ignore,
            lacks: &[(0, &[9])],
        },
        _ => panic!("another row"),
    }
}

#[rustfmt::skip]
const DROPPED: &[Row] = &[
    row(&["7=reg:@f"], "7", &[7]),
    row(&["7=ro:@f"], "7", &[7]),
    row(&["7=append:@f"], "7", &[7]),
    row(&["7=dir:@"], "7", &[7]),
    row(&["7=dev:/dev/zero"], "7", &[7]),
    row(&["7=deleted:@f"], "7", &[7]),
    row(&["7=map:@f"], "7", &[7]),
    row(&["7=reg:@f", "8=dup:7"], "7", &[7]),
    row(&["7=reg:@f", "8=dup:7"], "8", &[8]),
    row(&["7=reg:@f", "thread"], "7", &[7]),
    row(&["7=pipe:8"], "7", &[7]),
    row(&["7=pipe:8"], "8", &[8]),
    row(&["7=pipe:8", "8=write:data"], "7-8", &[7, 8]),
    row(&["7=fifo:@f"], "7", &[7]),
    row(&["7=pair:8", "7=write:data"], "7,8", &[7, 8]),
    row(&["7=pair:8", "9=dup:7"], "9", &[9]),
    row(&["7=dgram:8", "7=write:data"], "7,8", &[7, 8]),
    row(&["7=listen:@sock"], "7", &[7]),
    row(&["7=eventfd"], "7", &[7]),
    row(&["7=timerfd"], "7", &[7]),
    row(&["7=signalfd"], "7", &[7]),
    row(&["7=inotify"], "7", &[7]),
    row(&["7=memfd"], "7", &[7]),
    row(&["7=eventfd", "9=epoll:7"], "9", &[9]),
    row(&["7=pty:8"], "8", &[8]),
    row(&["7=pty:8"], "7,8", &[7, 8]),
    row(&["7=inet"], "7", &[7]),
    row(&["7=udp"], "7", &[7]),
    Row { words: &["7=tcp:8"], options: &["--tcp-established", "--network-lock", "skip"], ignore: "7,8", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=eventfd", "9=epoll:7"], options: &[], ignore: "7,9", lacks: &[(0, &[7, 9])] },
    Row { words: &["7=pair:8", "9=reg:@f", "7=send:9"], options: &[], ignore: "9", lacks: &[(0, &[9])] },
    Row { words: &["7=pair:8", "9=pipe:10", "7=send:9"], options: &[], ignore: "9", lacks: &[(0, &[9])] },
    // Trees: a number means every task that shares the file.
    Row { words: &["7=reg:@f", "fork"], options: &[], ignore: "7", lacks: &[(0, &[7]), (1, &[7])] },
    Row { words: &["7=reg:@f", "fork"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=reg:@f", "fork", "7=reg:@g"], options: &[], ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=reg:@f", "fork", "7=reg:@g"], options: &[], ignore: "*:7", lacks: &[(0, &[7]), (1, &[7])] },
    Row { words: &["fork", "7=reg:@g"], options: &[], ignore: "7", lacks: &[(1, &[7])] },
    Row { words: &["7=reg:@f", "clone"], options: &[], ignore: "7", lacks: &[(0, &[7]), (1, &[7])] },
    Row { words: &["7=pipe:8", "fork"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=pipe:8", "fork"], options: &[], ignore: "root:7-8", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=pipe:8", "fork"], options: &[], ignore: "7-8", lacks: &[(0, &[7, 8]), (1, &[7, 8])] },
    Row { words: &["7=pair:8", "fork"], options: &[], ignore: "7-8", lacks: &[(0, &[7, 8]), (1, &[7, 8])] },
    Row { words: &["7=pair:8", "fork"], options: &[], ignore: "root:7-8", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=pty:8", "fork"], options: &[], ignore: "root:7-8", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=eventfd", "9=epoll:7", "fork"], options: &[], ignore: "root:9", lacks: &[(0, &[9])] },
    Row { words: &["7=eventfd", "9=epoll:7", "fork"], options: &[], ignore: "root:7,root:9", lacks: &[(0, &[7, 9])] },
];

#[test]
fn what_is_ignored_is_gone_and_nothing_else_changes() {
    for row in DROPPED {
        eprintln!("{:?} IGNORE={}", row.words, row.ignore);
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, row.words, row.options) else {
            continue;
        };
        let mut expected = native(&image, row.options);
        for (task, numbers) in row.lacks {
            for number in *numbers {
                assert!(
                    expected[*task].remove(number).is_some(),
                    "no {number} in the image"
                );
            }
        }
        let before = image.files();
        let restore = image
            .restore()
            .options(row.options)
            .advice("IGNORE", row.ignore);
        let restored = restore.run().restored();
        assert_eq!(
            tables(&image, &restored),
            expected,
            "{:?} {}",
            row.words,
            row.ignore
        );
        drop(restored);
        for (name, bytes) in image.files() {
            assert!(
                name == "stats-restore" || before.get(&name) == Some(&bytes),
                "{name}"
            );
        }
    }
}
