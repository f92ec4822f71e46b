//! The image on its way from one descriptor to another, rewritten.

use crate::error::Error;
use ckpt_image::linux_cr::rewrite::Rewriter;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::thread::JoinHandle;

const CHUNK: usize = 64 << 10;
/// How large the image pipe is made, where the system allows: the contents of
/// pipes must fit into it in one piece.
const PIPE: i32 = 1 << 20;

/// Where a copy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// With the image's last record, after which a kernel reads nothing. Who
    /// feeds the image may keep its end open for as long as the restart lasts.
    LastRecord,
    /// With the input, so that not even what follows the image is lost.
    EndOfInput,
}

/// Copies an image, rewriting it, until its end.
///
/// * `stop`: the copy ends early when this becomes readable.
///
/// # Errors
/// The refusal of the advice or the image; what the system said of reading or
/// writing.
pub fn copy(
    input: &File,
    mut output: &File,
    rewriter: &mut Rewriter,
    until: Until,
    stop: Option<BorrowedFd<'_>>,
) -> Result<(), Error> {
    let cannot_read = |e| Error::system("cannot read the image", e);
    let cannot_write = |e| Error::system("cannot write the image", e);
    let mut buffer = vec![0; CHUNK];
    let mut source = input;
    while until == Until::EndOfInput || !rewriter.is_complete() {
        if !wait(input, stop).map_err(cannot_read)? {
            return Ok(());
        }
        let passing = rewriter.passing();
        if passing > CHUNK as u64 {
            match splice(input, output, passing) {
                Ok(0) => break,
                Ok(n) => {
                    rewriter.passed(n);
                    continue;
                }
                // Neither end is a pipe, or one is of a kind that cannot.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::system("cannot pass the image on", e)),
            }
        }
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(cannot_read(e)),
        };
        rewriter.feed(&buffer[..n])?;
        if rewriter.holds_pipe_data() {
            wait_until_empty(output);
        }
        let out = rewriter.output();
        output.write_all(out).map_err(cannot_write)?;
        out.clear();
        out.shrink_to(CHUNK * 4);
    }
    rewriter.finish()?;
    Ok(())
}

/// Waits for input; false where `stop` came first.
fn wait(input: &File, stop: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    let Some(stop) = stop else {
        return Ok(true);
    };
    let poll = |fd: i32| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut both = [poll(input.as_raw_fd()), poll(stop.as_raw_fd())];
    loop {
        // SAFETY: the array is writable and of the length told.
        let n = unsafe { libc::poll(both.as_mut_ptr(), both.len() as libc::nfds_t, -1) };
        if n >= 0 {
            return Ok(both[1].revents == 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn splice(input: &File, output: &File, most: u64) -> io::Result<u64> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(1 << 30);
    let none = std::ptr::null_mut();
    // SAFETY: both descriptors are open for the length of the call, and no
    // offsets are given.
    let n = unsafe {
        libc::splice(
            input.as_raw_fd(),
            none,
            output.as_raw_fd(),
            none,
            most,
            libc::SPLICE_F_MOVE,
        )
    };
    u64::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// The kernel takes the contents of a pipe out of the image pipe in one go and
/// fails where it does not find all of them, so they are written in one go, and
/// into an empty pipe.
fn wait_until_empty(output: &File) {
    loop {
        let mut queued: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int.
        let result = unsafe { libc::ioctl(output.as_raw_fd(), libc::FIONREAD, &raw mut queued) };
        if result != 0 || queued == 0 || !has_reader(output) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

fn has_reader(output: &File) -> bool {
    let mut poll = libc::pollfd {
        fd: output.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one pollfd, writable.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & libc::POLLERR == 0
}

/// Copies a whole image into an unlinked file, which is left at its beginning.
///
/// # Errors
/// As for [`copy`].
pub fn spool(input: &File, rewriter: &mut Rewriter) -> Result<File, Error> {
    let mut file = unlinked_file()
        .map_err(|e| Error::system("no place for the rewritten image (memfd_create, /tmp)", e))?;
    copy(input, &file, rewriter, Until::LastRecord, None)?;
    file.rewind()
        .map_err(|e| Error::system("cannot rewind the rewritten image", e))?;
    Ok(file)
}

fn unlinked_file() -> io::Result<File> {
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(c"ckptadv-image".as_ptr(), libc::MFD_CLOEXEC) };
    if fd >= 0 {
        // SAFETY: fd was just opened and belongs to nobody else.
        return Ok(unsafe { File::from_raw_fd(fd) });
    }
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(c"/tmp".as_ptr(), flags, 0o600) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A thread that copies an image into a pipe.
///
/// A thread and not a process: restart(2) is interrupted by the end of any child
/// of its caller, whose SIGCHLD handler may also reap any child.
pub struct Pump {
    image: Option<OwnedFd>,
    stop: File,
    thread: JoinHandle<(Box<Rewriter>, Result<(), Error>)>,
}

impl Pump {
    /// Starts to copy.
    ///
    /// # Errors
    /// Where there is no descriptor or thread left.
    ///
    /// The rewriter is boxed because coordinators call on stacks of 16 KiB.
    pub fn start(input: File, mut rewriter: Box<Rewriter>) -> Result<Self, Error> {
        let no_pipe = |e| Error::system("no pipe for the rewritten image", e);
        let (image, output) = pipe().map_err(no_pipe)?;
        let stop = eventfd().map_err(no_pipe)?;
        let stopped = stop.try_clone().map_err(no_pipe)?;
        // SAFETY: F_SETPIPE_SZ takes an integer; that it may fail does not matter.
        unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
        let run = move || {
            let result = copy(
                &input,
                &File::from(output),
                &mut rewriter,
                Until::LastRecord,
                Some(std::os::fd::AsFd::as_fd(&stopped)),
            );
            (rewriter, result)
        };
        let masked = BlockedSignals::new();
        let thread = std::thread::Builder::new()
            .name("ckptadv".to_owned())
            .spawn(run)
            .map_err(|e| Error::system("no thread for the rewritten image", e))?;
        drop(masked);
        Ok(Pump {
            image: Some(image),
            stop: File::from(stop),
            thread,
        })
    }

    /// The descriptor from which the rewritten image is read.
    pub fn image(&self) -> i32 {
        self.image.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Ends the copy, wherever it is, and tells how it went.
    pub fn stop(mut self) -> (Option<Box<Rewriter>>, Result<(), Error>) {
        drop(self.image.take());
        let _ = self.stop.write_all(&1u64.to_ne_bytes());
        match self.thread.join() {
            Ok((rewriter, result)) => (Some(rewriter), result),
            Err(_) => (None, Ok(())),
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just opened and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Not a pipe: who writes into one that nobody reads gets SIGPIPE, and the copy has
/// mostly ended by itself when it is told to.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes integers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Every signal blocked in this thread while it lives, so that a thread started
/// meanwhile never runs the program's handlers.
pub(crate) struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    pub(crate) fn new() -> Self {
        // SAFETY: sigset_t is plain data; both sets are writable.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            BlockedSignals(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
