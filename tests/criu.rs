//! End to end, with a real criu: what becomes of the descriptors of a program
//! that is dumped and restored with advice, seen in /proc/PID/fd.

use harness::criu::{Image, Restore, Restored, World};
use harness::terminal;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

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

const TCP: &[&str] = &["--tcp-established", "--network-lock", "skip"];
const LOCKS: &[&str] = &["--file-locks"];

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
    row(&["7=pipe:8", "8=write:data"], "8", &[8]),
    row(&["7=pipe:8", "8=write:data"], "7", &[7]),
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
    // One end goes, the other stays.
    row(&["7=pair:8", "7=write:data"], "7", &[7]),
    row(&["7=pair:8", "8=write:data"], "8", &[8]),
    row(&["7=dgram:8", "7=write:data"], "7", &[7]),
    row(&["7=dgram:8"], "8", &[8]),
    row(&["7=seq:8", "7=write:data"], "7", &[7]),
    row(&["7=seq:8"], "7,8", &[7, 8]),
    row(&["7=listen:@sock", "8=connect:@sock", "9=accept:7"], "7", &[7]),
    row(&["7=listen:@sock", "8=connect:@sock", "9=accept:7"], "8", &[8]),
    row(&["7=listen:@sock", "8=connect:@sock", "9=accept:7"], "9", &[9]),
    row(&["7=listen:@sock", "8=connect:@sock", "9=accept:7"], "7,8", &[7, 8]),
    row(&["7=listen:@sock", "8=connect:@sock"], "7", &[7]),
    row(&["7=listen:@sock", "8=connect:@sock"], "8", &[8]),
    row(&["7=stream:8", "8=write:data"], "7", &[7]),
    row(&["7=stream:8", "8=write:data"], "8", &[8]),
    row(&["7=stream:8"], "7,8", &[7, 8]),
    row(&["7=bound:@sock", "8=to:@sock", "8=write:data"], "7", &[7]),
    row(&["7=bound:@sock", "8=to:@sock", "8=write:data"], "8", &[8]),
    Row { words: &["7=tcp:8", "7=write:data"], options: TCP, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=tcp:8", "8=write:data"], options: TCP, ignore: "8", lacks: &[(0, &[8])] },
    // Descriptors in queues.
    row(&["7=pair:8", "9=reg:@f", "7=send:9"], "7", &[7]),
    row(&["7=pair:8", "9=reg:@f", "7=send:9"], "8", &[8]),
    row(&["7=pair:8", "9=reg:@f", "7=send:9"], "7-8", &[7, 8]),
    Row { words: &["7=pair:8", "9=pipe:10", "7=send:9"], options: &[], ignore: "7-9", lacks: &[(0, &[7, 8, 9])] },
    Row { words: &["7=pair:8", "9=pair:10", "7=send:9"], options: &[], ignore: "7-9", lacks: &[(0, &[7, 8, 9])] },
    Row { words: &["7=pair:8", "9=pair:10", "7=send:9"], options: &[], ignore: "10", lacks: &[(0, &[10])] },
    // What is watched.
    row(&["7=eventfd", "9=epoll:7"], "7", &[7]),
    row(&["7=eventfd", "8=dup:7", "9=epoll:7"], "7", &[7]),
    row(&["7=pair:8", "9=epoll:7,8"], "8", &[8]),
    row(&["7=pair:8", "9=epoll:7,8"], "7,8", &[7, 8]),
    row(&["7=pipe:8", "9=epoll:7"], "7", &[7]),
    Row { words: &["7=eventfd", "8=epoll:7", "9=epoll:8"], options: &[], ignore: "8", lacks: &[(0, &[8])] },
    // Locks, leases.
    Row { words: &["7=flock:@f"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=flock:@f", "8=dup:7"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=flock:@f", "fork"], options: LOCKS, ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=posix:@f"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=posix:@f", "8=reg:@f"], options: LOCKS, ignore: "8", lacks: &[(0, &[8])] },
    Row { words: &["7=ofd:@f"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=ofd:@f", "8=dup:7"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=lease:@f"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    Row { words: &["7=lease:@f", "8=dup:7"], options: LOCKS, ignore: "7", lacks: &[(0, &[7])] },
    // Other kinds.
    row(&["7=raw"], "7", &[7]),
    row(&["7=netlink"], "7", &[7]),
    row(&["7=packet"], "7", &[7]),
    row(&["7=fanotify"], "7", &[7]),
    row(&["7=pidfd"], "7", &[7]),
    row(&["7=dead", "8=dup:7"], "7", &[7]),
    row(&["7=dead", "8=dead"], "7", &[7]),
    row(&["7=dead"], "7", &[7]),
    row(&["7=ns:net"], "7", &[7]),
    row(&["7=gone:@f"], "7", &[7]),
    row(&["7=deleted:@f", "8=dup:7"], "7", &[7]),
    row(&["7=deleted:@f", "8=dup:7"], "7,8", &[7, 8]),
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
    Row { words: &["7=reg:@f", "clone"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=pipe:8", "9=pair:10", "clone"], options: &[], ignore: "root:7,root:9", lacks: &[(0, &[7, 9])] },
    Row { words: &["7=reg:@f", "clone", "clone"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=pipe:8", "fork"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=pipe:8", "fork"], options: &[], ignore: "root:7-8", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=pipe:8", "fork"], options: &[], ignore: "7-8", lacks: &[(0, &[7, 8]), (1, &[7, 8])] },
    Row { words: &["7=pair:8", "fork"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=pair:8", "fork"], options: &[], ignore: "root:8", lacks: &[(0, &[8])] },
    Row { words: &["7=pair:8", "fork"], options: &[], ignore: "7", lacks: &[(0, &[7]), (1, &[7])] },
    Row { words: &["7=pair:8", "fork", "fork"], options: &[], ignore: "root:7", lacks: &[(0, &[7])] },
    Row { words: &["7=seq:8", "fork"], options: &[], ignore: "root:8", lacks: &[(0, &[8])] },
    Row { words: &["7=dgram:8", "fork"], options: &[], ignore: "root:8", lacks: &[(0, &[8])] },
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

#[test]
fn what_is_preserved_is_the_callers_and_nothing_else_changes() {
    for row in DROPPED {
        eprintln!("{:?} PRESERVE={}", row.words, row.ignore);
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, row.words, row.options) else {
            continue;
        };
        let mut expected = native(&image, row.options);
        let given = world.open("given");
        let mut restore = image
            .restore()
            .options(row.options)
            .advice("PRESERVE", row.ignore);
        for (task, numbers) in row.lacks {
            for number in *numbers {
                expected[*task].insert(*number, world.path("given"));
                restore = restore.fd(*number, &given);
            }
        }
        let restored = restore.run().restored();
        assert_eq!(
            tables(&image, &restored),
            expected,
            "{:?} {}",
            row.words,
            row.ignore
        );
        for (task, numbers) in row.lacks {
            for number in *numbers {
                assert!(restored.shares(image.pids[*task], *number, &given));
            }
        }
    }
}

/// What libc gives, owned.
fn made(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was made just now, for the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Everything that a caller may have, by name.
fn sources(world: &World) -> Vec<(&'static str, OwnedFd)> {
    let (read, write) = std::io::pipe().expect("a pipe");
    let (socket, _) = UnixStream::pair().expect("a pair of sockets");
    let open = |path: &str, write: bool| -> OwnedFd {
        let file = File::options().read(true).write(write).open(path);
        file.expect(path).into()
    };
    // SAFETY: each call makes a descriptor out of integers and constant strings.
    let others = unsafe {
        [
            ("eventfd", made(libc::eventfd(0, 0))),
            (
                "timerfd",
                made(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0)),
            ),
            ("epoll", made(libc::epoll_create1(0))),
            ("inotify", made(libc::inotify_init())),
            ("memfd", made(libc::memfd_create(c"given".as_ptr(), 0))),
            (
                "udp",
                made(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)),
            ),
            (
                "netlink",
                made(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
            ),
            (
                "pidfd",
                made(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as i32),
            ),
        ]
    };
    let (master, slave) = terminal::pair();
    let mut all = vec![
        ("file", world.open("source").into()),
        ("read-only file", open("/etc/passwd", false)),
        ("directory", open("/", false)),
        ("deleted file", {
            let file = world.open("deleted");
            fs::remove_file(world.path("deleted")).expect("it is there");
            file.into()
        }),
        ("device", open("/dev/zero", true)),
        ("namespace", open("/proc/self/ns/net", false)),
        ("pipe, read end", read.into()),
        ("pipe, write end", write.into()),
        ("socket", socket.into()),
        ("terminal", slave),
        ("master of a terminal", master),
    ];
    all.extend(others);
    all
}

#[test]
fn whatever_the_caller_has_can_be_added() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f", "fork"], &[]) else {
        return;
    };
    let sources = sources(&world);
    let mut restore = image.restore().advice("PRESERVE", "40-");
    for (number, (_, fd)) in (40..).zip(&sources) {
        restore = restore.fd(number, fd);
    }
    let restored = restore.run().restored();
    for (number, (what, fd)) in (40..).zip(&sources) {
        assert!(restored.shares(image.root, number, fd), "{what}");
    }
    let child = restored.links(image.pids[1]);
    assert_eq!(child.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 7]);
}

#[test]
fn an_io_uring_cannot_be_given() {
    let Some(world) = World::new() else { return };
    let mut parameters = [0u8; 120];
    // SAFETY: there is room for what is written.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    if ring < 0 {
        eprintln!("no io_uring here: {}", std::io::Error::last_os_error());
        return;
    }
    let ring = made(ring as i32);
    let image = world.hold(&["7=eventfd"]).dump();
    for (name, value) in [("PRESERVE", "7"), ("SUBSTITUTE", "7=9"), ("ACCEPT", "9")] {
        let restore = image.restore().advice(name, value).fd(7, &ring);
        let said = restore.fd(9, &ring).run().refused();
        assert!(said.contains("anon_inode:[io_uring]"), "{said}");
    }
    // Nobody asks for it.
    let restore = image.restore().advice("IGNORE", "7").fd(7, &ring);
    drop(restore.run().restored());
}

#[test]
fn the_log_goes_on_where_the_caller_says() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(
        &world,
        &["1=append:@log", "2=dup:1", "7=reg:@f", "count"],
        &[],
    ) else {
        return;
    };
    fs::remove_file(world.path("f")).expect("the program had it");
    fs::remove_file(world.path("log")).expect("the program wrote it");
    let plain = image.restore().run();
    assert!(plain.said.contains("No such file"), "{}", plain.said);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let restored = image
        .restore()
        .advice("PRESERVE", "1,2")
        .advice("IGNORE", "7")
        .fd(1, &writer)
        .fd(2, &writer)
        .run()
        .restored();
    assert!(restored.same((image.root, 1), (image.root, 2)));
    // criu's own messages come out of the same pipe.
    let counts = BufReader::new(reader)
        .lines()
        .map_while(Result::ok)
        .take(50)
        .any(|line| line.parse::<u32>().is_ok());
    assert!(counts, "the program does not count on");
    assert!(!restored.links(image.root).contains_key(&7));
}

#[test]
fn an_offset_is_shared_with_the_caller() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["1=append:@log", "count"], &[]) else {
        return;
    };
    let mut out = world.open("out");
    out.write_all(b"from the caller\n").expect("written");
    let restored = image
        .restore()
        .advice("PRESERVE", "1")
        .fd(1, &out)
        .run()
        .restored();
    let text = || fs::read_to_string(world.path("out")).expect("text");
    harness::wait_until("some lines", || text().lines().count() > 3);
    drop(restored);
    out.write_all(b"again\n").expect("written");
    let text = text();
    assert!(
        text.starts_with("from the caller\n") && text.ends_with("\nagain\n"),
        "{text}"
    );
    assert!(text.lines().count() > 3, "{text}");
}

#[test]
fn what_is_opened_by_a_path_has_the_flags_of_the_image() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=sync:@f", "8=append:@g"], &[]) else {
        return;
    };
    let advice = format!("7={0},8={0}", world.path("moved"));
    let restore = image.restore().advice("SUBSTITUTE", &advice);
    let restored = restore.run().restored();
    for (number, expected) in [
        (7, libc::O_RDWR | libc::O_SYNC | libc::O_NONBLOCK),
        (8, libc::O_WRONLY | libc::O_APPEND),
    ] {
        let flags = restored.info(image.root, number, "flags").expect("flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
        assert_eq!(flags & !libc::O_CLOEXEC & !0o100_000, expected, "{flags:o}");
    }
}

/// The tasks end with their namespaces, and are looked at from inside.
#[test]
fn a_restore_in_new_namespaces_is_advised() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f", "8=eventfd"], &[]) else {
        return;
    };
    let (given, root) = (world.path("given"), image.root);
    fs::write(&given, b"").expect("a file");
    let restored = |namespaces: &str, option: &str, advised: bool| {
        let criu = harness::criu::program();
        let script = format!(
            "{} restore {option} -d -v0 -D {} 7<>{given} && ls -l /proc/{root}/fd",
            criu.display(),
            image.directory.display()
        );
        let mut command = Command::new("unshare");
        command.args([namespaces, "-f", "--mount-proc", "sh", "-c", &script]);
        if advised {
            command.env("LD_PRELOAD", harness::criu::library());
            command.envs([("CKPT_PRESERVE", "7"), ("CKPT_IGNORE", "8")]);
        }
        let output = command.output().expect("unshare");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), listed, said)
    };
    for (namespaces, option) in [("-pm", ""), ("-Urpm", "--unprivileged")] {
        let (possible, listed, said) = restored(namespaces, option, false);
        if !possible {
            eprintln!("criu alone cannot restore after unshare {namespaces}: {said}");
            assert!(namespaces.contains('U'), "{said}");
            continue;
        }
        assert!(listed.contains(" 8 -> "), "{listed}");
        let (succeeded, listed, said) = restored(namespaces, option, true);
        assert!(succeeded, "{said}");
        assert!(listed.contains(&format!(" 7 -> {given}\n")), "{listed}");
        assert!(!listed.contains(" 8 -> "), "{listed}");
    }
}

#[test]
fn what_criu_starts_is_without_the_library() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=eventfd"], &[]) else {
        return;
    };
    let (script, told) = (world.path("script"), world.path("told"));
    let text = format!("#!/bin/sh\necho \"<$LD_PRELOAD>\" >>{told}\n");
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
    let restore = image.restore().options(&["--action-script", &script]);
    // What is given takes a variable for criu, too.
    let restore = restore.advice("IGNORE", "7").advice("PRESERVE", "8");
    let restored = restore.fd(8, &world.open("eight")).run().restored();
    let links = restored.links(image.root);
    assert!(!links.contains_key(&7) && links.contains_key(&8));
    let told = fs::read_to_string(told).expect("the script was called");
    assert!(told.lines().all(|line| line == "<>"), "{told}");
}

#[test]
fn numbers_of_one_description_stay_together_and_others_apart() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(
        &world,
        &["7=reg:@f", "8=reg:@g", "9=reg:@h", "8=cloexec", "fork"],
        &[],
    ) else {
        return;
    };
    let (one, two) = (world.open("one"), world.open("one"));
    let restored = image
        .restore()
        .advice("PRESERVE", "7-9,20,*:21")
        .fd(7, &one)
        .fd(8, &one)
        .fd(9, &two)
        .fd(20, &two)
        .fd(21, &one)
        .run()
        .restored();
    let (root, child) = (image.pids[0], image.pids[1]);
    assert!(restored.same((root, 7), (root, 8)));
    assert!(!restored.same((root, 7), (root, 9)));
    assert!(restored.same((root, 9), (root, 20)));
    for number in 7..=9 {
        assert!(restored.same((root, number), (child, number)));
    }
    assert!(restored.same((root, 21), (child, 21)) && restored.same((root, 21), (root, 7)));
    assert!(!restored.links(child).contains_key(&20));
    let cloexec = |number| {
        let flags = restored.info(root, number, "flags").expect("flags");
        u32::from_str_radix(&flags, 8).expect("octal") & libc::O_CLOEXEC as u32 != 0
    };
    assert!(cloexec(8) && !cloexec(7) && !cloexec(20));
}

#[test]
fn a_child_goes_on_watching_what_the_root_task_dropped() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=eventfd", "9=epoll:7", "fork"], &[]) else {
        return;
    };
    let restored = image
        .restore()
        .advice("IGNORE", "root:7,root:9")
        .run()
        .restored();
    let watch = restored.info(image.pids[1], 9, "tfd").expect("a watch");
    assert!(watch.starts_with("7 "), "{watch}");
}

/// What can be read until the end of file.
fn drained(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    bytes
}

#[test]
fn who_loses_its_other_end_reads_what_is_queued_and_then_the_end_of_file() {
    let stream: &[&str] = &["7=pair:8", "8=write:data"];
    let packets: &[&str] = &["7=seq:8", "8=write:data"];
    let accepted: &[&str] = &["6=listen:@s", "8=connect:@s", "7=accept:6", "8=write:data"];
    let connected: &[&str] = &["6=listen:@s", "7=connect:@s", "8=accept:6", "8=write:data"];
    let inet: &[&str] = &["7=tcp:8", "8=write:data"];
    let inet_too: &[&str] = &["8=tcp:7", "8=write:data"];
    for (words, options) in [
        (stream, &[][..]),
        (packets, &[]),
        (accepted, &[]),
        (connected, &[]),
        (inet, TCP),
        (inet_too, TCP),
    ] {
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, words, options) else {
            continue;
        };
        let restore = image.restore().options(options).advice("IGNORE", "8");
        let restored = restore.run().restored();
        let mut survivor = restored.borrow(image.root, 7);
        assert_eq!(drained(&mut survivor), b"data", "{words:?}");
        // The other end of the internet answers the first time.
        let end = Instant::now() + Duration::from_secs(5);
        let error = loop {
            match survivor.write(b"more") {
                Err(error) => break error,
                Ok(_) => assert!(Instant::now() < end, "{words:?}: nobody is there"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(gone.contains(&error.kind()), "{words:?}: {error}");
    }
}

#[test]
fn a_datagram_socket_that_loses_its_peer_keeps_what_is_queued() {
    for words in [["7=dgram:8", "8=write:data"], ["8=dgram:7", "8=write:data"]] {
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, &words, &[]) else {
            return;
        };
        let restored = image.restore().advice("IGNORE", "8").run().restored();
        let mut survivor = restored.borrow(image.root, 7);
        let mut bytes = [0; 8];
        assert_eq!(survivor.read(&mut bytes).expect("a packet"), 4);
        assert_eq!(&bytes[..4], b"data");
        let error = survivor.write(b"more").expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    }
}

#[test]
fn pairs_of_which_tasks_hold_other_ends_talk_to_each_other() {
    for (words, ignore, here, there) in [
        (&["7=pair:8", "fork"][..], "root:7", (0, 8), (1, 7)),
        (&["7=pair:8", "fork"], "root:8", (0, 7), (1, 8)),
        (&["7=pair:8", "fork"], "root:7,root:8", (1, 7), (1, 8)),
        (&["7=seq:8", "fork", "fork"], "root:8", (0, 7), (2, 8)),
        (&["7=dgram:8", "fork", "fork"], "root:8", (0, 7), (2, 8)),
    ] {
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, words, &[]) else {
            return;
        };
        let restored = image.restore().advice("IGNORE", ignore).run().restored();
        let borrow = |(task, number): (usize, i32)| restored.borrow(image.pids[task], number);
        let mut bytes = [0; 8];
        for (mut from, mut to) in [(borrow(here), borrow(there)), (borrow(there), borrow(here))] {
            from.write_all(b"word").expect("written");
            assert_eq!(to.read(&mut bytes).expect("read"), 4, "{words:?} {ignore}");
        }
    }
}

#[test]
fn a_watch_passes_to_what_takes_the_place_of_its_file() {
    let Some(world) = World::new() else { return };
    let words = ["7=eventfd", "8=dup:7", "9=eventfd", "10=epoll:7,9"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let watched = |restored: &Restored| {
        let path = format!("/proc/{}/fdinfo/10", image.root);
        let text = fs::read_to_string(path).expect("the set");
        let lines = text.lines().filter_map(|line| line.strip_prefix("tfd:"));
        let numbers = lines.map(|l| l.split_whitespace().next().expect("a number").to_owned());
        let mut numbers: Vec<i32> = numbers.map(|n| n.parse().expect("a number")).collect();
        numbers.sort_unstable();
        assert!(restored.links(image.root).contains_key(&10));
        numbers
    };
    let (mut reader, mut writer) = UnixStream::pair().expect("a pair of sockets");
    let file = world.open("given");
    let rows: [(&str, &str, Vec<i32>); 5] = [
        ("", "7", vec![8, 9]),
        ("", "7,8", vec![9]),
        ("9", "", vec![7, 9]),
        ("7", "", vec![8, 9]),
        ("7", "8", vec![9]),
    ];
    for (preserve, ignore, expected) in rows {
        let restore = image.restore().advice("PRESERVE", preserve);
        let restore = restore.advice("IGNORE", ignore);
        let outcome = restore.fd(9, &reader).fd(7, &file).run();
        let warned = outcome.said.contains("cannot be watched");
        assert_eq!(warned, (preserve, ignore) == ("7", "8"), "{}", outcome.said);
        let restored = outcome.restored();
        assert_eq!(watched(&restored), expected, "{preserve} {ignore}");
        if preserve != "9" {
            continue;
        }
        // Told by the socket, with the data of the old watch.
        writer.write_all(b"x").expect("written");
        let set = restored.borrow(image.root, 10);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        // SAFETY: there is room for four events.
        let count = unsafe { libc::epoll_wait(set.as_raw_fd(), events.as_mut_ptr(), 4, 5000) };
        let told: Vec<u64> = events[..count as usize].iter().map(|e| e.u64).collect();
        assert!(told.contains(&9), "{told:?}");
        reader.read_exact(&mut [0]).expect("read");
    }
}

#[test]
fn a_lock_lasts_as_long_as_its_file() {
    for (words, ignore, locked) in [
        (&["7=flock:@f"][..], "7", false),
        (&["7=flock:@f", "8=dup:7"], "7", true),
        (&["7=flock:@f", "8=dup:7"], "8", true),
        (&["7=flock:@f", "8=dup:7"], "7,8", false),
        (&["7=flock:@f", "fork"], "root:7", true),
        (&["7=ofd:@f", "8=dup:7"], "7", true),
        (&["7=ofd:@f", "fork"], "root:7", true),
        (&["7=posix:@f", "8=dup:7"], "8", false),
        (&["7=posix:@f", "8=reg:@f"], "8", false),
        (&["7=posix:@f", "8=reg:@g"], "8", true),
        (&["7=lease:@f", "8=dup:7"], "7", true),
        (&["7=lease:@f", "8=dup:7"], "7,8", false),
    ] {
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, words, LOCKS) else {
            return;
        };
        let restore = image.restore().options(LOCKS).advice("IGNORE", ignore);
        let restored = restore.run().restored();
        let locks = harness::locks(&world.path("f"));
        assert_eq!(!locks.is_empty(), locked, "{words:?} {ignore}: {locks:?}");
        drop(restored);
    }
}

#[test]
fn of_a_deleted_file_that_is_dropped_nothing_is_made() {
    for (words, ignore) in [
        (&["7=deleted:@there/f"][..], "7"),
        (&["7=deleted:@there/f", "fork"], "7"),
        (&["7=deleted:@there/f", "8=dup:7"], "7,8"),
        (
            &["6=pair:8", "7=deleted:@there/f", "6=send:7", "7=close"],
            "6,8",
        ),
    ] {
        let Some(world) = World::new() else { return };
        fs::create_dir(world.path("there")).expect("a directory");
        let Some(image) = dump(&world, words, &[]) else {
            return;
        };
        fs::remove_dir(world.path("there")).expect("it is empty");
        // Nothing can be made there.
        fs::write(world.path("there"), b"").expect("a file");
        let plain = image.restore().run();
        assert_eq!(plain.status, Some(1), "{}", plain.said);
        let restored = image.restore().advice("IGNORE", ignore).run().restored();
        assert!(!restored.links(image.root).contains_key(&7));
    }
}

/// As when the program closes it: the terminal is hung up.
#[test]
fn a_terminal_whose_master_is_dropped_is_hung_up() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=pty:8"], &[]) else {
        return;
    };
    let restored = image.restore().advice("IGNORE", "7").run().restored();
    let links = restored.links(image.root);
    assert!(!links.contains_key(&7));
    assert!(links[&8].ends_with(" (deleted)"), "{}", links[&8]);
}

#[test]
fn a_job_whose_terminal_is_gone_comes_back() {
    let Some(world) = World::new() else { return };
    let (master, slave) = terminal::pair();
    let held = world.hold_on(&slave, &["ctty", "7=dup:0", "fork"]);
    let image = held.dump_with(&["-j"]).expect("criu dump");
    drop((master, slave));
    let plain = image.restore().run();
    assert!(plain.said.contains("tty: "), "{}", plain.said);
    let (input, out) = (world.open("in"), world.open("out"));
    for (preserve, ignore, expected) in [
        ("0,1,2", "7", vec![0, 1, 2]),
        ("1,2", "0,7", vec![1, 2]),
        ("", "0-2,7", vec![]),
    ] {
        let restore = image.restore().fd(0, &input).fd(1, &out).fd(2, &out);
        let restore = restore
            .advice("PRESERVE", preserve)
            .advice("IGNORE", ignore);
        let restored = restore.run().restored();
        for task in &image.pids {
            let numbers: Vec<i32> = restored.links(*task).into_keys().collect();
            assert_eq!(numbers, expected);
            assert!(!expected.contains(&1) || restored.shares(*task, 1, &out));
        }
    }
}

#[test]
fn in_a_pipeline_only_the_last_one_s_output_moves() {
    let Some(world) = World::new() else { return };
    let words = ["1=append:@log", "7=pipe:8", "fork", "1=dup:8"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let given = world.open("given");
    let restored = image
        .restore()
        .advice("PRESERVE", "1")
        .fd(1, &given)
        .run()
        .restored();
    let (root, child) = (image.pids[0], image.pids[1]);
    assert!(restored.shares(root, 1, &given));
    assert!(restored.same((child, 1), (root, 8)));
}

#[test]
fn a_task_without_descriptors_is_given_one() {
    let Some(world) = World::new() else { return };
    let words = ["0=close", "1=close", "2=close"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let given = world.open("given");
    let restored = image
        .restore()
        .advice("PRESERVE", "5")
        .fd(5, &given)
        .run()
        .restored();
    assert_eq!(
        restored.links(image.root),
        [(5, world.path("given"))].into()
    );
}

struct Refused {
    words: &'static [&'static str],
    options: &'static [&'static str],
    advice: &'static [(&'static str, &'static str)],
    says: &'static str,
}

#[rustfmt::skip]
const REFUSED: &[Refused] = &[
    // What cannot be right without a change to something else.
    Refused { words: &["7=eventfd", "9=epoll:7", "fork"], options: &[], advice: &[("IGNORE", "root:7")], says: "the epoll set of task" },
    Refused { words: &["7=pair:8", "9=reg:@f", "7=send:9", "fork"], options: &[], advice: &[("IGNORE", "root:7")], says: "in a socket's queue" },
    Refused { words: &["7=eventfd", "9=epoll:7", "fork", "7=eventfd"], options: &[], advice: &[("IGNORE", "root:9")], says: "keeps this epoll set" },
    // What cannot be meant.
    Refused { words: &[], options: &[], advice: &[("PRESERVE", "70")], says: "descriptor 70 is not open here" },
    Refused { words: &["7=reg:@f"], options: &[], advice: &[("PRESERVE", "30")], says: "needs descriptor 30" },
    Refused { words: &[], options: &[], advice: &[("SUBSTITUTE", "1=70")], says: "descriptor 70 is not open here" },
    Refused { words: &[], options: &[], advice: &[("SUBSTITUTE", "1=30")], says: "needs descriptor 1 for writing, and the caller's 30 is not" },
    Refused { words: &[], options: &[], advice: &[("PRESERVE", "1")], says: "needs descriptor 1 for writing" },
    Refused { words: &[], options: &[], advice: &[("IGNORE", "12"), ("STRICT", "strict")], says: "no task has 12; open are 0-2" },
    Refused { words: &[], options: &[], advice: &[("IGNORE", "0"), ("DRY_RUN", "1")], says: "plan: task" },
    Refused { words: &[], options: &[], advice: &[("DRY_RUN", "1")], says: "dry run: nothing is restored" },
    // A typo in any variable, with and without advice.
    Refused { words: &[], options: &[], advice: &[("IGNORE", "7,,8")], says: "CKPT_IGNORE: " },
    Refused { words: &[], options: &[], advice: &[("PRESERVE", "one")], says: "CKPT_PRESERVE: \"one\": column 1" },
    Refused { words: &[], options: &[], advice: &[("SUBSTITUTE", "1")], says: "CKPT_SUBSTITUTE: " },
    Refused { words: &[], options: &[], advice: &[("STRICT", "very")], says: "CKPT_STRICT: " },
    Refused { words: &[], options: &[], advice: &[("DRY_RUN", "yes")], says: "CKPT_DRY_RUN: " },
    Refused { words: &[], options: &[], advice: &[("LOG", "loud")], says: "CKPT_LOG: " },
    Refused { words: &[], options: &[], advice: &[("ACCEPT", "-")], says: "CKPT_ACCEPT: " },
    Refused { words: &[], options: &[], advice: &[("RESTART_NR", "x")], says: "CKPT_RESTART_NR: " },
    Refused { words: &[], options: &[], advice: &[("SOURCE_ROOT", "there")], says: "expected an absolute path" },
    Refused { words: &[], options: &[], advice: &[("SUBSTITUTE", "1=/log"), ("SOURCE_ROOT", "/nowhere")], says: "CKPT_SOURCE_ROOT=/nowhere: No such file" },
    Refused { words: &[], options: &[], advice: &[("SUBSTITUTE", "1=/null"), ("SOURCE_ROOT", "/dev")], says: "only regular files and fifos" },
    Refused { words: &[], options: &[], advice: &[("LOG_FILE", "/nowhere/log")], says: "CKPT_LOG_FILE=/nowhere/log" },
    Refused { words: &[], options: &[], advice: &[("REPORT", "/nowhere/report")], says: "CKPT_REPORT=/nowhere/report" },
    // What is not done yet.
];

#[test]
fn what_cannot_be_right_is_refused_before_a_task_is_made() {
    for row in REFUSED {
        eprintln!("{:?} {:?}", row.words, row.advice);
        let Some(world) = World::new() else { return };
        // The image has 30 open for writing, the caller only for reading.
        let mut words = row.words.to_vec();
        if row.advice == [("PRESERVE", "30")] {
            words.push("30=reg:@w");
        }
        let Some(image) = dump(&world, &words, row.options) else {
            continue;
        };
        let read_only = File::open("/dev/null").expect("/dev/null");
        let mut restore = image
            .restore()
            .options(row.options)
            .fd(30, &read_only)
            .fd(1, &read_only);
        for (name, value) in row.advice {
            restore = restore.advice(name, value);
        }
        let said = restore.run().refused();
        assert!(said.contains(row.says), "{said}");
        assert!(said.starts_with("ckptadv: "), "{said}");
    }
}

#[test]
fn images_that_are_not_what_they_say_are_refused() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f"], &[]) else {
        return;
    };
    let fdinfo = image
        .files()
        .into_keys()
        .find(|name| name.starts_with("fdinfo-"))
        .expect("a file table");
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(&str, Damage, &str); 4] = [
        (
            "files.img",
            |b| b[..b.len() - 1].to_vec(),
            "files.img: offset",
        ),
        ("files.img", |_| b"not an image".to_vec(), "its magic is"),
        (&fdinfo, |b| b[..b.len() - 3].to_vec(), "img: offset"),
        (&fdinfo, |b| [&b[..], &b[8..]].concat(), "stands twice"),
    ];
    for (name, damage, says) in cases {
        let path = image.directory.join(name);
        let good = fs::read(&path).expect("a file of the image");
        fs::write(&path, damage(good.clone())).expect("damaged");
        let said = image.restore().advice("IGNORE", "7").run().refused();
        assert!(said.contains(says), "{name}: {said}");
        fs::write(&path, good).expect("mended");
    }
    let files = image.directory.join("files.img");
    fs::rename(&files, world.path("kept")).expect("moved");
    let said = image.restore().advice("IGNORE", "7").run().refused();
    assert!(
        said.contains("files.img: offset 0: the file is missing"),
        "{said}"
    );
    fs::write(image.directory.join("reg-files.img"), b"").expect("an old layout");
    let said = image.restore().advice("IGNORE", "7").run().refused();
    assert!(said.contains("CRIU before 3"), "{said}");
}

#[test]
fn what_is_unmatched_is_said_and_does_no_harm() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f"], &[]) else {
        return;
    };
    let outcome = image
        .restore()
        .advice("IGNORE", "12")
        .advice("FOO", "x")
        .run();
    assert!(outcome.said.contains("ckptadv: warning: CKPT_IGNORE=12"));
    assert!(
        outcome
            .said
            .contains("ckptadv: warning: CKPT_FOO is no variable of this library")
    );
    drop(outcome.restored());
    let quiet = image
        .restore()
        .advice("IGNORE", "12")
        .advice("STRICT", "best-effort")
        .run();
    assert!(!quiet.said.contains("ckptadv"), "{}", quiet.said);
    drop(quiet.restored());
    let log = world.path("messages");
    let outcome = image
        .restore()
        .advice("IGNORE", "7")
        .advice("LOG", "info")
        .advice("LOG_FILE", &log);
    let outcome = outcome.run();
    assert!(!outcome.said.contains("ckptadv"), "{}", outcome.said);
    let said = fs::read_to_string(&log).expect("messages");
    assert!(said.contains("descriptor 7 (reg "), "{said}");
    drop(outcome.restored());
}

#[test]
fn without_advice_the_library_does_nothing() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f", "8=pipe:9", "fork"], &[]) else {
        return;
    };
    let expected = native(&image, &[]);
    let restored = image.restore().library().run().restored();
    assert_eq!(tables(&image, &restored), expected);
}

#[test]
fn the_users_own_inheritance_and_configuration_stay() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f", "8=reg:@g", "9=reg:@h"], &[]) else {
        return;
    };
    for name in ["f", "g", "h"] {
        fs::remove_file(world.path(name)).expect("the program had it");
    }
    let (ours, by_option, by_file) = (world.open("1"), world.open("2"), world.open("3"));
    let key = |name: &str| world.path(name).trim_start_matches('/').to_owned();
    let config = world.path("criu.conf");
    fs::write(&config, format!("inherit-fd fd[22]:{}", key("h"))).expect("written");
    let restored = image
        .restore()
        .advice("PRESERVE", "7")
        .env("CRIU_CONFIG_FILE", &config)
        .options(&["--inherit-fd", &format!("fd[21]:{}", key("g"))])
        .fd(7, &ours)
        .fd(21, &by_option)
        .fd(22, &by_file)
        .run()
        .restored();
    for (number, file) in [(7, &ours), (8, &by_option), (9, &by_file)] {
        assert!(restored.shares(image.root, number, file), "{number}");
    }
}

#[test]
fn an_image_that_does_not_come_out_of_files_is_noticed() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &[], &[]) else {
        return;
    };
    let restore = image.restore().advice("IGNORE", "0");
    let said = restore.options(&["--stream"]).run().refused();
    assert!(said.contains("criu --stream: an image"), "{said}");
    let config = world.path("criu.conf");
    fs::write(&config, "stream").expect("written");
    let restore = image.restore().advice("IGNORE", "0");
    let said = restore.env("CRIU_CONFIG_FILE", &config).run().refused();
    assert!(said.contains("the advice was not used"), "{said}");
}

/// `criu swrk` with a request on its socket, as runc, crun and go-criu drive it.
fn over_rpc(image: &Image<'_>, prepare: impl FnOnce(Restore<'_>) -> Restore<'_>) -> (bool, String) {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors.
    let made_pair = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        )
    };
    assert_eq!(made_pair, 0);
    let [mut client, server] = ends.map(|fd| File::from(made(fd)));
    let directory = File::open(&image.directory).expect("the image");
    // criu_req { type: RESTORE, opts { images_dir_fd, log_level: 2, rst_sibling: true } }
    // criu looks for the directory among the descriptors of the socket's maker.
    let images = directory.as_raw_fd() as u8;
    assert!(images < 0x80, "one byte of a varint");
    let options = [&[0x08, images][..], &[0x48, 2], &[0xd0, 0x01, 1]].concat();
    let request = [&[0x08, 2, 0x12, options.len() as u8][..], &options].concat();
    client.write_all(&request).expect("asked");
    let restore = prepare(image.restore()).fd(30, &server);
    let mut command = std::process::Command::new(harness::criu::program());
    command.args(["swrk", "30"]);
    let outcome = restore.run_as(command);
    drop(server);
    let mut answer = [0; 512];
    let length = client.read(&mut answer).unwrap_or(0);
    let success = answer[..length].starts_with(&[0x08, 2, 0x10, 1]);
    (success, outcome.said.clone())
}

#[test]
fn a_restore_over_rpc_obeys() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f", "8=reg:@g"], &[]) else {
        return;
    };
    fs::remove_file(world.path("f")).expect("the program had it");
    let given = world.open("given");
    let (success, said) = over_rpc(&image, |r| {
        r.advice("PRESERVE", "8")
            .advice("IGNORE", "7")
            .fd(8, &given)
    });
    assert!(success, "{said}");
    let log = world.path("log");
    let (success, said) = over_rpc(&image, |r| r.advice("SUBSTITUTE", &format!("7={log}")));
    assert!(success && fs::exists(&log).expect("seen"), "{said}");
    let (success, said) = over_rpc(&image, |r| r.advice("PRESERVE", "one"));
    assert!(
        !success && said.contains("CKPT_PRESERVE: \"one\""),
        "{said}"
    );
    let (success, said) = over_rpc(&image, |r| r.advice("IGNORE", "7").advice("DRY_RUN", "1"));
    assert!(!success && said.contains("plan: task"), "{said}");
}

fn reported(world: &World) -> serde_json::Value {
    let text = fs::read(world.path("report")).expect("a report");
    fs::remove_file(world.path("report")).expect("it is there");
    let report: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(
        (&report["version"], &report["engine"]),
        (&1.into(), &"criu".into())
    );
    report
}

#[test]
fn a_report_has_what_was_done_and_how_it_ended() {
    let Some(world) = World::new() else { return };
    let words = ["7=reg:@f", "8=reg:@g", "fork"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let place = world.path("report");
    let asked = || {
        let asked = image.restore().advice("REPORT", &place);
        asked.advice("IGNORE", "7,12")
    };
    let given = world.open("given");
    let restored = asked()
        .advice("PRESERVE", "1")
        .fd(1, &given)
        .run()
        .restored();
    drop(restored);
    let report = reported(&world);
    assert_eq!(report["outcome"], "restarted", "{report}");
    assert!(report["microseconds"].as_u64().is_some_and(|us| us > 0));
    let changes = report["changes"].as_array().expect("a list");
    let fates: Vec<_> = changes
        .iter()
        .map(|c| (&c["task"], &c["number"], &c["fate"]))
        .collect();
    let (root, child) = (image.pids[0].into(), image.pids[1].into());
    let (one, seven) = (1.into(), 7.into());
    let (dropped, replaced) = ("dropped".into(), "replaced".into());
    let expected = [
        (&root, &one, &replaced),
        (&root, &seven, &dropped),
        (&child, &one, &replaced),
        (&child, &seven, &dropped),
    ];
    assert_eq!(fates, expected);
    assert!(
        report["unmatched"][0]
            .to_string()
            .contains("CKPT_IGNORE=12")
    );

    let (success, said) = over_rpc(&image, |r| r.advice("REPORT", &place).advice("IGNORE", "7"));
    assert!(success, "{said}");
    assert_eq!(reported(&world)["outcome"], "restarted");
    let (success, said) = over_rpc(&image, |r| r.advice("REPORT", &place));
    assert!(success, "{said}");
    let report = reported(&world);
    assert_eq!(
        (&report["outcome"], &report["changes"]),
        (&"restarted".into(), &serde_json::json!([]))
    );
    drop(asked().advice("DRY_RUN", "1").run().refused());
    let planned = reported(&world);
    assert_eq!(planned["outcome"], "planned");
    assert_eq!(planned["changes"][0]["fate"], "dropped");
    let said = asked().advice("STRICT", "strict").run().refused();
    let refused = reported(&world);
    assert_eq!(refused["outcome"], "refused");
    let message = refused["error"]["message"].as_str().expect("a text");
    assert!(said.contains(message), "{said}");
    drop(image.restore().advice("REPORT", &place).run().restored());
    let plain = reported(&world);
    assert_eq!(plain["outcome"], "restarted");
    assert_eq!(plain["changes"], serde_json::json!([]));

    // A file that criu needs is gone.
    fs::remove_file(world.path("g")).expect("the program had it");
    let outcome = asked().run();
    assert_ne!(outcome.status, Some(0), "{}", outcome.said);
    let failed = reported(&world);
    assert_eq!(failed["outcome"], "failed", "{failed}");
    assert_eq!(failed["changes"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_an_image_holds_is_shown() {
    let Some(world) = World::new() else { return };
    #[rustfmt::skip]
    let words = ["7=pipe:8", "8=write:data", "9=fifo:@f", "10=pair:11", "10=write:hello", "12=eventfd", "13=epoll:12",
        "14=pty:15", "16=listen:@sock", "17=reg:@g", "clone"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let shown = ckptadv(&["inspect", "--json", &image.directory.to_string_lossy()]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let list = |field: &str| shown[field].as_array().expect("a list").clone();
    let (root, child) = (image.pids[0], image.pids[1]);
    assert_eq!(list("tables").len(), 1);
    assert_eq!(list("tables")[0]["tasks"], serde_json::json!([root, child]));
    let of = |number: i32| {
        let held = [root, child].map(|task| format!("{task}:{number}"));
        let all = list("descriptions");
        let mut found = all
            .into_iter()
            .filter(|d| d["descriptors"] == serde_json::json!(held));
        found
            .next()
            .unwrap_or_else(|| panic!("no {held:?}: {shown}"))
    };
    for (one, other) in [(7, 8), (10, 11), (14, 15)] {
        assert_eq!(of(one)["other_ends"], serde_json::json!([of(other)["id"]]));
        assert_eq!(of(other)["other_ends"], serde_json::json!([of(one)["id"]]));
    }
    assert_eq!(
        (&of(7)["queued"], &of(11)["queued"]),
        (&4.into(), &5.into())
    );
    assert_eq!(of(10)["queued"], 0);
    assert_eq!(of(12)["count"], 7);
    assert_eq!(of(13)["watches"][0]["description"], of(12)["id"]);
    assert_eq!(of(12)["references"][0]["description"], of(13)["id"]);
    assert_eq!(
        (&of(14)["name"], &of(16)["state"]),
        (&"/dev/ptmx".into(), &"listening".into())
    );
    let slave = of(15)["name"].to_string();
    assert!(slave.starts_with("\"/dev/pts/"), "{slave}");
    assert_eq!(of(16)["path"], world.path("sock"));
    assert_eq!(of(17)["path"], world.path("g"));
}

/// The command that comes with the library.
fn ckptadv(words: &[&str]) -> String {
    let output = std::process::Command::new(harness::build::command())
        .args(words)
        .output()
        .expect("ckptadv runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    format!("{}{said}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn a_rewritten_image_is_restored_without_the_library() {
    let Some(world) = World::new() else { return };
    let words = ["7=reg:@f", "8=pipe:9", "10=epoll:8", "fork", "11=reg:@g"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let (root, child) = (image.pids[0], image.pids[1]);
    let mut expected = native(&image, &[]);
    let directory = image.directory.to_string_lossy().into_owned();
    let listed = ckptadv(&["inspect", &directory]);
    let line = |what: &str| listed.lines().find(|line| line.contains(what));
    let holders = format!("{root}:7 {child}:7");
    assert!(
        line(&world.path("f")).is_some_and(|l| l.contains(&holders)),
        "{listed}"
    );
    assert!(listed.contains("watched by"), "{listed}");
    let parent = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words == [child.to_string(), root.to_string(), "holder".to_owned()]
    };
    assert!(listed.lines().any(parent), "{listed}");

    let before = image.files();
    let new = world.path("new");
    ckptadv(&["rewrite", "--ignore", "7,11", &directory, "-o", &new]);
    let plain = image.at(&new);
    let after = plain.files();
    assert!(before.keys().eq(after.keys()));
    let changed: Vec<&String> = before
        .keys()
        .filter(|name| before[*name] != after[*name])
        .collect();
    assert!(
        changed.iter().all(|name| name.starts_with("fdinfo-")),
        "{changed:?}"
    );
    for table in &mut expected {
        table.remove(&7);
        table.remove(&11);
    }
    let restored = plain.restore().run().restored();
    assert_eq!(tables(&plain, &restored), expected);
}

#[rustfmt::skip]
const SELECTED: &[Row] = &[
    Row { words: &["7=reg:@f", "8=ro:@f", "9=reg:@g"], options: &[], ignore: "@f", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=reg:@f", "fork", "8=reg:@fg"], options: &[], ignore: "@f*", lacks: &[(0, &[7]), (1, &[7, 8])] },
    Row { words: &["7=reg:@f", "fork", "8=reg:@fg"], options: &[], ignore: "root:@f*", lacks: &[(0, &[7])] },
    Row { words: &["7=pipe:8", "9=reg:@f"], options: &[], ignore: "type=pipe", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=dir:@", "9=reg:@f"], options: &[], ignore: "type=dir", lacks: &[(0, &[7])] },
    Row { words: &["7=dev:/dev/zero", "9=reg:@f"], options: &[], ignore: "*:type=chr", lacks: &[(0, &[0, 1, 2, 7])] },
    Row { words: &["7=listen:@sock", "9=reg:@f"], options: &[], ignore: "@sock", lacks: &[(0, &[7])] },
    Row { words: &["7=pty:8", "9=reg:@f"], options: &[], ignore: "/dev/ptmx,/dev/pts/[0-9]*", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=pty:8", "9=reg:@f"], options: &[], ignore: "type=tty", lacks: &[(0, &[7, 8])] },
    Row { words: &["7=eventfd", "9=epoll:7", "10=memfd"], options: &[], ignore: "type=epoll,type=memfd", lacks: &[(0, &[9, 10])] },
];

#[test]
fn descriptors_are_selected_by_path_and_kind() {
    for row in SELECTED {
        eprintln!("{:?} IGNORE={}", row.words, row.ignore);
        let Some(world) = World::new() else { return };
        let Some(image) = dump(&world, row.words, row.options) else {
            continue;
        };
        let mut expected = native(&image, row.options);
        for (task, numbers) in row.lacks {
            for number in *numbers {
                assert!(expected[*task].remove(number).is_some());
            }
        }
        let ignore = row.ignore.replace('@', &world.path(""));
        let restored = image
            .restore()
            .advice("IGNORE", &ignore)
            .advice("STRICT", "strict")
            .run()
            .restored();
        assert_eq!(tables(&image, &restored), expected, "{ignore}");
    }
}

#[test]
fn a_description_is_selected_by_its_identifier() {
    let Some(world) = World::new() else { return };
    let words = ["7=reg:@f", "8=dup:7", "9=ro:@f", "fork"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let listed = ckptadv(&["inspect", &image.directory.to_string_lossy()]);
    let line = listed.lines().find(|l| l.contains(&world.path("f")));
    let id = line
        .and_then(|line| line.split_whitespace().next())
        .expect("an id");
    let restored = image
        .restore()
        .advice("IGNORE", &format!("id={id}"))
        .run()
        .restored();
    for task in &image.pids {
        let left: Vec<i32> = restored.links(*task).into_keys().collect();
        assert_eq!(left, [0, 1, 2, 9], "{listed}");
    }
}

#[test]
fn selectors_that_match_nothing_are_told_with_what_there_is() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=pipe:8"], &[]) else {
        return;
    };
    for (item, says) in [
        (
            "/nowhere",
            "no task has a file of such a path; the image has /dev/null",
        ),
        (
            "type=bpf",
            "no task has a descriptor of kind bpf; the image has chr, pipe",
        ),
        (
            "id=9999",
            "no task has a descriptor of 9999; the image has ",
        ),
    ] {
        let restore = image.restore().advice("IGNORE", item);
        let said = restore.advice("STRICT", "strict").run().refused();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_number_of_the_callers_takes_the_place_of_others() {
    let Some(world) = World::new() else { return };
    let words = ["1=append:@log", "2=dup:1", "7=reg:@f", "fork"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    fs::remove_file(world.path("log")).expect("the program wrote it");
    let given = world.open("given");
    let list = format!("type=reg=40,{}=40", world.path("f"));
    let restore = image.restore().advice("SUBSTITUTE", &list);
    let restored = restore.fd(40, &given).run().restored();
    for task in &image.pids {
        for number in [1, 2, 7] {
            assert!(restored.shares(*task, number, &given), "{task} {number}");
        }
        assert!(!restored.links(*task).contains_key(&40));
    }
    drop(restored);
    let said = image.restore().advice("SUBSTITUTE", "7=40").run().refused();
    assert!(said.contains("40 is not open here"), "{said}");
}

#[test]
fn the_log_goes_on_in_a_file_named_by_its_path() {
    let Some(world) = World::new() else { return };
    let words = ["1=append:@log", "2=dup:1", "7=reg:@f", "fork", "count"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    fs::rename(world.path("log"), world.path("moved")).expect("the program wrote it");
    let before = fs::read_to_string(world.path("moved")).expect("text");
    let list = format!("1={0},2={0}", world.path("moved"));
    let restored = image.restore().advice("SUBSTITUTE", &list).run().restored();
    let (root, child) = (image.pids[0], image.pids[1]);
    assert!(restored.same((root, 1), (root, 2)));
    assert!(restored.same((root, 1), (child, 1)));
    let moved = || fs::read_to_string(world.path("moved")).expect("text");
    harness::wait_until("another line", || moved().len() > before.len());
    let flags = restored.info(root, 1, "flags").expect("flags");
    let flags = i32::from_str_radix(&flags, 8).expect("octal");
    assert_ne!(flags & libc::O_APPEND, 0);
    drop(restored);
    let after = moved();
    assert!(
        after.starts_with(&before) && after.len() > before.len(),
        "{after}"
    );
    let counted: Vec<u32> = after.lines().filter_map(|l| l.parse().ok()).collect();
    assert!(counted.windows(2).all(|w| w[0] + 1 == w[1]), "{after}");
}

#[test]
fn a_path_is_made_only_when_everything_is_right() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(
        &world,
        &["7=reg:@f", "7=write:data", "8=ro:@f", "9=pty:10"],
        &[],
    ) else {
        return;
    };
    let (made, gone) = (world.path("made"), world.path("gone"));
    let list = format!("7={made}");
    let dry = image
        .restore()
        .advice("SUBSTITUTE", &list)
        .advice("DRY_RUN", "1")
        .run();
    assert!(
        dry.said.contains(&format!("from {made} (rw, made)")),
        "{}",
        dry.said
    );
    for (other, says) in [
        (format!("8={gone}"), "only what is to be written is made"),
        (format!("9={gone}/x"), "cannot be made in its directory"),
        (format!("9={}", world.path("")), "Is a directory"),
        ("3x=/dev/null".to_owned(), "column"),
    ] {
        let restore = image
            .restore()
            .advice("SUBSTITUTE", &format!("{list},{other}"));
        let said = restore.run().refused();
        assert!(said.contains(says), "{said}");
    }
    let restore = image.restore().advice("SUBSTITUTE", &format!("40={made}"));
    drop(restore.run().restored());
    assert!(!std::path::Path::new(&made).exists(), "made for nothing");
    let restored = image.restore().advice("SUBSTITUTE", &list).run().restored();
    assert_eq!(restored.links(image.root)[&7], made);
    assert_eq!(restored.info(image.root, 7, "pos").as_deref(), Some("0"));
    drop(restored);
    // The image's offset where there is so much, the end otherwise; never cut off.
    for (text, at) in [("0123456789", "4"), ("01", "2")] {
        fs::write(&made, text).expect("written");
        let restored = image.restore().advice("SUBSTITUTE", &list).run().restored();
        assert_eq!(restored.info(image.root, 7, "pos").as_deref(), Some(at));
        drop(restored);
        assert_eq!(fs::read_to_string(&made).expect("text"), text);
    }
}

#[test]
fn a_terminal_that_is_gone_gives_way_to_a_path() {
    let Some(world) = World::new() else { return };
    let (master, slave) = terminal::pair();
    let held = world.hold_on(&slave, &["ctty", "7=dup:0", "fork"]);
    let image = held.dump_with(&["-j"]).expect("criu dump");
    drop((master, slave));
    let (_master, new) = terminal::pair();
    let name = fs::read_link(format!("/proc/self/fd/{}", new.as_raw_fd())).expect("a name");
    let list = format!("type=tty={}", name.display());
    let restored = image.restore().advice("SUBSTITUTE", &list).run().restored();
    for task in &image.pids {
        let links = restored.links(*task);
        assert_eq!(links.len(), 4);
        assert!(
            links.values().all(|link| *link == name.to_string_lossy()),
            "{links:?}"
        );
        assert!(restored.same((*task, 0), (image.root, 7)));
    }
}

#[test]
fn two_items_that_give_one_descriptor_are_a_contradiction() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f"], &[]) else {
        return;
    };
    let given = world.open("given");
    for (preserve, substitute) in [("7", "7=7"), ("", "7=7,type=reg=/dev/null")] {
        let restore = image.restore().fd(7, &given).advice("PRESERVE", preserve);
        let said = restore.advice("SUBSTITUTE", substitute).run().refused();
        assert!(
            said.contains("descriptor 7 is given by two items"),
            "{said}"
        );
    }
}

#[test]
fn an_image_that_builds_on_another_is_restored_and_rewritten() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=reg:@f", "8=eventfd"], &[]) else {
        return;
    };
    let mut expected = native(&image, &[]);
    expected[0].remove(&7);
    let next = image.built_on(&world.path("next"));
    let restored = next.restore().advice("IGNORE", "7").run().restored();
    assert_eq!(tables(&next, &restored), expected);
    drop(restored);
    let directory = next.directory.to_string_lossy().into_owned();
    fs::create_dir(world.path("elsewhere")).expect("a directory");
    for new in ["new", "elsewhere/new"] {
        let new = world.path(new);
        ckptadv(&["rewrite", "--ignore", "7", &directory, "-o", &new]);
        let restored = next.at(&new).restore().run().restored();
        assert_eq!(tables(&next, &restored), expected);
    }
}

#[test]
fn a_rewritten_image_opens_a_path_without_the_library() {
    let Some(world) = World::new() else { return };
    let words = ["7=append:@f", "8=dup:7", "9=reg:@g"];
    let Some(image) = dump(&world, &words, &[]) else {
        return;
    };
    let (new, other) = (world.path("new"), world.path("other"));
    let directory = image.directory.to_string_lossy().into_owned();
    let list = format!("type=reg={other},7-8={other}");
    let said = ckptadv(&["rewrite", "--substitute", &list, &directory, "-o", &new]);
    assert!(
        said.contains(&format!("{other} is not there yet")),
        "{said}"
    );
    assert!(!std::path::Path::new(&other).exists());
    fs::write(&other, "text").expect("written");
    let plain = image.at(&new);
    let restored = plain.restore().run().restored();
    assert_eq!(restored.links(image.root)[&7], other);
    assert!(restored.same((image.root, 7), (image.root, 8)));
    assert!(!restored.same((image.root, 7), (image.root, 9)));
    assert_eq!(fs::read_to_string(&other).expect("text"), "text");
}

#[test]
fn a_fifo_is_opened_by_its_path_without_waiting() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["1=append:@log", "7=ro:@f", "count"], &[]) else {
        return;
    };
    let fifo = world.path("fifo");
    harness::world::make_fifo(fifo.as_ref()).expect("a fifo");
    let restore = image.restore().advice("SUBSTITUTE", &format!("1={fifo}"));
    let outcome = restore.run();
    assert!(
        outcome
            .said
            .contains(&format!("refused: CKPT_SUBSTITUTE=1={fifo}: {fifo}: "))
            && outcome.said.contains("start the reader first"),
        "{}",
        outcome.said
    );
    drop(outcome);
    let (read, write) = (true, true);
    let mut reader = File::options()
        .read(read)
        .write(write)
        .open(&fifo)
        .expect("the fifo");
    let list = format!("7={fifo},1={fifo}");
    let restored = image.restore().advice("SUBSTITUTE", &list).run().restored();
    assert_eq!(restored.links(image.root)[&7], fifo);
    for number in [1, 7] {
        let flags = restored.info(image.root, number, "flags").expect("flags");
        let flags = i32::from_str_radix(&flags, 8).expect("octal");
        assert_eq!(flags & libc::O_NONBLOCK, 0);
    }
    let mut first = [0; 1];
    reader.read_exact(&mut first).expect("the program counts");
}
