//! What the entries of image files say, as far as descriptors are concerned.
//!
//! Field numbers are those of CRIU's `images/*.proto`.

use super::wire::{Entry, Message, Writer};
use crate::Error;
use crate::advice::Kind;
use crate::caller::{Access, Opening};
use std::ops::Range;

/// The fields of a file entry that are known lie below this.
const BODIES: u32 = 23;

/// The type of a file entry (`fd_types`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileType(pub u32);

#[rustfmt::skip]
impl FileType {
    pub const REG: FileType = FileType(1);
    pub const PIPE: FileType = FileType(2);
    pub const FIFO: FileType = FileType(3);
    pub const INETSK: FileType = FileType(4);
    pub const UNIXSK: FileType = FileType(5);
    pub const EVENTFD: FileType = FileType(6);
    pub const EVENTPOLL: FileType = FileType(7);
    pub const INOTIFY: FileType = FileType(8);
    pub const SIGNALFD: FileType = FileType(9);
    pub const PACKETSK: FileType = FileType(10);
    pub const TTY: FileType = FileType(11);
    pub const FANOTIFY: FileType = FileType(12);
    pub const NETLINKSK: FileType = FileType(13);
    pub const NS: FileType = FileType(14);
    pub const TUNF: FileType = FileType(15);
    pub const TIMERFD: FileType = FileType(17);
    pub const MEMFD: FileType = FileType(18);
    pub const BPFMAP: FileType = FileType(19);
    pub const PIDFD: FileType = FileType(20);

    /// Whether it is one that existed when this was written: an entry of any of
    /// these can be taken out.
    pub fn is_known(self) -> bool {
        (FileType::REG.0..=FileType::PIDFD.0).contains(&self.0)
    }

    /// Whether an image whose other parts do not fit a description of this type is
    /// one that CRIU cannot restore ([`super::check`]).
    pub fn must_fit(self) -> bool {
        matches!(
            self,
            FileType::PIPE
                | FileType::UNIXSK
                | FileType::TTY
                | FileType::PIDFD
                | FileType::EVENTPOLL
        )
    }

    /// The field of a file entry that holds what is particular to the type.
    pub fn body(self) -> Option<u32> {
        Some(match self {
            FileType::REG => 3,
            FileType::INETSK => 4,
            FileType::EVENTPOLL => 9,
            FileType::UNIXSK => 16,
            FileType::FIFO => 17,
            FileType::PIPE => 18,
            FileType::TTY => 19,
            FileType::MEMFD => 20,
            _ => return None,
        })
    }

    fn kind(self, mode: Option<u32>) -> Kind {
        match self {
            FileType::REG => match mode.map_or(libc::S_IFREG, |mode| mode & libc::S_IFMT) {
                libc::S_IFDIR => Kind::Dir,
                libc::S_IFCHR => Kind::Chr,
                libc::S_IFBLK => Kind::Blk,
                libc::S_IFREG => Kind::Reg,
                _ => Kind::Other,
            },
            FileType::PIPE => Kind::Pipe,
            FileType::FIFO => Kind::Fifo,
            FileType::INETSK => Kind::Inet,
            FileType::UNIXSK => Kind::Unix,
            FileType::EVENTFD => Kind::Eventfd,
            FileType::EVENTPOLL => Kind::Epoll,
            FileType::INOTIFY => Kind::Inotify,
            FileType::SIGNALFD => Kind::Signalfd,
            FileType::PACKETSK => Kind::Packet,
            FileType::TTY => Kind::Tty,
            FileType::FANOTIFY => Kind::Fanotify,
            FileType::NETLINKSK => Kind::Netlink,
            FileType::NS => Kind::Ns,
            FileType::TUNF => Kind::Tun,
            FileType::TIMERFD => Kind::Timerfd,
            FileType::MEMFD => Kind::Memfd,
            FileType::BPFMAP => Kind::Bpf,
            FileType::PIDFD => Kind::Pidfd,
            _ => Kind::Other,
        }
    }
}

/// A process of the image (pstree.img).
#[derive(Clone, Debug)]
pub struct Task {
    /// Its pid, as the image has it.
    pub pid: i32,
    /// Its parent's; 0 for the root task.
    pub parent: i32,
    /// Its threads' pids, without its own.
    pub threads: Vec<i32>,
    /// The session that it is in, by its leader's pid.
    pub(super) session: Option<i32>,
    /// Which file table it has; `None` for a zombie.
    pub table: Option<u32>,
}

/// One descriptor of a file table (fdinfo-N.img).
#[derive(Clone, Debug)]
pub struct Slot {
    /// The descriptor.
    pub number: i32,
    /// The id of its open file description.
    pub description: u32,
    /// FD_CLOEXEC.
    pub flags: u32,
    pub(super) span: Range<usize>,
}

/// One open file description (an entry of files.img).
#[derive(Clone, Debug)]
pub struct Description {
    /// Its id.
    pub id: u32,
    /// What kind of file it is.
    pub kind: Kind,
    /// The absolute path that it was opened by or is bound to, where the image
    /// has one.
    pub path: Option<Vec<u8>>,
    /// Its open(2) flags, as far as the image has them.
    pub flags: u32,
    /// The offset, where the kind has one.
    pub position: Option<u64>,
    pub(super) file_type: FileType,
    pub(super) link: Link,
    pub(super) span: Range<usize>,
}

/// What a description has to do with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    None,
    /// A unix socket: the names by which sockets of the image know each other.
    Unix {
        inode: u32,
        peer: u32,
        datagram: bool,
    },
    /// A connected internet socket.
    Inet(Box<Connection>),
    /// An epoll set: the numbers that it watches, of the task that restores it.
    Epoll(Vec<u32>),
    /// An end of a pipe, by the pipe's number.
    Pipe(u32),
    /// It is opened by the path of a regular file entry.
    By(u32),
}

/// A connected internet socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub inode: u32,
    pub here: End,
    pub there: End,
    /// As in <netinet/tcp.h>.
    pub state: u32,
}

/// One end of a connection: protocol, address, port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct End {
    pub protocol: u32,
    pub address: Vec<u32>,
    pub port: u32,
}

/// A lock that a task holds by a descriptor (filelocks.img).
#[derive(Clone, Debug)]
pub(super) struct Lock {
    pub task: i32,
    pub number: i32,
    /// It is the task's own, by fcntl(2), and not the open file description's.
    pub of_task: bool,
    /// It is flock(2)'s, of the whole file.
    pub whole: bool,
    /// It excludes others.
    pub exclusive: bool,
    pub span: Range<usize>,
}

/// A packet in a socket's queue that carries descriptors (sk-queues.img).
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// The description of the socket that it waits in.
    pub socket: u32,
    /// What it carries.
    pub descriptions: Vec<u32>,
    /// Where it lies, its data included.
    pub span: Range<usize>,
}

/// How a file is opened that its path does not lead to (remap-fpath.img).
#[derive(Clone, Debug)]
pub(super) struct Remap {
    /// The description that it is for.
    pub description: u32,
    pub how: Remapped,
    pub span: Range<usize>,
}

/// How that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remapped {
    /// CRIU makes the file anew, and deletes it.
    Ghost,
    /// By the path of another description.
    Linked(u32),
    /// Otherwise.
    Otherwise,
}

fn missing(message: &Message<'_>, what: &str) -> Error {
    message.error(format!("the entry has no {what}"))
}

/// A pid or descriptor: neither has the top bit.
fn number(message: &Message<'_>, value: u32, what: &str) -> Result<i32, Error> {
    i32::try_from(value).map_err(|_| message.error(format!("{value} cannot be a {what}")))
}

impl Task {
    pub(super) fn read(message: &Message<'_>) -> Result<Self, Error> {
        let [pid, parent, _, session] = message.numbers::<4>()?;
        let pid = pid.filter(|&pid| pid != 0);
        let pid = number(message, pid.ok_or_else(|| missing(message, "pid"))?, "pid")?;
        let parent = parent.ok_or_else(|| missing(message, "parent"))?;
        let mut threads = Vec::new();
        for field in message.fields() {
            let field = field?;
            if field.number == 5 {
                field.append_to(&mut threads)?;
            }
        }
        // Of a zombie CRIU writes any number here.
        let threads = threads.into_iter().filter_map(|t| i32::try_from(t).ok());
        Ok(Task {
            pid,
            parent: number(message, parent, "pid")?,
            threads: threads.filter(|&thread| thread != pid).collect(),
            session: session.map(u32::cast_signed),
            table: None,
        })
    }
}

impl Slot {
    pub(super) fn read(entry: &Entry<'_>) -> Result<Self, Error> {
        let message = &entry.message;
        let [id, flags, _, fd] = message.numbers::<4>()?;
        let fd = fd.ok_or_else(|| missing(message, "descriptor"))?;
        Ok(Slot {
            number: number(message, fd, "descriptor")?,
            description: id.ok_or_else(|| missing(message, "file id"))?,
            flags: flags.ok_or_else(|| missing(message, "flags"))?,
            span: entry.span.clone(),
        })
    }
}

impl Lock {
    pub(super) fn read(entry: &Entry<'_>) -> Result<Self, Error> {
        const POSIX: u32 = 1;
        const FLOCK: u32 = 2;
        const WRITING: u32 = 1;
        let message = &entry.message;
        let [flag, kind, task, number] = message.numbers::<4>()?;
        let task = task.ok_or_else(|| missing(message, "pid"))? as i32;
        let number = number.ok_or_else(|| missing(message, "descriptor"))? as i32;
        let flag = flag.ok_or_else(|| missing(message, "flag"))?;
        Ok(Lock {
            task,
            number,
            of_task: flag & POSIX != 0,
            whole: flag & FLOCK != 0,
            exclusive: kind == Some(WRITING),
            span: entry.span.clone(),
        })
    }

    /// The entry for another descriptor of the same open file description.
    pub(super) fn moved(message: &Message<'_>, task: i32, number: i32) -> Result<Writer, Error> {
        message.edited(|field| {
            Ok(match field.number {
                3 => Some(Writer::default().number(3, task as u64)),
                4 => Some(Writer::default().number(4, number as u64)),
                _ => None,
            })
        })
    }
}

impl Remap {
    pub(super) fn read(entry: &Entry<'_>) -> Result<Self, Error> {
        let (description, how) = Remapped::read(&entry.message)?;
        Ok(Remap {
            description: description.ok_or_else(|| missing(&entry.message, "file id"))?,
            how,
            span: entry.span.clone(),
        })
    }
}

impl Remapped {
    /// With the description that it is for, where the entry has one.
    pub(super) fn read(message: &Message<'_>) -> Result<(Option<u32>, Self), Error> {
        const LINKED: u32 = 0;
        const GHOST: u32 = 1;
        /// Set in the other id, where older versions give no kind.
        const OLD_GHOST: u32 = 1 << 31;
        let [description, other, kind] = message.numbers::<3>()?;
        let other = other.unwrap_or(0);
        let how = match kind {
            Some(GHOST) => Remapped::Ghost,
            None if other & OLD_GHOST != 0 => Remapped::Ghost,
            Some(LINKED) | None => Remapped::Linked(other),
            Some(_) => Remapped::Otherwise,
        };
        Ok((description, how))
    }
}

impl Flight {
    /// The packet, and how many bytes of data follow it.
    pub(super) fn read(entry: &Entry<'_>) -> Result<(Self, u64), Error> {
        let message = &entry.message;
        let [socket, length, ..] = message.numbers::<3>()?;
        let mut flight = Flight {
            socket: socket.ok_or_else(|| missing(message, "socket"))?,
            descriptions: Vec::new(),
            span: entry.span.clone(),
        };
        for field in message.fields() {
            let field = field?;
            if field.number != 4 {
                continue;
            }
            for field in field.message()?.fields() {
                let field = field?;
                if field.number == 2 {
                    field.append_to(&mut flight.descriptions)?;
                }
            }
        }
        let length = length.ok_or_else(|| missing(message, "length"))?;
        Ok((flight, u64::from(length)))
    }
}

impl Description {
    /// The access that it had.
    pub fn access(&self) -> Access {
        Access::of_flags(self.flags.cast_signed())
    }

    pub(super) fn read(entry: &Entry<'_>) -> Result<Self, Error> {
        let message = &entry.message;
        let (mut file_type, mut id) = (None, None);
        // The parts that are there: as bits, and the first.
        let (mut seen, mut twice, mut first) = (0u32, false, None);
        for field in message.fields() {
            let field = field?;
            match field.number {
                1 => file_type = Some(field.u32()?),
                2 => id = Some(field.u32()?),
                number if number < BODIES => {
                    twice |= seen & 1 << number != 0;
                    seen |= 1 << number;
                    let body = field.message()?;
                    first.get_or_insert((number, body));
                }
                _ => {}
            }
        }
        let file_type = FileType(file_type.ok_or_else(|| missing(message, "type"))?);
        let mut description = Description {
            id: id.ok_or_else(|| missing(message, "id"))?,
            kind: file_type.kind(None),
            path: None,
            flags: libc::O_RDWR as u32,
            position: None,
            file_type,
            link: Link::None,
            span: entry.span.clone(),
        };
        let Some(wanted) = file_type.body() else {
            return Ok(description);
        };
        if twice {
            return Err(message.error("the part for a type stands twice"));
        }
        let body = match first {
            Some((number, body)) if number == wanted => Some(body),
            _ => message.message(wanted)?,
        };
        let body = body.ok_or_else(|| missing(message, "part for its type"))?;
        description.read_body(&body)?;
        Ok(description)
    }

    /// The id and type alone.
    pub(super) fn outline(message: &Message<'_>) -> Result<(u32, FileType), Error> {
        let [file_type, id] = message.numbers::<2>()?;
        let file_type = file_type.ok_or_else(|| missing(message, "type"))?;
        let id = id.ok_or_else(|| missing(message, "id"))?;
        Ok((id, FileType(file_type)))
    }

    fn read_body(&mut self, body: &Message<'_>) -> Result<(), Error> {
        let mut numbers = [None::<u64>; 17];
        let (mut name, mut directory) = (None, None);
        let mut watched = Vec::new();
        let mut ends = [Vec::new(), Vec::new()];
        for field in body.fields() {
            let field = field?;
            match (self.file_type, field.number) {
                (FileType::REG, 6) | (FileType::UNIXSK, 11) => {
                    name = Some(field.message()?.bytes());
                }
                (FileType::UNIXSK, 14) => directory = Some(field.message()?.bytes()),
                (FileType::EVENTPOLL, 4) => {
                    let watch = field.message()?;
                    let [_, number] = watch.numbers::<2>()?;
                    watched.push(number.ok_or_else(|| missing(&watch, "descriptor"))?);
                }
                (FileType::INETSK, 11) => field.append_to(&mut ends[0])?,
                (FileType::INETSK, 12) => field.append_to(&mut ends[1])?,
                (_, number) => {
                    if let Some(place) = numbers.get_mut(number as usize - 1) {
                        *place = field.integer().or(*place);
                    }
                }
            }
        }
        let optional = |number: usize| numbers[number - 1].map(|value| value as u32);
        let need = |number, what| optional(number).ok_or_else(|| missing(body, what));
        match self.file_type {
            FileType::REG => {
                self.kind = self.file_type.kind(optional(10));
                self.flags = need(2, "flags")?;
                self.position = numbers[2];
                self.path = Some(absolute(name.ok_or_else(|| missing(body, "path"))?));
            }
            FileType::MEMFD => {
                self.flags = need(2, "flags")?;
                self.position = numbers[2];
            }
            FileType::PIPE => {
                self.flags = need(3, "flags")?;
                self.link = Link::Pipe(need(2, "pipe")?);
            }
            FileType::FIFO => self.link = optional(3).map_or(Link::None, Link::By),
            FileType::TTY => {
                self.flags = need(3, "flags")?;
                self.link = optional(6).map_or(Link::None, Link::By);
            }
            FileType::UNIXSK => {
                const DATAGRAM: u32 = 2;
                self.link = Link::Unix {
                    inode: need(2, "inode")?,
                    peer: need(8, "peer")?,
                    datagram: need(3, "type")? == DATAGRAM,
                };
                self.path = bound_to(name.unwrap_or_default(), directory);
            }
            FileType::EVENTPOLL => self.link = Link::Epoll(watched),
            FileType::INETSK => {
                let [here, there] = ends;
                let protocol = need(5, "protocol")?;
                let port = need(8, "port")?;
                if port != 0 {
                    self.link = Link::Inet(Box::new(Connection {
                        inode: need(2, "inode")?,
                        state: need(6, "state")?,
                        here: End {
                            protocol,
                            address: here,
                            port: need(7, "port")?,
                        },
                        there: End {
                            protocol,
                            address: there,
                            port,
                        },
                    }));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The entry of a unix socket whose peer is closed.
pub(super) fn hung_up(entry: &Message<'_>, datagram: bool) -> Result<Writer, Error> {
    /// Neither reads nor writes any more, but for what is queued.
    const BOTH: u64 = 3;
    entry.edited(|field| {
        if field.number != 16 {
            return Ok(None);
        }
        let socket = field.message()?;
        // CRIU gives no connection its name again, but waits for one that is deleted,
        // without end, where the other end is not there.
        let mut deleted = false;
        for field in socket.fields() {
            let field = field?;
            deleted |= field.number == 15 && field.integer() != Some(0);
        }
        let nameless = deleted && !datagram;
        let socket = socket.edited(|field| {
            Ok(match field.number {
                8 => Some(Writer::default().number(8, 0)),
                11 if nameless => Some(Writer::default().bytes(11, b"")),
                12 if !datagram => Some(Writer::default()),
                15 if nameless => Some(Writer::default()),
                _ => None,
            })
        })?;
        let socket = match datagram {
            true => socket,
            false => socket.number(12, BOTH),
        };
        Ok(Some(Writer::default().message(16, socket)))
    })
}

/// The state of an established connection whose other end is closed.
pub(super) const CLOSE_WAIT: u32 = 8;

/// The entry of an internet socket in another state.
pub(super) fn in_state(entry: &Message<'_>, state: u32) -> Result<Writer, Error> {
    entry.edited(|field| {
        if field.number != 4 {
            return Ok(None);
        }
        let socket = field.message()?.edited(|field| {
            Ok((field.number == 6).then(|| Writer::default().number(6, state.into())))
        })?;
        Ok(Some(Writer::default().message(4, socket)))
    })
}

/// The entry of a connection (tcp-stream-N.img) that has received the other end's
/// FIN, which takes a place in the sequence and in the window.
pub(super) fn with_fin(entry: &Message<'_>) -> Result<Writer, Error> {
    entry.edited(|field| {
        let value = match field.number {
            2 | 17 => field.u32()?.wrapping_add(1),
            16 => field.u32()?.saturating_sub(1),
            _ => return Ok(None),
        };
        Ok(Some(Writer::default().number(field.number, value.into())))
    })
}

/// The entry of an epoll set that watches other numbers.
///
/// * `watches`: for each that it has, in order, the number or nothing.
pub(super) fn rewatched(entry: &Message<'_>, watches: &[Option<u32>]) -> Result<Writer, Error> {
    let mut watches = watches.iter();
    entry.edited(|field| {
        if field.number != 9 {
            return Ok(None);
        }
        let set = field.message()?.edited(|field| {
            if field.number != 4 {
                return Ok(None);
            }
            let Some(number) = watches.next().copied().flatten() else {
                return Ok(Some(Writer::default()));
            };
            let watch = field.message()?;
            if watch.numbers::<2>()?[1] == Some(number) {
                return Ok(None);
            }
            let watch = watch.edited(|field| {
                Ok((field.number == 2).then(|| Writer::default().number(2, number.into())))
            })?;
            Ok(Some(Writer::default().message(4, watch)))
        })?;
        Ok(Some(Writer::default().message(9, set)))
    })
}

/// A path, which images have with and without the slash in front.
fn absolute(path: &[u8]) -> Vec<u8> {
    let mut absolute = Vec::with_capacity(path.len() + 1);
    if !path.starts_with(b"/") {
        absolute.push(b'/');
    }
    absolute.extend_from_slice(path);
    absolute
}

/// The path that a unix socket is bound to; abstract names are none.
fn bound_to(name: &[u8], directory: Option<&[u8]>) -> Option<Vec<u8>> {
    let name = name.split(|&byte| byte == 0).next().unwrap_or(name);
    if name.is_empty() {
        return None;
    }
    let mut path = Vec::new();
    if let (false, Some(directory)) = (name.starts_with(b"/"), directory) {
        path.extend_from_slice(directory);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    Some(path)
}

/// A file table's entry for a descriptor that `--inherit-fd` gives.
pub(super) fn inherited_slot(number: i32, description: u32, flags: u32) -> Writer {
    Writer::default()
        .number(1, description.into())
        .number(2, flags.into())
        .number(3, FileType::REG.0.into())
        .number(4, number as u64)
}

/// The description that CRIU replaces by the descriptor that `--inherit-fd` has
/// for the path. A regular file's is handed on as it is: neither opened anew, nor
/// checked, nor sought in.
pub(super) fn inherited_description(id: u32, path: &str) -> Writer {
    let nobody = (1..=5).fold(Writer::default(), |owner, field| owner.number(field, 0));
    let file = Writer::default()
        .number(1, id.into())
        .number(2, 0)
        .number(3, 0)
        .message(5, nobody)
        .bytes(6, path.as_bytes());
    Writer::default()
        .number(1, FileType::REG.0.into())
        .number(2, id.into())
        .message(3, file)
}

/// A description that CRIU opens by its path, whatever the file there is: the
/// entry has neither size nor mode to hold it against.
///
/// * `position`: in bytes; `None` where CRIU is not to seek.
pub(super) fn opened_description(id: u32, opening: &Opening, position: Option<u64>) -> Writer {
    let nobody = (1..=5).fold(Writer::default(), |owner, field| owner.number(field, 0));
    let file = Writer::default()
        .number(1, id.into())
        .number(2, opening.flags().cast_unsigned().into())
        .number(3, position.unwrap_or(u64::MAX))
        .message(5, nobody)
        .bytes(6, &opening.path);
    Writer::default()
        .number(1, FileType::REG.0.into())
        .number(2, id.into())
        .message(3, file)
}
