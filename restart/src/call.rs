//! The Linux-CR restart system call: how to know one, and how to make it with a
//! rewritten image.
//!
//! `long restart(pid_t pid, int fd, unsigned long flags, int logfd)` was never
//! given a number in mainline, and the numbers that the C/R kernels used mean
//! other calls there. A restart is therefore known by its number *and* its
//! shape, and only where an image is seen as well is anything done about it.

use crate::caller;
use crate::errno;
use crate::error::Error;
use crate::request::Request;
use crate::stream::{self, Supply};
use crate::{debug, log, report, warn};
use ckpt_image::linux_cr::delivery::Medium;
use ckpt_image::listing::Engine;
use ckpt_image::report::{Failure, Outcome, Report};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The numbers of restart(2) in the x86_64 kernels that had it: of December
/// 2009, of v19-rc3 to v21, of v23-rc2 and of the port to 3.0.
pub const NUMBERS: [i64; 4] = [301, 302, 305, 314];

const RESTART_TASKSELF: i64 = 1;
const FLAGS: i64 = 0x1f;

/// A call that looks like a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A restarting task, which waits for a coordinator.
    Task,
    /// The coordinator of the tasks below this one: the image is on this descriptor.
    Coordinator {
        /// The pid of the root task.
        root: i32,
        /// The descriptor.
        image: i32,
    },
    /// The caller itself is to be restarted, from this descriptor.
    Itself(i32),
}

/// What a call looks like; `None` where it is certainly no restart.
///
/// * `configured`: CKPT_RESTART_NR, which then is the only number.
pub fn shape(number: i64, arguments: [i64; 4], configured: Option<i64>) -> Option<Shape> {
    let known = match configured {
        Some(configured) => number == configured,
        None => NUMBERS.contains(&number),
    };
    let [pid, fd, flags, log] = arguments;
    if !known || flags & !FLAGS != 0 {
        return None;
    }
    let pid = as_int(pid)?;
    let fd = as_int(fd)?;
    let log = as_int(log)?;
    if pid == 0 {
        return (log == -1).then_some(Shape::Task);
    }
    if pid < 0 || !caller::is_open(fd) || (log != -1 && !caller::is_open(log)) {
        return None;
    }
    // SAFETY: getpid takes nothing.
    let itself = pid == unsafe { libc::getpid() };
    match flags & RESTART_TASKSELF != 0 {
        true if itself => Some(Shape::Itself(fd)),
        false if !itself => Some(Shape::Coordinator {
            root: pid,
            image: fd,
        }),
        _ => None,
    }
}

/// An int argument, which may have been passed with or without sign extension.
fn as_int(argument: i64) -> Option<i32> {
    i32::try_from(argument)
        .ok()
        .or_else(|| u32::try_from(argument).ok().map(u32::cast_signed))
}

/// Makes a restart call with the image rewritten, and says what there is to say.
///
/// * `real`: makes the call with another image descriptor; gives what it
///   returned, and leaves errno.
///
/// # Errors
/// The refusal. Every restarting task is gone by then: the call is made all the
/// same, with an image that ends too early.
pub fn carry(
    request: &Request,
    shape: Shape,
    dry_run: bool,
    real: &dyn Fn(i32) -> i64,
) -> Result<i64, Error> {
    let result = make(request, shape, dry_run, real);
    errno::keeping(|| request.decided());
    result
}

fn make(
    request: &Request,
    shape: Shape,
    dry_run: bool,
    real: &dyn Fn(i32) -> i64,
) -> Result<i64, Error> {
    match shape {
        Shape::Task => Ok(real(-1)),
        // The thread that rewrites has to be gone: the process becomes another.
        Shape::Itself(fd) => {
            let supply = begin(request, fd, Some(Medium::File), dry_run, &|| false)?;
            if let Some(rewriter) = supply.rewriter() {
                say(request, rewriter, Outcome::Restarting);
            }
            let result = real(supply.image());
            if let Some(rewriter) = supply.rewriter() {
                made(result, |outcome| rewriter.report(outcome));
            }
            Ok(result)
        }
        Shape::Coordinator { root, image } => {
            let gone = || has_ended(root);
            match begin(request, image, request.medium(), dry_run, &gone) {
                Ok(supply) => finish(request, supply, real),
                Err(refusal) => {
                    give_up(real);
                    Err(refusal)
                }
            }
        }
    }
}

/// Whether a task is no more, as far as its parent can tell. Its status stays for the
/// program to collect.
fn has_ended(pid: i32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: siginfo_t is plain data, of which all zeroes is a value, and is writable;
    // its pid is there where one was found, and zero otherwise.
    unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        let waited = libc::waitid(libc::P_PID, pid.cast_unsigned(), &mut found, options);
        (waited == 0 && found.si_pid() == pid)
            || (libc::kill(pid, 0) != 0 && errno::get() == libc::ESRCH)
    }
}

/// Everything that can fail before the call.
///
/// * `gone`: whether the task for which the image is meant is no more.
fn begin(
    request: &Request,
    fd: i32,
    medium: Option<Medium>,
    dry_run: bool,
    gone: &dyn Fn() -> bool,
) -> Result<Supply, Error> {
    request.can_be_opened()?;
    let rewriter = Box::new(request.rewriter(!dry_run)?);
    let input = borrowed(fd)?;
    if !dry_run {
        return Supply::start(input, rewriter, medium, gone);
    }
    let rewriter = stream::rehearse(input, rewriter, gone)?;
    say(request, &rewriter, Outcome::Planned);
    Err(Error::DryRun)
}

/// The call, and how it went. A refusal in the middle of the image has ended it
/// for the kernel too, which has then ended every task.
fn finish(request: &Request, supply: Supply, real: &dyn Fn(i32) -> i64) -> Result<i64, Error> {
    let result = real(supply.image());
    let errno = errno::get();
    let (rewriter, copied) = supply.stop();
    if result < 0 && errno == libc::ENOENT && request.gives_inherited() {
        warn!(
            "the kernel did not find a file: one of the image's, or one that a task inherits and \
             has closed in a way that the library does not see, or has no /proc to find it in"
        );
    }
    match copied {
        // The kernel stops reading when it has failed or has read the last
        // record: that the rest did not go through is no error of its own.
        Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::EPIPE) => {}
        Err(refusal) if result < 0 => return Err(refusal),
        Err(late) => debug!("after the restart: {late}"),
        Ok(()) => {}
    }
    errno::set(errno);
    if let Some(rewriter) = &rewriter {
        let made = made(result, |outcome| rewriter.report(outcome));
        say(request, rewriter, made);
    }
    errno::set(errno);
    Ok(result)
}

/// Makes a restart call that nobody has advice for.
pub fn unadvised(shape: Shape, real: &dyn Fn() -> i64) -> i64 {
    let report = |outcome| Report::new(Engine::LinuxCr, outcome);
    if matches!(shape, Shape::Itself(_)) {
        report::write(&report(Outcome::Restarting));
    }
    let result = real();
    made(result, report);
    result
}

/// Reports what became of a call that was made. `errno` is as the call left it.
fn made<'a>(result: i64, report: impl Fn(Outcome) -> Report<'a>) -> Outcome {
    if result >= 0 {
        report::write(&report(Outcome::Restarted));
        return Outcome::Restarted;
    }
    let error = std::io::Error::last_os_error();
    report::write(&Report {
        failure: Some(Failure {
            errno: error.raw_os_error(),
            message: format!("the restart call failed: {error}"),
        }),
        ..report(Outcome::Failed)
    });
    Outcome::Failed
}

/// Ends every task that waits for this coordinator, with an image that is empty.
pub fn give_up(real: &dyn Fn(i32) -> i64) {
    match File::open("/dev/null") {
        Ok(empty) => {
            real(empty.as_raw_fd());
        }
        Err(_) => {
            real(-1);
        }
    }
}

/// Says what is not said yet, and reports what will not be known better soon.
fn say(request: &Request, rewriter: &ckpt_image::linux_cr::Rewriter, outcome: Outcome) {
    let report = rewriter.report(outcome);
    if !request.is_checked() {
        log::report(&report);
    }
    if matches!(outcome, Outcome::Planned | Outcome::Restarting) {
        report::write(&report);
    }
}

/// How far a request has come that was checked.
pub fn outcome_of_check(dry_run: bool) -> Outcome {
    match dry_run {
        true => Outcome::Planned,
        false => Outcome::Restarting,
    }
}

/// A descriptor of our own for the program's.
fn borrowed(fd: i32) -> Result<File, Error> {
    let copy = caller::copy_above(fd, 3).map_err(|e| Error::system("the image's descriptor", e))?;
    // SAFETY: it is new, and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(copy) })
}

/// Whether a Linux-CR image comes next on a descriptor. Nothing is taken from
/// it; on an empty pipe this waits for the first bytes, as the call itself would.
pub fn is_image(fd: i32) -> bool {
    let mut first = [0u8; 16];
    let n = match caller::position(fd) {
        // SAFETY: the buffer is writable and of the length told.
        Ok(at) => unsafe { libc::pread(fd, first.as_mut_ptr().cast(), first.len(), at) },
        Err(_) => peek(fd, &mut first),
    };
    usize::try_from(n)
        .is_ok_and(|n| n == first.len() && ckpt_image::linux_cr::begins_like_an_image(&first))
}

/// Reads what comes next on a pipe or a socket and leaves it there. Where less has
/// come than is asked for, the rest is waited for.
fn peek(fd: i32, first: &mut [u8; 16]) -> isize {
    loop {
        let ended = is_at_end(fd);
        let got = peek_once(fd, first);
        if ended || !(1..first.len() as isize).contains(&got) {
            return got;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn peek_once(fd: i32, first: &mut [u8; 16]) -> isize {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for two descriptors, each of which is then
    // owned; tee, recv and readv get descriptors that are open and a buffer of
    // the length told.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return -1;
        }
        let (from, to) = (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]));
        match libc::tee(fd, to.as_raw_fd(), first.len(), 0) {
            ..0 => libc::recv(fd, first.as_mut_ptr().cast(), first.len(), libc::MSG_PEEK),
            0 => 0,
            // Not read(2), which the library interposes: it would take this for the
            // restart program's own look at the image.
            _ => libc::readv(
                from.as_raw_fd(),
                &libc::iovec {
                    iov_base: first.as_mut_ptr().cast(),
                    iov_len: first.len(),
                },
                1,
            ),
        }
    }
}

/// Whether nobody will write any more.
fn is_at_end(fd: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one pollfd, writable.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & (libc::POLLHUP | libc::POLLRDHUP) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_known_by_number_and_shape() {
        let me = i64::from(std::process::id());
        assert_eq!(shape(302, [0, 0, 0, -1], None), Some(Shape::Task));
        assert_eq!(shape(302, [0, 0, 4, 0xffff_ffff], None), Some(Shape::Task));
        assert_eq!(shape(303, [0, 0, 0, -1], None), None);
        assert_eq!(shape(302, [0, 0, 0, -1], Some(305)), None);
        assert_eq!(shape(me, [0, 0, 0, -1], Some(me)), Some(Shape::Task));
        assert_eq!(shape(305, [me, 0, 1, -1], None), Some(Shape::Itself(0)));
        assert_eq!(
            shape(302, [1, 0, 0, -1], None),
            Some(Shape::Coordinator { root: 1, image: 0 })
        );
        assert_eq!(shape(302, [1, 9999, 0, -1], None), None);
    }

    #[test]
    fn a_number_that_is_not_open_is_no_image() {
        for fd in [-1, i32::MIN, i32::MAX] {
            assert_eq!(borrowed(fd).unwrap_err().errno(), libc::EBADF);
        }
    }

    #[test]
    fn what_the_numbers_mean_today_is_left_alone() {
        let limit = [0u64; 2];
        let pointer = (&raw const limit) as i64;
        // getrlimit and setrlimit as glibc makes them, clock_adjtime,
        // sched_setattr, fanotify_mark.
        assert_eq!(shape(302, [0, 7, 0, pointer], None), None);
        assert_eq!(shape(302, [0, 7, pointer, 0], None), None);
        assert_eq!(shape(302, [1, 7, 0, pointer], None), None);
        assert_eq!(shape(305, [0, pointer, 0, 0], None), None);
        assert_eq!(shape(314, [0, pointer, 0, 0], None), None);
        assert_eq!(shape(301, [3, 1, 2, -100], None), None);
    }
}
