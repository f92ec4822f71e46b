//! Where the caller's standard descriptor is an anonymous pipe, which a kernel that
//! can only open by name cannot give: a named fifo in its place, and a process that
//! copies between the two.
//!
//! The fifo has lost its name before anybody hears of it. Its descriptor leads to it
//! (/proc/self/fd/N) and is no end of it, so that only the restarted tasks and the
//! relay hold it open, and each learns when the other is gone. Nothing is left in a
//! directory whoever is killed.
//!
//! The relay is nobody's child but init's: the end of a child of the restart program
//! would interrupt restart(2), and the program may wait for any child. It does nothing
//! until the restart is decided, then it copies until one side ends, and ends. It keeps
//! no byte itself. It has a session of its own, so that Ctrl-C reaches it by its ends
//! only: what the interrupted programs leave in the pipe still arrives.

use crate::caller::{self, INHERITED};
use crate::error::Error;
use crate::reserved;
use crate::stream::BlockedSignals;
use ckpt_image::advice::Kind;
use ckpt_image::caller::{Access, Caller};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// At once, as much as the largest pipe holds.
const MOST: usize = 1 << 20;
/// The relay's name in a list of processes.
const NAME: &std::ffi::CStr = c"ckptadv-relay";

/// A fifo, and after [`Relay::start`] the process that copies.
#[derive(Debug)]
pub struct Relay {
    /// Leads to the fifo.
    way: OwnedFd,
    /// The caller's pipe.
    pipe: i32,
    /// The restarted tasks write, and the caller's pipe gets it.
    outward: bool,
    /// Its end, or a byte in it, tells the relay that the restart is decided.
    decision: Option<OwnedFd>,
    /// Both directions of the fifo, while tasks open it.
    held: Option<OwnedFd>,
}

/// Puts fifos in the place of the anonymous pipes on 0, 1 and 2. Numbers that share
/// a description share a relay.
///
/// * `at`: where each of the caller's numbers is now.
/// * `above`: the least number for descriptors that tasks inherit.
///
/// # Errors
/// Where no directory takes a fifo, or no descriptor is left.
pub fn between(
    caller: &mut Caller,
    at: &BTreeMap<i32, i32>,
    above: i32,
) -> Result<Vec<Relay>, Error> {
    const BOTH: Access = Access {
        read: true,
        write: true,
    };
    let mut relays = Vec::new();
    let mut names: BTreeMap<i32, Vec<u8>> = BTreeMap::new();
    for (number, file) in caller.files.range_mut(0..=2) {
        if file.kind != Kind::Pipe || file.access == BOTH || file.flags & libc::O_PATH != 0 {
            continue;
        }
        let name = match names.get(&file.description) {
            Some(name) => name.clone(),
            None => {
                let relay = Relay::new(at[number], file.access.write, above).map_err(|e| {
                    Error::system(
                        format!(
                            "descriptor {number} ({}): no place for a fifo in its stead (set \
                             TMPDIR to a directory that takes one, or give a file)",
                            file.link
                        ),
                        e,
                    )
                })?;
                let name = format!("{INHERITED}{}", relay.way.as_raw_fd()).into_bytes();
                relays.push(relay);
                names.insert(file.description, name.clone());
                name
            }
        };
        file.name = name;
        file.flags &= libc::O_ACCMODE | libc::O_NONBLOCK;
        file.link.push_str(" through a relay");
        file.not_given = None;
    }
    Ok(relays)
}

impl Relay {
    fn new(pipe: i32, outward: bool, above: i32) -> io::Result<Self> {
        let way = nameless_fifo()?;
        Ok(Relay {
            way: reserve(&way, above)?,
            pipe,
            outward,
            decision: None,
            held: None,
        })
    }

    /// Starts the process. No task may exist yet.
    ///
    /// # Errors
    /// Where a descriptor or a process is lacking.
    pub fn start(&mut self, above: i32) -> io::Result<()> {
        // Until the restart is decided both directions are open: no open waits, and
        // nobody finds the other side gone who has not come yet.
        let both = self.open(libc::O_RDWR)?;
        let fifo = self.open(if self.outward {
            libc::O_RDONLY
        } else {
            libc::O_WRONLY
        })?;
        let (ours, theirs) = socket_pair()?;
        let decision = reserve(&ours, above)?;
        let ends = Ends {
            from: if self.outward {
                fifo.as_raw_fd()
            } else {
                self.pipe
            },
            to: if self.outward {
                self.pipe
            } else {
                fifo.as_raw_fd()
            },
            both: both.as_raw_fd(),
            decision: theirs.as_raw_fd(),
        };
        let open = caller::open_numbers()?;
        let blocked = BlockedSignals::new();
        let started = start(&ends, &open);
        drop(blocked);
        started?;
        self.decision = Some(decision);
        Ok(())
    }

    fn open(&self, flags: i32) -> io::Result<OwnedFd> {
        let name = CString::new(format!("{INHERITED}{}", self.way.as_raw_fd()))?;
        // SAFETY: the name is NUL-terminated and outlives the call.
        owned(unsafe { libc::open(name.as_ptr(), flags | libc::O_CLOEXEC) })
    }

    /// Lets nobody who opens the fifo wait from now on, should the process be killed
    /// meanwhile; until this is dropped. Not before the program has made its tasks: they
    /// would have it too, and nobody would learn that they are gone.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn hold(&mut self) -> io::Result<()> {
        self.held = Some(self.open(libc::O_RDWR)?);
        Ok(())
    }

    /// Whether the process was started and has been killed.
    pub fn is_gone(&self) -> bool {
        let Some(decision) = &self.decision else {
            return false;
        };
        let mut polled = poll(decision.as_raw_fd(), 0);
        // SAFETY: one pollfd, writable.
        unsafe { libc::poll(&raw mut polled, 1, 0) };
        polled.revents & libc::POLLHUP != 0
    }

    /// Tells the relay that the tasks have the fifo, or never will.
    pub fn decided(mut self) {
        // Where no task has the fifo, the relay must find nobody there.
        self.held = None;
        if let Some(decision) = &self.decision {
            // SAFETY: one byte that can be read. The relay may be gone: no signal then.
            unsafe {
                libc::send(
                    decision.as_raw_fd(),
                    [0u8].as_ptr().cast(),
                    1,
                    libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
                )
            };
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        reserved::release(self.way.as_raw_fd());
        if let Some(decision) = &self.decision {
            reserved::release(decision.as_raw_fd());
        }
    }
}

/// A copy of a descriptor that the program leaves alone.
fn reserve(fd: &OwnedFd, above: i32) -> io::Result<OwnedFd> {
    let copy = owned(caller::copy_above(fd.as_raw_fd(), above)?)?;
    reserved::reserve(copy.as_raw_fd());
    Ok(copy)
}

/// A fifo whose name is gone again.
fn nameless_fifo() -> io::Result<OwnedFd> {
    let own = std::env::var_os("TMPDIR").filter(|place| !place.is_empty());
    let places = own.iter().map(Path::new);
    let places = places.chain([Path::new("/tmp"), Path::new("/run"), Path::new("/dev/shm")]);
    let mut first = None;
    for place in places {
        match fifo_in(place) {
            Ok(fifo) => return Ok(fifo),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

fn fifo_in(place: &Path) -> io::Result<OwnedFd> {
    let template = [place.as_os_str().as_bytes(), b"/ckptadv-XXXXXX\0"].concat();
    let mut directory = template;
    // So that nothing ends the process while there is a name.
    let _blocked = BlockedSignals::new();
    // SAFETY: a NUL-terminated template that can be written to.
    if unsafe { libc::mkdtemp(directory.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    directory.pop();
    let fifo = CString::new([directory.as_slice(), b"/fifo"].concat())?;
    let directory = CString::new(directory)?;
    // A kernel before 2.6.39 does not know O_PATH and opens an end for reading.
    let flags = libc::O_PATH | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: NUL-terminated names that outlive the calls.
    unsafe {
        let opened = match libc::mkfifo(fifo.as_ptr(), 0o600) {
            0 => {
                // Whatever the program's umask is.
                libc::chmod(fifo.as_ptr(), 0o600);
                owned(libc::open(fifo.as_ptr(), flags))
            }
            _ => Err(io::Error::last_os_error()),
        };
        libc::unlink(fifo.as_ptr());
        libc::rmdir(directory.as_ptr());
        opened
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just opened and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the relay holds.
struct Ends {
    from: i32,
    to: i32,
    /// Both directions of the fifo.
    both: i32,
    /// Readable, or without a peer, once the restart is decided.
    decision: i32,
}

/// Starts a process that init adopts. Its parent in between ends without a signal,
/// so that the program does not hear of it.
///
/// * `open`: the numbers that are open in this process.
fn start(ends: &Ends, open: &[i32]) -> io::Result<()> {
    let parent = fork_silently()?;
    if parent == 0 {
        let status = match fork_silently() {
            Ok(0) => relay(ends, open),
            Ok(_) => 0,
            Err(_) => 1,
        };
        end(status)
    }
    let mut status = 0;
    // SAFETY: status is writable. That another thread's wait came first does not matter.
    let waited = unsafe { libc::waitpid(parent, &mut status, libc::__WALL) };
    if waited == parent && status != 0 {
        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
    }
    Ok(())
}

/// fork(2), but the parent gets no signal when the child ends. The child may have
/// been one of several threads: it makes system calls and nothing else.
fn fork_silently() -> io::Result<i32> {
    // SAFETY: no flags: the child has copies of everything, its stack included.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(pid) if pid >= 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

fn end(status: i32) -> ! {
    // SAFETY: ends the process without running anything of the program's.
    unsafe { libc::_exit(status) }
}

/// The life of a relay.
fn relay(ends: &Ends, open: &[i32]) -> ! {
    // SAFETY: the strings are NUL-terminated; no other memory is involved.
    unsafe {
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
    }
    close_others(ends, open);
    forget_handlers();
    wait(&mut [poll(ends.decision, libc::POLLIN)]);
    close(ends.decision);
    close(ends.both);
    copy(ends.from, ends.to);
    end(0)
}

/// The program's handlers are not for this process.
fn forget_handlers() {
    // SAFETY: sigaction and sigset_t are plain data, and all zeroes are values of
    // them: the default, and the empty set.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
        action.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(libc::SIGPIPE, &action, std::ptr::null_mut());
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn close_others(ends: &Ends, open: &[i32]) {
    let mut kept = [ends.from, ends.to, ends.both, ends.decision];
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept {
        if from < fd && !close_range(from, fd - 1) {
            return close_one_by_one(&kept, open);
        }
        from = fd + 1;
    }
    if !close_range(from, i32::MAX) {
        close_one_by_one(&kept, open);
    }
}

/// Before Linux 5.9.
fn close_one_by_one(kept: &[i32], open: &[i32]) {
    for &fd in open {
        if !kept.contains(&fd) {
            close(fd);
        }
    }
}

fn close_range(first: i32, last: i32) -> bool {
    // SAFETY: takes integers; what is closed is this process's alone.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}

/// Not close(3), which is interposed.
fn close(fd: i32) {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

fn poll(fd: i32, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

fn wait(polled: &mut [libc::pollfd]) {
    loop {
        // SAFETY: the array is writable and of the length told.
        let n = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if n > 0 {
            return;
        }
    }
}

/// Moves what comes until one side ends. The pipe's description is shared with
/// others, so its flags are left as they are.
fn copy(from: i32, to: i32) {
    let none = std::ptr::null_mut();
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    loop {
        let mut polled = [poll(from, libc::POLLIN), poll(to, 0)];
        wait(&mut polled);
        if polled[1].revents != 0 {
            return;
        }
        // SAFETY: no offsets are given.
        let moved = unsafe { libc::splice(from, none, to, none, MOST, flags) };
        match moved {
            0 => return,
            1.. => {}
            _ => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) => {
                    let mut polled = [poll(to, libc::POLLOUT)];
                    wait(&mut polled);
                    if polled[0].revents & libc::POLLERR != 0 {
                        return;
                    }
                }
                Some(libc::EINTR) => {}
                _ => return,
            },
        }
    }
}
