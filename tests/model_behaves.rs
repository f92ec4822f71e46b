//! What the model does to the programs that it runs, and the ways in which they may call it.

use std::io::{Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use harness::edit;
use harness::linux_cr::{Feed, Outcome, Restart, Verdict, exit_code, image, table};
use harness::report;

fn kernel(name: &str) -> String {
    let row = table("outcomes.tsv").into_iter().find(|row| row[0] == name);
    row.expect("a row")[3].clone()
}

fn shell(script: &str) -> Restart {
    Restart::new(&[]).program("/bin/sh").args(["-c", script])
}

fn assert_failed(outcome: &Outcome, expected: &str) {
    let failed = matches!(&outcome.verdict, Verdict::Failed { errno, .. } if errno == expected);
    assert!(
        failed,
        "{:?} instead of {expected}\n{}",
        outcome.verdict,
        outcome.stderr()
    );
}

#[test]
fn a_program_that_restarts_nothing_is_left_alone() {
    if !harness::is_root() {
        return;
    }
    let ends = |script| exit_code(shell(script).run().status.expect("an end"));
    assert_eq!(ends("exit 3"), 3);
    assert_eq!(ends("kill -TERM $$"), 143);
    assert_eq!(ends("(exit 4) | (exit 5)"), 5);
    assert_eq!(ends("trap 'exit 6' USR1; kill -USR1 $$; exit 7"), 6);
    // The shell asks for limits by the number that restart(2) had.
    let outcome = shell("ulimit -n 400; ulimit -n; sh -c 'ulimit -n'").run();
    assert_eq!(
        (outcome.stdout().as_str(), &outcome.verdict),
        ("400\n400\n", &Verdict::NoRestart)
    );
}

#[test]
fn a_stopped_program_can_be_continued() {
    if !harness::is_root() {
        return;
    }
    let outcome = shell("(sleep 0.2; kill -CONT $$) & kill -STOP $$; exit 8").run();
    assert_eq!(exit_code(outcome.status.expect("an end")), 8);
}

#[test]
fn a_signal_to_the_model_reaches_the_program() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done").start();
    harness::wait_until("nothing happened", || outcome.stdout() == "ready\n");
    outcome.signal(libc::SIGTERM);
    assert_eq!(exit_code(outcome.wait()), 9);
}

#[test]
fn the_image_may_come_in_every_way() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe, Feed::Option] {
        let outcome = Restart::new(&image("pipe-tree"))
            .scenario("pipe-tree")
            .feed(feed)
            .run();
        assert!(
            report::agree(&outcome.report(), &kernel("pipe-tree")),
            "{}",
            outcome.report()
        );
    }
}

#[test]
fn a_program_may_restart_itself() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let restart = Restart::new(&image("pipe"))
            .scenario("pipe")
            .feed(feed)
            .args(["--self"]);
        let mut outcome = restart.run();
        assert_eq!(outcome.verdict, Verdict::Restarted, "{}", outcome.stderr());
        assert!(
            report::agree(&outcome.report(), &kernel("pipe")),
            "{}",
            outcome.report()
        );
        assert_eq!(
            outcome
                .finish()
                .signal()
                .or(Some(exit_code(outcome.finish()) - 128)),
            Some(libc::SIGKILL)
        );
    }
    // One task only can be restarted so.
    let outcome = Restart::new(&image("pipe-tree"))
        .scenario("pipe-tree")
        .args(["--self"])
        .run();
    assert_failed(&outcome, "EINVAL");
    // Nothing has been done to it by then: it gets the error and ends by itself.
    assert_eq!(exit_code(outcome.status.expect("an end")), 1);
}

#[test]
fn tasks_may_keep_their_pids() {
    if !harness::is_root() {
        return;
    }
    for name in ["files", "fork-shared", "shared-table", "threads", "zombie"] {
        let outcome = Restart::new(&image(name))
            .scenario(name)
            .args(["--pids"])
            .own_pids()
            .run();
        assert_eq!(
            outcome.verdict,
            Verdict::Restarted,
            "{name}: {}",
            outcome.stderr()
        );
        for (saved, now) in &outcome.tasks {
            let status = std::fs::read_to_string(format!("/proc/{now}/status")).expect("a task");
            let numbers = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .expect("numbers");
            assert_eq!(
                numbers.split_whitespace().last(),
                Some(saved.to_string().as_str()),
                "{name}"
            );
        }
        assert!(
            report::agree(&outcome.report(), &kernel(name)),
            "{name}: {}",
            outcome.report()
        );
    }
}

#[test]
fn restored_tasks_live_until_they_are_killed_and_the_program_waits_for_them() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = Restart::new(&image("fork-shared"))
        .scenario("fork-shared")
        .run();
    let root = outcome.pid(886);
    std::thread::sleep(Duration::from_millis(50));
    assert!(outcome.status.is_none() && alive(root));
    // SAFETY: no memory is involved; the guard of the outcome keeps the task from being reaped unseen.
    unsafe { libc::kill(root, libc::SIGTERM) };
    assert_eq!(exit_code(outcome.wait()), 0);
    assert!(!alive(root));
}

#[test]
fn a_failed_restart_leaves_no_task_and_says_why() {
    if !harness::is_root() {
        return;
    }
    let mut bad = image("fork-shared");
    let tail = edit::places(&bad).last().copied().expect("a tail");
    edit::set_u32(&mut bad, tail.at + 8, 0);
    let outcome = Restart::new(&bad)
        .scenario("fork-shared")
        .args(["-l", "/mnt/log"])
        .run();
    assert_failed(&outcome, "EINVAL");
    assert_eq!(exit_code(outcome.status.expect("an end")), 1);
    assert!(
        outcome
            .stderr()
            .contains("restart failed: Invalid argument"),
        "{}",
        outcome.stderr()
    );
    let log = outcome.enter(|| std::fs::read_to_string("/mnt/log").expect("a log"));
    assert!(log.starts_with("[err -22][pos "), "{log}");
    let left = outcome.enter(|| {
        let mine = std::fs::read_link("/proc/thread-self/ns/mnt").expect("a namespace");
        let processes = std::fs::read_dir("/proc")
            .expect("processes")
            .filter_map(Result::ok);
        let inside = |path: std::path::PathBuf| {
            std::fs::read_link(path.join("ns/mnt")).is_ok_and(|ns| ns == mine)
        };
        processes.filter(|process| inside(process.path())).count()
    });
    assert_eq!(left, 1, "thread-self only");
}

#[test]
fn a_signal_interrupts_the_coordinator() {
    if !harness::is_root() {
        return;
    }
    let image = image("files");
    let (reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(&image[..5000]).expect("half an image");
    let restart = Restart::new(&image)
        .scenario("files")
        .feed(Feed::Given)
        .descriptor(0, reader);
    let mut outcome = restart.start();
    std::thread::sleep(Duration::from_millis(300));
    outcome.signal(libc::SIGTERM);
    outcome.decide();
    assert_failed(&outcome, "EINTR");
}

#[test]
fn what_fits_into_a_pipe_depends_on_where_the_image_is() {
    if !harness::is_root() {
        return;
    }
    let with = |bytes: usize, aligned: bool| {
        let image = image("pipe");
        let buffer = edit::first(&image, 305);
        let name = edit::places(&image)
            .into_iter()
            .rfind(|place| place.kind == 303 && place.at < buffer.at);
        let name = name.expect("a name in front of the pipe");
        let padding = if aligned {
            (4096 - (buffer.at + 8) % 4096) % 4096
        } else {
            0
        };
        let image = edit::splice(
            &image,
            buffer.at,
            buffer.length,
            &edit::record(305, &vec![b'x'; bytes]),
        );
        let end = name.at + name.length;
        let mut image = edit::splice(&image, end, 0, &vec![0; padding]);
        edit::set_u32(&mut image, name.at + 4, (name.length + padding) as u32);
        Restart::new(&image).scenario("pipe").args(["--self"])
    };
    assert_eq!(with(61440, false).run().verdict, Verdict::Restarted);
    assert_failed(&with(65536, false).run(), "EPIPE");
    assert_eq!(with(65536, true).run().verdict, Verdict::Restarted);
    assert_failed(&with(65536, true).feed(Feed::Pipe).run(), "EPIPE");
}

/// A hand-made image of pid 4242 on terminal 3, in a world that has its files.
fn example(name: &str, number: u32, arguments: &[&str]) -> Restart {
    // /usr is the machine's own: the executable goes to the home of the example.
    let mut image = image(name);
    let path = b"/usr/bin/example\0";
    let exe = image
        .windows(path.len())
        .position(|bytes| bytes == path)
        .expect("the exe");
    image[exe..exe + path.len()].copy_from_slice(b"/home/u/example\0\0");
    Restart::new(&image)
        .number(number)
        .own_pids()
        .args(arguments)
        .prepare(|| {
            std::fs::create_dir("/home/u").expect("a home");
            std::fs::write("/home/u/data.txt", "data of the example").expect("a file");
            std::fs::write("/home/u/example", "").expect("a file");
        })
}

#[test]
fn both_layouts_restart_and_a_terminal_without_master_hangs_up() {
    if !harness::is_root() {
        return;
    }
    for (name, number) in [("example-v20", 302), ("example", 305)] {
        let mut outcome = example(name, number, &["--pids"]).run();
        assert_eq!(
            outcome.verdict,
            Verdict::Restarted,
            "{name}: {}",
            outcome.stderr()
        );
        // The call succeeds; the signal comes with the end of the last hold on the master.
        assert_eq!(exit_code(outcome.wait()), 0);
        assert!(!alive(outcome.pid(4242)));
    }
}

#[test]
fn a_terminal_needs_its_number_and_its_foreground_group() {
    if !harness::is_root() {
        return;
    }
    let taken = example("example-v20", 302, &["--pids"]).prepare(|| {
        for _ in 0..4 {
            // Held for as long as this test runs, in a devpts that only this world has.
            std::mem::forget(std::fs::File::open("/dev/ptmx").expect("a terminal"));
        }
    });
    assert_failed(&taken.run(), "EBUSY");
    let renamed = example("example-v20", 302, &[]);
    assert_failed(&renamed.run(), "ESRCH");
    let renamed = Restart::new(&image("pty-ctty")).scenario("pty-ctty");
    assert_failed(&renamed.own_pids().run(), "ESRCH");
}

#[test]
fn a_socket_needs_its_address() {
    if !harness::is_root() {
        return;
    }
    let taken = Restart::new(&image("tcp-listen"))
        .scenario("tcp-listen")
        .prepare(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:7001");
            // Held for as long as this test runs, in a network that only this world has.
            std::mem::forget(listener.expect("a port"));
        });
    assert_failed(&taken.run(), "EADDRINUSE");
    let blocked = Restart::new(&image("unix-listen"))
        .scenario("unix-listen")
        .prepare(|| {
            std::fs::create_dir("/mnt/unix-listen/sock").expect("a directory");
        });
    assert_failed(&blocked.run(), "EISDIR");
    // A file in its way is gone afterwards.
    let mut cleared = Restart::new(&image("unix-listen")).scenario("unix-listen");
    cleared = cleared.prepare(|| {
        std::fs::write("/mnt/unix-listen/sock", "in the way").expect("a file");
    });
    let cleared = cleared.run();
    assert_eq!(cleared.verdict, Verdict::Restarted);
    assert!(report::agree(&cleared.report(), &kernel("unix-listen")));
    let reached =
        cleared.enter(|| std::os::unix::net::UnixStream::connect("/mnt/unix-listen/sock"));
    assert!(reached.is_ok());
}

#[test]
fn what_made_the_kernel_oops_fails() {
    if !harness::is_root() {
        return;
    }
    let whole = image("files");
    // The first regular file that is not only appended to: `a` at 5.
    let seekable =
        |place: &edit::Place| place.kind == 304 && edit::u32_at(&whole, place.at + 24) == 5;
    let file = edit::places(&whole)
        .into_iter()
        .find(seekable)
        .expect("a file at 5");
    for (position, verdict) in [
        (1u64 << 31, "EINVAL"),
        (3 << 30, "EINVAL"),
        ((1 << 33) - 4096, "EINVAL"),
    ] {
        let image = edit::splice(&whole, file.at + 24, 8, &position.to_le_bytes());
        let outcome = Restart::new(&image).scenario("files").run();
        assert_failed(&outcome, verdict);
    }
    let name = edit::first(&whole, 303);
    let image = edit::splice(&whole, name.at, name.length, &edit::record(303, &[]));
    assert_failed(&Restart::new(&image).scenario("files").run(), "EINVAL");
}

#[test]
fn a_broken_image_breaks_nothing() {
    if !harness::is_root() {
        return;
    }
    let mut random = Random(20_100_317);
    for name in [
        "eventfd-epoll",
        "pipe",
        "pty",
        "socketpair",
        "unix-conn",
        "unix-dgram",
        "example",
    ] {
        let whole = image(name);
        let places = edit::places(&whole);
        for _ in 0..60 {
            let mut image = whole.clone();
            for _ in 0..1 + random.below(3) {
                let place = places[random.below(places.len())];
                let at = place.at + random.below(place.length.min(72)) / 4 * 4;
                let values = [
                    0,
                    1,
                    2,
                    7,
                    8,
                    0x7fff_ffff,
                    0x8000_0000,
                    u32::MAX,
                    304,
                    6,
                    random.next() as u32,
                ];
                if at + 4 <= image.len() {
                    edit::set_u32(&mut image, at, values[random.below(values.len())]);
                }
            }
            image.truncate(image.len() - random.below(2) * random.below(image.len()));
            let number = if name == "example" { 305 } else { 302 };
            let outcome = Restart::new(&image)
                .scenario(name)
                .number(number)
                .args(["--self"])
                .run();
            let said = outcome.stderr();
            assert!(!said.contains("panicked"), "{name}: {said}");
            assert_ne!(outcome.verdict, Verdict::NoRestart, "{name}: {said}");
        }
    }
}

/// Xorshift: repeatable, and no more is asked of it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next()),
        None | Some('Z' | 'X')
    )
}
