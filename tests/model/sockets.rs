//! Sockets, as far as they can be judged before they are real: their records, joins and messages.
//!
//! A real socket cannot be joined to another afterwards the way the kernel does it. So everything happens first to
//! descriptions of sockets, and at the end of a file table `real_sockets.rs` makes sockets that fit what became of them.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libc::{c_int, pid_t};

use crate::descriptors::{READ, WRITE, owned};
use crate::hash::{Nature, Object, OpenFile};
use crate::layout::{Layout, Record, kind, object};
use crate::real_sockets;
use crate::restart::{Deferred, Restart, Step, Stop, invalid};

/// States of a `struct socket`.
const SS_FREE: u8 = 0;
const SS_CONNECTING: u8 = 2;
const SS_CONNECTED: u8 = 3;
const SS_DISCONNECTING: u8 = 4;

/// States of a `struct sock`, of whatever family.
pub const ESTABLISHED: u8 = 1;
pub const CLOSE: u8 = 7;
pub const LISTEN: u8 = 10;
const STATES: u8 = 12;

/// Flags of a `struct sock`.
const DEAD: u64 = 1;
const ZAPPED: u64 = 1 << 8;
const USE_WRITE_QUEUE: u64 = 1 << 9;
/// Those that an option sets.
const OPTIONS: u64 = 1 << 2 | 1 << 3 | 1 << 6 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13;
const TIMESTAMPING: u64 = 0x7f << 15;

const SHUT_RECEIVE: u8 = 1;
const SHUT_BOTH: u8 = 3;
const USERLOCKS: u8 = 0xf;
/// net.unix.max_dgram_qlen.
const MAX_DGRAM_QLEN: i16 = 10;
const ADDRESS_MAX: usize = 110;
const INET_ADDRESS: usize = 16;
/// Of SOCKET_UNIX.flags: the path is still there.
const LINKED: u32 = 1;
/// The largest linear part of a message: four pages without what is kept behind it.
const MESSAGE_MAX: u32 = 4 * 4096 - 320;

/// How a socket came by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// It has none.
    Nameless,
    /// Only said so.
    Fake,
    /// Not in the file system.
    Abstract,
    /// By a path, which leads to it.
    Linked,
}

/// A socket as it will have to be.
pub struct Socket {
    /// AF_UNIX or AF_INET.
    pub family: c_int,
    /// SOCK_STREAM and so on.
    pub kind: c_int,
    /// Of `struct sock`.
    pub state: u8,
    /// Closed by everybody, and kept for what it sent.
    pub dead: bool,
    /// SHUT_RECEIVE, SHUT_SEND.
    pub shutdown: u8,
    /// Longest queue of a listening one.
    pub backlog: c_int,
    /// How it came by its name.
    pub naming: Naming,
    /// A whole sockaddr.
    pub name: Vec<u8>,
    /// The whole sockaddr of the other end, of an internet socket.
    pub remote: Vec<u8>,
    /// Where a relative name begins.
    pub directory: Option<Vec<u8>>,
    /// The task whose paths count.
    pub task: pid_t,
    /// Holds the name until the real socket takes it; or is the real one, of an internet socket.
    pub holder: RefCell<Option<OwnedFd>>,
    /// To whom it sends.
    pub peer: Cell<Option<i32>>,
    /// What waits in it, and from whom.
    pub queue: RefCell<Vec<(i32, Vec<u8>)>>,
    /// Its only file.
    pub file: RefCell<Option<Rc<OpenFile>>>,
    /// Whether there is a real one by now.
    pub real: Cell<bool>,
}

impl Restart<'_> {
    pub(crate) fn restore_socket(&mut self) -> Step<Object> {
        if self.layout != Layout::V20 {
            return Err(self.unsupported("a socket of v23"));
        }
        let record = self.record(kind::SOCKET)?;
        let socket = match i32::from(record.u16(32)) {
            libc::AF_UNIX => self.restore_unix(&record)?,
            libc::AF_INET => self.restore_inet(&record)?,
            family => {
                return Err(self.unsupported(&format!("a socket of family {family}")));
            }
        };
        self.check_socket(
            &record,
            if socket.family == libc::AF_UNIX {
                ZAPPED
            } else {
                ZAPPED | USE_WRITE_QUEUE
            },
        )?;
        Ok(Object::Socket(Rc::new(socket)))
    }

    /// What all families have in common.
    fn check_socket(&mut self, record: &Record, ordinary: u64) -> Step<()> {
        let (outer, state, flags) = (record.0[16], record.0[97], record.u64(48));
        if flags & TIMESTAMPING != 0 {
            return Err(Stop::Errno(libc::ENOSYS));
        }
        if flags & !OPTIONS & !DEAD & !ordinary != 0 {
            return invalid();
        }
        let complaint = if outer == SS_CONNECTED && state != ESTABLISHED {
            format!("sock/et in inconsistent state: {outer}/{state}")
        } else if !(ESTABLISHED..STATES).contains(&state) {
            format!("sock in invalid state: {state}")
        } else if outer > SS_DISCONNECTING {
            format!("socket in invalid state: {outer}")
        } else {
            let errno = record.i32(72);
            if record.0[98] & !SHUT_BOTH != 0
                || record.0[99] & !USERLOCKS != 0
                || !(0..4096).contains(&errno)
            {
                return invalid();
            }
            if errno != 0 {
                return Err(self.unsupported("a socket with an error"));
            }
            return Ok(());
        };
        Err(self.complain(Stop::Errno(libc::EINVAL), &complaint))
    }

    fn restore_unix(&mut self, record: &Record) -> Step<Socket> {
        let kind = match i32::from(record.u16(92)) & 0xf {
            libc::SOCK_RAW => libc::SOCK_DGRAM,
            kind @ (libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) => kind,
            _ => return Err(Stop::Errno(libc::ESOCKTNOSUPPORT)),
        };
        if !matches!(i32::from(record.0[96]), 0 | libc::PF_UNIX) {
            return Err(Stop::Errno(libc::EPROTONOSUPPORT));
        }
        let backlog = record.u16(94) as i16;
        let flags = record.u64(48);
        if matches!(record.0[16], SS_FREE | SS_CONNECTING | SS_DISCONNECTING)
            || kind == libc::SOCK_DGRAM && backlog > MAX_DGRAM_QLEN
            || flags & USE_WRITE_QUEUE != 0
        {
            return invalid();
        }
        let unix = self.record(kind::SOCKET_UNIX)?;
        let (this, peer) = (unix.i32(8), unix.i32(12));
        let length = unix.u32(28) as usize;
        if peer < 0 {
            return invalid();
        }
        let named = length > 2;
        let path = unix.0[38];
        let directory = if named && path != 0 && path != b'/' {
            Some(self.directory_of_socket()?)
        } else {
            None
        };
        let mut socket = Socket {
            family: libc::AF_UNIX,
            kind,
            state: record.0[97],
            dead: flags & DEAD != 0,
            shutdown: record.0[98],
            backlog: c_int::from(backlog),
            naming: Naming::Nameless,
            name: Vec::new(),
            directory,
            remote: Vec::new(),
            task: self.reader,
            holder: RefCell::new(None),
            peer: Cell::new(None),
            queue: RefCell::new(Vec::new()),
            file: RefCell::new(None),
            real: Cell::new(false),
        };
        if named && socket.state != ESTABLISHED {
            if length > ADDRESS_MAX {
                return invalid();
            }
            socket.name = unix.0[36..36 + length].to_owned();
            socket.naming = match path {
                _ if socket.dead => Naming::Fake,
                0 => Naming::Abstract,
                _ if unix.u32(24) & LINKED == 0 => Naming::Fake,
                _ => Naming::Linked,
            };
            if socket.naming != Naming::Fake {
                let holder = owned(new_socket(kind))?;
                real_sockets::bind(&socket, &holder)?;
                socket.holder = RefCell::new(Some(holder));
            }
        }
        match socket.state {
            ESTABLISHED | CLOSE => {
                // SAFETY: no memory is involved.
                if unsafe { libc::geteuid() } != 0 {
                    return Err(self.unsupported("the credentials of a socket, without root"));
                }
                if !socket.dead {
                    if peer > 0 {
                        self.deferred.push_back(Deferred::Join(this, peer));
                    }
                    self.deferred.push_back(Deferred::UnixBuffers(this));
                }
            }
            LISTEN if kind == libc::SOCK_DGRAM => return Err(Stop::Errno(libc::EOPNOTSUPP)),
            LISTEN if socket.naming == Naming::Nameless => return invalid(),
            LISTEN => {}
            state => {
                let complaint = format!("bad af_unix state {state}");
                return Err(self.complain(Stop::Errno(libc::EINVAL), &complaint));
            }
        }
        Ok(socket)
    }

    fn restore_inet(&mut self, record: &Record) -> Step<Socket> {
        let (kind, protocol) = (i32::from(record.u16(92)) & 0xf, i32::from(record.0[96]));
        if kind != libc::SOCK_STREAM || !matches!(protocol, 0 | libc::IPPROTO_TCP) {
            return Err(self.unsupported("an internet socket other than TCP"));
        }
        let inet = self.record(kind::SOCKET_INET)?;
        let (local, remote) = (inet.u32(288) as usize, inet.u32(292) as usize);
        if local > INET_ADDRESS || remote > INET_ADDRESS {
            return invalid();
        }
        let mut state = record.0[97];
        let mut holder = None;
        if state == LISTEN || state == CLOSE && local > 0 {
            holder = Some(real_sockets::bound(&inet.0[296..296 + local])?);
        } else {
            if self.resets_connections() {
                state = CLOSE;
            }
            // In the deferred part sockets of this family are no more than their queues.
            self.deferred.push_back(Deferred::InetBuffers);
        }
        if !matches!(state, ESTABLISHED | CLOSE | LISTEN)
            || state == ESTABLISHED && (local, remote) != (INET_ADDRESS, INET_ADDRESS)
            || state != LISTEN && record.0[98] != 0
            || record.u64(48) & DEAD != 0
        {
            return Err(self.unsupported("an internet socket in this state"));
        }
        let backlog = c_int::from(record.u16(94) as i16);
        if let (Some(holder), LISTEN) = (&holder, state) {
            real_sockets::listen(holder, backlog)?;
        }
        Ok(Socket {
            family: libc::AF_INET,
            kind,
            state,
            dead: false,
            shutdown: 0,
            backlog,
            naming: Naming::Nameless,
            name: inet.0[296..296 + local].to_owned(),
            directory: None,
            remote: inet.0[312..312 + remote].to_owned(),
            task: self.reader,
            holder: RefCell::new(holder),
            peer: Cell::new(None),
            queue: RefCell::new(Vec::new()),
            file: RefCell::new(None),
            real: Cell::new(false),
        })
    }

    /// Where it is missing, the kernel frees the error instead of it, and the task dies of that; the coordinator
    /// goes on to the end of the image.
    fn directory_of_socket(&mut self) -> Step<Vec<u8>> {
        self.name(kind::STRING)
            .map_err(|_| self.complain(Stop::Errno(libc::EINVAL), "Expecting to read type 9001"))
    }

    pub(crate) fn restore_socket_file(&mut self, record: &Record) -> Step<Rc<OpenFile>> {
        let socket = self.fetch_socket(record.i32(48))?;
        if socket.dead || socket.file.borrow().is_some() {
            return Err(self.unsupported("a dead socket with a file, or one with two"));
        }
        // Until the real one takes its place.
        let file = Rc::new(OpenFile {
            fd: owned(new_socket(libc::SOCK_STREAM))?,
            mode: READ | WRITE,
            nature: Nature::Other,
        });
        *socket.file.borrow_mut() = Some(file.clone());
        Ok(file)
    }

    pub(crate) fn fetch_socket(&mut self, objref: i32) -> Step<Rc<Socket>> {
        match self.fetch(objref, object::SOCK)? {
            Object::Socket(socket) => Ok(socket.clone()),
            _ => invalid(),
        }
    }

    // ---- what waits for the end of a table

    pub(crate) fn join_sockets(&mut self, from: i32, to: i32) -> Step<()> {
        let source = self.fetch_socket(from)?;
        self.fetch_socket(to)?;
        self.join(&source, to)
    }

    fn join(&mut self, source: &Socket, to: i32) -> Step<()> {
        if source.peer.get().is_none() {
            if source.real.get() {
                return Err(self.unsupported("a socket joined after its table"));
            }
            source.peer.set(Some(to));
        }
        Ok(())
    }

    pub(crate) fn restore_unix_buffers(&mut self, objref: i32) -> Step<()> {
        let socket = self.fetch_socket(objref)?;
        let by_name = socket.kind == libc::SOCK_DGRAM && socket.naming != Naming::Nameless;
        self.restore_unix_queue(&socket, by_name)?;
        match self.restore_unix_queue(&socket, by_name)? {
            0 => Ok(()),
            _ => invalid(),
        }
    }

    /// What it received, and what it has not sent. No checkpoint of v20 succeeds with anything in them.
    pub(crate) fn restore_inet_buffers(&mut self) -> Step<()> {
        for _ in 0..2 {
            if self.record(kind::SOCKET_QUEUE)?.u32(8) != 0 {
                return Err(self.unsupported("the queue of an internet socket"));
            }
        }
        Ok(())
    }

    fn restore_unix_queue(&mut self, owner: &Rc<Socket>, by_name: bool) -> Step<u32> {
        let queue = self.record(kind::SOCKET_QUEUE)?;
        let (count, mut claimed) = (queue.u32(8), queue.u32(12) as usize);
        for _ in 0..count {
            let sent = self.restore_unix_message(owner, by_name)?;
            let Some(left) = claimed.checked_sub(sent) else {
                return Err(self.complain(Stop::Errno(libc::EINVAL), "Buffers exceeded claim"));
            };
            claimed = left;
        }
        Ok(count)
    }

    fn restore_unix_message(&mut self, owner: &Rc<Socket>, by_name: bool) -> Step<usize> {
        let record = self.record(kind::SOCKET_BUFFER)?;
        let length = record.u32(20);
        if length > MESSAGE_MAX {
            let complaint = format!("socket buffer too big ({length} > {MESSAGE_MAX})");
            return Err(self.complain(Stop::Errno(libc::EINVAL), &complaint));
        }
        if record.u16(54) != 0 {
            let complaint = "unix socket claims to have fragments";
            return Err(self.complain(Stop::Errno(libc::EINVAL), complaint));
        }
        self.opened(kind::BUFFER, u64::from(length))?;
        let mut bytes = vec![0; length as usize];
        self.payload(&mut bytes)?;
        let from = record.i32(44);
        let sender = self.fetch_socket(from)?;
        if !by_name && sender.peer.get().is_none() {
            let to = record.i32(48);
            self.fetch_socket(to)?;
            self.join(&sender, to)?;
        }
        let to = if by_name {
            self.owner_of_name(owner)?
        } else {
            let peer = sender.peer.get().unwrap_or_default();
            let peer = self.fetch_socket(peer)?;
            if peer.dead {
                return Err(Stop::Errno(libc::EPIPE));
            }
            peer
        };
        let known = |socket: &Rc<Socket>| {
            let peer = socket.peer.get()?;
            match self.hash.get(&peer)? {
                Object::Socket(peer) => Some(peer.clone()),
                _ => None,
            }
        };
        let is_peer = known(&sender).is_some_and(|peer| Rc::ptr_eq(&peer, &to));
        if by_name {
            let taken = known(&to).is_some_and(|peer| !Rc::ptr_eq(&peer, &sender));
            if sender.kind != to.kind || taken || to.shutdown & SHUT_RECEIVE != 0 && !is_peer {
                return Err(Stop::Errno(libc::EPERM));
            }
        } else if sender.kind != to.kind {
            return Err(self.unsupported("joined sockets of two kinds"));
        }
        if to.real.get() {
            return Err(self.unsupported("a message that comes after its table"));
        }
        to.queue.borrow_mut().push((from, bytes));
        Ok(length as usize)
    }

    /// Who gets what is sent to the name of this socket.
    fn owner_of_name(&mut self, named: &Rc<Socket>) -> Step<Rc<Socket>> {
        if named.directory.is_some() {
            return Err(self.unsupported("a message to a socket with a relative name"));
        }
        if named.naming == Naming::Fake {
            return Err(Stop::Errno(libc::ENOENT));
        }
        let mut others = self
            .sockets
            .iter()
            .filter_map(|objref| match &self.hash[objref] {
                Object::Socket(other) => Some(other),
                _ => None,
            });
        let later = others.rfind(|other| other.naming == named.naming && other.name == named.name);
        Ok(later.unwrap_or(named).clone())
    }
}

fn new_socket(kind: c_int) -> c_int {
    // SAFETY: no memory is involved.
    unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) }
}
