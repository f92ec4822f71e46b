//! The image on its way from one descriptor to another, rewritten.

use crate::error::Error;
use crate::{debug, memory};
use ckpt_image::linux_cr::delivery::{Delivery, Medium, THROUGH_A_PIPE};
use ckpt_image::linux_cr::rewrite::Rewriter;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) const CHUNK: usize = 64 << 10;
/// What is read of a file where little is expected before what passes.
pub(crate) const LITTLE: usize = 4 << 10;
/// More than so many bytes of a file are not read, but pass or are skipped.
pub(crate) const WORTH_PASSING: usize = 2 * LITTLE;
/// How large the pipes are made, in bytes, where the system allows.
const LARGE: i32 = 1 << 20;
/// How long a pipe with little in it may fill.
const FILLING: Duration = Duration::from_micros(50);
/// How much of an image is rewritten before the kernel reads the first byte, where
/// it is not known in advance.
const AHEAD: usize = 1 << 20;
/// How often whoever waits for an image looks for the task that waits for it, in ms.
const LOOK: i32 = 100;

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
/// # Errors
/// The refusal of the advice or the image; what the system said of reading or
/// writing.
pub fn copy(
    input: &File,
    output: &File,
    rewriter: &mut Rewriter,
    until: Until,
) -> Result<(), Error> {
    let mut outlet = Outlet {
        output,
        delivery: None,
    };
    outlet.copy(input, rewriter, until, None)
}

/// Where an image goes.
struct Outlet<'a> {
    output: &'a File,
    /// Where it must suit the kernel.
    delivery: Option<Delivery>,
}

impl Outlet<'_> {
    /// * `stop`: the copy ends early when this becomes readable.
    fn copy(
        &mut self,
        input: &File,
        rewriter: &mut Rewriter,
        until: Until,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let mut buffer = vec![0; CHUNK];
        let few = grow(input).map(|capacity| capacity / 8);
        // Bytes of a file are copied into a pipe once only, even where there are few of them.
        let (least, after) = match few {
            Some(_) => (CHUNK, CHUNK),
            None => (WORTH_PASSING, LITTLE),
        };
        let mut next = CHUNK;
        if self.delivery.is_none() {
            grow(self.output);
        }
        loop {
            let out = rewriter.output();
            self.put(out)?;
            out.clear();
            out.shrink_to(CHUNK * 4);
            if until == Until::LastRecord && rewriter.is_complete() {
                break;
            }
            if !wait(input, stop).map_err(cannot_read)? {
                return Ok(());
            }
            if few.is_some_and(|few| queued(input) < few) {
                std::thread::sleep(FILLING);
            }
            let mut passing = rewriter.passing();
            if passing > least as u64 && few.is_none() {
                passing = self.settle(rewriter);
            }
            if passing > least as u64 {
                match splice(input, self.output, passing) {
                    Ok(0) => break,
                    Ok(n) => {
                        rewriter.passed(n);
                        next = after;
                        if let Some(delivery) = &mut self.delivery {
                            delivery.passed(n);
                        }
                        continue;
                    }
                    // Neither end is a pipe, or one is of a kind that cannot.
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(Error::system("cannot pass the image on", e)),
                }
            }
            if !feed(input, rewriter, &mut buffer[..next])? {
                break;
            }
            next = CHUNK;
        }
        rewriter.finish()?;
        Ok(())
    }

    /// Lets all pass of a file that was checked, up to its last record, once nothing is
    /// left to be changed. Gives the bytes that pass.
    fn settle(&mut self, rewriter: &mut Rewriter) -> u64 {
        let rest = rewriter.unchanged();
        let settles = match &mut self.delivery {
            Some(delivery) => rest > 0 && delivery.settle(rest),
            None => rest > 0,
        };
        if settles {
            rewriter.settle();
        }
        rewriter.passing()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut output = self.output;
        let Some(delivery) = &mut self.delivery else {
            return output.write_all(bytes).map_err(cannot_write);
        };
        delivery.feed(bytes)?;
        let (bytes, cuts) = delivery.output();
        let mut at = 0;
        for &cut in cuts {
            output.write_all(&bytes[at..cut]).map_err(cannot_write)?;
            wait_until_empty(output);
            at = cut;
        }
        output.write_all(&bytes[at..]).map_err(cannot_write)?;
        delivery.taken();
        Ok(())
    }
}

fn cannot_read(error: io::Error) -> Error {
    Error::system("cannot read the image", error)
}

fn cannot_write(error: io::Error) -> Error {
    Error::system("cannot write the rewritten image", error)
}

/// Reads once; false where the input has ended.
fn feed(mut input: &File, rewriter: &mut Rewriter, buffer: &mut [u8]) -> Result<bool, Error> {
    loop {
        match input.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                rewriter.feed(&buffer[..n])?;
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(cannot_read(e)),
        }
    }
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

/// Waits until what was written has been read.
fn wait_until_empty(output: &File) {
    while queued(output) > 0 && has_reader(output) {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Bytes in a pipe; 0 where it is none.
fn queued(pipe: &File) -> i32 {
    let mut queued: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    match unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut queued) } {
        0 => queued,
        _ => 0,
    }
}

/// Makes a pipe large, so that whoever is at its other end need not be woken for
/// every few bytes, which costs more than moving them. Gives its capacity in
/// bytes; `None` where it is no pipe.
fn grow(pipe: &File) -> Option<i32> {
    let fd = pipe.as_raw_fd();
    // SAFETY: both take integers only.
    let capacity = unsafe {
        match libc::fcntl(fd, libc::F_GETPIPE_SZ) {
            small @ 0..LARGE => libc::fcntl(fd, libc::F_SETPIPE_SZ, LARGE).max(small),
            large => large,
        }
    };
    (capacity > 0).then_some(capacity)
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

/// An unlinked file on a disk, or in memory where no directory takes one.
fn unlinked_file() -> io::Result<(File, PathBuf)> {
    let own = std::env::var_os("TMPDIR").filter(|place| !place.is_empty());
    let places = own.into_iter().chain(["/tmp".into(), "/var/tmp".into()]);
    for place in places.map(PathBuf::from) {
        if let Ok(file) = unlinked_file_in(&place) {
            return Ok((file, place));
        }
    }
    Ok((memory::file(c"ckptadv-image", true)?, "memory".into()))
}

fn unlinked_file_in(place: &Path) -> io::Result<File> {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    let path = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if fd >= 0 {
        return owned(fd);
    }
    // The kernel or the file system has no O_TMPFILE.
    let mut path = [place.as_os_str().as_bytes(), b"/ckptadv-XXXXXX\0"].concat();
    let _blocked = BlockedSignals::new();
    // SAFETY: a NUL-terminated template that can be written to, and then a name.
    unsafe {
        let fd = libc::mkostemp(path.as_mut_ptr().cast(), libc::O_CLOEXEC);
        let file = owned(fd)?;
        libc::unlink(path.as_ptr().cast());
        Ok(file)
    }
}

fn owned(fd: i32) -> io::Result<File> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd was just opened and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Where a restart call gets its image.
pub enum Supply {
    /// A file in which everything is, and who rewrote it.
    File(File, Box<Rewriter>),
    /// A pipe into which a thread writes.
    Pump(Pump),
}

/// A thread that copies an image into a pipe.
///
/// A thread and not a process: restart(2) is interrupted by the end of any child
/// of its caller, whose SIGCHLD handler may also reap any child.
pub struct Pump {
    image: OwnedFd,
    stop: File,
    thread: JoinHandle<(Box<Rewriter>, Result<(), Error>)>,
}

impl Supply {
    /// Begins to rewrite an image.
    ///
    /// * `medium`: how it is to reach the kernel, where that is known. Otherwise a
    ///   pipe, unless a pipe is met near its beginning whose contents would not fit
    ///   through. A file is written to its end before this returns.
    ///
    /// * `gone`: whether the task for which the image is meant is no more.
    ///
    /// The rewriter is boxed, and works in a thread, because coordinators call on
    /// stacks of 16 KiB.
    ///
    /// # Errors
    /// The refusal, as far as the image was read; ESRCH where the task is gone; where
    /// there is no descriptor, no thread or no room left.
    pub fn start(
        input: File,
        mut rewriter: Box<Rewriter>,
        medium: Option<Medium>,
        gone: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        if medium == Some(Medium::Pipe) {
            return Pump::start(input, rewriter).map(Supply::Pump);
        }
        let begun = unless(gone, move |stop| {
            let file = match medium {
                None if look_ahead(&input, &mut rewriter, stop)? == Medium::Pipe => None,
                _ => Some(spool(&input, &mut rewriter, stop)?),
            };
            Ok((input, rewriter, file))
        })?;
        match begun {
            (_, rewriter, Some(file)) => Ok(Supply::File(file, rewriter)),
            (input, rewriter, None) => Pump::start(input, rewriter).map(Supply::Pump),
        }
    }

    /// The descriptor from which the rewritten image is read.
    pub fn image(&self) -> i32 {
        match self {
            Supply::File(file, _) => file.as_raw_fd(),
            Supply::Pump(pump) => pump.image.as_raw_fd(),
        }
    }

    /// Who rewrote it, where that is done.
    pub fn rewriter(&self) -> Option<&Rewriter> {
        match self {
            Supply::File(_, rewriter) => Some(rewriter),
            Supply::Pump(_) => None,
        }
    }

    /// Ends the copy, wherever it is, and tells how it went.
    pub fn stop(self) -> (Option<Box<Rewriter>>, Result<(), Error>) {
        match self {
            Supply::File(_, rewriter) => (Some(rewriter), Ok(())),
            Supply::Pump(pump) => pump.stop(),
        }
    }
}

impl Pump {
    fn start(input: File, mut rewriter: Box<Rewriter>) -> Result<Self, Error> {
        let no_pipe = |e| Error::without_descriptor("no pipe for the rewritten image", e);
        let (image, output) = pipe().map_err(no_pipe)?;
        let stop = eventfd().map_err(no_pipe)?;
        let stopped = stop.try_clone().map_err(no_pipe)?;
        let thread = in_a_thread(move || {
            let mut outlet = Outlet {
                output: &File::from(output),
                delivery: Some(Delivery::new(Medium::Pipe)),
            };
            let stop = Some(stopped.as_fd());
            let result = outlet.copy(&input, &mut rewriter, Until::LastRecord, stop);
            (rewriter, result)
        })?;
        Ok(Pump {
            image,
            stop: File::from(stop),
            thread,
        })
    }

    fn stop(mut self) -> (Option<Box<Rewriter>>, Result<(), Error>) {
        drop(self.image);
        let _ = self.stop.write_all(&1u64.to_ne_bytes());
        match self.thread.join() {
            Ok((rewriter, result)) => (Some(rewriter), result),
            Err(_) => (None, Ok(())),
        }
    }
}

fn broken() -> Error {
    Error::system("the image was not rewritten", io::ErrorKind::Other.into())
}

/// A thread that runs none of the program's signal handlers.
fn in_a_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let _masked = BlockedSignals::new();
    std::thread::Builder::new()
        .name("ckptadv".to_owned())
        .spawn(run)
        .map_err(|e| Error::system("no thread for the rewritten image", e))
}

/// Does in a thread what has to be done before the call. A feeder gives nothing
/// before every task has reported to it, and a task may have ended instead: the call
/// would return then, and waits for no image.
///
/// * `job`: gets what is readable once it is to end.
fn unless<T: Send + 'static>(
    gone: &dyn Fn() -> bool,
    job: impl FnOnce(BorrowedFd<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let no_pipe = |e| Error::without_descriptor("no pipe to wait with", e);
    let (over, end) = pipe().map_err(no_pipe)?;
    let mut stop = File::from(eventfd().map_err(no_pipe)?);
    let stopped = stop.try_clone().map_err(no_pipe)?;
    let thread = in_a_thread(move || {
        let _end = end;
        job(stopped.as_fd())
    })?;
    let mut given_up = false;
    while !has_ended(&over, LOOK) {
        if !given_up && gone() {
            given_up = true;
            let _ = stop.write_all(&1u64.to_ne_bytes());
        }
    }
    let done = thread.join().unwrap_or_else(|_| Err(broken()));
    if given_up {
        let gone = io::Error::from_raw_os_error(libc::ESRCH);
        return Err(Error::system("the root task has ended", gone));
    }
    done
}

/// Whether nobody has the other end of a pipe any more; waits for that so many ms.
fn has_ended(pipe: &OwnedFd, timeout: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one pollfd, writable.
    unsafe { libc::poll(&raw mut poll, 1, timeout) };
    poll.revents != 0
}

/// Reads a whole image for its plan only.
///
/// * `gone`: as for [`Supply::start`].
///
/// # Errors
/// The refusal; ESRCH where the task is gone; what the system said.
pub fn rehearse(
    input: File,
    mut rewriter: Box<Rewriter>,
    gone: &dyn Fn() -> bool,
) -> Result<Box<Rewriter>, Error> {
    unless(gone, move |stop| {
        let sink = File::options()
            .write(true)
            .open("/dev/null")
            .map_err(|e| Error::system("/dev/null", e))?;
        let mut outlet = Outlet {
            output: &sink,
            delivery: None,
        };
        outlet.copy(&input, &mut rewriter, Until::LastRecord, Some(stop))?;
        Ok(rewriter)
    })
}

/// Reads the beginning of an image, in which the files of its first task are. What
/// becomes of it waits in the rewriter.
fn look_ahead(
    input: &File,
    rewriter: &mut Rewriter,
    stop: BorrowedFd<'_>,
) -> Result<Medium, Error> {
    let mut buffer = vec![0; CHUNK];
    while rewriter.output().len() < AHEAD && !rewriter.is_complete() {
        if !wait(input, Some(stop)).map_err(cannot_read)? || !feed(input, rewriter, &mut buffer)? {
            break;
        }
    }
    Ok(medium_for(rewriter.fullest_pipe()))
}

/// How an image can reach the kernel.
///
/// * `fullest`: the most that a pipe of it has in it, in bytes.
pub fn medium_for(fullest: u32) -> Medium {
    match fullest > THROUGH_A_PIPE {
        true => Medium::File,
        false => Medium::Pipe,
    }
}

/// Copies a whole image into an unlinked file, which is left at its beginning.
fn spool(input: &File, rewriter: &mut Rewriter, stop: BorrowedFd<'_>) -> Result<File, Error> {
    let (mut file, place) = unlinked_file()
        .map_err(|e| Error::system("no place for the rewritten image (TMPDIR, /tmp)", e))?;
    debug!(
        "the rewritten image goes into a file in {}",
        place.display()
    );
    let mut outlet = Outlet {
        output: &file,
        delivery: Some(Delivery::new(Medium::File)),
    };
    let copied = outlet.copy(input, rewriter, Until::LastRecord, Some(stop));
    copied.map_err(|error| no_room(error, &place))?;
    file.rewind()
        .map_err(|e| Error::system("cannot rewind the rewritten image", e))?;
    Ok(file)
}

/// Says where there is no room, and what can be done.
fn no_room(error: Error, place: &Path) -> Error {
    const FULL: [i32; 4] = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::ENOMEM];
    match error {
        Error::System { source, .. }
            if source.raw_os_error().is_some_and(|e| FULL.contains(&e)) =>
        {
            Error::system(
                format!(
                    "no room for the rewritten image in {}: set TMPDIR to a directory that has \
                     as much as the image",
                    place.display()
                ),
                source,
            )
        }
        other => other,
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

/// Whether there is room for the descriptors that a rewritten image takes, now that
/// nothing has begun: a pipe, two that tell it to end, and one of the image.
///
/// # Errors
/// EMFILE where there is none.
pub fn has_room() -> Result<(), Error> {
    let taken: io::Result<Vec<OwnedFd>> = (0..5).map(|_| eventfd()).collect();
    taken.map(drop).map_err(|e| {
        Error::without_descriptor("no descriptors are left for the rewritten image", e)
    })
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
