//! What the kernel makes of a file of the caller that a FILE record re-opens by `/proc/self/fd/K`: the model says
//! the same for every kind, also where today's kernel would say something else.

use harness::terminal;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use harness::edit;
use harness::linux_cr::{Feed, Outcome, Restart, Verdict, image};
use harness::world::make_fifo;

/// The caller's number for the file.
const K: i32 = 7;
/// The task's.
const N: i32 = 20;
/// Of the image that the block is put into.
const PID: i32 = 534;
const CRED: i32 = 1;
const OBJECT: i32 = 1000;
const FIFO_INODE: u32 = 1001;

const GENERIC: u32 = 1;
const FIFO: u32 = 3;
const O_LARGEFILE: i32 = 0x8000;

#[derive(Clone, Copy)]
struct Reopen<'a> {
    kind: u32,
    mode: u32,
    flags: i32,
    path: &'a str,
}

const fn generic(mode: u32, flags: i32) -> Reopen<'static> {
    Reopen {
        kind: GENERIC,
        mode,
        flags,
        path: "/proc/self/fd/7",
    }
}

impl Reopen<'_> {
    fn block(&self) -> Vec<u8> {
        let more: &[u32] = if self.kind == FIFO {
            &[FIFO_INODE, 0]
        } else {
            &[]
        };
        let flags = (self.flags | O_LARGEFILE) as u32;
        let mut block = edit::file_announcement(OBJECT);
        block.extend(edit::file(self.kind, self.mode, flags, CRED, 3, more));
        block.extend(edit::name(self.path));
        if self.kind == FIFO {
            block.extend(edit::record(305, &[]));
        }
        block
    }

    /// The image `files` with this block right before the file table, and a descriptor for it.
    fn before_the_table(&self) -> Vec<u8> {
        self.put(|table, _| table.at)
    }

    /// The same, with the block inside the table.
    fn inside_the_table(&self) -> Vec<u8> {
        self.put(|_, first_descriptor| first_descriptor.at + first_descriptor.length)
    }

    fn put(&self, place: impl Fn(edit::Place, edit::Place) -> usize) -> Vec<u8> {
        let mut image = image("files");
        let (table, first) = (edit::first(&image, 301), edit::first(&image, 302));
        let count = edit::u32_at(&image, table.at + 8);
        edit::set_u32(&mut image, table.at + 8, count + 1);
        let behind_first = first.at + first.length;
        let image = edit::splice(&image, behind_first, 0, &edit::descriptor(OBJECT, N));
        edit::splice(&image, place(table, first), 0, &self.block())
    }

    fn restart(&self, source: impl Into<OwnedFd>) -> Outcome {
        let restart = Restart::new(&self.before_the_table()).scenario("files");
        restart.descriptor(K, source).run()
    }
}

fn assert_works(what: &str, reopen: Reopen, source: impl Into<OwnedFd>) -> Outcome {
    let outcome = reopen.restart(source);
    let mode = reopen.mode;
    assert_eq!(
        outcome.verdict,
        Verdict::Restarted,
        "{what} {mode:#x}: {}",
        outcome.stderr()
    );
    assert!(outcome.numbers(PID).contains(&N), "{what} {mode:#x}");
    outcome
}

fn assert_fails(what: &str, expected: &str, reopen: Reopen, source: impl Into<OwnedFd>) {
    let outcome = reopen.restart(source);
    let mode = reopen.mode;
    match &outcome.verdict {
        Verdict::Failed { errno, .. } if errno == expected => {}
        other => panic!("{what} {mode:#x}: {other:?} instead of {expected}"),
    }
}

fn temporary(content: &str) -> File {
    // SAFETY: a string that ends in a zero byte.
    let fd = unsafe { libc::open(c"/tmp".as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600) };
    assert!(fd >= 0, "a file without a name");
    // SAFETY: a new descriptor, owned by nobody else.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(content.as_bytes()).expect("a file");
    file
}

fn made(fd: i32) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: the callers pass a descriptor that they have just made.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

const READ: i32 = libc::O_RDONLY;
const WRITE: i32 = libc::O_WRONLY;
const BOTH: i32 = libc::O_RDWR;

#[test]
fn a_regular_file_works_with_or_without_a_name() {
    if !harness::is_root() {
        return;
    }
    let path = std::env::temp_dir().join(format!("ckptadv-source-{}", std::process::id()));
    std::fs::write(&path, "content").expect("a file");
    let reader = || File::open(&path).expect("a file");
    for (mode, flags) in [
        (0x1d, READ),
        (0x1e, WRITE),
        (0x1f, BOTH),
        (0x1e, WRITE | libc::O_APPEND),
    ] {
        let outcome = assert_works("regular", generic(mode, flags), reader());
        assert_eq!(outcome.link(PID, N), path.to_string_lossy());
        assert!(outcome.report().contains(&format!(
            "{N}={}|{:#x}|3",
            path.display(),
            flags | O_LARGEFILE
        )));
    }
    for mode in [1, 3, 0xd, 0x1f] {
        assert_fails("regular", "EINVAL", generic(mode, READ), reader());
    }
    assert_fails(
        "regular",
        "ELOOP",
        generic(0x1d, libc::O_NOFOLLOW),
        reader(),
    );
    assert_fails(
        "regular",
        "ENOTDIR",
        generic(0x1d, libc::O_DIRECTORY),
        reader(),
    );
    std::fs::remove_file(&path).expect("a file");
    let outcome = assert_works("deleted", generic(0x1d, READ), temporary("content"));
    assert!(outcome.link(PID, N).ends_with("(deleted)"));
}

#[test]
fn a_directory_works_for_reading() {
    if !harness::is_root() {
        return;
    }
    let directory = || File::open("/usr").expect("/usr");
    assert_works("directory", generic(0x1d, READ), directory());
    assert_works("directory", generic(0x1d, libc::O_DIRECTORY), directory());
    assert_fails("directory", "EISDIR", generic(0x1f, BOTH), directory());
}

#[test]
fn a_device_works() {
    if !harness::is_root() {
        return;
    }
    for device in ["/dev/null", "/dev/zero"] {
        for (mode, flags) in [(0x1d, READ), (0x1e, WRITE), (0x1f, BOTH)] {
            assert_works(
                device,
                generic(mode, flags),
                File::open(device).expect(device),
            );
        }
    }
}

#[test]
fn a_terminal_works_and_becomes_the_controlling_one() {
    if !harness::is_root() {
        return;
    }
    for (mode, flags) in [(1, READ), (2, WRITE), (3, BOTH)] {
        let (_master, slave) = terminal::pair();
        let outcome = assert_works("terminal", generic(mode, flags), slave);
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", outcome.pid(PID))).expect("a task");
        let controlling = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(4))
            .map(str::to_owned);
        assert_ne!(
            controlling.as_deref(),
            Some("0"),
            "the controlling terminal of a session leader"
        );
    }
    assert_fails(
        "terminal",
        "EINVAL",
        generic(0x1f, BOTH),
        terminal::pair().1,
    );
    assert_fails("master", "EINVAL", generic(3, BOTH), terminal::pair().0);
    assert_fails("master", "ESPIPE", generic(0x1f, BOTH), terminal::pair().0);
    let no_terminal = Reopen {
        path: "/dev/tty",
        ..generic(3, BOTH)
    };
    assert_fails("/dev/tty", "ENXIO", no_terminal, temporary(""));
}

#[test]
fn a_named_fifo_works_and_an_anonymous_pipe_does_not() {
    if !harness::is_root() {
        return;
    }
    let path = std::env::temp_dir().join(format!("ckptadv-fifo-{}", std::process::id()));
    make_fifo(&path).expect("a fifo");
    let fifo = || {
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("a fifo")
    };
    for (mode, flags) in [(1, READ | libc::O_NONBLOCK), (2, WRITE), (3, BOTH)] {
        assert_works("fifo", generic(mode, flags), fifo());
        assert_works(
            "fifo as such",
            Reopen {
                kind: FIFO,
                ..generic(mode, flags)
            },
            fifo(),
        );
    }
    assert_fails("fifo", "EINVAL", generic(0x1f, BOTH), fifo());
    std::fs::remove_file(&path).expect("a fifo");

    let both_ends = || std::io::pipe().expect("a pipe");
    for kind in [GENERIC, FIFO] {
        for (mode, flags) in [(1, READ), (2, WRITE), (3, BOTH)] {
            let (reader, _writer) = both_ends();
            assert_fails(
                "pipe",
                "EINVAL",
                Reopen {
                    kind,
                    ..generic(mode, flags)
                },
                reader,
            );
            let (_reader, writer) = both_ends();
            assert_fails(
                "pipe",
                "ESPIPE",
                Reopen {
                    kind,
                    ..generic(mode | 0x1c, flags)
                },
                writer,
            );
        }
    }
}

#[test]
fn a_socket_does_not_work() {
    if !harness::is_root() {
        return;
    }
    for mode in [3, 0x1f] {
        let (one, _other) = UnixStream::pair().expect("sockets");
        assert_fails("socket", "ENXIO", generic(mode, BOTH), one);
    }
}

#[test]
fn a_nameless_kernel_file_becomes_a_dead_one() {
    if !harness::is_root() {
        return;
    }
    // SAFETY: an initialised set.
    let signals = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        made(libc::signalfd(-1, &set, libc::SFD_CLOEXEC))
    };
    // SAFETY: no memory is involved.
    let files = unsafe {
        [
            ("eventfd", made(libc::eventfd(1, libc::EFD_CLOEXEC))),
            ("epoll", made(libc::epoll_create1(libc::EPOLL_CLOEXEC))),
            ("signalfd", signals),
            (
                "timerfd",
                made(libc::timerfd_create(
                    libc::CLOCK_MONOTONIC,
                    libc::TFD_CLOEXEC,
                )),
            ),
            ("inotify", made(libc::inotify_init1(libc::IN_CLOEXEC))),
        ]
    };
    for (what, file) in files {
        let outcome = assert_works(what, generic(0x1f, BOTH), file.try_clone().expect("a copy"));
        assert!(
            outcome.notes.iter().any(|note| note.contains("dead file")),
            "{what}: {:?}",
            outcome.notes
        );
        let dead = outcome.take(PID, N);
        let mut byte = 0u8;
        // SAFETY: room for one byte.
        let read = unsafe { libc::read(dead.as_raw_fd(), (&raw mut byte).cast(), 1) };
        assert_eq!(
            (read, std::io::Error::last_os_error().raw_os_error()),
            (-1, Some(libc::EINVAL)),
            "{what}"
        );
        assert_fails(what, "EINVAL", generic(3, BOTH), file);
    }
}

#[test]
fn a_sequence_file_lacks_one_bit() {
    if !harness::is_root() {
        return;
    }
    let file = || File::open("/proc/filesystems").expect("a file in /proc");
    assert_works("sequence file", generic(0xd, READ), file());
    assert_fails("sequence file", "EINVAL", generic(0x1d, READ), file());
}

#[test]
fn what_a_task_inherited_is_seen_only_before_its_table() {
    if !harness::is_root() {
        return;
    }
    let not_open = Reopen {
        path: "/proc/self/fd/400",
        ..generic(0x1d, READ)
    };
    assert_fails("not open", "ENOENT", not_open, temporary(""));
    let no_such_process = Reopen {
        path: "/proc/4194305/fd/7",
        ..generic(0x1d, READ)
    };
    assert_fails("no such process", "ENOENT", no_such_process, temporary(""));

    let inside = |reopen: Reopen| {
        Restart::new(&reopen.inside_the_table())
            .scenario("files")
            .descriptor(K, temporary(""))
    };
    let outcome = inside(generic(0x1d, READ)).run();
    assert!(
        matches!(&outcome.verdict, Verdict::Failed { errno, .. } if errno == "ENOENT"),
        "{:?}",
        outcome.verdict
    );

    let mine = temporary("");
    let path = format!("/proc/{}/fd/{}", std::process::id(), mine.as_raw_fd());
    assert!(Path::new(&path).exists());
    let outcome = inside(Reopen {
        path: &path,
        ..generic(0x1d, READ)
    })
    .run();
    assert_eq!(
        outcome.verdict,
        Verdict::Restarted,
        "a process outside the restart"
    );

    // 0 is the pipe that brings the image.
    let first = Reopen {
        path: "/proc/self/fd/0",
        ..generic(0x1d, READ)
    };
    let outcome = Restart::new(&first.before_the_table())
        .scenario("files")
        .feed(Feed::File)
        .run();
    assert!(
        matches!(&outcome.verdict, Verdict::Failed { errno, .. } if errno == "ESPIPE"),
        "{:?}",
        outcome.verdict
    );
}

#[test]
fn the_coordinator_reads_what_stands_before_the_tail() {
    if !harness::is_root() {
        return;
    }
    let image = image("files");
    let tail = edit::first(&image, 9001);
    for (path, expected) in [
        ("/proc/self/fd/7", Ok(())),
        ("/proc/self/fd/400", Err("ENOENT")),
    ] {
        let block = Reopen {
            path,
            ..generic(0x1d, READ)
        }
        .block();
        let image = edit::splice(&image, tail.at, 0, &block);
        let outcome = Restart::new(&image)
            .scenario("files")
            .descriptor(K, temporary(""))
            .run();
        match (&outcome.verdict, expected) {
            (Verdict::Restarted, Ok(())) => {}
            (Verdict::Failed { errno, .. }, Err(expected)) if errno == expected => {}
            (other, _) => panic!("{path}: {other:?}"),
        }
    }
}
