//! What restarted tasks inherit from a Linux-CR restart program, by which they are given the caller's files: programs
//! that close it, and programs that root their tasks elsewhere.

use harness::linux_cr::FILES;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harness::linux_cr::{Feed, Restart, Verdict, exit_code};
use harness::world::mount;

/// Ways to close that go through libc.
const SEEN: [&str; 4] = ["each", "walk", "range", "from"];

#[test]
fn tasks_that_close_what_they_inherit_are_given_files_all_the_same() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        for how in SEEN.into_iter().chain(["over"]) {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let mut outcome = Restart::advised("files")
                .feed(feed)
                .args(["--close", how])
                .env("CKPT_PRESERVE", "1,20")
                .env("CKPT_IGNORE", "3-9")
                .descriptor(1, writer)
                .descriptor(20, File::open("/dev/zero").unwrap())
                .run();
            outcome.assert_restarted();
            assert_eq!(outcome.link(FILES, 20), "/dev/zero", "{how}");
            assert_eq!(outcome.numbers(FILES), [0, 1, 2, 20, 60], "{how}");
            File::from(outcome.take(FILES, 1)).write_all(b"it").unwrap();
            assert_eq!(exit_code(outcome.finish()), 0, "{how}");
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            assert_eq!(all, "it");
        }
    }
}

#[test]
fn a_file_named_by_path_reaches_tasks_that_close_what_they_inherit() {
    if !harness::is_root() {
        return;
    }
    for how in SEEN {
        let outcome = Restart::advised("files")
            .prepare(|| fs::write("/mnt/new", "").unwrap())
            .args(["--close", how])
            .env("CKPT_SUBSTITUTE", "1=/mnt/new")
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(FILES, 1), "/mnt/new", "{how}");
    }
}

#[test]
fn a_program_that_first_closes_everything_can_be_advised() {
    if !harness::is_root() {
        return;
    }
    for how in SEEN {
        let outcome = Restart::advised("files")
            .args(["--close-first", how, "--close", how])
            .env("CKPT_PRESERVE", "20-21")
            .descriptor(20, File::open("/dev/zero").unwrap())
            .descriptor(21, File::open("/dev/full").unwrap())
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(FILES, 20), "/dev/zero", "{how}");
        assert_eq!(outcome.link(FILES, 21), "/dev/full", "{how}");
    }
}

#[test]
fn every_process_of_a_tree_is_given_its_file() {
    if !harness::is_root() {
        return;
    }
    for how in SEEN {
        let outcome = Restart::advised("fork-shared")
            .args(["--close", how])
            .env("CKPT_PRESERVE", "*:20")
            .descriptor(20, File::open("/dev/zero").unwrap())
            .run();
        outcome.assert_restarted();
        for task in [886, 888] {
            assert_eq!(outcome.link(task, 20), "/dev/zero", "{how}");
        }
    }
}

#[test]
fn what_is_closed_unseen_fails_and_is_told() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = Restart::advised("files")
        .args(["--close", "raw"])
        .env("CKPT_PRESERVE", "20")
        .descriptor(20, File::open("/dev/zero").unwrap())
        .run();
    match &outcome.verdict {
        Verdict::Failed { errno, .. } => assert_eq!(errno, "ENOENT"),
        other => panic!("{other:?}"),
    }
    assert_ne!(exit_code(outcome.wait()), 0);
    let said = outcome.stderr();
    assert!(said.contains("did not find a file"), "{said}");
}

#[test]
fn closing_means_what_it_always_did_where_nothing_is_preserved() {
    if !harness::is_root() {
        return;
    }
    for how in ["each", "walk", "range", "from", "raw"] {
        let outcome = Restart::advised("files")
            .args(["--close-first", how, "--close", how])
            .env("CKPT_IGNORE", "3")
            .descriptor(20, File::open("/dev/zero").unwrap())
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.numbers(FILES), [0, 1, 2, 4, 5, 6, 7, 8, 9, 60]);
    }
}

#[test]
fn a_root_without_proc_is_refused_before_any_task() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let mut outcome = Restart::advised("files")
            .feed(feed)
            .prepare(|| fs::create_dir_all("/mnt/bare").unwrap())
            .args(["--root", "/mnt/bare"])
            .env("CKPT_PRESERVE", "20")
            .descriptor(20, File::open("/dev/zero").unwrap())
            .run();
        assert_eq!(outcome.verdict, Verdict::NoRestart, "{}", outcome.stderr());
        assert_ne!(exit_code(outcome.wait()), 0);
        let said = outcome.stderr();
        assert!(
            said.contains("restart refused: /mnt/bare has no proc/self/fd"),
            "{said}"
        );
        assert!(said.contains("mount proc(5) there"), "{said}");
        // One with an empty /proc might get one yet; nothing is restored below it.
        let mut outcome = Restart::advised("files")
            .feed(feed)
            .prepare(|| fs::create_dir_all("/mnt/empty/proc").unwrap())
            .args(["--root", "/mnt/empty"])
            .env("CKPT_PRESERVE", "20")
            .descriptor(20, File::open("/dev/zero").unwrap())
            .run();
        assert_ne!(outcome.verdict, Verdict::Restarted);
        assert_ne!(exit_code(outcome.wait()), 0);
        let said = outcome.stderr();
        assert!(
            said.contains("restart refused: the tasks' root directory has no"),
            "{said}"
        );
    }
}

/// As with the restart programs since 2011: nobody would tell the feeder that the tree stands, and the call would wait
/// for an image that never comes.
#[test]
fn a_root_task_that_cannot_root_itself_ends_the_restart() {
    if !harness::is_root() {
        return;
    }
    for dry in [false, true] {
        for feed in [Feed::File, Feed::Pipe] {
            let bare = Restart::advised("files")
                .feed(feed)
                .prepare(|| fs::create_dir_all("/mnt/bare").unwrap())
                .args(["--root-task", "/mnt/bare"])
                .env("CKPT_PRESERVE", "20")
                .descriptor(20, File::open("/dev/zero").unwrap());
            let mut outcome = match dry {
                true => bare.env("CKPT_DRY_RUN", "1").run(),
                false => bare.run(),
            };
            assert_ne!(outcome.verdict, Verdict::Restarted);
            assert_ne!(exit_code(outcome.wait()), 0);
            let said = outcome.stderr();
            // A file is told of before there is a task.
            if !(dry && feed == Feed::File) {
                let refusal = "restart refused: /mnt/bare has no proc/self/fd";
                assert!(said.contains(refusal), "{said}");
            }
            assert!(!said.contains("no restart was seen"), "{said}");
        }
    }
}

/// As with the restart programs of 2010.
#[test]
fn a_program_with_another_root_is_told_what_it_lacks() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        for root in ["/mnt/bare", "/mnt/empty"] {
            for number in [1, 20] {
                let (_reader, writer) = std::io::pipe().unwrap();
                let mut outcome = Restart::advised("files")
                    .feed(feed)
                    .prepare(|| {
                        fs::create_dir_all("/mnt/bare").unwrap();
                        fs::create_dir_all("/mnt/empty/proc").unwrap();
                    })
                    .args(["--root-first", root])
                    .env("CKPT_PRESERVE", number.to_string())
                    .descriptor(number, writer)
                    .run();
                assert_eq!(outcome.verdict, Verdict::NoRestart, "{}", outcome.stderr());
                assert_ne!(exit_code(outcome.wait()), 0);
                let said = outcome.stderr();
                let refusal = "restart refused: this root directory has no proc/self/fd";
                assert!(said.contains(refusal), "{said}");
                assert!(said.contains("No such file"), "{said}");
            }
        }
    }
}

#[test]
fn what_takes_the_place_of_the_image_is_the_programs_also_below_another_root() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let outcome = Restart::advised("files")
            .feed(feed)
            .prepare(|| {
                let jail = Path::new("/mnt/jail");
                fs::create_dir(jail).unwrap();
                let bind = libc::MS_BIND | libc::MS_REC;
                mount(Some("/"), jail, None, bind, None).unwrap();
                mount(Some("none"), &jail.join("dev"), Some("tmpfs"), 0, None).unwrap();
            })
            .args(["--root-task", "/mnt/jail"])
            .env("CKPT_PRESERVE", "0")
            .env("CKPT_IGNORE", "8")
            .run();
        outcome.assert_restarted();
        // Another of that name is not below the root.
        let zero = File::from(outcome.take(FILES, 0));
        let null = File::open("/dev/null").unwrap();
        assert_eq!(
            zero.metadata().unwrap().rdev(),
            null.metadata().unwrap().rdev()
        );
    }
}

#[test]
fn a_root_with_proc_will_do_and_without_gifts_any_will() {
    if !harness::is_root() {
        return;
    }
    let outcome = Restart::advised("files")
        .args(["--root", "/"])
        .env("CKPT_PRESERVE", "20")
        .descriptor(20, File::open("/dev/zero").unwrap())
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.link(FILES, 20), "/dev/zero");
    // Nothing of the caller's is needed: the kernel's business alone.
    let mut outcome = Restart::advised("files")
        .prepare(|| fs::create_dir_all("/mnt/bare").unwrap())
        .args(["--root", "/mnt/bare"])
        .env("CKPT_IGNORE", "3")
        .run();
    assert!(matches!(outcome.verdict, Verdict::Failed { .. }));
    outcome.wait();
    assert!(
        !outcome.stderr().contains("refused"),
        "{}",
        outcome.stderr()
    );
}
