//! cradvise(2) and FD_CR_PRESERVE in a process that has the library loaded: the advice of a program that is linked
//! with the crate, and of unmodified ones, on its way to a restart.

use harness::linux_cr::FILES;
use harness::scratch::Scratch;
use std::process::{Command, Output, Stdio};

use harness::build::{binary, program, shared_object};
use harness::criu::{World, library};
use harness::linux_cr::{Feed, Restart, image};

/// What `advised` says, in one line.
fn say(preload: bool, words: &str) -> String {
    let output = run(preload, words);
    assert!(output.status.success(), "{words}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .replace('\n', " ")
}

fn run(preload: bool, words: &str) -> Output {
    let mut command = Command::new(binary("advised"));
    command.args(words.split_whitespace()).stdin(Stdio::null());
    if preload {
        command.env("LD_PRELOAD", library());
    }
    command.output().unwrap()
}

/// Calls, and what they say without the library and with it.
const CALLS: &[(&str, &str, &str)] = &[
    // One table: the program has the crate, the hooks have the library's copy of it.
    (
        "open 50 /dev/null set 50 1 getfd 50 query 50",
        "0 0 1",
        "0 2 1",
    ),
    (
        "open 50 /dev/null setfd 50 3 getfd 50 query 50",
        "0 1 0",
        "0 3 1",
    ),
    (
        "open 50 /dev/null set 50 2 setfd 50 2 query 50",
        "0 0 2",
        "0 0 3",
    ),
    (
        "open 50 /dev/null set 50 3 setfd 50 1 query 50 getfd 50",
        "0 0 3 1",
        "0 0 2 1",
    ),
    ("setfd 50 2 getfd 50", "EBADF EBADF", "EBADF EBADF"),
    ("setfd -1 2", "EBADF", "EBADF"),
    (
        "status",
        "userspace table: CRADVISE_NR is not set",
        "userspace table: CRADVISE_NR is not set",
    ),
    // What ends PRESERVE ends it also where the same file comes back, and leaves IGNORE.
    (
        "open 50 /dev/null set 50 3 close 50 open 50 /dev/null query 50",
        "0 0 3",
        "0 0 2",
    ),
    (
        "open 50 /dev/null set 50 1 fclose 50 open 50 /dev/null query 50",
        "0 0 1",
        "0 0 0",
    ),
    (
        "open 50 /dev/null set 50 1 mq-close 50 query 50",
        "0 0 0",
        "0 0 0",
    ),
    (
        "open 50 /dev/null set 50 1 open 50 /dev/null query 50",
        "0 1",
        "0 0",
    ),
    (
        "open 50 /dev/null open 51 /dev/null set 50 1 dup3 51 50 query 50",
        "0 50 1",
        "0 50 0",
    ),
    (
        "open 50 /dev/null set 50 1 close-range 40 60 open 50 /dev/null query 50",
        "0 0 1",
        "0 0 0",
    ),
    (
        "open 50 /dev/null set 50 1 closefrom 50 open 50 /dev/null query 50",
        "0 0 1",
        "0 0 0",
    ),
    // What does not close leaves it.
    (
        "open 50 /dev/null set 50 1 dup2 50 50 query 50",
        "0 50 1",
        "0 50 1",
    ),
    (
        "open 50 /dev/null set 50 1 dup2 99 50 query 50",
        "0 EBADF 1",
        "0 EBADF 1",
    ),
    (
        "open 50 /dev/null set 50 1 cloexec-range 40 60 query 50 getfd 50",
        "0 0 1 1",
        "0 0 1 3",
    ),
    (
        "open 50 /dev/null set 50 1 close 51 query 50",
        "0 EBADF 1",
        "0 EBADF 1",
    ),
    (
        "open 50 /dev/null set 50 1 close-range 51 60 query 50",
        "0 0 1",
        "0 0 1",
    ),
    // Nor does what fails.
    (
        "open 50 /dev/null set 50 3 dup3 50 50 query 50 dup3 99 50 query 50",
        "0 EINVAL 3 EBADF 3",
        "0 EINVAL 3 EBADF 3",
    ),
    ("closedir-null 0", "EINVAL", "EINVAL"),
    // A duplicate has none.
    (
        "open 50 /dev/null set 50 3 dup2 50 51 query 51 getfd 51",
        "0 51 0 0",
        "0 51 0 0",
    ),
    (
        "open 50 /dev/null set 50 1 dupfd 50 60 query 60",
        "0 60 0",
        "0 60 0",
    ),
    // fork copies.
    (
        "open 50 /dev/null set 50 1 fork query 50 close 50 query 50 end query 50",
        "0 1 0 0 1",
        "0 1 0 0 1",
    ),
    // A child that has its parent's memory changes nothing of its parent's.
    (
        "open 50 /dev/null set 50 1 vfork close 50 set 51 2 reset end query 50 query 51",
        "0 0 ENOTSUP ENOTSUP 1 0",
        "0 0 ENOTSUP ENOTSUP 1 0",
    ),
    (
        "open 50 /dev/null set 50 1 vfork close-range 3 99 end getfd 50",
        "0 0 0",
        "0 0 2",
    ),
    (
        "open 50 /dev/null vfork setfd 50 3 end getfd 50",
        "0 0",
        "ENOTSUP 0",
    ),
    // Around the hooks: a number that is open again on the same file is not told apart.
    (
        "open 50 /dev/null set 50 1 raw-close 50 getfd 50",
        "0 0 EBADF",
        "0 0 EBADF",
    ),
];

#[test]
fn calls_say_the_same_with_the_library_but_for_what_only_that_can_know() {
    for (words, without, with) in CALLS {
        assert_eq!(say(false, words), *without, "{words}");
        assert_eq!(say(true, words), *with, "with the library: {words}");
    }
}

/// Where a kernel keeps the advice, with or without the library, the answers are those of the table with it, but for
/// these: what only hooks can answer (FD_CR_PRESERVE), and a child with its parent's memory, whose file table is its own.
const OF_A_KERNEL: &[(&str, &str)] = &[
    (
        "open 50 /dev/null set 50 1 vfork close 50 set 51 2 reset end query 50 query 51",
        "0 0 0 0 1 0",
    ),
    ("open 50 /dev/null vfork setfd 50 3 end getfd 50", "0 0"),
    (
        "open 50 /dev/null set 50 1 raw-close 50 open 50 /dev/null query 50",
        "0 0 0",
    ),
    ("status", "kernel, call 10000: CRADVISE_BACKEND is set"),
];

fn on_a_kernel(preload: bool, words: &str) -> String {
    let mut command = Command::new(binary("advised"));
    command.arg("kernel").arg("/usr/bin/env");
    command.args(["CRADVISE_NR=10000", "CRADVISE_BACKEND=kernel"]);
    if preload {
        command.arg(format!("LD_PRELOAD={}", library().display()));
    }
    let output = command
        .arg(binary("advised"))
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .replace('\n', " ")
}

#[test]
fn a_kernel_that_has_the_call_says_the_same() {
    let differs = |words: &str| OF_A_KERNEL.iter().any(|(other, _)| *other == words);
    for (words, _, with) in CALLS.iter().filter(|(words, ..)| !differs(words)) {
        assert_eq!(on_a_kernel(true, words), *with, "with the library: {words}");
        if !words.contains("getfd") && !words.contains("setfd") {
            assert_eq!(on_a_kernel(false, words), *with, "{words}");
        }
    }
    for (words, kernel) in OF_A_KERNEL {
        assert_eq!(on_a_kernel(false, words), *kernel, "{words}");
    }
    let advised = binary("advised");
    let exec = format!(
        "open 50 /dev/null set 50 1 set 7 2 open 51 /dev/null set 51 3 setfd 51 1 exec {} query 50 query 51 query 7",
        advised.display()
    );
    for preload in [false, true] {
        assert_eq!(on_a_kernel(preload, &exec), "0 0 0 0 1 2 2");
    }
}

#[test]
fn calls_before_the_librarys_constructor_do_no_harm() {
    let early = shared_object("early");
    for libraries in [[library(), early.clone()], [early, library()]] {
        let output = Command::new(binary("advised"))
            .args(["getfd", "0", "query", "7"])
            .env(
                "LD_PRELOAD",
                format!("{}:{}", libraries[0].display(), libraries[1].display()),
            )
            .env("CRADVISE_TABLE", "1,7=2")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "2\n2\n",
            "{output:?}"
        );
    }
}

#[test]
fn threads_that_mark_close_fork_and_exec_at_once_do_not_disturb_each_other() {
    let rounds = "torture 200";
    assert_eq!(say(true, rounds), "0");
    assert_eq!(say(false, rounds), "0");
    assert_eq!(on_a_kernel(true, "torture 20"), "0");
}

/// What a hook does first when there is advice takes long here: a signal handler and a
/// forked child come to it meanwhile.
#[test]
fn nobody_waits_for_a_hook_that_he_has_interrupted_or_was_forked_from() {
    for who in ["handler", "child"] {
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-E"])
            .arg(format!("LD_PRELOAD={}", library().display()))
            .args(["-e", "inject=fstat,newfstatat:delay_enter=200ms"])
            .arg(program("interrupted"))
            .arg(who)
            .stdin(Stdio::null())
            .output()
            .expect("strace");
        assert!(output.status.success(), "{who}: {output:?}");
    }
}

#[test]
fn advice_lives_over_exec_where_the_descriptor_does() {
    let advised = binary("advised");
    let advised = advised.display();
    let before = "open 50 /dev/null set 50 1 set 7 2 open 51 /dev/null set 51 3 setfd 51 3";
    let after = "query 50 query 51 query 7 query 8 getfd 50";
    for how in ["exec", "spawn"] {
        let words = format!("{before} {how} {advised} {after}");
        // 51 was close-on-exec.
        assert_eq!(say(true, &words), "0 0 0 0 1 2 2 0 2", "{how}");
        // Without the library, marks end.
        assert_eq!(say(false, &words), "0 0 0 0 0 0 0 0 0", "{how}");
    }
    // What another program handed on is not found beside what this one says.
    let words = format!("set 7 2 set 8 2 exec {advised} set 7 0 exec {advised} query 7 query 8");
    assert_eq!(say(true, &words), "0 0 0 0 2");
    // The environment that the kernel gave, which the library has looked through.
    let words = format!("set 7 2 exec {advised} reset exec /bin/cat /proc/self/environ");
    assert!(!say(true, &words).contains("CRADVISE_TABLE"));
    let words = format!("set 7 2 exec {advised} exec /bin/cat /proc/self/environ");
    assert!(say(true, &words).contains("CRADVISE_TABLE=1,7=2\0"));
    // And a child by functions that are libc's inside finds none.
    let words = format!("set 7 2 exec {advised} exec /usr/bin/env");
    assert!(!say(true, &words).contains("CRADVISE_TABLE"));
}

/// Flags that nobody knows, no range; and as a kernel before 5.9 does it, and the filters of some containers.
#[test]
fn a_close_range_that_fails_ends_nothing() {
    let words =
        "open 50 /dev/null set 50 3 unknown-range 40 60 query 50 close-range 60 40 query 50";
    assert_eq!(say(true, words), "0 EINVAL 3 EINVAL 3");
    let words = "open 50 /dev/null set 50 1 close-range 40 60 query 50 closefrom 50 query 50";
    let output = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-E"])
        .arg(format!("LD_PRELOAD={}", library().display()))
        .args(["-e", "inject=close_range:error=EPERM"])
        .arg(binary("advised"))
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("strace");
    let said = String::from_utf8_lossy(&output.stdout).replace('\n', " ");
    assert_eq!(said, "0 EPERM 1 0 0 ", "{output:?}");
}

#[test]
fn a_vfork_child_hands_on_what_it_has_itself() {
    let advised = binary("advised");
    let advised = advised.display();
    let words = format!(
        "open 50 /dev/null open 51 /dev/null open 52 /dev/zero set 50 1 set 51 3 set 53 2 \
         vfork close 51 dup2 52 50 exec {advised} query 50 query 51 query 53 end query 50 query 51"
    );
    assert_eq!(say(true, &words), "0 0 0 0 50 0 2 2 1 3");
}

#[test]
fn a_thread_that_started_a_program_leaves_no_memory_behind() {
    let said = say(true, "set 7 2 short-threads 64");
    let grown: u64 = said
        .strip_prefix("0 ")
        .and_then(|kib| kib.parse().ok())
        .expect("KiB");
    assert!(grown < 1024, "{grown} KiB");
}

#[test]
fn variadic_exec_hands_on_too() {
    let advised = binary("advised");
    let advised = advised.display();
    // The program's arguments are: query 7 query 8 query 9.
    assert_eq!(
        say(true, &format!("set 7 2 set 9 2 execl {advised} query")),
        "0 0 2 0 2"
    );
    assert_eq!(
        say(true, "set 7 2 execl /usr/bin/echo first"),
        "0 first 7 query 8 query 9"
    );
    for how in ["execl", "execle"] {
        assert_eq!(
            say(true, &format!("{how} /usr/bin/echo first")),
            "first 7 query 8 query 9"
        );
        assert_eq!(
            say(true, &format!("set 7 2 {how} /nonexistent 1")),
            "0 errno 2",
            "{how}"
        );
    }
    let output = run(true, "set 7 2 execle /usr/bin/printenv ONLY");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\nthis\n");
}

#[test]
fn a_table_that_does_not_fit_refuses_the_exec() {
    let every_other: Vec<String> = (0..20_000).map(|n| format!("{}=2", n * 2)).collect();
    let table = format!("1,{}", every_other.join(","));
    assert!(table.len() > 128 << 10);
    // Each half fits, and both together do not: execve(2) says so.
    let half = format!("1,{}", every_other[..15_000].join(","));
    assert!(half.len() < 128 << 10);
    for how in ["exec", "spawn"] {
        let output = Command::new(binary("advised"))
            .env("LD_PRELOAD", library())
            .env("CRADVISE_TABLE", &half)
            .arg(how)
            .arg(binary("advised"))
            .args(["query", "29998", "query", "29999"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "2\n0\n",
            "{how}: {output:?}"
        );
    }
    let mut command = Command::new(binary("advised"));
    command
        .env("LD_PRELOAD", library())
        .env("CRADVISE_TABLE", half);
    for n in 0..5_000 {
        command.args([
            "set".to_owned(),
            (30_001 + n * 2).to_string(),
            "2".to_owned(),
        ]);
    }
    let output = command.args(["exec", "/bin/true"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.ends_with(&format!("errno {}\n", libc::E2BIG)),
        "{}",
        text.len()
    );
}

/// Python that marks 20 and leaves 7 alone, and becomes what its arguments say.
const MARKS: &str = "import fcntl, os, sys
fcntl.fcntl(20, fcntl.F_SETFD, 2)
assert fcntl.fcntl(20, fcntl.F_GETFD) == 2
os.execvp(sys.argv[1], sys.argv[1:])";

#[test]
fn a_python_script_marks_a_descriptor_and_becomes_the_restart_program() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("python");
    for close in ["", "each", "range", "from", "walk"] {
        for feed in [Feed::File, Feed::Pipe] {
            let log = scratch.log("log");
            let path = scratch.file("log").display().to_string();
            let mut restart = Restart::advised("files")
                .feed(feed)
                .program("/usr/bin/python3")
                .args(["-c", MARKS])
                .args([program("restart")])
                .descriptor(20, log);
            // The restart program may close its copies in its tasks.
            if !close.is_empty() {
                restart = restart.args(["--close", close]);
            }
            let outcome = restart.run();
            outcome.assert_restarted();
            assert_eq!(outcome.link(FILES, 20), path, "{close}");
            assert_eq!(outcome.link(FILES, 3), "/mnt/files/a");
            assert_eq!(
                outcome.numbers(FILES),
                [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 60]
            );
            assert_eq!(outcome.stderr(), "");
        }
    }
}

#[test]
fn a_mark_goes_through_bash_and_its_redirections() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("bash");
    let log = scratch.log("log");
    let path = scratch.file("log").display().to_string();
    let other = scratch.log("other");
    let script = "exec 30<&21 30<&-; x=$(cat /dev/null; echo y | cat); (exec 20<&-)
        true 20</dev/null 2>&1 | cat; exec \"$@\"";
    let outcome = Restart::advised("files")
        .program("/usr/bin/python3")
        .args(["-c", MARKS, "/bin/bash", "-c", script, "bash"])
        .args([program("restart")])
        .descriptor(20, log)
        .descriptor(21, other)
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.link(FILES, 20), path);
    assert_eq!(
        outcome.numbers(FILES),
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 60]
    );

    // What bash closes or replaces is marked no longer.
    for script in ["exec 20<&-; exec \"$@\"", "exec 20</dev/null; exec \"$@\""] {
        let log = scratch.log("log");
        let outcome = Restart::advised("files")
            .program("/usr/bin/python3")
            .args(["-c", MARKS, "/bin/bash", "-c", script, "bash"])
            .args([program("restart")])
            .descriptor(20, log)
            .run();
        outcome.assert_restarted();
        assert_eq!(
            outcome.numbers(FILES),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60],
            "{script}"
        );
    }
}

#[test]
fn preserve_alone_is_refused_where_the_image_has_the_number() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("exists");
    let advised = binary("advised");
    let log = scratch.log("log");
    let path = scratch.file("log").display().to_string();
    for (advice, refused) in [("1", true), ("3", false)] {
        let mut outcome = Restart::advised("files")
            .program(&advised)
            .args(["set", "1", advice, "exec"])
            .args([program("restart")])
            .descriptor(1, log.try_clone().unwrap())
            .run();
        if refused {
            outcome.assert_refused(&["cradvise=1", "task 534"]);
        } else {
            outcome.assert_restarted();
            assert_eq!(outcome.link(FILES, 1), path);
        }
    }
}

#[test]
fn the_environment_and_the_call_go_together() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("together");
    let advised = binary("advised");
    let log = scratch.log("log");
    let path = scratch.file("log").display().to_string();
    let outcome = Restart::advised("files")
        .program(&advised)
        // 1: PRESERVE here and IGNORE in the environment are both; 2: the environment's wins; 5: ours alone.
        .args(["set", "1", "1", "set", "2", "2", "set", "5", "2", "exec"])
        .args([program("restart")])
        .env("CKPT_IGNORE", "1,6")
        .env("CKPT_PRESERVE", "2")
        .descriptor(1, log.try_clone().unwrap())
        .descriptor(2, log)
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.link(FILES, 1), path);
    assert_eq!(outcome.link(FILES, 2), path);
    assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 7, 8, 9, 60]);
}

#[test]
fn what_holds_another_file_by_now_refuses_the_restart() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("stale");
    let advised = binary("advised");
    let log = scratch.log("log");
    // Closed and opened around the hooks.
    let script = "import ctypes, fcntl, os, sys
fcntl.fcntl(20, fcntl.F_SETFD, 2)
null = os.open('/dev/null', os.O_RDONLY)
ctypes.CDLL(None).syscall(33, null, 20)
os.execvp(sys.argv[1], sys.argv[1:])";
    let mut outcome = Restart::advised("files")
        .program("/usr/bin/python3")
        .args(["-c", script])
        .args([program("restart")])
        .descriptor(20, log.try_clone().unwrap())
        .run();
    outcome.assert_refused(&["descriptor 20 holds another file", "advise it again"]);

    // Only closed around the hooks: it is marked no longer.
    let outcome = Restart::advised("files")
        .program(&advised)
        .args(["set", "20", "1", "raw-close", "20", "exec"])
        .args([program("restart")])
        .descriptor(20, log)
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60]);
}

#[test]
fn a_table_that_nobody_wrote_refuses_the_restart() {
    if !harness::is_root() {
        return;
    }
    let mut outcome = Restart::advised("files").env("CRADVISE_TABLE", "1,7").run();
    outcome.assert_refused(&["CRADVISE_TABLE", "unset it"]);
}

#[test]
fn the_crates_restart_leaves_the_advice_to_a_library_that_is_loaded() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("itself");
    for preload in [true, false] {
        for feed in [Feed::File, Feed::Pipe] {
            let log = scratch.log("log");
            let path = scratch.file("log").display().to_string();
            let mut restart = Restart::new(&image("files"))
                .scenario("files")
                .feed(feed)
                .program(binary("advised"))
                .args([
                    "setfd", "20", "1", "set", "20", "1", "set", "7", "2", "restart",
                ])
                .env("CKPT_RESTART_NR", "302")
                .descriptor(20, log);
            if preload {
                restart = restart.preload(library());
            }
            let outcome = restart.run();
            outcome.assert_restarted();
            let task = outcome.tasks[0].0;
            assert_eq!(outcome.link(task, 20), path, "{preload}");
            assert_eq!(outcome.numbers(task), [0, 1, 2, 3, 4, 5, 6, 8, 9, 20, 60]);
            // As the caller's own is.
            let info = format!("/proc/{}/fdinfo/20", outcome.pid(task));
            let info = std::fs::read_to_string(info).unwrap();
            let flags = info
                .lines()
                .find_map(|line| line.strip_prefix("flags:"))
                .unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & libc::O_CLOEXEC, 0, "{preload}");
        }
    }
}

#[test]
fn advice_that_a_kernel_keeps_is_carried_out_too() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("kernel");
    let log = scratch.log("log");
    let path = scratch.file("log").display().to_string();
    let advised = binary("advised");
    let outcome = Restart::advised("files")
        .program(&advised)
        .args([
            "kernel",
            "/usr/bin/env",
            "CRADVISE_NR=10000",
            "CRADVISE_BACKEND=kernel",
        ])
        .args([&advised])
        .args(["set", "20", "1", "set", "7", "2", "exec"])
        .args([program("restart")])
        .descriptor(20, log)
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.link(FILES, 20), path);
    assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 5, 6, 8, 9, 20, 60]);
}

#[test]
fn a_command_carries_advice_and_descriptors_and_nothing_else() {
    if !harness::is_root() {
        return;
    }
    let scratch = Scratch::new("command");
    let log = scratch.log("log");
    let path = scratch.file("log").display().to_string();
    let other = scratch.log("other");
    // Nothing is preloaded into the program that starts it, and both are close-on-exec there.
    let outcome = Restart::new(&image("files"))
        .scenario("files")
        .program(binary("advised"))
        .args(["setfd", "20", "1", "setfd", "21", "1"])
        .args(["set", "20", "1", "set", "7", "2", "advised"])
        .args([
            library().into_os_string(),
            program("restart").into_os_string(),
        ])
        .descriptor(20, log)
        .descriptor(21, other)
        .run();
    outcome.assert_restarted();
    assert_eq!(outcome.link(FILES, 20), path);
    assert_eq!(outcome.numbers(FILES), [0, 1, 2, 3, 4, 5, 6, 8, 9, 20, 60]);

    let listing = "open 50 /dev/null setfd 50 1 open 51 /dev/null setfd 51 1 set 50 1";
    let advised = binary("advised");
    let library = library();
    let words = format!(
        "{listing} advised {} {} getfd 50 getfd 51 query 50",
        library.display(),
        advised.display()
    );
    assert_eq!(say(false, &words), "0 0 0 2 EBADF 1");
    assert_eq!(say(true, &words), "0 0 0 2 EBADF 1");
}

#[test]
fn a_python_script_marks_a_descriptor_and_becomes_criu() {
    let Some(world) = World::new() else { return };
    let hold = format!("7=append:{}", world.path("f"));
    let image = world.hold(&[&hold]).dump();
    let given = world.open("given");
    let directory = image.directory.display().to_string();
    let criu = harness::criu::program().display().to_string();
    let become_criu = |script: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script, &criu, "restore", "-d", "-D", &directory]);
        command
    };
    // An added number: criu gets the caller's own description.
    let restored = image
        .restore()
        .library()
        .fd(20, &given)
        .run_as(become_criu(MARKS))
        .restored();
    let links = restored.links(restored.root);
    assert_eq!(links[&20], world.path("given"));
    assert_eq!(links[&7], world.path("f"));
    drop(restored);

    // PRESERVE alone of a number that the image has.
    let script = MARKS.replace("20", "7");
    let said = image
        .restore()
        .library()
        .fd(7, &given)
        .run_as(become_criu(&script))
        .refused();
    assert!(said.contains("cradvise=7"), "{said}");
    // Stale.
    let script = MARKS.replace(
        "os.execvp",
        "import ctypes
ctypes.CDLL(None).syscall(33, 0, 20)
os.execvp",
    );
    let said = image
        .restore()
        .library()
        .fd(20, &given)
        .run_as(become_criu(&script))
        .refused();
    assert!(said.contains("descriptor 20 holds another file"), "{said}");
}
