//! What becomes of advice on the table when the process forks, when threads
//! meet, and when a number is closed or holds another file.

mod support;

use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE, Error};
use cradvise::{cradvise, cradvise_query, cradvise_reset};
use libc::{ENOTSUP, ESTALE};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use support::{close, errno, forked, open_at};

#[test]
fn fork_copies_and_keeps_apart() {
    cradvise(600, CR_ADV_IGNORE).unwrap();
    let status = forked(|| {
        let inherited = cradvise_query(600).unwrap_or(-1) == CR_ADV_IGNORE;
        // The second lies where the table has to grow, between fork and exec.
        let set = cradvise(601, CR_ADV_IGNORE).is_ok() && cradvise(1 << 28, CR_ADV_IGNORE).is_ok();
        let grandchild = forked(|| cradvise_query(601).unwrap_or(-1));
        let reset = cradvise_reset().is_ok();
        i32::from(!(inherited && set && grandchild == CR_ADV_IGNORE && reset))
    });
    assert_eq!(status, 0);
    assert_eq!(cradvise_query(600).unwrap(), CR_ADV_IGNORE);
    assert_eq!(cradvise_query(601).unwrap(), 0);
    assert_eq!(cradvise_query(1 << 28).unwrap(), 0);
}

/// What a child that shares our memory found out.
static ANSWERS: [AtomicI32; 4] = [const { AtomicI32::new(-1) }; 4];

extern "C" fn child_that_shares_memory(_: *mut libc::c_void) -> libc::c_int {
    // Closed for the child only: it has a file table of its own.
    close(611);
    ANSWERS[0].store(errno(cradvise(610, CR_ADV_IGNORE)), SeqCst);
    ANSWERS[1].store(errno(cradvise_reset()), SeqCst);
    ANSWERS[2].store(cradvise_query(611).unwrap_or(-2), SeqCst);
    ANSWERS[3].store(cradvise_query(612).unwrap_or(-2), SeqCst);
    0
}

/// The exit status of a child as of vfork(2). That itself cannot be called from Rust, where
/// a function must not return twice; this is the same child on a stack of its own.
fn sharing_memory(child: extern "C" fn(*mut libc::c_void) -> libc::c_int) -> i32 {
    // Not of the heap: the caller may be a child of fork(2).
    let mut stack = [0u8; 64 * 1024];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut status = 0;
    // SAFETY: the stack outlives the child, for which CLONE_VFORK waits, and the child is ours.
    unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        let top = top.sub(top as usize % 16);
        let pid = libc::clone(child, top.cast(), flags, std::ptr::null_mut());
        assert!(pid > 0);
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
    }
    libc::WEXITSTATUS(status)
}

#[test]
fn a_vfork_child_changes_nothing_of_its_parents() {
    open_at("/dev/null", 611);
    cradvise(611, CR_ADV_PRESERVE).unwrap();
    cradvise(612, CR_ADV_IGNORE).unwrap();
    sharing_memory(child_that_shares_memory);

    let answers = ANSWERS.each_ref().map(|answer| answer.load(SeqCst));
    assert_eq!(answers, [ENOTSUP, ENOTSUP, 0, CR_ADV_IGNORE]);
    assert_eq!(cradvise_query(610).unwrap(), 0);
    assert_eq!(cradvise_query(611).unwrap(), CR_ADV_PRESERVE);
    assert_eq!(cradvise_query(612).unwrap(), CR_ADV_IGNORE);
    // And the parent goes on as before.
    cradvise(610, CR_ADV_IGNORE).unwrap();
}

/// Who has number 2 in its pid namespace, as its parent has in its own.
extern "C" fn child_of_the_same_number(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: takes nothing.
    let second = unsafe { libc::getpid() } == 2;
    i32::from(!second || errno(cradvise(660, 0)) != ENOTSUP || errno(cradvise_reset()) != ENOTSUP)
}

#[test]
fn a_pid_that_comes_again_does_not_make_a_vfork_child_its_parent() {
    const NOT_ALLOWED: i32 = 2;
    // SAFETY: takes integers.
    let new_pids = || unsafe {
        libc::unshare(libc::CLONE_NEWPID) == 0
            || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) == 0
    };
    let parent_with_number_2 = || {
        if cradvise(660, CR_ADV_IGNORE).is_err() || !new_pids() {
            return 1;
        }
        // Number 1 has to live as long as there are to be others.
        // SAFETY: the child waits for its end, which its parent makes.
        let first = unsafe { libc::fork() };
        if first == 0 {
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        }
        let wrong = sharing_memory(child_of_the_same_number);
        // SAFETY: the child is ours.
        unsafe { libc::kill(first, libc::SIGKILL) };
        i32::from(wrong != 0 || cradvise_query(660).ok() != Some(CR_ADV_IGNORE))
    };
    let status = forked(|| match new_pids() {
        false => NOT_ALLOWED,
        true => forked(|| forked(parent_with_number_2)),
    });
    assert!(matches!(status, 0 | NOT_ALLOWED), "{status}");
}

#[test]
fn close_ends_preserve_and_leaves_ignore() {
    open_at("/dev/null", 620);
    open_at("/dev/null", 621);
    cradvise(620, CR_ADV_PRESERVE).unwrap();
    cradvise(621, CR_ADV_PRESERVE | CR_ADV_IGNORE).unwrap();
    close(620);
    close(621);
    assert_eq!(cradvise_query(620).unwrap(), 0);
    assert_eq!(cradvise_query(621).unwrap(), CR_ADV_IGNORE);
    // Once noticed, it is over, also when the same file comes back.
    open_at("/dev/null", 620);
    assert_eq!(cradvise_query(620).unwrap(), 0);
}

#[test]
fn a_duplicate_has_no_advice() {
    open_at("/dev/null", 630);
    cradvise(630, CR_ADV_PRESERVE).unwrap();
    // SAFETY: numbers of this test.
    assert_eq!(unsafe { libc::dup2(630, 631) }, 631);
    assert_eq!(cradvise_query(631).unwrap(), 0);
}

#[test]
fn a_number_used_anew_is_stale() {
    // In a child, since the error is one of the whole table's.
    let status = forked(|| {
        let mut right = cradvise_reset().is_ok();
        // SAFETY: async-signal-safe calls on numbers of this child.
        unsafe {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            let zero = libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY);
            libc::dup2(null, 640);
            right &= cradvise(640, CR_ADV_PRESERVE | CR_ADV_IGNORE).is_ok();
            libc::dup2(zero, 640);
            right &= errno(cradvise_query(640)) == ESTALE;
            right &= cradvise::advice() == Err(Error::Stale(640));

            // Advised anew, it is the new file that is meant.
            right &= cradvise(640, CR_ADV_PRESERVE).is_ok();
            right &= cradvise_query(640).is_ok_and(|advice| advice == CR_ADV_PRESERVE);
            libc::dup2(null, 640);
            right &= cradvise(640, 0).is_ok() && cradvise::advice() == Ok(Vec::new());

            // IGNORE names a number of the image, and no file of ours.
            right &= cradvise(640, CR_ADV_IGNORE).is_ok();
            libc::dup2(zero, 640);
            right &= cradvise_query(640).is_ok_and(|advice| advice == CR_ADV_IGNORE);
        }
        i32::from(!right)
    });
    assert_eq!(status, 0);
}

#[test]
fn an_eventfd_that_became_an_epoll_set_is_stale() {
    // SAFETY: numbers of this test.
    unsafe {
        let event = libc::eventfd(0, libc::EFD_CLOEXEC);
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        assert_eq!(libc::dup2(event, 650), 650);
        cradvise(650, CR_ADV_PRESERVE).unwrap();
        assert_eq!(cradvise_query(650).unwrap(), CR_ADV_PRESERVE);
        assert_eq!(libc::dup2(epoll, 650), 650);
    }
    assert_eq!(errno(cradvise_query(650)), ESTALE);
    cradvise(650, 0).unwrap();
}

#[test]
fn a_number_above_a_lowered_limit_is_not_preserved() {
    let status = forked(|| {
        let limit = libc::rlimit {
            rlim_cur: 660,
            rlim_max: 660,
        };
        // SAFETY: async-signal-safe calls on numbers of this child.
        unsafe {
            libc::dup2(0, 659);
            libc::dup2(0, 660);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
        let mut right = cradvise_reset().is_ok() && cradvise(659, CR_ADV_PRESERVE).is_ok();
        right &= cradvise(660, CR_ADV_IGNORE).is_ok() && cradvise::advice().is_ok();
        right &= cradvise(660, CR_ADV_PRESERVE).is_ok();
        i32::from(!(right && cradvise::advice() == Err(Error::TooHigh(660))))
    });
    assert_eq!(status, 0);
}

#[test]
fn threads_advise_and_fork_at_once() {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let number = 670 + thread;
            open_at("/dev/null", number);
            scope.spawn(move || {
                for round in 0..200 {
                    let advice = round % 4;
                    cradvise(number, advice).unwrap();
                    cradvise(100_000 + round * 5000 + number, CR_ADV_IGNORE).unwrap();
                    let child = forked(|| cradvise_query(number).unwrap_or(9));
                    assert_eq!(child, advice);
                }
            });
        }
    });
}

#[test]
fn a_signal_handler_may_call() {
    static STATUS: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn handler(_: libc::c_int) {
        STATUS.store(errno(cradvise(680, CR_ADV_IGNORE)), SeqCst);
    }
    // SAFETY: the handler makes async-signal-safe calls only.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as usize);
        libc::raise(libc::SIGUSR1);
    }
    assert_eq!(STATUS.load(SeqCst), 0);
    assert_eq!(cradvise_query(680).unwrap(), CR_ADV_IGNORE);
}
