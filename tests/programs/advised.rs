//! A program that is linked with the crate, and does what its arguments say, one after the other:
//!
//! ```text
//! set FD ADVICE | query FD | reset | status          the crate's calls
//! setfd FD FLAGS | getfd FD                          fcntl(2)
//! open FD PATH | close FD | raw-close FD | dup2 A B | dup3 A B | dup A | dupfd A B
//! close-range A B | cloexec-range A B | unknown-range A B | closefrom A | fclose FD | mq-close FD
//! closedir-null 0                                    of no stream
//! fork … end | vfork … end                           a child does what stands between
//! beside … end                                       the same, and it is not waited for
//! hold FILE                                          adds its pid to FILE, and sleeps for ever
//! mute                                               PR_SET_DUMPABLE 0
//! pipe A B | eventfd FD                              on these numbers
//! forge WHAT                                         a table of marks that is none
//! restart                                            the crate's, of itself, from 0
//! exec PROGRAM ARGUMENTS… | execl PROGRAM ARGUMENT | execle PROGRAM ARGUMENT | spawn PROGRAM …
//! advised LIBRARY PROGRAM ARGUMENTS…                 the crate's command
//! torture ROUNDS                                     threads mark, close, fork and exec; 0 where all was right
//! short-threads COUNT                                each starts a program and ends; by how many KiB this one grew
//! kernel PROGRAM ARGUMENTS…                          a child on a kernel that has the call
//! ```
//!
//! What returns something says so on standard output, a line each: the result, or the name of the error.

#[path = "../../shim/tests/support/simulated_kernel.rs"]
mod simulated_kernel;

use cradvise::{Advised, cradvise, cradvise_query, cradvise_reset};
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

struct Words(std::vec::IntoIter<String>);

impl Words {
    fn word(&mut self) -> String {
        self.0.next().expect("a word")
    }

    fn number(&mut self) -> c_int {
        self.word().parse().expect("a number")
    }

    fn rest(&mut self) -> Command {
        let mut command = Command::new(self.word());
        command.args(self.0.by_ref());
        command
    }
}

fn main() {
    let mut words = Words(std::env::args().skip(1).collect::<Vec<_>>().into_iter());
    while let Some(verb) = words.0.next() {
        act(&verb, &mut words);
    }
}

fn act(verb: &str, words: &mut Words) {
    match verb {
        "set" => say(cradvise(words.number(), words.number()).map(|()| 0)),
        "query" => say(cradvise_query(words.number())),
        "reset" => say(cradvise_reset().map(|()| 0)),
        "status" => say(Ok(cradvise::status())),
        "restart" => say(cradvise::restart(std::process::id() as i32, 0, 1, -1)),
        "open" => open(words.number(), &words.word()),
        "exec" => say::<i32>(Err(words.rest().exec())),
        "spawn" => end(words.rest().status()),
        "advised" => {
            let library = words.word();
            let mut command = words.rest();
            end(command.advised(library).and_then(Command::status));
        }
        "torture" => say(Ok(torture(words.number()))),
        "short-threads" => short_threads(words.number()),
        "kernel" => {
            simulated_kernel::install();
            end(words.rest().status());
        }
        "execl" | "execle" => execl(verb, &words.word(), &words.word()),
        "fork" | "vfork" | "beside" => child(verb, words),
        "hold" => hold(&words.word()),
        "pipe" => pipe(words.number(), words.number()),
        "forge" => forge(&words.word()),
        // SAFETY: takes integers.
        "mute" => assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) }, 0),
        _ => say(numbers(verb, words)),
    }
}

fn say<T: Display>(result: io::Result<T>) {
    let mut out = io::stdout();
    let _ = match result {
        Ok(value) => writeln!(out, "{value}"),
        Err(error) => writeln!(out, "{}", name(error.raw_os_error().unwrap_or(0))),
    };
}

fn name(errno: i32) -> String {
    match errno {
        libc::EBADF => "EBADF".to_owned(),
        libc::EEXIST => "EEXIST".to_owned(),
        libc::EINVAL => "EINVAL".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        libc::EPERM => "EPERM".to_owned(),
        libc::ENOTSUP => "ENOTSUP".to_owned(),
        libc::ESTALE => "ESTALE".to_owned(),
        other => format!("errno {other}"),
    }
}

fn end(status: io::Result<std::process::ExitStatus>) {
    match status {
        Ok(status) => std::process::exit(status.code().unwrap_or(125)),
        Err(error) => say::<i32>(Err(error)),
    }
}

fn open(number: c_int, path: &str) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.or_else(|_| File::open(path)).expect("a file");
    // SAFETY: the number is the test's.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
}

/// The calls of libc that take numbers only.
fn numbers(verb: &str, words: &mut Words) -> io::Result<c_int> {
    let a = words.number();
    let mut b = || words.number();
    // SAFETY: no memory is involved but a stream that is closed at once; the numbers are the test's.
    let result = unsafe {
        match verb {
            "setfd" => libc::fcntl(a, libc::F_SETFD, b()),
            "getfd" => libc::fcntl(a, libc::F_GETFD),
            "close" => libc::close(a),
            "raw-close" => libc::syscall(libc::SYS_close, a) as c_int,
            "closedir-null" => libc::closedir(std::ptr::null_mut()),
            "mq-close" => libc::mq_close(a),
            "fclose" => libc::fclose(libc::fdopen(a, c"r".as_ptr())),
            "dup" => libc::dup(a),
            "dup2" => libc::dup2(a, b()),
            "dup3" => libc::dup3(a, b(), libc::O_CLOEXEC),
            "dupfd" => libc::fcntl(a, libc::F_DUPFD, b()),
            "close-range" => libc::close_range(a as u32, b() as u32, 0),
            "cloexec-range" => {
                libc::close_range(a as u32, b() as u32, libc::CLOSE_RANGE_CLOEXEC as c_int)
            }
            "unknown-range" => libc::close_range(a as u32, b() as u32, 0x100),
            "eventfd" => libc::dup3(libc::eventfd(0, libc::EFD_CLOEXEC), a, 0),
            "closefrom" => {
                closefrom(a);
                0
            }
            _ => panic!("{verb}?"),
        }
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

unsafe extern "C" {
    fn closefrom(least: c_int);
}

fn execl(verb: &str, program: &str, argument: &str) {
    let program = CString::new(program).unwrap();
    let argument = CString::new(argument).unwrap();
    let more = [c"7", c"query", c"8", c"query", c"9"].map(|word| word.as_ptr());
    let null = std::ptr::null::<c_char>();
    let environment = [c"ONLY=this".as_ptr(), null];
    // SAFETY: strings, ended by a null; the environment ends in one, too.
    unsafe {
        let (p, a) = (program.as_ptr(), argument.as_ptr());
        let [b, c, d, e, f] = more;
        match verb {
            "execl" => libc::execl(p, p, a, b, c, d, e, f, null),
            _ => libc::execle(p, p, a, b, c, d, e, f, null, environment.as_ptr()),
        };
    }
    say::<i32>(Err(io::Error::last_os_error()));
}

/// The words up to `end` are a child's: of fork(2), or one that has our memory, as those of vfork(2) have.
fn child(verb: &str, words: &mut Words) {
    let of_child = words.0.by_ref().take_while(|word| word != "end");
    let mut of_child = Words(of_child.collect::<Vec<_>>().into_iter());
    extern "C" fn run(words: *mut c_void) -> c_int {
        // SAFETY: made of a reference below, which outlives the child.
        let words = unsafe { &mut *words.cast::<Words>() };
        while let Some(verb) = words.0.next() {
            act(&verb, words);
        }
        0
    }
    let argument = (&raw mut of_child).cast::<c_void>();
    let mut stack = vec![0u8; 1 << 20];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: one thread; the stack outlives the child, for which CLONE_VFORK waits. What it prints passes no
    // buffer, since each line is flushed.
    let pid = unsafe {
        match verb {
            "vfork" => {
                let top = stack.as_mut_ptr().add(stack.len() - 16).cast();
                libc::clone(run, top, flags, argument)
            }
            _ => match libc::fork() {
                0 => libc::_exit(run(argument)),
                pid => pid,
            },
        }
    };
    assert!(pid > 0);
    if verb == "beside" {
        return;
    }
    // SAFETY: the child is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut 0, 0) }, pid);
}

fn hold(ready: &str) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(ready)
        .expect("a file");
    // In one write: another process may append its own.
    let line = format!("{}\n", std::process::id());
    file.write_all(line.as_bytes()).expect("the pid is told");
    drop(file);
    loop {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

fn pipe(reader: c_int, writer: c_int) {
    let mut ends = [0; 2];
    // SAFETY: writes two numbers; the others are the test's.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        assert_eq!(libc::dup2(ends[0], reader), reader);
        assert_eq!(libc::dup2(ends[1], writer), writer);
        libc::close(ends[0]);
        libc::close(ends[1]);
    }
}

/// Memory that looks like a table of marks.
fn forge(what: &str) {
    let mut words = ckpt_image::marks::header(0).to_vec();
    words.resize(1 << 10, u64::MAX);
    match what {
        // Every number asks and leaves out, for a file that it has not.
        "words" => {}
        "beyond" => words[1] = u64::MAX << 32 | 1,
        "version" => words[1] += 1,
        _ => panic!("{what}?"),
    }
    let count = if what == "words" { 5000 } else { 1 };
    for _ in 0..count {
        const PAGE: usize = 4096;
        let length = 3 * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, of which the first page is left alone and the others are written.
        unsafe {
            let guard = libc::mmap(
                std::ptr::null_mut(),
                PAGE + length,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            );
            assert_ne!(guard, libc::MAP_FAILED);
            let table = guard.cast::<u8>().add(PAGE);
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(table.cast(), length, rights), 0);
            std::ptr::copy_nonoverlapping(words.as_ptr().cast(), table, words.len() * 8);
        }
    }
}

/// How often an answer was wrong, while threads mark and close numbers of their own, fork and start programs.
fn torture(rounds: c_int) -> usize {
    let threads = |job: fn(c_int, c_int) -> bool, numbers: std::ops::Range<c_int>| {
        let start = |number| {
            std::thread::spawn(move || (0..rounds).filter(|&round| !job(number, round)).count())
        };
        numbers.map(start).collect::<Vec<_>>()
    };
    let mut all = threads(mark_and_close, 300..303);
    all.extend(threads(mark_and_fork, 310..312));
    all.extend(threads(mark_and_spawn, 320..321));
    all.into_iter().map(|thread| thread.join().unwrap()).sum()
}

fn is(fd: c_int, advice: c_int) -> bool {
    cradvise_query(fd).is_ok_and(|now| now == advice)
}

fn mark_and_close(fd: c_int, round: c_int) -> bool {
    open(fd, "/dev/null");
    let mut right = cradvise(fd, 1 + round % 3).is_ok() && is(fd, 1 + round % 3);
    // Where the table grows, and numbers that are all of this thread.
    let far = 1_000_000 + fd * 10_000 + round;
    right &= cradvise(far, 2).is_ok() && is(far, 2) && cradvise(far, 0).is_ok() && is(far, 0);
    // SAFETY: the number is this thread's.
    unsafe { libc::close(fd) };
    // Asked before it is open again, the table knows without the library, too.
    right & is(fd, (1 + round % 3) & 2)
}

fn mark_and_fork(fd: c_int, round: c_int) -> bool {
    open(fd, "/dev/null");
    let mut right = cradvise(fd, round % 4).is_ok();
    // SAFETY: the child calls nothing that is not async-signal-safe.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let mut right = is(fd, round % 4) && cradvise(fd, (round + 1) % 4).is_ok();
        right &= is(fd, (round + 1) % 4) && cradvise_reset().is_ok() && is(fd, 0);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let mut status = -1;
    // SAFETY: the child is ours.
    right &= unsafe { libc::waitpid(pid, &mut status, 0) } == pid && status == 0;
    right & is(fd, round % 4)
}

fn mark_and_spawn(fd: c_int, _: c_int) -> bool {
    open(fd, "/dev/null");
    let right = cradvise(fd, 1).is_ok() && cradvise(fd + 1, 2).is_ok();
    let started = Command::new("/bin/true").status();
    right && started.is_ok_and(|status| status.success()) && is(fd, 1) && is(fd + 1, 2)
}

/// One after the other: what each needs to run, the next gets.
fn short_threads(count: c_int) {
    let size = || -> io::Result<u64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let size = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        size.ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    let start = || {
        let started = std::thread::spawn(|| Command::new("/bin/true").status());
        assert!(started.join().unwrap().unwrap().success());
    };
    (0..4).for_each(|_| start());
    let before = size();
    (0..count).for_each(|_| start());
    say(before.and_then(|before| Ok(size()?.saturating_sub(before))));
}
