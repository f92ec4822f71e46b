//! Making real sockets that are what the records and messages of an image have made of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libc::{c_int, pid_t};

use crate::descriptors::{ok, owned};
use crate::hash::{Object, OpenFile};
use crate::restart::{Restart, Step};
use crate::sockets::{ESTABLISHED, LISTEN, Naming, Socket};

/// Room for names that only seem to be paths. Gone with it.
struct Pretence(PathBuf);

impl Pretence {
    fn new() -> io::Result<Self> {
        let mut template = *b"/tmp/restart-model-XXXXXX\0";
        // SAFETY: a writable string with a zero byte at its end.
        if unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null() {
            return Err(io::Error::last_os_error());
        }
        let name = std::ffi::OsStr::from_bytes(&template[..template.len() - 1]);
        Ok(Self(name.into()))
    }
}

impl Drop for Pretence {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Restart<'_> {
    /// Makes those real that are not yet. The files that became theirs: a task that has one has a stand-in for it.
    pub(crate) fn make_sockets_real(&mut self) -> Step<Vec<Rc<OpenFile>>> {
        let mut sockets = BTreeMap::new();
        let mut order = Vec::new();
        for &objref in &self.sockets {
            if let Some(Object::Socket(socket)) = self.hash.get(&objref)
                && !socket.real.get()
            {
                sockets.insert(objref, socket.clone());
                order.push(objref);
            }
        }
        if sockets.is_empty() {
            return Ok(Vec::new());
        }
        let pretence = Pretence::new()?;
        let mut ends = self.make_ends(&order, &sockets)?;
        for objref in &order {
            let (socket, end) = (&sockets[objref], &ends[objref]);
            drop(socket.holder.take());
            match socket.naming {
                Naming::Nameless => {}
                Naming::Fake => pretend(&pretence, socket, end)?,
                _ => bind(socket, end)?,
            }
            if socket.state == LISTEN && socket.family == libc::AF_UNIX {
                listen(end, socket.backlog)?;
            }
        }
        for objref in &order {
            if let Some(peer) = sockets[objref].peer.get()
                && !is_connected(&ends[objref])
            {
                let by_name = sockets[&peer].kind == libc::SOCK_DGRAM
                    && sockets[&peer].naming != Naming::Nameless;
                if !by_name || connect(&pretence, &sockets[&peer], &ends[objref]).is_err() {
                    return Err(self.unsupported("sockets joined in this way"));
                }
            }
        }
        for objref in &order {
            let messages = sockets[objref].queue.take();
            for (from, bytes) in messages {
                let sent = match (ends.get(&from), sockets.get(&from)) {
                    (Some(end), Some(sender)) if sender.peer.get() == Some(*objref) => {
                        send(end, &bytes)
                    }
                    (Some(end), Some(_)) => send_by_name(&sockets[objref], end, &bytes),
                    _ => false,
                };
                if !sent {
                    return Err(self.unsupported("a message that cannot be sent again"));
                }
            }
        }
        let mut files = Vec::new();
        for objref in &order {
            let (socket, end) = (&sockets[objref], &ends[objref]);
            if socket.shutdown != 0 {
                if self.is_seen_by_peer(socket, &sockets) {
                    return Err(
                        self.unsupported("a socket shut down without the knowledge of its peer")
                    );
                }
                // SAFETY: no memory is involved.
                unsafe { libc::shutdown(end.as_raw_fd(), c_int::from(socket.shutdown) - 1) };
            }
        }
        for objref in &order {
            let (socket, end) = (&sockets[objref], ends.remove(objref).expect("one end each"));
            socket.real.set(true);
            match &*socket.file.borrow() {
                Some(file) => {
                    take_place(&end, &file.fd)?;
                    files.push(file.clone());
                }
                // Nobody will ever close it, and its peer will never hear of it.
                None => std::mem::forget(end),
            }
        }
        Ok(files)
    }

    /// Today both ends of a stream are shut down together.
    fn is_seen_by_peer(&self, socket: &Socket, sockets: &BTreeMap<i32, Rc<Socket>>) -> bool {
        let mirrored = socket.shutdown >> 1 | (socket.shutdown & 1) << 1;
        let peer = socket.peer.get().and_then(|peer| sockets.get(&peer));
        socket.kind != libc::SOCK_DGRAM
            && peer
                .is_some_and(|peer| peer.file.borrow().is_some() && mirrored & !peer.shutdown != 0)
    }

    /// Pairs where two belong together, single sockets where not.
    fn make_ends(
        &mut self,
        order: &[i32],
        sockets: &BTreeMap<i32, Rc<Socket>>,
    ) -> Step<BTreeMap<i32, OwnedFd>> {
        let mut ends = BTreeMap::new();
        for mutual in [true, false] {
            for &objref in order {
                let socket = &sockets[&objref];
                let Some(to) = socket.peer.get() else {
                    continue;
                };
                let Some(peer) = sockets.get(&to).filter(|_| to != objref) else {
                    return Err(self.unsupported("a socket joined to itself or to an older one"));
                };
                if ends.contains_key(&objref)
                    || ends.contains_key(&to)
                    || mutual != (peer.peer.get() == Some(objref))
                {
                    continue;
                }
                let (one, other) = pair(socket.kind)?;
                if !mutual && peer.kind == libc::SOCK_DGRAM {
                    disconnect(&other)?;
                } else if !mutual && peer.file.borrow().is_some() {
                    let socket = link(&other);
                    self.notes
                        .push(format!("{socket} has a peer, and had none then"));
                }
                ends.insert(objref, one);
                ends.insert(to, other);
            }
        }
        for &objref in order {
            if let Entry::Vacant(end) = ends.entry(objref) {
                let socket = &sockets[&objref];
                end.insert(match socket.family {
                    libc::AF_INET => inet_end(socket)?,
                    _ => new_socket(socket.family, socket.kind)?,
                });
            }
        }
        Ok(ends)
    }
}

/// An internet socket as it is.
fn inet_end(socket: &Socket) -> io::Result<OwnedFd> {
    if let Some(bound) = socket.holder.take() {
        return Ok(bound);
    }
    let end = new_socket(libc::AF_INET, socket.kind)?;
    if socket.state == ESTABLISHED {
        connect_inet(socket, &end)?;
    }
    Ok(end)
}

/// A connection without a word to the other side, which may be another socket of the image: the numbers of both
/// directions follow from the addresses, so that the two ends fit.
fn connect_inet(socket: &Socket, end: &OwnedFd) -> io::Result<()> {
    const RECEIVE_QUEUE: c_int = 1;
    const SEND_QUEUE: c_int = 2;
    const OFF: c_int = -1;
    let tcp = |option, value| set_option(end, libc::IPPROTO_TCP, option, value);
    tcp(libc::TCP_REPAIR, 1)?;
    let port = |name: &[u8]| c_int::from(u16::from_be_bytes([name[2], name[3]]));
    for (queue, from) in [(SEND_QUEUE, &socket.name), (RECEIVE_QUEUE, &socket.remote)] {
        tcp(libc::TCP_REPAIR_QUEUE, queue)?;
        tcp(libc::TCP_QUEUE_SEQ, port(from) << 8)?;
    }
    set_option(end, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    // In this mode an address may be in use.
    ok(bind_call(&socket.name, end))?;
    ok(connect_call(&socket.remote, end))?;
    tcp(libc::TCP_REPAIR, OFF)
}

/// A TCP socket with a local address, which need not be one of this machine.
pub fn bound(name: &[u8]) -> io::Result<OwnedFd> {
    let end = new_socket(libc::AF_INET, libc::SOCK_STREAM)?;
    set_option(&end, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(&end, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    ok(bind_call(name, &end))?;
    Ok(end)
}

/// Makes a socket listen.
pub fn listen(end: &OwnedFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    ok(unsafe { libc::listen(end.as_raw_fd(), backlog) }).map(drop)
}

fn set_option(end: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: reads an integer.
    ok(unsafe {
        libc::setsockopt(
            end.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as u32,
        )
    })
    .map(drop)
}

fn new_socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })
}

/// Gives a socket its name. At a path, whatever is there goes first.
pub fn bind(socket: &Socket, end: &OwnedFd) -> io::Result<()> {
    if socket.naming != Naming::Linked {
        return ok(bind_call(&socket.name, end)).map(drop);
    }
    let path = path_of(&socket.name)?;
    at_home(socket, || {
        // SAFETY: a string that outlives the call.
        if unsafe { libc::unlink(path.as_ptr()) } < 0
            && io::Error::last_os_error().raw_os_error() != Some(libc::ENOENT)
        {
            return -1;
        }
        bind_call(&socket.name, end)
    })
}

/// Gives a socket the name of a path at which nothing is.
fn pretend(pretence: &Pretence, socket: &Socket, end: &OwnedFd) -> io::Result<()> {
    if socket.name[2] == 0 {
        return ok(bind_call(&socket.name, end)).map(drop);
    }
    let path = path_of(&socket.name)?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let inside = pretence.0.join(path.strip_prefix("/").unwrap_or(path));
    if let Some(directory) = inside.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let root = File::open(&pretence.0)?;
    in_child(&root.into(), None, None, || bind_call(&socket.name, end))
}

fn connect(pretence: &Pretence, to: &Socket, end: &OwnedFd) -> io::Result<()> {
    match to.naming {
        Naming::Linked => at_home(to, || connect_call(&to.name, end)),
        Naming::Fake if to.name[2] != 0 => {
            let root = File::open(&pretence.0)?;
            in_child(&root.into(), None, None, || connect_call(&to.name, end))
        }
        _ => ok(connect_call(&to.name, end)).map(drop),
    }
}

fn send_by_name(to: &Socket, end: &OwnedFd, bytes: &[u8]) -> bool {
    let (end, name) = (end.as_raw_fd(), to.name.as_ptr().cast());
    let call = || {
        // SAFETY: reads the bytes and the name.
        unsafe {
            libc::sendto(
                end,
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                name,
                to.name.len() as u32,
            ) as c_int
        }
    };
    match to.naming {
        Naming::Linked => at_home(to, call).is_ok(),
        _ => call() == bytes.len() as c_int,
    }
}

fn send(end: &OwnedFd, bytes: &[u8]) -> bool {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: reads the bytes.
    let sent = unsafe { libc::send(end.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    sent == bytes.len() as isize
}

/// Does something where the paths of a socket mean what they mean to its task.
fn at_home(socket: &Socket, job: impl Fn() -> c_int) -> io::Result<()> {
    let open = |what| File::open(task_directory(socket.task, what)).map(OwnedFd::from);
    in_child(
        &open("root")?,
        Some(&open("cwd")?),
        socket.directory.as_deref(),
        job,
    )
}

fn task_directory(task: pid_t, what: &str) -> String {
    format!("/proc/{task}/{what}")
}

/// Does a system call in a process with this root and working directory.
fn in_child(
    root: &OwnedFd,
    cwd: Option<&OwnedFd>,
    directory: Option<&[u8]>,
    job: impl Fn() -> c_int,
) -> io::Result<()> {
    let directory = directory.map(CString::new).transpose()?;
    let mut status = 0;
    // SAFETY: this process has one thread, and the child does nothing but system calls; strings and status outlive them.
    let waited = unsafe {
        let child = libc::fork();
        if child == 0 {
            let failed = libc::fchdir(root.as_raw_fd()) < 0
                || libc::chroot(c".".as_ptr()) < 0
                || cwd.is_some_and(|cwd| libc::fchdir(cwd.as_raw_fd()) < 0)
                || directory
                    .as_ref()
                    .is_some_and(|path| libc::chdir(path.as_ptr()) < 0)
                || job() < 0;
            libc::_exit(if failed { *libc::__errno_location() } else { 0 });
        }
        libc::waitpid(child, &mut status, libc::__WALL)
    };
    match (
        waited > 0,
        libc::WIFEXITED(status),
        libc::WEXITSTATUS(status),
    ) {
        (true, true, 0) => Ok(()),
        (true, true, errno) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}

fn path_of(name: &[u8]) -> io::Result<CString> {
    let path = name.get(2..).unwrap_or_default();
    let end = path
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(path.len());
    Ok(CString::new(&path[..end])?)
}

fn bind_call(name: &[u8], end: &OwnedFd) -> c_int {
    // SAFETY: reads the name.
    unsafe { libc::bind(end.as_raw_fd(), name.as_ptr().cast(), name.len() as u32) }
}

fn connect_call(name: &[u8], end: &OwnedFd) -> c_int {
    // SAFETY: reads the name.
    unsafe { libc::connect(end.as_raw_fd(), name.as_ptr().cast(), name.len() as u32) }
}

/// Only the other end of a pair of datagram sockets goes on sending.
fn disconnect(end: &OwnedFd) -> io::Result<()> {
    let nobody = (libc::AF_UNSPEC as u16).to_ne_bytes();
    ok(connect_call(&nobody, end)).map(drop)
}

fn is_connected(end: &OwnedFd) -> bool {
    let mut name = [0u8; 128];
    let mut length = name.len() as u32;
    // SAFETY: room for a name of this length.
    unsafe { libc::getpeername(end.as_raw_fd(), name.as_mut_ptr().cast(), &mut length) == 0 }
}

fn pair(kind: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which nobody else owns.
    unsafe {
        ok(libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        ))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Puts a description where another was, with its flags.
fn take_place(new: &OwnedFd, old: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    unsafe {
        let flags = ok(libc::fcntl(old.as_raw_fd(), libc::F_GETFL))?;
        ok(libc::dup3(
            new.as_raw_fd(),
            old.as_raw_fd(),
            libc::O_CLOEXEC,
        ))?;
        ok(libc::fcntl(old.as_raw_fd(), libc::F_SETFL, flags)).map(drop)
    }
}

fn link(fd: &OwnedFd) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.map_or_else(
        |_| String::new(),
        |link| link.to_string_lossy().into_owned(),
    )
}
