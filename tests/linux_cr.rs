//! An unmodified restart program obeys advice: the C restart program under the library, judged by the model of the
//! restart call and by the descriptors of the tasks that live afterwards.

use harness::edit;
use harness::linux_cr::FILES;
use harness::scratch::Scratch;
use harness::terminal;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use harness::linux_cr::{Feed, Restart, Verdict, exit_code, image, table};
use harness::world::make_fifo;
use harness::{criu::library, report};

fn flags(fd: &OwnedFd) -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
}

fn offset(fd: &OwnedFd) -> i64 {
    // SAFETY: no memory is involved.
    unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_CUR) }
}

/// The example with its executable in the home that every world has of its own.
fn at_home(example: &[u8]) -> Vec<u8> {
    let (from, to) = (b"/usr/bin/example\0", b"/home/u/example\0\0");
    let mut image = example.to_vec();
    let at = image
        .windows(from.len())
        .position(|bytes| bytes == from)
        .unwrap();
    image[at..at + to.len()].copy_from_slice(to);
    image
}

fn every_row(feed: Feed) {
    if !harness::is_root() {
        return;
    }
    let mut failures = Vec::new();
    let mut same = 0;
    for row in table("ignored.tsv") {
        let (name, ignored, expected) = (&row[0], &row[1], &row[3]);
        // Its session leader dies with the terminal while it is looked at, and needs the pids of the image.
        if name == "pty-ctty" {
            continue;
        }
        let mut outcome = Restart::advised(name)
            .feed(feed)
            .env("CKPT_IGNORE", ignored)
            .run();
        same += 1;
        let verdict = outcome.verdict.clone();
        let right = verdict == Verdict::Restarted && {
            let report = outcome.report();
            // The program ends as without the library.
            assert_eq!(exit_code(outcome.finish()), 0, "{name} {ignored}");
            // The program that reported to the kernel's side broke off at 8 KB.
            report::agree(&report, expected)
                || (name == "many" && report.starts_with(expected.as_str()))
        };
        if !right {
            let said = outcome.stderr();
            failures.push(format!("{name} {ignored}: {verdict:?}\n{said}"));
        }
    }
    assert!(same >= 156, "{same} rows restarted");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_is_ignored_is_gone_as_the_real_kernel_has_it() {
    every_row(Feed::File);
}

#[test]
fn what_is_ignored_is_gone_also_when_the_image_comes_through_a_pipe() {
    every_row(Feed::Pipe);
}

/// A port, path, name or terminal that is somebody else's by now stays theirs, and does not hinder the restart.
#[test]
fn what_is_dropped_touches_nothing() {
    if !harness::is_root() {
        return;
    }
    type Obstacle = fn();
    let cases: &[(&str, &str, Obstacle)] = &[
        ("files", "3-9", || {
            std::fs::remove_file("/mnt/files/a").unwrap();
            std::fs::remove_file("/mnt/files/b").unwrap();
        }),
        ("fifo", "3-5", || {
            std::fs::remove_file("/mnt/fifo/ff").unwrap();
        }),
        ("tcp-listen", "3", || take_port(7001)),
        ("tcp-conn", "3-5", || take_port(7003)),
        ("unix-listen", "3", || {
            std::fs::write("/mnt/unix-listen/sock", "mine").unwrap();
        }),
        ("unix-dgram", "3", || {
            std::fs::write("/mnt/unix-dgram/dsock", "mine").unwrap();
        }),
        ("pty", "3-4", || {
            // The image's index is among the first.
            let taken: Vec<File> = (0..4).map(|_| File::open("/dev/ptmx").unwrap()).collect();
            std::mem::forget(taken);
        }),
    ];
    for &(name, ignored, obstacle) in cases {
        for feed in [Feed::File, Feed::Pipe] {
            let mut outcome = Restart::advised(name)
                .feed(feed)
                .prepare(obstacle)
                .env("CKPT_IGNORE", ignored)
                .run();
            outcome.assert_restarted();
            outcome.enter(move || {
                for path in ["/mnt/unix-listen/sock", "/mnt/unix-dgram/dsock"] {
                    if let Ok(contents) = std::fs::read_to_string(path) {
                        assert_eq!(contents, "mine", "{name}");
                    } else {
                        assert!(!name.starts_with("unix") || !path.contains(name), "{name}");
                    }
                }
            });
            assert_eq!(exit_code(outcome.finish()), 0, "{name}");
        }
    }
}

/// Somebody in the world listens there.
fn take_port(port: u16) {
    std::mem::forget(std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
}

#[test]
fn standard_descriptors_are_the_callers() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("standard");
    let log = scratch.log("log");
    let outcome = Restart::advised("files")
        .env("CKPT_PRESERVE", "0,1,2")
        .descriptor(1, log.try_clone().unwrap())
        .descriptor(2, log)
        .run();
    outcome.assert_restarted();
    let path = scratch.file("log").display().to_string();
    assert_eq!(outcome.link(FILES, 1), path);
    assert_eq!(outcome.link(FILES, 2), path);
    assert_eq!(outcome.link(FILES, 3), "/mnt/files/a");
    // The image was on 0: the program must not come back reading it.
    assert_eq!(outcome.link(FILES, 0), "/dev/null");
    assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60]);
    let one = outcome.take(FILES, 1);
    assert_ne!(flags(&one) & libc::O_APPEND, 0);
    // 1 and 2 were one description of the caller's, and are one now.
    let two = outcome.take(FILES, 2);
    File::from(one).write_all(b"one\n").unwrap();
    assert_eq!(offset(&two), 4);
    assert_eq!(std::fs::read(scratch.file("log")).unwrap(), b"one\n");
}

#[test]
fn a_file_is_reopened_with_the_callers_mode_and_offset() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("offset");
    std::fs::write(scratch.file("f"), b"0123456789").unwrap();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(scratch.file("f"))
        .unwrap();
    file.seek(SeekFrom::Start(7)).unwrap();
    for feed in [Feed::File, Feed::Pipe, Feed::Option] {
        let mut outcome = Restart::advised("files")
            .feed(feed)
            .env("CKPT_PRESERVE", "3,20")
            .env("CKPT_IGNORE", "4,5-9")
            .descriptor(3, file.try_clone().unwrap())
            .descriptor(20, File::open("/dev/zero").unwrap())
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 20, 60]);
        let three = outcome.take(FILES, 3);
        assert_eq!(offset(&three), 7);
        assert_eq!(flags(&three) & libc::O_ACCMODE, libc::O_RDWR);
        assert_eq!(outcome.link(FILES, 20), "/dev/zero");
        assert!(
            !report::is_close_on_exec(outcome.pid(FILES), 20),
            "the caller's is not"
        );
        assert_eq!(outcome.link(FILES, 60), "/mnt/files/c");
        outcome.finish();
        let warning = "re-opened for writing without O_APPEND";
        assert!(outcome.stderr().contains(warning), "{}", outcome.stderr());
    }
    // Not shared: the caller's offset stays.
    assert_eq!(file.stream_position().unwrap(), 7);
}

#[test]
fn a_file_of_the_callers_takes_the_place_of_a_pipe_end() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("pipe-end");
    for feed in [Feed::File, Feed::Pipe] {
        let outcome = Restart::advised("pipe")
            .feed(feed)
            .env("CKPT_PRESERVE", "4")
            .descriptor(4, scratch.log("log"))
            .run();
        outcome.assert_restarted();
        let path = scratch.file("log").display().to_string();
        assert_eq!(outcome.link(640, 4), path);
        assert_eq!(outcome.numbers(640), [0, 1, 2, 3, 4, 5, 6, 9]);
        // The reader gets what was written, and then learns that nobody writes.
        let mut left = Vec::new();
        let mut reader = File::from(outcome.take(640, 3));
        std::io::Read::read_to_end(&mut reader, &mut left).unwrap();
        assert_eq!(left, b"hello pipe");
    }
}

#[test]
fn terminals_and_named_fifos_can_be_given() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("terminals");
    let (master, slave) = terminal::pair();
    make_fifo(&scratch.file("fifo")).unwrap();
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .open(scratch.file("fifo"))
        .unwrap();
    let reader = File::open(scratch.file("fifo")).unwrap();
    let outcome = Restart::advised("files")
        .env("CKPT_PRESERVE", "1,6,20")
        .descriptor(1, slave)
        .descriptor(6, reader)
        .descriptor(20, fifo)
        .run();
    outcome.assert_restarted();
    assert!(outcome.link(FILES, 1).starts_with("/dev/pts/"));
    assert_eq!(
        outcome.link(FILES, 6),
        scratch.file("fifo").display().to_string()
    );
    File::from(outcome.take(FILES, 20))
        .write_all(b"through")
        .unwrap();
    let mut buffer = [0; 16];
    let six = File::from(outcome.take(FILES, 6));
    assert_eq!(std::io::Read::read(&mut &six, &mut buffer).unwrap(), 7);
    drop(master);
}

#[test]
fn what_the_kernel_cannot_open_anew_is_refused_with_a_way_out() {
    if !harness::is_root() {
        return;
    }
    let (_reader, writer) = std::io::pipe().unwrap();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let (master, _slave) = terminal::pair();
    // SAFETY: no memory is involved, and the result is a descriptor of our own.
    let counter = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, 0)) };
    let sources: [(OwnedFd, &str); 4] = [
        (writer.into(), "named fifo"),
        (socket.into(), "socket"),
        (master, "master"),
        (counter, "eventfd"),
    ];
    for (source, way_out) in sources {
        let mut outcome = Restart::advised("files")
            .env("CKPT_PRESERVE", "20")
            .descriptor(20, source)
            .run();
        outcome.assert_refused(&["CKPT_PRESERVE=20", "descriptor 20", way_out]);
    }
}

#[test]
fn a_direction_that_the_number_needs_is_demanded() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = Restart::advised("files")
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, File::open("/dev/null").unwrap())
        .run();
    outcome.assert_refused(&["CKPT_PRESERVE=1", "task 534", "writing", "1>>FILE"]);
    let mut outcome = Restart::advised("files").env("CKPT_PRESERVE", "9").run();
    outcome.assert_refused(&["CKPT_PRESERVE=9", "not open here"]);
}

#[test]
fn a_typo_restarts_nothing() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        for (name, value, says) in [
            ("CKPT_PRESERVE", "0,,1", "column 3"),
            ("CKPT_PRESERVE", "9999999", "column 1"),
            ("CKPT_IGNORE", "3,x", "column 3"),
            ("CKPT_SUBSTITUTE", "1=there", "column 2"),
            ("CKPT_STRICT", "yes", "best-effort"),
            ("CKPT_DRY_RUN", "maybe", "expected 1"),
            ("CKPT_LOG", "loud", "trace"),
            ("CKPT_LOG_FILE", "/nowhere/at/all", "No such file"),
            ("CKPT_ACCEPT", "x", "column 1"),
            ("CKPT_SOURCE_ROOT", "there", "absolute path"),
            ("CKPT_RESTART_NR", "-1", "system call"),
            // Right, and for a later version.
            ("CKPT_REPORT", "/nowhere/at/all", "No such file"),
            ("CKPT_REPORT", "/dev/null", "no regular file"),
        ] {
            for how in [&[][..], &["--self"]] {
                let advised = Restart::advised("files")
                    .feed(feed)
                    .args(how.iter().copied());
                let mut outcome = advised.env(name, value).run();
                outcome.assert_refused(&["ckptadv: restart refused: ", name, says]);
            }
        }
    }
}

#[test]
fn a_root_for_paths_is_refused_where_tasks_open_them() {
    if !harness::is_root() {
        return;
    }
    let rooted = || Restart::advised("files").env("CKPT_SOURCE_ROOT", "/tmp");
    let mut outcome = rooted().env("CKPT_SUBSTITUTE", "1=/log").run();
    outcome.assert_refused(&["CKPT_SOURCE_ROOT", "give numbers as sources"]);
    let outcome = rooted().env("CKPT_IGNORE", "3").run();
    outcome.assert_restarted();
}

#[test]
fn an_unknown_variable_draws_one_warning() {
    if !harness::is_root() {
        return;
    }
    let outcome = Restart::advised("files").env("CKPT_IGNORED", "3").run();
    outcome.assert_restarted();
    assert_eq!(outcome.stderr().matches("CKPT_IGNORED").count(), 1);
    assert_eq!(outcome.numbers(FILES).len(), 11);
}

#[test]
fn a_dry_run_tells_the_plan_and_restores_nothing() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let mut outcome = Restart::advised("files")
            .feed(feed)
            .env("CKPT_IGNORE", "3")
            .env("CKPT_DRY_RUN", "1")
            .run();
        assert_ne!(outcome.verdict, Verdict::Restarted);
        assert_ne!(exit_code(outcome.wait()), 0);
        let said = outcome.stderr();
        let plan = "plan: task 534 descriptor 3 (reg /mnt/files/a): dropped [CKPT_IGNORE=3]";
        assert!(said.contains(plan), "{said}");
        assert!(said.contains("Operation canceled"), "{said}");
    }
}

/// The report of a restart whose program has ended; it is the only file there.
fn reported(scratch: &Scratch) -> serde_json::Value {
    let there: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(there.len(), 1, "{there:?}");
    let text = std::fs::read(scratch.file("report")).unwrap();
    std::fs::remove_file(scratch.file("report")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (&report["version"], &report["engine"]),
        (&1.into(), &"linux-cr".into())
    );
    report
}

#[test]
fn a_report_has_what_was_done() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("report");
    let report = scratch.file("report");
    for feed in [Feed::File, Feed::Pipe, Feed::Option] {
        std::fs::write(&report, "of another restart").unwrap();
        let mut outcome = Restart::advised("files")
            .feed(feed)
            .env("CKPT_IGNORE", "3,12")
            .env("CKPT_PRESERVE", "0")
            .env("CKPT_REPORT", &report)
            .run();
        outcome.assert_restarted();
        outcome.finish();
        let mode = std::fs::metadata(&report).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let report = reported(&scratch);
        assert_eq!(report["outcome"], "restarted", "{report}");
        assert_eq!(report["error"], serde_json::Value::Null);
        assert_eq!(report["format"], "Linux-CR v20, x86_64, Linux 2.6.33");
        let changes = report["changes"].as_array().unwrap();
        let fates: Vec<_> = changes
            .iter()
            .map(|c| (c["number"].as_i64().unwrap(), c["fate"].as_str().unwrap()))
            .collect();
        assert_eq!(fates, [(0, "replaced"), (3, "dropped")]);
        assert_eq!(changes[1]["was"], "reg /mnt/files/a");
        let unmatched = report["unmatched"][0].as_str().unwrap();
        assert!(unmatched.starts_with("CKPT_IGNORE=12: "), "{unmatched}");
    }
}

#[test]
fn a_report_tells_why_nothing_was_restarted() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("no-report");
    let report = scratch.file("report");
    let advised = |name: &str, feed| {
        let advised = Restart::new(&image(name)).scenario("files").feed(feed);
        advised.preload(library()).env("CKPT_REPORT", &report)
    };
    for feed in [Feed::File, Feed::Pipe] {
        let mut outcome = advised("files", feed).env("CKPT_IGNORE", "3x").run();
        outcome.wait();
        let refused = reported(&scratch);
        assert_eq!(refused["outcome"], "refused", "{refused}");
        assert_eq!(refused["error"]["errno"], libc::EINVAL);
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("column 2"), "{message}");
        assert!(outcome.stderr().contains(message), "{}", outcome.stderr());

        // From a pipe this is found in the middle of the image.
        let strict = advised("files", feed).env("CKPT_STRICT", "strict");
        let mut outcome = strict.env("CKPT_IGNORE", "12").run();
        outcome.wait();
        let refused = reported(&scratch);
        assert_eq!(refused["outcome"], "refused", "{refused}");
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("no task has 12"), "{message}");

        let dry = advised("files", feed).env("CKPT_DRY_RUN", "1");
        let mut outcome = dry.env("CKPT_IGNORE", "3").run();
        outcome.wait();
        let planned = reported(&scratch);
        assert_eq!(planned["outcome"], "planned", "{planned}");
        assert_eq!(planned["changes"][0]["fate"], "dropped");

        let mut outcome = advised("edited/mode-exotic", feed)
            .env("CKPT_IGNORE", "9")
            .run();
        assert_ne!(outcome.verdict, Verdict::Restarted);
        outcome.wait();
        let failed = reported(&scratch);
        assert_eq!(failed["outcome"], "failed", "{failed}");
        assert_eq!(failed["error"]["errno"], libc::EINVAL);
    }
}

#[test]
fn a_restart_without_advice_is_reported_too() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("plain-report");
    let advised = Restart::advised("files").env("CKPT_REPORT", scratch.file("report"));
    let mut outcome = advised.run();
    outcome.assert_restarted();
    assert_eq!(outcome.numbers(FILES).len(), 11);
    outcome.finish();
    let report = reported(&scratch);
    assert_eq!(report["outcome"], "restarted", "{report}");
    assert_eq!(report["changes"], serde_json::json!([]));
}

#[test]
fn a_report_that_cannot_be_written_in_the_end_is_a_warning() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("lost-report");
    let directory = scratch.file("directory");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("report"), "of another restart").unwrap();
    let mut outcome = Restart::advised("pipe")
        .feed(Feed::Given)
        .descriptor(0, {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let (bytes, directory) = (image("pipe"), directory.clone());
            std::thread::spawn(move || {
                // The library removes the old report when it has seen the head.
                writer.write_all(&bytes[..800]).unwrap();
                while std::fs::remove_dir(&directory).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let _ = writer.write_all(&bytes[800..]);
            });
            OwnedFd::from(reader)
        })
        .env("CKPT_IGNORE", "9")
        .env("CKPT_REPORT", directory.join("report"))
        .run();
    outcome.assert_restarted();
    outcome.finish();
    let said = outcome.stderr();
    assert!(said.contains("ckptadv: warning: CKPT_REPORT="), "{said}");
}

#[test]
fn unmatched_advice_is_told_and_strict_refuses() {
    if !harness::is_root() {
        return;
    }
    let says = "CKPT_IGNORE=12: no task has 12; open are 0-9, 60";
    for feed in [Feed::File, Feed::Pipe] {
        let advised = || {
            Restart::advised("files")
                .feed(feed)
                .env("CKPT_IGNORE", "12")
        };
        let mut outcome = advised().run();
        outcome.assert_restarted();
        outcome.finish();
        assert_eq!(
            outcome.stderr().matches(says).count(),
            1,
            "{}",
            outcome.stderr()
        );
        let mut quiet = advised().env("CKPT_STRICT", "best-effort").run();
        quiet.assert_restarted();
        quiet.finish();
        assert_eq!(quiet.stderr(), "");
        let mut strict = advised().env("CKPT_STRICT", "strict").run();
        assert_ne!(strict.verdict, Verdict::Restarted);
        strict.wait();
        assert!(strict.tasks.is_empty());
        assert!(strict.stderr().contains(says), "{}", strict.stderr());
    }
}

#[test]
fn a_task_is_named_by_the_pid_that_the_image_has() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("task");
    for feed in [Feed::File, Feed::Pipe] {
        let outcome = Restart::advised("fork-shared")
            .feed(feed)
            .env("CKPT_PRESERVE", "888:1")
            .env("CKPT_IGNORE", "886:3,888:30,root:2")
            .descriptor(1, scratch.log("log"))
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.numbers(886), [0, 1]);
        assert_eq!(outcome.numbers(888), [1, 2, 3, 7]);
        assert_eq!(outcome.link(886, 1), "/mnt/fork-shared/log");
        assert_eq!(
            outcome.link(888, 1),
            scratch.file("log").display().to_string()
        );
    }
}

#[test]
fn a_program_that_restarts_itself_obeys_too() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("self");
    for feed in [Feed::File, Feed::Pipe, Feed::Option] {
        let outcome = Restart::advised("files")
            .feed(feed)
            .args(["--self"])
            .env("CKPT_PRESERVE", "1")
            .env("CKPT_IGNORE", "3-60")
            .env("CKPT_REPORT", scratch.file("report"))
            .descriptor(1, scratch.log("log"))
            .run();
        // Nobody of it is left to tell how the call went.
        let report = std::fs::read(scratch.file("report")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["outcome"], "restarting", "{report}");
        assert_eq!(report["changes"].as_array().unwrap().len(), 9);
        outcome.assert_restarted();
        assert_eq!(outcome.tasks.len(), 1);
        let task = outcome.tasks[0].0;
        assert_eq!(outcome.numbers(task), [0, 1, 2]);
        assert_eq!(
            outcome.link(task, 1),
            scratch.file("log").display().to_string()
        );
    }
}

#[test]
fn an_image_that_comes_late_and_in_pieces_is_known() {
    if !harness::is_root() {
        return;
    }
    let bytes = image("files");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let feeder = std::thread::spawn(move || {
        for piece in [&bytes[..5], &bytes[5..9], &bytes[9..]] {
            let _ = writer.write_all(piece);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let outcome = Restart::advised("files")
        .feed(Feed::Given)
        .descriptor(0, reader)
        .args(["--self"])
        .env("CKPT_PRESERVE", "0")
        .env("CKPT_IGNORE", "3-60")
        .run();
    feeder.join().unwrap();
    outcome.assert_restarted();
    let task = outcome.tasks[0].0;
    assert_eq!(outcome.numbers(task), [0, 1, 2]);
    assert_eq!(outcome.link(task, 0), "/dev/null", "not the image");
}

#[test]
fn a_refusal_is_told_also_where_the_log_is_full() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = Restart::advised("files")
        .env("CKPT_IGNORE", "7x")
        .env("CKPT_LOG_FILE", "/dev/full")
        .run();
    outcome.assert_refused(&["restart refused: CKPT_IGNORE: \"7x\""]);
}

#[test]
fn a_message_that_nobody_reads_ends_nothing() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut outcome = Restart::advised("files")
            .feed(feed)
            .env("CKPT_IGNORE", "12")
            .env("CKPT_LOG", "debug")
            .descriptor(2, writer)
            .run();
        outcome.assert_restarted();
        assert_eq!(exit_code(outcome.finish()), 0);
    }
}

#[test]
fn a_terminal_of_the_outside_is_taken_whole_or_not_at_all() {
    if !harness::is_root() {
        return;
    }
    let world = || {
        std::fs::create_dir_all("/home/u").unwrap();
        std::fs::write("/home/u/data.txt", b"data").unwrap();
        std::fs::write("/home/u/example", b"").unwrap();
    };
    let (_master, slave) = terminal::pair();
    let slave = File::from(slave);
    for (name, number) in [("example-v20", 302), ("example", 305)] {
        let example = || {
            Restart::new(&at_home(&image(name)))
                .number(number)
                .args(["--nr".to_owned(), number.to_string()])
                .preload(library())
                .prepare(world)
        };
        let dropped = example().env("CKPT_IGNORE", "0-2").run();
        dropped.assert_restarted();
        assert_eq!(dropped.numbers(4242), [3, 4, 5, 6]);

        let given = example()
            .env("CKPT_PRESERVE", "0,1,2")
            .descriptor(1, slave.try_clone().unwrap())
            .descriptor(2, slave.try_clone().unwrap())
            .run();
        given.assert_restarted();
        assert_eq!(given.numbers(4242), [0, 1, 2, 3, 4, 5, 6]);
        assert!(given.link(4242, 1).starts_with("/dev/pts/"));

        let mut partly = example().env("CKPT_IGNORE", "0,1").run();
        partly.assert_refused(&["/dev/pts/3", "ignore 4242:2 too"]);
    }
}

#[test]
fn an_image_without_a_known_restart_call_is_told_about() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = Restart::advised("files")
        .args(["--nr", "999"])
        .number(999)
        .env("CKPT_IGNORE", "3")
        .run();
    outcome.assert_restarted();
    assert!(
        outcome.numbers(FILES).contains(&3),
        "999 is no number that the library knows"
    );
    outcome.finish();
    let said = outcome.stderr();
    assert_eq!(said.matches("no restart was seen").count(), 1, "{said}");
    assert!(said.contains("CKPT_RESTART_NR"), "{said}");

    let outcome = Restart::advised("files")
        .args(["--nr", "999"])
        .number(999)
        .env("CKPT_IGNORE", "3")
        .env("CKPT_RESTART_NR", "999")
        .run();
    outcome.assert_restarted();
    assert!(!outcome.numbers(FILES).contains(&3));
}

#[test]
fn few_descriptors_and_closed_ones_do_no_harm() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("few");
    let outcome = Restart::advised("files")
        .descriptor_limit(64)
        .env("CKPT_PRESERVE", "1,2")
        .descriptor(1, scratch.log("log"))
        .descriptor(2, scratch.log("log"))
        .run();
    outcome.assert_restarted();
    assert_eq!(
        outcome.link(FILES, 2),
        scratch.file("log").display().to_string()
    );
}

#[test]
fn a_number_that_the_tasks_could_not_have_is_refused() {
    if !harness::is_root() {
        return;
    }
    // Of a range, and opened before the limit was lowered.
    let mut outcome = Restart::advised("files")
        .descriptor_limit(64)
        .env("CKPT_PRESERVE", "20-")
        .descriptor(100, File::open("/dev/zero").unwrap())
        .run();
    outcome.assert_refused(&["CKPT_PRESERVE=20-", "descriptor 100", "64", "ulimit -n"]);
}

/// Both ways by which an image comes in.
const FEEDS: [Feed; 2] = [Feed::File, Feed::Pipe];

#[test]
fn descriptors_are_selected_by_path_kind_and_identifier() {
    if !harness::is_root() {
        return;
    }
    let all = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60];
    for (list, gone) in [
        ("/mnt/files/a", &[3, 4, 5][..]),
        ("/mnt/**/{b,c}", &[6, 9, 60]),
        ("/mnt/files/?", &[3, 4, 5, 6, 9, 60]),
        ("534:/mnt/files/[ab]", &[3, 4, 5, 6]),
        ("type=chr", &[0, 8]),
        ("root:type=chr,type=dir", &[0, 7, 8]),
        // The descriptions that `inspect` shows of the log, and of the first two of a.
        ("id=9,id=0xa", &[1, 2, 3, 4]),
    ] {
        for feed in FEEDS {
            let outcome = Restart::advised("files")
                .feed(feed)
                .env("CKPT_IGNORE", list)
                .run();
            outcome.assert_restarted();
            let left: Vec<i32> = all.iter().copied().filter(|n| !gone.contains(n)).collect();
            assert_eq!(outcome.numbers(FILES), left, "{list}");
        }
    }
    // What a file is here and now: b is a directory by now, which the image does not tell.
    let outcome = Restart::advised("files")
        .prepare(|| {
            std::fs::remove_file("/mnt/files/b").unwrap();
            std::fs::create_dir("/mnt/files/b").unwrap();
        })
        .env("CKPT_IGNORE", "type=dir")
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 5, 8, 9, 60]);
}

#[test]
fn a_socket_has_the_path_that_it_is_bound_to() {
    if !harness::is_root() {
        return;
    }
    for feed in FEEDS {
        let outcome = Restart::advised("unix-listen")
            .feed(feed)
            .env("CKPT_IGNORE", "/mnt/unix-listen/sock")
            .run();
        outcome.assert_restarted();
        let task = outcome.tasks[0].0;
        assert_eq!(outcome.numbers(task), [0, 1, 2]);
    }
}

#[test]
fn selectors_that_match_nothing_are_told_with_what_there_is() {
    if !harness::is_root() {
        return;
    }
    for (variable, item, says) in [
        (
            "CKPT_IGNORE",
            "/nowhere/*",
            "no task has a file of such a path",
        ),
        (
            "CKPT_IGNORE",
            "534:type=pipe",
            "task 534 has no descriptor of kind pipe; the image has reg, dir, chr",
        ),
        (
            "CKPT_IGNORE",
            "id=999",
            "no task has a descriptor of 999; the image has 8, 9, 10",
        ),
        (
            "CKPT_SUBSTITUTE",
            "12=/dev/null",
            "no task has 12; open are 0-9, 60",
        ),
    ] {
        for feed in FEEDS {
            let outcome = Restart::advised("files").feed(feed).env(variable, item);
            let mut outcome = outcome.env("CKPT_STRICT", "strict").run();
            assert_ne!(outcome.verdict, Verdict::Restarted);
            outcome.wait();
            let says = format!("{variable}={item}: {says}");
            assert!(outcome.stderr().contains(&says), "{}", outcome.stderr());
        }
    }
}

#[test]
fn a_descriptor_of_the_callers_takes_the_place_of_another_number() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("substitute");
    for feed in FEEDS {
        let outcome = Restart::advised("files")
            .feed(feed)
            .env("CKPT_SUBSTITUTE", "1=40,2=40,/mnt/files/c=40,id=12=41")
            .descriptor(40, scratch.log("log"))
            .descriptor(41, File::open("/dev/zero").unwrap())
            .run();
        outcome.assert_restarted();
        let log = scratch.file("log").display().to_string();
        for number in [1, 2, 9, 60] {
            assert_eq!(outcome.link(FILES, number), log, "{number}");
        }
        assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60]);
        // One description of the caller's, and one of the task's.
        std::fs::write(&log, b"").unwrap();
        File::from(outcome.take(FILES, 9))
            .write_all(b"nine\n")
            .unwrap();
        assert_eq!(offset(&outcome.take(FILES, 1)), 5);
    }
    let mut outcome = Restart::advised("files")
        .env("CKPT_SUBSTITUTE", "3=40")
        .run();
    outcome.assert_refused(&["CKPT_SUBSTITUTE=3=40", "40 is not open here"]);
    let mut outcome = Restart::advised("files")
        .env("CKPT_SUBSTITUTE", "3=40")
        .descriptor(40, File::open("/dev/null").unwrap())
        .run();
    outcome.assert_refused(&[
        "task 534 needs descriptor 3 for writing",
        "40 is not open",
        "open it 40<>FILE",
    ]);
}

#[test]
fn a_path_takes_the_place_of_a_log() {
    if !harness::is_root() {
        return;
    }
    for (feed, itself) in [
        (Feed::File, false),
        (Feed::Pipe, false),
        (Feed::Option, false),
        (Feed::File, true),
        (Feed::Pipe, true),
    ] {
        let scratch = Scratch::new("path-log");
        let log = scratch.file("new.log");
        std::fs::write(&log, b"before\n").unwrap();
        let list = format!("/mnt/files/log={},7=/", log.display());
        let outcome = Restart::advised("files")
            .feed(feed)
            .args(itself.then_some("--self"))
            .prepare(|| std::fs::remove_file("/mnt/files/log").unwrap())
            .env("CKPT_SUBSTITUTE", list)
            .run();
        outcome.assert_restarted();
        let task = if itself { outcome.tasks[0].0 } else { FILES };
        let (one, two) = (outcome.take(task, 1), outcome.take(task, 2));
        assert_eq!(outcome.link(task, 1), log.display().to_string());
        assert_eq!(outcome.link(task, 7), "/");
        assert_eq!(outcome.numbers(task), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60]);
        let how = libc::O_ACCMODE | libc::O_APPEND;
        assert_eq!(flags(&one) & how, libc::O_WRONLY | libc::O_APPEND);
        File::from(one).write_all(b"after\n").unwrap();
        // 2>&1 stays what it was.
        assert_eq!(offset(&two), 13);
        assert_eq!(std::fs::read(&log).unwrap(), b"before\nafter\n");
    }
}

#[test]
fn fifos_and_devices_are_opened_by_their_paths() {
    if !harness::is_root() {
        return;
    }
    for feed in FEEDS {
        let scratch = Scratch::new("path-fifo");
        let fifo = scratch.file("fifo");
        make_fifo(&fifo).unwrap();
        let list = format!("1={},type=dir=/dev/zero", fifo.display());
        let advised = || {
            Restart::advised("files")
                .feed(feed)
                .env("CKPT_SUBSTITUTE", &list)
        };
        let mut alone = advised().run();
        assert_ne!(alone.verdict, Verdict::Restarted);
        alone.wait();
        let said = alone.stderr();
        assert!(said.contains("start the reader first"), "{said}");

        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&fifo)
            .unwrap();
        let outcome = advised().run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(FILES, 7), "/dev/zero");
        File::from(outcome.take(FILES, 1)).write_all(b"x").unwrap();
        std::io::Read::read_exact(&mut reader, &mut [0]).unwrap();
    }
}

#[test]
fn a_path_is_opened_at_the_offset_of_the_image() {
    if !harness::is_root() {
        return;
    }
    for feed in FEEDS {
        let scratch = Scratch::new("path-offset");
        let path = |name: &str| scratch.file(name).display().to_string();
        for (name, length) in [("long", 20), ("short", 3)] {
            std::fs::write(scratch.file(name), vec![b'x'; length]).unwrap();
        }
        // 3 and 4 were one description at 5, 9 and 60 another at 0; 8 a device.
        for (list, number, at) in [
            (format!("3={0},4={0}", path("long")), 3, 5),
            (format!("3={}", path("short")), 3, 3),
            (format!("9={}", path("long")), 9, 0),
            (format!("8={}", path("long")), 8, 20),
        ] {
            let outcome = Restart::advised("files")
                .feed(feed)
                .env("CKPT_SUBSTITUTE", &list)
                .run();
            outcome.assert_restarted();
            assert_eq!(offset(&outcome.take(FILES, number)), at, "{list}");
        }
        assert_eq!(std::fs::read(scratch.file("long")).unwrap().len(), 20);
    }
}

#[test]
fn a_path_that_is_not_there_is_made_where_it_is_to_be_written() {
    if !harness::is_root() {
        return;
    }
    for feed in FEEDS {
        let scratch = Scratch::new("path-made");
        let log = scratch.file("made");
        let list = format!("1={0},2={0}", log.display());
        let advised = || {
            Restart::advised("files")
                .feed(feed)
                .env("CKPT_SUBSTITUTE", &list)
        };
        let mut dry = advised().env("CKPT_DRY_RUN", "1").run();
        assert_ne!(dry.verdict, Verdict::Restarted);
        dry.wait();
        let plan = format!(
            "descriptor 1 (reg /mnt/files/log): from {} (w,append, made)",
            log.display()
        );
        assert!(dry.stderr().contains(&plan), "{}", dry.stderr());
        assert!(!log.exists(), "a dry run makes nothing");

        let outcome = advised().run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(FILES, 2), log.display().to_string());

        // Not needed, not made.
        let other = scratch.file("other");
        let list = format!("12={}", other.display());
        let outcome = Restart::advised("files")
            .feed(feed)
            .env("CKPT_SUBSTITUTE", list)
            .run();
        outcome.assert_restarted();
        assert!(!other.exists());
    }
}

#[test]
fn a_path_that_cannot_be_opened_is_refused_before_anything_is_made() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("path-refused");
    let first = scratch.file("first");
    let gone = scratch.file("no/such/directory").display().to_string();
    let text = scratch.file("text").display().to_string();
    for (list, says) in [
        (format!("2={gone}"), "cannot be made in its directory"),
        (
            format!("6={}", scratch.file("gone").display()),
            "only what is to be written is made",
        ),
        (format!("2={}", scratch.path().display()), "Is a directory"),
        ("2=/dev/ptmx".to_owned(), "master"),
    ] {
        for feed in FEEDS {
            let list = format!("1={},{list}", first.display());
            let mut outcome = Restart::advised("files")
                .feed(feed)
                .env("CKPT_SUBSTITUTE", &list)
                .run();
            assert_ne!(outcome.verdict, Verdict::Restarted, "{list}");
            outcome.wait();
            assert!(
                outcome.stderr().contains(says),
                "{list}: {}",
                outcome.stderr()
            );
            assert!(!first.exists(), "{list}");
        }
    }
    // The kernel would crash on it.
    File::create(&text).unwrap().set_len(0x9000_0000).unwrap();
    let mut outcome = Restart::advised("files")
        .env("CKPT_SUBSTITUTE", format!("8={text}"))
        .run();
    outcome.assert_refused(&["bit 31"]);
    // It is appended to all the same.
    let outcome = Restart::advised("files")
        .env("CKPT_SUBSTITUTE", format!("1={text}"))
        .run();
    outcome.assert_restarted();
}

#[test]
fn a_terminal_goes_to_a_path_whole() {
    if !harness::is_root() {
        return;
    }
    let world = || {
        std::fs::create_dir_all("/home/u").unwrap();
        std::fs::write("/home/u/data.txt", b"data").unwrap();
        std::fs::write("/home/u/example", b"").unwrap();
    };
    let scratch = Scratch::new("tty-path");
    let log = scratch.file("log");
    for (list, leads) in [
        (
            format!("type=tty={}", log.display()),
            log.display().to_string(),
        ),
        ("/dev/pts/*=/dev/null".to_owned(), "/dev/null".to_owned()),
    ] {
        let outcome = Restart::new(&at_home(&image("example-v20")))
            .preload(library())
            .prepare(world)
            .env("CKPT_SUBSTITUTE", list)
            .run();
        outcome.assert_restarted();
        for number in 0..3 {
            assert_eq!(outcome.link(4242, number), leads);
        }
        // For reading and writing: all three were one description.
        assert_eq!(
            flags(&outcome.take(4242, 0)) & libc::O_ACCMODE,
            libc::O_RDWR
        );
    }
    let mut partly = Restart::new(&at_home(&image("example-v20")))
        .preload(library())
        .prepare(world)
        .env("CKPT_SUBSTITUTE", "0=/dev/null,1=/dev/null")
        .run();
    partly.assert_refused(&["substitute 4242:2=2"]);
}

#[test]
fn two_items_that_give_one_descriptor_are_a_contradiction() {
    if !harness::is_root() {
        return;
    }
    for (preserve, substitute) in [
        ("1", "1=1"),
        ("", "1=2,1=/dev/null"),
        ("", "1=/dev/null,/mnt/files/log=/dev/zero"),
    ] {
        let mut outcome = Restart::advised("files")
            .env("CKPT_PRESERVE", preserve)
            .env("CKPT_SUBSTITUTE", substitute)
            .run();
        outcome.assert_refused(&["task 534 descriptor 1 is given by two items"]);
    }
    // The same source twice is none.
    let outcome = Restart::advised("files")
        .env("CKPT_SUBSTITUTE", "1=/dev/null,/mnt/files/log=/dev/null")
        .env("CKPT_IGNORE", "1-60")
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.numbers(FILES), [0, 1, 2]);
}

#[test]
fn a_path_is_shared_by_the_tasks_that_shared_the_file() {
    if !harness::is_root() {
        return;
    }
    for feed in FEEDS {
        let scratch = Scratch::new("path-tasks");
        let log = scratch.file("log").display().to_string();
        let outcome = Restart::advised("fork-shared")
            .feed(feed)
            .env("CKPT_SUBSTITUTE", format!("1={log},3={log}3"))
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(886, 1), log);
        assert_eq!(outcome.link(888, 1), log);
        assert_eq!(outcome.link(888, 2), "/mnt/fork-shared/log");
        File::from(outcome.take(886, 3))
            .write_all(b"three")
            .unwrap();
        assert_eq!(offset(&outcome.take(888, 3)), 5);
        assert_eq!(outcome.link(888, 30), "/mnt/fork-shared/a");
    }
}

#[test]
fn a_path_for_one_of_those_that_share_a_table_is_its_alone() {
    if !harness::is_root() {
        return;
    }
    for feed in FEEDS {
        let scratch = Scratch::new("path-table");
        let new = scratch.file("new").display().to_string();
        let tasks = Restart::advised("shared-table").run().tasks.clone();
        let (one, other) = (tasks[0].0, tasks[1].0);
        let outcome = Restart::advised("shared-table")
            .feed(feed)
            .env("CKPT_SUBSTITUTE", format!("{other}:3={new}"))
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(other, 3), new);
        assert_eq!(outcome.link(one, 3), "/mnt/shared-table/a");
    }
}

/// The kernel counts what is left of a message and writes all of it, so that the restart fails; what it counts whole
/// it takes.
#[test]
fn what_had_been_read_of_a_message_does_not_come_back() {
    const SOCKET_QUEUE: u32 = 702;
    const SOCKET_BUFFER: u32 = 703;
    const PAIR: i32 = 465;
    if !harness::is_root() {
        return;
    }
    let counted = image("edited/data-offset-2");
    let places = edit::places(&counted);
    let read = |place: &edit::Place| {
        place.kind == SOCKET_BUFFER && edit::u32_at(&counted, place.at + 40) == 2
    };
    let message = places.iter().position(read).expect("a message");
    let queue = places[message - 1];
    assert_eq!(queue.kind, SOCKET_QUEUE);
    let bytes = edit::u32_at(&counted, queue.at + 12);
    let mut half_read = counted.clone();
    edit::set_u32(&mut half_read, queue.at + 12, bytes - 2);

    let mut outcome = Restart::new(&half_read).scenario("socketpair").run();
    match &outcome.verdict {
        Verdict::Failed {
            errno, complaint, ..
        } if errno == "EINVAL" && complaint == "Buffers exceeded claim" => {}
        other => panic!("{other:?}"),
    }
    outcome.wait();
    for (image, left) in [
        (&half_read, "recv 4 \"etwo\""),
        (&counted, "recv 6 \"onetwo\""),
    ] {
        for feed in [Feed::File, Feed::Pipe] {
            let restart = Restart::new(image).scenario("socketpair").feed(feed);
            // Whatever it asks for: no task has this one.
            let restart = restart.preload(library()).env("CKPT_IGNORE", "99");
            let mut outcome = restart.run();
            outcome.assert_restarted();
            let numbers = outcome.numbers(PAIR);
            let report = outcome.report();
            outcome.finish();
            assert_eq!(numbers, [0, 1, 2, 3, 4]);
            assert!(report.contains("recv 4 \"back\""), "{report}");
            assert!(report.contains(left), "{report}");
        }
    }
}

/// What waits for a socket whose path was removed is sent there again, which fails.
#[test]
fn messages_for_a_path_that_was_removed_are_refused_unless_they_go() {
    if !harness::is_root() {
        return;
    }
    let image = image("edited/dgram-not-linked");
    for feed in [Feed::File, Feed::Pipe] {
        let restart = |ignored: &str| {
            let restart = Restart::new(&image).scenario("unix-dgram").feed(feed);
            restart.preload(library()).env("CKPT_IGNORE", ignored).run()
        };
        let mut outcome = restart("4");
        outcome.wait();
        assert_eq!(outcome.verdict == Verdict::NoRestart, feed == Feed::File);
        let said = outcome.stderr();
        let refusal = "task 604 descriptor 3: a unix socket whose path was removed";
        assert!(said.contains(refusal), "{said}");
        let mut outcome = restart("3");
        outcome.assert_restarted();
        assert_eq!(outcome.numbers(604), [0, 1, 2, 4]);
        outcome.report();
        assert_eq!(exit_code(outcome.finish()), 0);
    }
}
