//! End to end, with a real criu: a dump with advice leaves descriptors out, the
//! dumped program keeps them, and a criu without the library restores the rest.

use harness::criu::{Checkpoint, Dumped, Held, Image, Restored, World, links};
use harness::terminal;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

type Links = BTreeMap<i32, String>;

struct Row {
    words: &'static [&'static str],
    options: &'static [&'static str],
    /// What criu says where it cannot dump without advice.
    refusal: Option<&'static str>,
    /// CKPT_IGNORE
    ignore: &'static str,
    /// The task (0: the root) and the numbers that the image lacks.
    lacks: &'static [(usize, &'static [i32])],
}

const SEVEN: &[(usize, &[i32])] = &[(0, &[7])];

/// A dump that criu refuses because of descriptor 7.
const fn rescued(words: &'static [&'static str], refusal: &'static str) -> Row {
    Row {
        words,
        options: &[],
        refusal: Some(refusal),
        ignore: "7",
        lacks: SEVEN,
    }
}

/// A dump that would succeed.
const fn left_out(
    words: &'static [&'static str],
    ignore: &'static str,
    lacks: &'static [(usize, &'static [i32])],
) -> Row {
    Row {
        words,
        options: &[],
        refusal: None,
        ignore,
        lacks,
    }
}

const OF_THAT_TYPE: &str = "Can't dump file 7 of that type";

#[rustfmt::skip]
const RESCUED: &[Row] = &[
    rescued(&["7=dev:/dev/fuse"], OF_THAT_TYPE),
    rescued(&["7=dev:/dev/loop-control"], OF_THAT_TYPE),
    rescued(&["7=unwritable:perf"], OF_THAT_TYPE),
    rescued(&["7=unwritable:userfaultfd"], OF_THAT_TYPE),
    rescued(&["7=unwritable:landlock"], OF_THAT_TYPE),
    rescued(&["7=unwritable:fscontext"], OF_THAT_TYPE),
    rescued(&["7=unwritable:mount"], "Can't lookup mount"),
    rescued(&["7=unwritable:secret"], "Can't lookup mount"),
    rescued(&["7=unwritable:queue"], "Can't lookup mount"),
    rescued(&["7=unwritable:ring"], "send_fds failed"),
    rescued(&["7=unwritable:net"], "No NS ID with kid"),
    rescued(&["7=vsock"], ""),
    rescued(&["7=tun"], "Net namespace is required to dump tun link"),
    rescued(&["7=netlink:answer"], "The socket has data to read"),
    rescued(&["7=pidfd:1"], "is not a part of process tree"),
    rescued(&["7=deleted:@f", "7=fill:3145728"], "Can't dump ghost file"),
    rescued(&["7=flock:@f"], "Some file locks are hold by dumping tasks"),
    rescued(&["7=ofd:@f"], "Some file locks are hold by dumping tasks"),
    rescued(&["7=posix:@f"], "Some file locks are hold by dumping tasks"),
    // Files on their way in the queue of a socket that is left out.
    rescued(&["7=pair:8", "9=dev:/dev/fuse", "8=send:9", "9=close"], "of that type"),
    Row { words: &["7=dev:/dev/fuse", "fork"], options: &[], refusal: Some(OF_THAT_TYPE),
        ignore: "7", lacks: &[(0, &[7]), (1, &[7])] },
    Row { words: &["fork", "7=dev:/dev/fuse"], options: &[], refusal: Some(OF_THAT_TYPE),
        ignore: "7", lacks: &[(1, &[7])] },
    Row { words: &["7=dev:/dev/fuse", "clone"], options: &[], refusal: Some(OF_THAT_TYPE),
        ignore: "7", lacks: &[(0, &[7]), (1, &[7])] },
    Row { words: &["7=dev:/dev/fuse", "8=dup:7", "9=epoll:7", "thread"], options: &[], refusal: Some(OF_THAT_TYPE),
        ignore: "7-8", lacks: &[(0, &[7, 8])] },
    rescued(&["7=tcpto:#"], "Connected TCP socket, consider using"),
    rescued(&["7=connect:@outside"], "External socket is used"),
];

#[rustfmt::skip]
const LEFT_OUT: &[Row] = &[
    left_out(&["7=reg:@f"], "7", SEVEN),
    left_out(&["7=reg:@f", "8=dup:7"], "8", &[(0, &[8])]),
    left_out(&["7=map:@f"], "7", SEVEN),
    left_out(&["7=deleted:@f"], "7", SEVEN),
    left_out(&["7=fifo:@f"], "7", SEVEN),
    left_out(&["7=memfd"], "7", SEVEN),
    left_out(&["7=eventfd", "8=timerfd", "9=signalfd", "10=inotify"], "7-9", &[(0, &[7, 8, 9])]),
    left_out(&["7=pipe:8"], "7", SEVEN),
    left_out(&["7=pipe:8"], "8", &[(0, &[8])]),
    left_out(&["7=pipe:8", "8=write:data", "fork"], "7", &[(0, &[7]), (1, &[7])]),
    // What an epoll set watches, and the set.
    left_out(&["7=eventfd", "8=eventfd", "9=epoll:7,8"], "7", SEVEN),
    left_out(&["7=eventfd", "8=eventfd", "9=epoll:7,8"], "7,8", &[(0, &[7, 8])]),
    left_out(&["7=eventfd", "9=epoll:7"], "9", &[(0, &[9])]),
    left_out(&["7=eventfd", "8=dup:7", "9=epoll:7"], "7", SEVEN),
    left_out(&["7=eventfd", "9=epoll:7", "10=epoll:9"], "9", &[(0, &[9])]),
    left_out(&["7=eventfd", "8=eventfd", "9=epoll:7,8", "fork"], "7", &[(0, &[7]), (1, &[7])]),
    left_out(&["7=pair:8", "9=epoll:7,8"], "7", SEVEN),
    // Ends of unix sockets.
    left_out(&["7=pair:8"], "7", SEVEN),
    left_out(&["7=pair:8", "7=write:queued"], "7", SEVEN),
    left_out(&["7=pair:8"], "7,8", &[(0, &[7, 8])]),
    left_out(&["7=pair:8", "9=dup:7"], "7", SEVEN),
    left_out(&["7=pair:8", "fork"], "7", &[(0, &[7]), (1, &[7])]),
    left_out(&["7=pair:8", "fork"], "root:7", SEVEN),
    left_out(&["7=dgram:8", "7=write:queued"], "7", SEVEN),
    left_out(&["7=stream:8"], "7", SEVEN),
    left_out(&["7=stream:8"], "8", &[(0, &[8])]),
    left_out(&["7=bound:@name", "8=to:@name", "9=to:@name"], "7", SEVEN),
    left_out(&["7=bound:@name", "8=to:@name"], "8", &[(0, &[8])]),
    left_out(&["7=listen:@name"], "7", SEVEN),
    left_out(&["8=listen:@name", "7=connect:@name", "9=connect:@name"], "8", &[(0, &[8])]),
    left_out(&["8=listen:@name", "7=connect:@name"], "7", SEVEN),
    // Terminals.
    left_out(&["7=pty:8"], "8", &[(0, &[8])]),
    left_out(&["7=pty:8"], "7,8", &[(0, &[7, 8])]),
    left_out(&["7=pty:8", "9=dup:7"], "7", SEVEN),
    // Trees.
    left_out(&["7=reg:@f", "fork"], "root:7", SEVEN),
    left_out(&["7=reg:@f", "fork", "7=reg:@g"], "7", SEVEN),
    left_out(&["7=reg:@f", "fork", "7=reg:@g"], "*:7", &[(0, &[7]), (1, &[7])]),
    left_out(&["7=reg:@f", "clone"], "7", &[(0, &[7]), (1, &[7])]),
    left_out(&["20=many:1000"], "500-", &[]),
    left_out(&["20=many:1000"], "0-", &[]),
];

/// Words with the test's directory for `@`, and a port where somebody listens for
/// `#`.
fn words(world: &World, port: u16, words: &[&str]) -> Vec<String> {
    let at = world.path("");
    words
        .iter()
        .map(|w| w.replace('@', &at).replace('#', &port.to_string()))
        .collect()
}

fn hold<'w>(world: &'w World, list: &[&str]) -> Held<'w> {
    let list = words(world, 0, list);
    world.hold(&list.iter().map(String::as_str).collect::<Vec<_>>())
}

fn tables(pids: &[i32]) -> Vec<Links> {
    pids.iter().map(|&pid| links(pid)).collect()
}

/// Links without the numbers of inodes.
fn kinds(tables: Vec<Links>) -> Vec<Links> {
    let kind = |link: String| match link.split_once(":[") {
        Some((kind, _)) => format!("{kind}:"),
        None => link,
    };
    let of_table = |table: Links| table.into_iter().map(|(n, link)| (n, kind(link))).collect();
    tables.into_iter().map(of_table).collect()
}

fn of_this_criu(said: &str) -> bool {
    let can = !said.contains("Can't get 1:16 opt");
    if !can {
        eprintln!("SKIPPED: this criu cannot dump internet sockets");
    }
    can
}

/// Restores it as it is, without the library: the tables.
fn restored(image: &Image<'_>, options: &[&str]) -> (Restored, Vec<Links>) {
    let restored = image.restore().options(options).run().restored();
    let tables = image.pids.iter().map(|&pid| restored.links(pid)).collect();
    (restored, tables)
}

fn check(row: &Row) {
    eprintln!("{:?} IGNORE={}", row.words, row.ignore);
    let Some(world) = World::new() else { return };
    let outside = UnixListener::bind(world.path("outside")).expect("a listener");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let list = words(&world, port.local_addr().expect("bound").port(), row.words);
    let held = world.hold(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let before = tables(held.pids());
    outside.set_nonblocking(true).expect("a listener");
    let _outside = outside.accept();

    let running = ["--leave-running"];
    let plain = held
        .checkpoint("plain")
        .options(&running)
        .options(row.options)
        .run();
    if !of_this_criu(&plain.said) {
        return;
    }
    match row.refusal {
        None => assert_eq!(plain.status, Some(0), "{}", plain.said),
        Some(why) => assert!(
            plain.status == Some(1) && plain.said.contains(why),
            "{}",
            plain.said
        ),
    }
    let dumped = held
        .checkpoint("image")
        .options(&running)
        .options(row.options)
        .advice("IGNORE", row.ignore)
        .advice("STRICT", "strict")
        .run();
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    assert_eq!(tables(held.pids()), before, "the program has what it had");
    held.end();
    drop((outside, port));

    let mut expected = kinds(before);
    for (task, numbers) in row.lacks {
        for number in *numbers {
            assert!(expected[*task].remove(number).is_some(), "no {number}");
        }
    }
    if row.lacks.is_empty() {
        let first: i32 = row.ignore[..row.ignore.len() - 1].parse().expect("N-");
        expected[0].retain(|number, _| *number < first);
    }
    let (guard, tables) = restored(&dumped.image, row.options);
    assert_eq!(tables, expected);
    drop(guard);
    let again = dumped
        .image
        .restore()
        .options(row.options)
        .advice("IGNORE", row.ignore)
        .advice("STRICT", "strict")
        .run();
    assert_eq!(again.status, Some(0), "{}", again.said);
}

#[test]
fn what_criu_refuses_is_dumped_without_what_it_refuses() {
    RESCUED.iter().for_each(check);
}

#[test]
fn what_is_ignored_is_left_out_and_all_else_is_as_if_it_had_been_closed() {
    LEFT_OUT.iter().for_each(check);
}

fn dumped<'w>(held: &Held<'w>, name: &str, advice: &[(&str, &str)]) -> Dumped<'w> {
    let mut checkpoint = held.checkpoint(name).options(&["--leave-running"]);
    for (name, value) in advice {
        checkpoint = checkpoint.advice(name, value);
    }
    checkpoint.run()
}

/// What reading gives: the data, or the errno. It does not wait.
fn received(file: &OwnedFd) -> Result<Vec<u8>, i32> {
    let mut buffer = [0; 64];
    // SAFETY: there is room for what is written.
    let length = unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    match usize::try_from(length) {
        Ok(length) => Ok(buffer[..length].to_vec()),
        Err(_) => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

/// The errno of writing a byte; 0 where it is taken.
fn sent(file: &OwnedFd) -> i32 {
    // SAFETY: one byte is read; the signal is not wanted, and no pipe raises it here.
    let length = unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::write(file.as_raw_fd(), b"x".as_ptr().cast(), 1)
    };
    match length {
        1 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
    }
}

#[test]
fn who_was_connected_to_it_is_hung_up() {
    struct Case {
        words: &'static [&'static str],
        ignore: &'static str,
        survivor: i32,
        data: &'static [u8],
        errno: i32,
    }
    fn case(
        words: &'static [&'static str],
        ignore: &'static str,
        survivor: i32,
        data: &'static [u8],
        errno: i32,
    ) -> Case {
        Case {
            words,
            ignore,
            survivor,
            data,
            errno,
        }
    }
    let cases = [
        case(
            &["7=pair:8", "7=write:queued"],
            "7",
            8,
            b"queued",
            libc::EPIPE,
        ),
        case(
            &["7=stream:8", "7=write:queued"],
            "7",
            8,
            b"queued",
            libc::EPIPE,
        ),
        case(
            &["7=stream:8", "8=write:queued"],
            "8",
            7,
            b"queued",
            libc::EPIPE,
        ),
        case(
            &["8=listen:@name", "7=connect:@name"],
            "8",
            7,
            b"",
            libc::EPIPE,
        ),
        case(
            &["8=pipe:7", "7=write:queued"],
            "7",
            8,
            b"queued",
            libc::EBADF,
        ),
    ];
    for case in cases {
        eprintln!("{:?} IGNORE={}", case.words, case.ignore);
        let Some(world) = World::new() else { return };
        let held = hold(&world, case.words);
        let dumped = dumped(&held, "image", &[("IGNORE", case.ignore)]);
        assert_eq!(dumped.status, Some(0), "{}", dumped.said);
        held.end();
        let (restored, _) = restored(&dumped.image, &[]);
        let survivor = restored.copy(restored.root, case.survivor);
        if !case.data.is_empty() {
            assert_eq!(received(&survivor), Ok(case.data.to_vec()));
        }
        assert_eq!(received(&survivor), Ok(Vec::new()), "the end");
        assert_eq!(sent(&survivor), case.errno);
    }
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=bound:@name", "8=to:@name"]);
    let dumped = dumped(&held, "image", &[("IGNORE", "7")]);
    held.end();
    let (restored, _) = restored(&dumped.image, &[]);
    let survivor = restored.copy(restored.root, 8);
    assert!([libc::ENOTCONN, libc::ECONNREFUSED].contains(&sent(&survivor)));
}

#[test]
fn a_set_goes_on_watching_the_rest() {
    let Some(world) = World::new() else { return };
    let held = hold(
        &world,
        &[
            "6=fifo:@fifo",
            "7=eventfd",
            "8=eventfd",
            "9=epoll:7,8,6",
            "10=dup:8",
        ],
    );
    let dump_and_look = |name, ignore| {
        let dumped = dumped(&held, name, &[("IGNORE", ignore)]);
        assert_eq!(dumped.status, Some(0), "{}", dumped.said);
        dumped
    };
    let one = dump_and_look("one", "7");
    let moved = dump_and_look("moved", "7-8");
    let none = dump_and_look("none", "7,8,10");
    held.end();
    let watched = |dumped: &Dumped| {
        let (restored, _) = restored(&dumped.image, &[]);
        let info = format!("/proc/{}/fdinfo/9", restored.root);
        let info = fs::read_to_string(info).expect("it runs");
        let lines = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
        let numbers = lines.map(|line| line.split_whitespace().next()?.parse().ok());
        let mut numbers: Vec<Option<i32>> = numbers.collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(watched(&one), [Some(6), Some(8)]);
    // criu finds no fifo beside a watch whose number is closed.
    assert_eq!(watched(&moved), [Some(6), Some(10)]);
    assert_eq!(watched(&none), [Some(6)]);
}

#[test]
fn a_lock_is_lost_as_by_closing() {
    for (words, ignore, locked) in [
        (&["7=flock:@f", "8=dup:7"][..], "7", true),
        (&["7=ofd:@f", "8=dup:7"], "8", true),
        (&["7=posix:@f", "8=dup:7"], "8", false),
        (&["7=reg:@f", "8=posix:@f"], "7", false),
        (&["7=reg:@g", "8=posix:@f"], "7", true),
        (&["8=posix:@f", "fork", "7=reg:@f"], "7", true),
    ] {
        let Some(world) = World::new() else { return };
        let held = hold(&world, words);
        let checkpoint = held.checkpoint("image").advice("IGNORE", ignore);
        let dumped = checkpoint.options(&["--file-locks"]).run();
        assert_eq!(dumped.status, Some(0), "{}", dumped.said);
        held.end();
        let (restored, _) = restored(&dumped.image, &["--file-locks"]);
        let locks = harness::locks(&world.path("f"));
        assert_eq!(!locks.is_empty(), locked, "{words:?} {ignore}: {locks:?}");
        drop(restored);
    }
}

/// The program and its tables are as before, and there is no image.
fn refused(held: &Held<'_>, advice: &[(&str, &str)], words: &str) {
    let before = tables(held.pids());
    let dumped = dumped(held, "refused", advice);
    assert_eq!(dumped.status, Some(1), "{}", dumped.said);
    let lines = dumped.said.lines();
    let ours: Vec<&str> = lines.filter(|l| l.starts_with("ckptadv: ")).collect();
    assert!(
        ours.iter().any(|line| line.contains(words)),
        "{}",
        dumped.said
    );
    assert!(!dumped.image.directory.join("inventory.img").exists());
    assert!(!dumped.image.directory.join("ckptadv.json").exists());
    for pid in held.pids() {
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let goes_on =
            |status: &str| status.contains("State:\tS") && status.contains("TracerPid:\t0");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !goes_on(&status()) {
            assert!(Instant::now() < deadline, "{}", status());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert_eq!(tables(held.pids()), before);
    fs::remove_dir_all(&dumped.image.directory).expect("a directory");
}

#[test]
fn what_cannot_be_is_refused_and_the_program_goes_on() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=reg:@f", "8=pty:9", "fork"]);
    let (root, child) = (held.pids()[0], held.pids()[1]);
    let strict = ("STRICT", "strict");
    refused(
        &held,
        &[("IGNORE", "7,99"), strict],
        "dump refused: nothing matched: CKPT_IGNORE=99: no task has 99; open are 0-2, 7-9",
    );
    refused(
        &held,
        &[("IGNORE", "7"), ("DRY_RUN", "1")],
        &format!(
            "plan: task {child} descriptor 7 (reg {}): dropped",
            world.path("f")
        ),
    );
    refused(
        &held,
        &[("IGNORE", "7"), ("DRY_RUN", "1")],
        "nothing is dumped",
    );
    refused(
        &held,
        &[("IGNORE", "7x")],
        "dump refused: CKPT_IGNORE: \"7x\"",
    );
    refused(
        &held,
        &[("SUBSTITUTE", "7=8")],
        "dump refused: CKPT_SUBSTITUTE=7=8",
    );
    refused(
        &held,
        &[("IGNORE", "id=3")],
        "dump refused: CKPT_IGNORE=id=3",
    );
    refused(
        &held,
        &[("IGNORE", "8")],
        &format!("task {root} descriptor 8 (tty): it is the master of a terminal that task {root}"),
    );
    held.end();
    let held = hold(&world, &["7=eventfd", "9=epoll:7", "fork"]);
    refused(
        &held,
        &[("IGNORE", "root:7")],
        "the epoll set on descriptor 9 watches it",
    );
    held.end();
    let held = hold(&world, &["7=eventfd", "8=dup:7", "9=epoll:7,8"]);
    refused(&held, &[("IGNORE", "7")], "its copy 8 beside it");
    held.end();
    let held = hold(&world, &["7=reg:@f", "clone"]);
    let child = held.pids()[1].to_string();
    refused(
        &held,
        &[("IGNORE", &format!("{child}:7"))],
        "its file table is shared",
    );
    held.end();
    // Not refused by us: it is the mapping that criu cannot write.
    let held = hold(&world, &["7=mapped-ring"]);
    let dumped = dumped(&held, "image", &[("IGNORE", "7")]);
    assert_eq!(dumped.status, Some(1), "{}", dumped.said);
}

#[test]
fn what_is_unmatched_is_said_and_the_dump_goes_on() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=reg:@f"]);
    let dumped = dumped(&held, "image", &[("IGNORE", "99")]);
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    assert!(
        dumped
            .said
            .contains("ckptadv: warning: CKPT_IGNORE=99: no task has 99")
    );
    let record = fs::read_to_string(dumped.image.directory.join("ckptadv.json"));
    let record = record.expect("a record");
    assert!(record.ends_with(",\"left_out\":[\n]}\n"), "{record}");
}

#[test]
fn paths_and_kinds_select_what_the_program_has() {
    let Some(world) = World::new() else { return };
    let words = [
        "7=reg:@f",
        "8=pipe:9",
        "10=pair:11",
        "12=pty:13",
        "14=dev:/dev/fuse",
        "15=reg:@g.log",
    ];
    let held = hold(&world, &words);
    let log = world.path("*.log");
    let report = world.path("report");
    let selected = |list: &str, numbers: &[i32]| {
        let advice = [
            ("IGNORE", list),
            ("STRICT", "strict"),
            ("DRY_RUN", "1"),
            ("REPORT", &report),
        ];
        let dumped = dumped(&held, "image", &advice);
        let planned = |number: &i32| dumped.said.contains(&format!(" descriptor {number} ("));
        for number in [0, 1, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
            assert_eq!(
                planned(&number),
                numbers.contains(&number),
                "{list}: {}",
                dumped.said
            );
        }
        let report = fs::read_to_string(&report).expect("a report");
        assert!(report.contains("\"outcome\":\"planned\""), "{report}");
        assert_eq!(
            report.matches("\"fate\":\"dropped\"").count(),
            numbers.len()
        );
    };
    selected(&log, &[15]);
    selected("/dev/fu*", &[14]);
    selected("type=chr", &[0, 1, 2, 14]);
    selected("type=pipe,type=unix", &[8, 9, 10, 11]);
    selected("type=tty", &[12, 13]);
    selected("type=reg", &[7, 15]);
    let dumped = dumped(
        &held,
        "image",
        &[("IGNORE", "/dev/fuse"), ("REPORT", &report)],
    );
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    let report = fs::read_to_string(&report).expect("a report");
    assert!(report.contains("\"outcome\":\"dumped\""), "{report}");
    refused(
        &held,
        &[("IGNORE", "type=tun"), ("STRICT", "strict")],
        "no task has a descriptor of kind tun; the image has reg, chr, pipe, unix, tty",
    );
}

#[test]
fn terminals_from_outside_can_be_left_out() {
    let Some(world) = World::new() else { return };
    let (_master, slave) = terminal::pair();
    let held = world.hold_on(&slave, &["ctty"]);
    let plain = held.checkpoint("plain").options(&["--leave-running"]).run();
    assert_eq!(plain.status, Some(1), "{}", plain.said);
    let dumped = dumped(&held, "image", &[("PRESERVE", "0-2")]);
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    assert_eq!(links(held.root()).len(), 3);
    held.end();
    let (guard, tables) = restored(&dumped.image, &[]);
    assert_eq!(tables, [Links::new()]);
    drop(guard);
    // PRESERVE at the dump: whoever restores gives theirs.
    let log = world.open("log");
    let restored = dumped
        .image
        .restore()
        .advice("PRESERVE", "0-2")
        .advice("STRICT", "strict")
        .fd(0, &log)
        .fd(1, &log)
        .fd(2, &log)
        .run();
    assert_eq!(restored.status, Some(0), "{}", restored.said);
    let restored = restored.restored();
    assert!((0..3).all(|number| restored.shares(restored.root, number, &log)));
}

#[test]
fn a_socket_from_outside_can_be_left_out() {
    let Some(world) = World::new() else { return };
    let (inside, _outside) = UnixStream::pair().expect("a pair of sockets");
    let held = world.hold_on(&inside, &["7=eventfd"]);
    let plain = held.checkpoint("plain").options(&["--leave-running"]).run();
    assert!(plain.said.contains("External socket"), "{}", plain.said);
    let dumped = dumped(&held, "image", &[("IGNORE", "0-2")]);
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    held.end();
    let (_guard, tables) = restored(&dumped.image, &[]);
    assert!(tables[0].keys().eq([7].iter()));
}

#[test]
fn a_restore_knows_what_was_left_out() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=dev:/dev/fuse", "fork", "8=dev:/dev/fuse"]);
    let dumped = dumped(&held, "image", &[("IGNORE", "7,8"), ("LOG", "info")]);
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    let (root, child) = (held.pids()[0], held.pids()[1]);
    assert!(
        dumped.said.contains(&format!(
            "info: task {root} descriptor 7 (chr /dev/fuse): dropped [CKPT_IGNORE=7,8]"
        )) || dumped.said.contains(&format!(
            "info: task {root} descriptor 7 (chr /dev/fuse): dropped [CKPT_IGNORE=7]"
        )),
        "{}",
        dumped.said
    );
    held.end();
    let image = &dumped.image;
    let missing = |task, number| {
        format!("info: task {task} descriptor {number} (chr /dev/fuse) was left out of the image")
    };
    // No advice: what is missing is said.
    let outcome = image.restore().advice("LOG", "info").run();
    for (task, number) in [(root, 7), (child, 7), (child, 8)] {
        assert!(
            outcome.said.contains(&missing(task, number)),
            "{}",
            outcome.said
        );
    }
    drop(outcome.restored());
    // Other advice: what of it is missing.
    let outcome = image
        .restore()
        .advice("LOG", "info")
        .advice("IGNORE", "7")
        .run();
    assert!(
        outcome.said.contains(&missing(child, 8)) && !outcome.said.contains(&missing(root, 7)),
        "{}",
        outcome.said
    );
    assert!(
        outcome
            .said
            .contains("(chr /dev/fuse, left out at the dump): dropped")
    );
    drop(outcome.restored());
    // What is given goes where it was left out, and nowhere else.
    let file = world.open("file");
    let outcome = image
        .restore()
        .advice("PRESERVE", "7,8")
        .advice("STRICT", "strict")
        .fd(7, &file)
        .fd(8, &file)
        .run();
    let restored = outcome.restored();
    assert!(restored.shares(root, 7, &file) && restored.shares(child, 7, &file));
    assert!(restored.shares(child, 8, &file) && !restored.links(root).contains_key(&8));
    drop(restored);
    // So does a file that is opened by its path, with the access that it had.
    let path = world.path("substitute");
    let outcome = image
        .restore()
        .advice("SUBSTITUTE", &format!("7={path},8={path}"))
        .advice("STRICT", "strict")
        .run();
    let restored = outcome.restored();
    assert_eq!(restored.links(root)[&7], path);
    assert_eq!(restored.links(child)[&8], path);
    let flags = restored.info(child, 8, "flags").expect("flags");
    assert!(flags.ends_with("02"), "{flags}");
    drop(restored);
    // It is untrusted.
    fs::write(image.directory.join("ckptadv.json"), "{\"ckptadv\":2}").expect("written");
    let said = image.restore().advice("IGNORE", "7").run().refused();
    assert!(
        said.contains("ckptadv.json: offset 12: only version 1"),
        "{said}"
    );
    let outcome = image.restore().advice("LOG", "info").run();
    assert!(
        outcome.said.contains("warning: image: ckptadv.json"),
        "{}",
        outcome.said
    );
    drop(outcome.restored());
}

/// Of the same program with the same descriptors, and of which nothing in the image tells
/// but when it was dumped.
#[test]
fn a_record_counts_for_its_own_dump_wherever_that_is_copied() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=dev:/dev/fuse"]);
    let record = |image: &Image<'_>| image.directory.join("ckptadv.json");
    let [first, second] = ["first", "second"].map(|name| {
        let dumped = dumped(&held, name, &[("IGNORE", "7")]);
        assert_eq!(dumped.status, Some(0), "{}", dumped.said);
        dumped.image
    });
    held.end();
    let strict = |image: &Image<'_>| {
        let restore = image.restore().advice("IGNORE", "7");
        restore.advice("STRICT", "strict").run()
    };
    // All that is kept of a file by cp(1), and by tar(1) in an archive of Podman's.
    let copy = world.path("copy");
    fs::create_dir(&copy).expect("a directory");
    for (name, bytes) in second.files() {
        fs::write(format!("{copy}/{name}"), bytes).expect("written");
    }
    let new = world.path("new");
    let from = second.directory.to_string_lossy();
    let words = ["rewrite", "--ignore", "7", &from, "-o", &new];
    let rewritten = Command::new(harness::build::command()).args(words).status();
    assert!(rewritten.is_ok_and(|status| status.success()));
    for directory in [&*from, &copy, &new] {
        drop(strict(&second.at(directory)).restored());
    }
    // Where a criu without the library has dumped into the first one's directory, the
    // record is what that had.
    fs::copy(record(&first), record(&second)).expect("copied");
    let said = strict(&second).refused();
    assert!(said.contains("CKPT_IGNORE=7"), "{said}");
    let outcome = second.restore().advice("LOG", "info").run();
    assert!(!outcome.said.contains("left out"), "{}", outcome.said);
    drop(outcome.restored());
    // One that was written before there was a key counts as it did.
    let text = fs::read_to_string(record(&first)).expect("a record");
    let (head, rest) = text.split_once("\"dump\":").expect("of which dump it is");
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let old = format!("{head}{}", &rest[1..]);
    fs::write(record(&second), old).expect("written");
    drop(strict(&second).restored());
}

#[test]
fn a_dump_without_advice_is_the_same_with_the_library() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=pair:8", "9=epoll:7"]);
    let with = dumped(&held, "with", &[("LOG", "debug")]);
    let without = dumped(&held, "without", &[]);
    assert_eq!(with.status, Some(0), "{}", with.said);
    let (with, without) = (with.image.files(), without.image.files());
    assert!(with.keys().eq(without.keys()));
    for name in ["files.img", "pstree.img"] {
        assert_eq!(with[name], without[name], "{name}");
    }
}

#[test]
fn descriptors_are_listed_where_somebody_has_a_say_in_them() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=eventfd"]);
    let pid = held.root().to_string();
    let log = world.path("calls");
    // criu itself goes by relative paths.
    let is_listed = |checkpoint: Checkpoint<'_, '_>| {
        let mut command = Command::new("strace");
        command
            .args(["-o", &log, "-e", "trace=openat"])
            .arg(harness::criu::program())
            .args(["dump", "--leave-running", "-t", &pid, "-D"])
            .arg(checkpoint.directory());
        let dumped = checkpoint.run_as(command);
        assert_eq!(dumped.status, Some(0), "{}", dumped.said);
        let calls = fs::read_to_string(&log).expect("a trace");
        calls.contains(&format!("\"/proc/{pid}/fd\""))
    };
    assert!(!is_listed(held.checkpoint("without").library()));
    assert!(is_listed(held.checkpoint("with").advice("IGNORE", "7")));
}

#[test]
fn a_memory_dump_in_advance_is_left_alone() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=dev:/dev/fuse"]);
    let directory = world.path("first");
    let mut command = Command::new(harness::criu::program());
    let pid = held.root().to_string();
    command.args(["pre-dump", "-t", &pid, "-D", &directory, "--track-mem"]);
    let first = held
        .checkpoint("first")
        .advice("IGNORE", "7")
        .run_as(command);
    if first.status != Some(0) {
        assert!(first.said.contains("mem"), "{}", first.said);
        eprintln!("SKIPPED: this kernel does not track memory");
        return;
    }
    assert!(!first.said.contains("ckptadv"), "{}", first.said);
    let second = held
        .checkpoint("second")
        .options(&["--leave-running", "--prev-images-dir", "../first"])
        .advice("IGNORE", "7")
        .run();
    assert_eq!(second.status, Some(0), "{}", second.said);
    held.end();
    let (_guard, tables) = restored(&second.image, &[]);
    assert_eq!(tables[0].keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
}

/// `criu swrk` with a request to dump on its socket, as runc, crun and go-criu drive
/// it: whether it succeeded, and what was said.
fn over_rpc<'w>(
    held: &Held<'w>,
    name: &str,
    advice: &[(&str, &str)],
    given: &[(i32, &File)],
) -> (bool, Dumped<'w>) {
    let mut checkpoint = held.checkpoint(name);
    for (name, value) in advice {
        checkpoint = checkpoint.advice(name, value);
    }
    over_rpc_with(held, checkpoint, given)
}

fn over_rpc_with<'w>(
    held: &Held<'w>,
    checkpoint: Checkpoint<'_, 'w>,
    given: &[(i32, &File)],
) -> (bool, Dumped<'w>) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: there is room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: they were made just now, for this test.
    let [mut client, server] = ends.map(|fd| unsafe { File::from_raw_fd(fd) });
    let mut checkpoint = checkpoint.fd(30, &server);
    for (number, file) in given {
        checkpoint = checkpoint.fd(*number, *file);
    }
    fs::create_dir(checkpoint.directory()).expect("a directory");
    let directory = File::open(checkpoint.directory()).expect("the directory");
    let images = directory.as_raw_fd() as u8;
    assert!(images < 0x80, "one byte of a varint");
    let mut pid = Vec::new();
    let mut rest = held.root() as u32;
    while rest >= 0x80 {
        pid.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    pid.push(rest as u8);
    // criu_req { type: DUMP, opts { images_dir_fd, pid, leave_running, log_level: 2 } }
    let options = [&[0x08, images, 0x10][..], &pid, &[0x18, 1, 0x48, 2]].concat();
    let request = [&[0x08, 1, 0x12, options.len() as u8][..], &options].concat();
    client.write_all(&request).expect("asked");
    let mut command = Command::new(harness::criu::program());
    command.args(["swrk", "30"]);
    let dumped = checkpoint.run_as(command);
    drop(server);
    let mut answer = [0; 512];
    let length = client.read(&mut answer).unwrap_or(0);
    (answer[..length].starts_with(&[0x08, 1, 0x10, 1]), dumped)
}

#[test]
fn a_dump_over_rpc_obeys() {
    let Some(world) = World::new() else { return };
    let held = hold(&world, &["7=dev:/dev/fuse", "8=pair:9"]);
    let before = tables(held.pids());
    let (success, plain) = over_rpc(&held, "plain", &[], &[]);
    assert!(!success && !plain.image.directory.join("inventory.img").exists());
    let (success, strict) = over_rpc(
        &held,
        "strict",
        &[("IGNORE", "7,99"), ("STRICT", "strict")],
        &[],
    );
    assert!(
        !success && strict.said.contains("dump refused: nothing matched"),
        "{}",
        strict.said
    );
    let (success, typo) = over_rpc(&held, "typo", &[("IGNORE", "7x")], &[]);
    assert!(!success && typo.said.contains("dump refused: CKPT_IGNORE: \"7x\""));
    let (success, dumped) = over_rpc(&held, "image", &[("IGNORE", "7,8")], &[]);
    assert!(success, "{}", dumped.said);
    assert!(!dumped.said.contains("ckptadv"), "{}", dumped.said);
    // What the caller has open does not matter.
    let (success, closed) = over_rpc(&held, "closed", &[("PRESERVE", "7")], &[]);
    assert!(success, "{}", closed.said);
    assert!(!closed.said.contains("ckptadv"), "{}", closed.said);
    let file = world.open("file");
    let (success, open) = over_rpc(&held, "open", &[("PRESERVE", "7")], &[(7, &file)]);
    assert!(success, "{}", open.said);
    assert_eq!(tables(held.pids()), before);
    held.end();
    let (_guard, tables) = restored(&dumped.image, &[]);
    assert_eq!(tables[0].keys().copied().collect::<Vec<_>>(), [0, 1, 2, 9]);
}

#[test]
fn a_dump_over_rpc_obeys_the_program_itself() {
    let Some(world) = World::new() else { return };
    let words = "open 7 /dev/fuse set 7 2 open 8 /dev/null set 8 1 hold";
    let held = world.advise(false, words);
    let (success, dumped) = over_rpc(&held, "image", &[], &[]);
    assert!(!success, "without the library");
    drop(dumped);
    let checkpoint = held.checkpoint("marked").library();
    let (success, dumped) = over_rpc_with(&held, checkpoint, &[]);
    assert!(
        success && !dumped.said.contains("ckptadv"),
        "{}",
        dumped.said
    );
    held.end();
    let (_guard, tables) = restored(&dumped.image, &[]);
    assert_eq!(tables[0].keys().copied().collect::<Vec<_>>(), [0, 1, 2, 8]);
}
