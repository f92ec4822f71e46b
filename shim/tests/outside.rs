//! The table as it is found from outside, in the memory of another process.

use ckpt_image::marks::{Mark, State};
use ckpt_restart::marks;
use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};

/// What is told of a child of fork(2) that has done `job`.
fn of_child(job: impl FnOnce()) -> Vec<Mark> {
    let (mut ready, mut tell) = std::io::pipe().unwrap();
    let (wait, go) = std::io::pipe().unwrap();
    // SAFETY: the child makes system calls and then ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(go);
        job();
        let _ = tell.write_all(b"x");
        let _ = (&wait).read(&mut [0]);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    drop(wait);
    ready.read_exact(&mut [0]).unwrap();
    let marks = marks::of(child);
    drop(go);
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    marks.unwrap()
}

fn onto(path: &str, number: RawFd) {
    let file = File::open(path).unwrap();
    // SAFETY: the numbers are this test's.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
}

fn found(marks: &[Mark]) -> Vec<(i32, u64, State)> {
    marks
        .iter()
        .map(|m| (m.number, m.advice(), m.state))
        .collect()
}

/// In one test, since the table is the process's.
#[test]
fn a_mark_is_found_from_outside_and_only_where_it_was_made_for() {
    use State::{Closed, InForce, NumberOnly, Stale};
    assert_eq!(of_child(|| {}), []);

    let file = std::env::temp_dir().join(format!("cradvise-outside-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let path = file.to_str().unwrap();
    // SAFETY: the number is this test's.
    let eventfd = unsafe { libc::eventfd(0, 0) };
    let (pipe, _writer) = std::io::pipe().unwrap();
    onto("/dev/null", 500);
    onto(path, 501);
    onto("/dev/null", 2000);
    cradvise(500, CR_ADV_IGNORE).unwrap();
    cradvise(501, CR_ADV_PRESERVE).unwrap();
    cradvise(eventfd, CR_ADV_IGNORE).unwrap();
    cradvise(pipe.as_raw_fd(), CR_ADV_IGNORE | CR_ADV_PRESERVE).unwrap();
    cradvise(2000, CR_ADV_IGNORE).unwrap();
    cradvise(3000, CR_ADV_IGNORE).unwrap();
    let mut expected = vec![
        (eventfd, 2, InForce),
        (pipe.as_raw_fd(), 3, InForce),
        (500, 2, InForce),
        (501, 1, InForce),
        (2000, 2, InForce),
        (3000, 2, NumberOnly),
    ];
    expected.sort_by_key(|&(number, ..)| number);
    assert_eq!(found(&of_child(|| {})), expected, "inherited over fork");

    let marks = of_child(|| {
        onto("/dev/zero", 500);
        // SAFETY: the number is this test's.
        unsafe { libc::close(2000) };
        // Another file, which may well get the inode number of the first.
        onto("/dev/null", 501);
        std::fs::remove_file(path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(path, "").unwrap();
        onto(path, 501);
        onto("/dev/null", 3000);
        cradvise(3000, CR_ADV_PRESERVE).unwrap();
        cradvise(eventfd, 0).unwrap();
    });
    std::fs::remove_file(path).unwrap();
    let of = |number| found(&marks).into_iter().find(|m| m.0 == number);
    assert_eq!(of(500), Some((500, 2, Stale)));
    assert_eq!(of(501), Some((501, 1, Stale)));
    assert_eq!(of(2000), Some((2000, 2, Closed)));
    assert_eq!(of(3000), Some((3000, 1, InForce)), "in another table");
    assert_eq!(of(eventfd), None, "taken back");
    assert_eq!(found(&of_child(|| {})).len(), 6, "the parent's are its own");
}

#[test]
fn who_has_ended_has_none() {
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: there is room for what is written; the child is ours.
    unsafe { libc::waitid(libc::P_PID, child as u32, info.as_mut_ptr(), flags) };
    assert_eq!(marks::of(child).unwrap_or_default(), [], "a zombie");
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}
