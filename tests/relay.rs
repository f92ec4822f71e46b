//! Anonymous pipes of the caller's on 0, 1 and 2, which a Linux-CR kernel cannot open by name: `restart < image | tee
//! log`, `feed | restart -i image`. Each through the C restart program, the library and the model.

use harness::linux_cr::FILES;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::linux_cr::{Feed, Outcome, Restart, Verdict, exit_code, image};
use harness::{build, criu::library};

fn restart() -> Restart {
    Restart::new(&image("files"))
        .scenario("files")
        .preload(library())
}

/// What /proc says that a descriptor of this process leads to.
fn name(fd: &impl AsRawFd) -> String {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    link.display().to_string()
}

/// The relays that hold a pipe, by pid.
fn relays(pipe: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim() == "ckptadv-relay" && links(*pid).iter().any(|link| link == pipe)
    })
    .collect()
}

fn links(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

#[track_caller]
fn await_relay(pipe: &str) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(&relay) = relays(pipe).first() {
            return relay;
        }
        assert!(Instant::now() < deadline, "no relay of {pipe}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn await_no_relay(pipe: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !relays(pipe).is_empty() {
        assert!(Instant::now() < deadline, "a relay of {pipe} stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn set_nonblocking(fd: &impl AsRawFd) {
    // SAFETY: no memory is involved.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
}

fn is_nonblocking(fd: &impl AsRawFd) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK != 0 }
}

fn output(feed: Feed) -> (PipeReader, String, Outcome) {
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    let outcome = restart()
        .feed(feed)
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, writer)
        .run();
    (reader, pipe, outcome)
}

/// No directory of a relay's is left under its fifo's name.
fn assert_nameless(link: &str) {
    let name = link.strip_suffix(" (deleted)").expect(link);
    assert!(name.contains("/ckptadv-"), "{name}");
    assert!(!Path::new(name).parent().unwrap().exists(), "{name}");
}

#[test]
fn output_goes_into_the_callers_pipe_and_ends_with_the_program() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe, Feed::Option] {
        let (mut reader, pipe, mut outcome) = output(feed);
        outcome.assert_restarted();
        assert_nameless(&outcome.link(FILES, 1));
        let relay = relays(&pipe);
        assert_eq!(relay.len(), 1);
        // One end of each, and nothing else that anybody could wait for.
        let deadline = Instant::now() + Duration::from_secs(10);
        while links(relay[0]).len() > 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(links(relay[0]).len(), 2, "{:?}", links(relay[0]));
        let mut one = File::from(outcome.take(FILES, 1));
        one.write_all(b"one\n").unwrap();
        drop(one);
        let mut first = [0; 4];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"one\n");
        // The program ends as without the library, and whoever reads hears of it.
        assert_eq!(exit_code(outcome.finish()), 0, "{}", outcome.stderr());
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        await_no_relay(&pipe);
    }
}

#[test]
fn a_program_that_restarts_itself_is_relayed_too() {
    if !harness::is_root() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    let mut outcome = restart()
        .args(["--self"])
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, writer)
        .run();
    outcome.assert_restarted();
    let task = outcome.tasks[0].0;
    File::from(outcome.take(task, 1))
        .write_all(b"itself")
        .unwrap();
    outcome.finish();
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    assert_eq!(all, "itself");
    await_no_relay(&pipe);
}

#[test]
fn one_pipe_under_two_numbers_is_one_description() {
    if !harness::is_root() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    let mut outcome = restart()
        .env("CKPT_PRESERVE", "1,2")
        .descriptor(1, writer.try_clone().unwrap())
        .descriptor(2, writer)
        .run();
    assert_eq!(outcome.verdict, Verdict::Restarted);
    assert_eq!(relays(&pipe).len(), 1);
    let (one, two) = (outcome.take(FILES, 1), outcome.take(FILES, 2));
    set_nonblocking(&one);
    assert!(is_nonblocking(&two));
    File::from(two).write_all(b"two").unwrap();
    File::from(one).write_all(b"one").unwrap();
    outcome.finish();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"twoone");
    await_no_relay(&pipe);
}

#[test]
fn a_pipe_is_relayed_to_another_number() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let pipe = name(&reader);
        let mut outcome = restart()
            .feed(feed)
            .env("CKPT_SUBSTITUTE", "2=1")
            .descriptor(1, writer)
            .run();
        outcome.assert_restarted();
        assert_eq!(outcome.link(FILES, 1), "/mnt/files/log");
        File::from(outcome.take(FILES, 2))
            .write_all(b"from 2")
            .unwrap();
        outcome.finish();
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "from 2");
        await_no_relay(&pipe);
    }
}

#[test]
fn two_pipes_are_two() {
    if !harness::is_root() {
        return;
    }
    let (mut out, writer) = std::io::pipe().unwrap();
    let (mut err, other) = std::io::pipe().unwrap();
    let mut outcome = restart()
        .env("CKPT_PRESERVE", "1,2")
        .descriptor(1, writer)
        .descriptor(2, other)
        .run();
    assert_eq!(outcome.verdict, Verdict::Restarted);
    File::from(outcome.take(FILES, 1))
        .write_all(b"out")
        .unwrap();
    File::from(outcome.take(FILES, 2))
        .write_all(b"err")
        .unwrap();
    outcome.finish();
    let (mut one, mut two) = (String::new(), String::new());
    out.read_to_string(&mut one).unwrap();
    err.read_to_string(&mut two).unwrap();
    assert_eq!((one.as_str(), two.as_str()), ("out", "err"));
}

fn input() -> (PipeWriter, String, Outcome) {
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    let outcome = restart()
        .feed(Feed::Option)
        .env("CKPT_PRESERVE", "0")
        .descriptor(0, reader)
        .run();
    (writer, pipe, outcome)
}

#[test]
fn input_comes_out_of_the_callers_pipe_and_ends_with_it() {
    if !harness::is_root() {
        return;
    }
    let (mut feeding, pipe, outcome) = input();
    outcome.assert_restarted();
    assert_nameless(&outcome.link(FILES, 0));
    assert_eq!(relays(&pipe).len(), 1);
    feeding.write_all(b"line\n").unwrap();
    let mut zero = File::from(outcome.take(FILES, 0));
    let mut line = [0; 5];
    zero.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"line\n");
    feeding.write_all(b"last").unwrap();
    drop(feeding);
    let mut rest = Vec::new();
    zero.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last");
    await_no_relay(&pipe);
}

#[test]
fn who_feeds_hears_that_nobody_reads() {
    if !harness::is_root() {
        return;
    }
    let (mut feeding, pipe, mut outcome) = input();
    outcome.assert_restarted();
    outcome.finish();
    await_no_relay(&pipe);
    let error = feeding.write_all(b"lost").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn the_program_hears_that_nobody_reads() {
    if !harness::is_root() {
        return;
    }
    let (reader, pipe, outcome) = output(Feed::File);
    outcome.assert_restarted();
    drop(reader);
    await_no_relay(&pipe);
    let error = File::from(outcome.take(FILES, 1)).write_all(b"lost");
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn who_is_gone_before_the_restart_does_not_hold_it_up() {
    if !harness::is_root() {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let pipe = name(&writer);
    let outcome = restart()
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, writer)
        .run();
    outcome.assert_restarted();
    await_no_relay(&pipe);
    let error = File::from(outcome.take(FILES, 1)).write_all(b"lost");
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    // The same on the side of the input: what was fed before is read, and then the end.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"all there is").unwrap();
    drop(writer);
    let outcome = restart()
        .feed(Feed::Option)
        .env("CKPT_PRESERVE", "0")
        .descriptor(0, reader)
        .run();
    outcome.assert_restarted();
    let mut all = String::new();
    let mut zero = File::from(outcome.take(FILES, 0));
    zero.read_to_string(&mut all).unwrap();
    assert_eq!(all, "all there is");
}

#[test]
fn what_is_not_read_waits_in_pipes_only_and_arrives_whole() {
    if !harness::is_root() {
        return;
    }
    let (mut reader, _, mut outcome) = output(Feed::File);
    outcome.assert_restarted();
    let one = outcome.take(FILES, 1);
    let mut one = File::from(one);
    let written: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_le_bytes).collect();
    // It stops when both pipes are full.
    set_nonblocking(&one);
    let mut at = 0;
    let mut idle = 0;
    while idle < 20 {
        match one.write(&written[at..written.len().min(at + 4096)]) {
            Ok(n) => (at, idle) = (at + n, 0),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                idle += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(
        (64 << 10..=128 << 10).contains(&at),
        "{at} bytes were taken"
    );
    let expected = written.clone();
    let consumer = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    while at < written.len() {
        match one.write(&written[at..written.len().min(at + 5000)]) {
            Ok(n) => at += n,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    drop(one);
    outcome.finish();
    assert!(consumer.join().unwrap() == expected);
}

#[test]
fn a_restart_that_fails_leaves_no_relay() {
    if !harness::is_root() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    // Without its directory: the kernel does not find the files.
    let mut outcome = Restart::new(&image("files"))
        .preload(library())
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, writer)
        .run();
    assert!(matches!(outcome.verdict, Verdict::Failed { .. }));
    outcome.wait();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"");
    await_no_relay(&pipe);
    // What was fed is there for others: the relay takes nothing before the restart is done.
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"for others").unwrap();
    drop(writer);
    let pipe = name(&reader);
    let mut outcome = Restart::new(&image("files"))
        .preload(library())
        .feed(Feed::Option)
        .env("CKPT_PRESERVE", "0")
        .descriptor(0, reader.try_clone().unwrap())
        .run();
    assert!(matches!(outcome.verdict, Verdict::Failed { .. }));
    outcome.wait();
    await_no_relay(&pipe);
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    assert_eq!(all, "for others");
}

#[test]
fn a_refused_restart_and_a_dry_run_start_no_relay() {
    if !harness::is_root() {
        return;
    }
    for (name_of, value) in [("CKPT_IGNORE", "7x"), ("CKPT_DRY_RUN", "1")] {
        let (reader, writer) = std::io::pipe().unwrap();
        let pipe = name(&reader);
        let mut outcome = restart()
            .env("CKPT_PRESERVE", "1")
            .env(name_of, value)
            .descriptor(1, writer)
            .run();
        assert_eq!(outcome.verdict, Verdict::NoRestart, "{}", outcome.stderr());
        outcome.wait();
        assert_eq!(relays(&pipe), [0; 0]);
        if name_of == "CKPT_DRY_RUN" {
            assert!(
                outcome.stderr().contains("through a relay"),
                "{}",
                outcome.stderr()
            );
        }
    }
}

/// A restart program that has read the head of an image and waits for the rest. It never makes its restart call, so
/// no model is needed.
fn waiting(writer: OwnedFd) -> (std::process::Child, PipeWriter) {
    let (image_end, mut feeding) = std::io::pipe().unwrap();
    feeding.write_all(&image("files")[..300]).unwrap();
    let mut program = Command::new(build::program("restart"));
    program
        .env("LD_PRELOAD", library())
        .env("CKPT_PRESERVE", "1")
        .stdin(image_end)
        .stdout(writer)
        .stderr(Stdio::null());
    // SAFETY: only system calls between fork and exec.
    unsafe {
        program.pre_exec(|| {
            // Nothing to complain on.
            libc::close(2);
            Ok(())
        })
    };
    (program.spawn().unwrap(), feeding)
}

#[test]
fn a_killed_restart_program_leaves_no_relay() {
    if !harness::is_root() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    let (mut program, _feeding) = waiting(writer.into());
    let relay = await_relay(&pipe);
    let status = fs::read_to_string(format!("/proc/{relay}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    assert_ne!(
        parent.trim(),
        program.id().to_string(),
        "no child of the program's"
    );
    // Ctrl-C is not for it.
    let stat = fs::read_to_string(format!("/proc/{relay}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(fields[2], relay.to_string(), "a group of its own");
    assert_eq!(fields[3], relay.to_string(), "a session of its own");
    program.kill().unwrap();
    program.wait().unwrap();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"");
    await_no_relay(&pipe);
}

#[test]
fn a_killed_relay_does_not_keep_the_restart_waiting() {
    if !harness::is_root() {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = name(&reader);
    let (image_end, mut feeding) = std::io::pipe().unwrap();
    let bytes = image("files");
    feeding.write_all(&bytes[..300]).unwrap();
    let mut outcome = restart()
        .feed(Feed::Given)
        .descriptor(0, image_end)
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, writer)
        .start();
    let relay = await_relay(&pipe);
    // SAFETY: no memory is involved; the relay is this test's.
    unsafe { libc::kill(relay, libc::SIGKILL) };
    await_no_relay(&pipe);
    feeding.write_all(&bytes[300..]).unwrap();
    drop(feeding);
    outcome.decide();
    assert_ne!(outcome.verdict, Verdict::Restarted);
    assert_ne!(exit_code(outcome.wait()), 0);
    let said = outcome.stderr();
    assert!(
        said.contains("copies to and from a pipe was killed"),
        "{said}"
    );
}

#[test]
fn a_pipe_without_a_direction_is_refused() {
    if !harness::is_root() {
        return;
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let both = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", reader.as_raw_fd()))
        .unwrap();
    let mut outcome = restart()
        .env("CKPT_PRESERVE", "1")
        .descriptor(1, both)
        .run();
    assert_eq!(outcome.verdict, Verdict::NoRestart, "{}", outcome.stderr());
    outcome.wait();
    assert!(
        outcome.stderr().contains("named fifo"),
        "{}",
        outcome.stderr()
    );
}
