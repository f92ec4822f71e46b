//! What the records say of tasks, file tables and open file descriptions.
//!
//! Told every whole record in order, it knows at each moment what a kernel that
//! has read as far knows. Memory grows with descriptors, never with pages.

use super::forms;
use super::layout::state::{TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN};
use super::layout::{
    FMODE_LSEEK, FMODE_READ, FMODE_WRITE, Layout, SIGNAL_TTY, SOCKADDR_IN, SOCKADDR_UN,
    SOCKET_DEAD, SUN_FAMILY, TREE_ENTRY, UNIX_LINKED, Version, WATCH, file_type, fixed,
};
use super::records::{Prefix, Record, Sink, Splitter};
use crate::Error;
use crate::advice::Kind;
use crate::caller::Access;
use crate::plan::Descriptor;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

const O_DIRECTORY: u32 = 0x10000;
pub(super) const O_APPEND: u32 = 0x400;
/// For some weeks of March 2010, between v20 and v21.
const LONG_TREE_ENTRY: usize = 32;

/// One task (a thread has one of its own).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Its pid, as the image has it.
    pub pid: i32,
    /// The pid of its process.
    pub process: i32,
    /// The pid of its parent.
    pub parent: i32,
    /// Its command name.
    pub command: String,
    /// Its file table, once known; a zombie has none.
    pub table: Option<i32>,
}

/// One open file description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The file table inside which it stands, or 0.
    pub table: i32,
    /// f_type, of [`file_type`].
    pub file_type: u32,
    /// FMODE_ bits.
    pub mode: u32,
    /// open(2) flags.
    pub flags: u32,
    /// Offset.
    pub position: u64,
    /// The name it was opened by.
    pub path: Option<Box<[u8]>>,
    /// Pipe, socket or terminal behind it (an objref, 0 for none).
    pub behind: i32,
    /// What an eventfd counts.
    pub count: u64,
    /// Who refers to it beside descriptors; of most files nobody does.
    pub references: Option<Box<References>>,
}

/// Who refers to a file beside descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Tasks that have mapped it.
    pub mapped_by: Vec<i32>,
    /// Tasks whose executable it is.
    pub executed_by: Vec<i32>,
    /// Epoll sets that watch it, each with the number by which it does.
    pub watched_by: Vec<(i32, i32)>,
}

impl File {
    /// What kind of file it is, as far as the image tells: a generic file is
    /// [`Kind::Dir`] where its flags say so and [`Kind::Reg`] otherwise.
    pub fn kind(&self, socket: Option<Kind>) -> Kind {
        match self.file_type {
            file_type::GENERIC if self.flags & O_DIRECTORY != 0 => Kind::Dir,
            file_type::GENERIC => match self.path.as_deref() {
                Some(path) if path.starts_with(b"/dev/") => Kind::Chr,
                _ => Kind::Reg,
            },
            file_type::PIPE => Kind::Pipe,
            file_type::FIFO => Kind::Fifo,
            file_type::SOCKET => socket.unwrap_or(Kind::Unix),
            file_type::TTY => Kind::Tty,
            file_type::EPOLL => Kind::Epoll,
            file_type::EVENTFD => Kind::Eventfd,
            _ => Kind::Other,
        }
    }

    /// What it may be used for.
    pub fn access(&self) -> Access {
        Access {
            read: self.mode & FMODE_READ != 0,
            write: self.mode & FMODE_WRITE != 0,
        }
    }

    /// Whether the image does not tell if it is a file, a directory or a device.
    pub fn is_kind_unknown(&self) -> bool {
        self.file_type == file_type::GENERIC && self.flags & O_DIRECTORY == 0
    }
}

/// One descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Its number.
    pub number: i32,
    /// The open file description.
    pub file: i32,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// One file table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Process that read it first.
    pub owner: i32,
    /// Its descriptors, in the order of the image.
    pub descriptors: Vec<Desc>,
    /// How many more come.
    pub missing: u32,
}

/// One end of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tty {
    /// The master's objref, for a slave.
    pub link: i32,
    /// Its number under /dev/pts.
    pub index: u32,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// [`Kind::Unix`] or [`Kind::Inet`].
    pub kind: Kind,
    /// Its state, of TCP_.
    pub state: u8,
    /// What a unix socket is bound to.
    pub name: Name,
    /// Its own address, without the family: a path and a NUL, an abstract name
    /// after one; port and number.
    pub local: Vec<u8>,
    /// The same of its peer, on the internet.
    pub remote: Vec<u8>,
    /// The directory from which the path leads.
    pub directory: Vec<u8>,
    /// Its peer among the image's sockets, where it is a unix socket; or 0.
    pub peer: i32,
    /// Bytes that it has not received yet.
    pub queued: u32,
    /// The file in front of whose body it is announced.
    pub inside: Option<i32>,
    /// Nobody has it open: it only sent messages.
    dead: bool,
    /// It says itself that its queues follow.
    pub buffers: bool,
    /// It is of the internet and not connected: a restart opens it, and does
    /// not read the queues that a checkpoint wrote of it (v20).
    pub unread: bool,
}

/// What a unix socket is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Name {
    /// Nothing.
    #[default]
    None,
    /// A path which it has lost.
    Unlinked,
    /// A path.
    Path,
    /// An abstract name.
    Abstract,
}

impl Socket {
    /// It waits for others to connect: nobody is its peer, nothing is in its
    /// queues.
    pub fn is_listening(&self) -> bool {
        self.state == TCP_LISTEN
    }

    /// The path that a unix socket is bound to.
    pub fn path(&self) -> Option<Vec<u8>> {
        let name = self.local.split(|&byte| byte == 0).next()?;
        if self.kind != Kind::Unix || name.is_empty() {
            return None;
        }
        let mut path = Vec::new();
        if !name.starts_with(b"/") && !self.directory.is_empty() {
            path.extend_from_slice(&self.directory);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }

    /// It has no peer, or (of datagrams) needs none.
    pub fn is_closed(&self) -> bool {
        self.state == TCP_CLOSE
    }

    /// Whether, restored, it takes its name: a connected one does not.
    pub fn takes_a_name(&self) -> bool {
        let named = matches!(self.name, Name::Path | Name::Abstract);
        named && self.state != TCP_ESTABLISHED
    }

    /// Whether its path was removed: a kernel cannot send again what it was to receive.
    pub fn has_lost_its_name(&self) -> bool {
        self.name == Name::Unlinked && self.is_closed()
    }
}

/// The files behind which something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// The first of them.
    pub first: i32,
    /// How many they are.
    pub count: usize,
}

/// What a file table leaves for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The watches of an epoll set, by its file.
    Watches(i32),
    /// The two queues of a socket.
    Queues(i32),
}

/// What a pass over a whole image tells the one after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreknowledge {
    /// Numbers that tasks other than the root's have.
    pub numbers: BTreeSet<i32>,
    /// Ends of terminals which files are on.
    pub masters: BTreeSet<i32>,
    /// What advice makes of it, once it has been met with all tables.
    pub planned: Option<Planned>,
    /// The bytes from the last change to the last record, where a pass that knew all the
    /// rest has found them.
    pub unchanged: Range<u64>,
}

/// What advice makes of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Some descriptor is another one or none.
    pub changes: bool,
    /// The ends of the terminals that it takes from everybody.
    pub taken: BTreeSet<i32>,
    /// What it leaves of the files.
    pub files: Kept,
}

/// What advice leaves of the files of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Those that some descriptor keeps.
    pub kept: BTreeSet<i32>,
    /// Those, and what they need.
    pub needed: BTreeSet<i32>,
    /// Unix sockets with a name that nobody needs.
    pub unnamed: BTreeSet<i32>,
}

/// What goes as a whole or stays.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Whole {
    File(i32),
    /// The files behind which one pipe is, or the ends of one connection.
    Behind(i32),
}

/// What is known of an image.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// In the order of the tree.
    pub tasks: Vec<Task>,
    /// By objref.
    pub files: HashMap<i32, File>,
    /// By objref.
    pub tables: BTreeMap<i32, Table>,
    /// By objref.
    pub ttys: HashMap<i32, Tty>,
    /// The slave of each terminal, by its master.
    pub slaves: HashMap<i32, i32>,
    /// By objref.
    pub sockets: HashMap<i32, Socket>,
    /// Bytes in pipes and fifos, by the pipe's objref.
    pub queued: BTreeMap<i32, u32>,
    /// The tasks of which a terminal is the controlling one.
    pub controlling: BTreeMap<i32, Vec<i32>>,
    /// The credentials announced last.
    pub cred: i32,
    /// Objrefs announced, from this number up: [`Survey::HIGH`].
    pub high: BTreeSet<i32>,
    /// The pids that the image had before a restart program wrote new ones into
    /// its tree, in the order of the tree.
    pub names: Vec<i32>,
    /// What the file table read last leaves for its end, in its order.
    pub work: Vec<Work>,
    /// The files behind which a pipe, socket or terminal is.
    pub users: HashMap<i32, Users>,
    /// The threads of each process, without its own.
    threads: HashMap<i32, Vec<i32>>,
    processes: usize,
    /// From this task on all are of one process.
    last_from: usize,
    /// Terminals of which a file of the image is the master.
    masters: HashSet<i32>,
    current: Option<usize>,
    pids: Vec<i32>,
    first_pid: i32,
    expecting: Option<Expecting>,
    /// FILE, FILE_TABLE and TTY objects announced, whose body comes.
    pub(super) open_file: Option<i32>,
    open_table: Option<i32>,
    pub(super) open_tty: Option<i32>,
    /// Sockets announced, whose address comes: a peer stands inside.
    open_sockets: Vec<(i32, Socket)>,
    /// Sockets of the internet by their two addresses.
    connected: HashMap<(Vec<u8>, Vec<u8>), i32>,
    pub(super) filling: Option<i32>,
    pub(super) named: Option<i32>,
    /// The first end of a pipe, whose contents come.
    pub(super) filled: Option<i32>,
    watching: Option<i32>,
    /// How many tasks the tree has.
    expected: u32,
    /// A unix socket whose path is relative: its directory comes.
    relative: Option<i32>,
    /// The queue that is being read: whether it is one of what is to be received,
    /// as every other one is, and its bytes, until its first buffer has told whose.
    queue: (bool, Option<u32>),
}

/// A BUFFER (or STRING) that belongs to the record before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expecting {
    Pids,
    Tree,
    Command,
    Items,
}

impl Survey {
    /// Objrefs from here up are ours to give.
    pub const HIGH: i32 = 0x7f00_0000;

    /// The task that is being read.
    pub fn task(&self) -> Option<&Task> {
        self.current.and_then(|index| self.tasks.get(index))
    }

    /// The pids of a process, its own first.
    pub fn pids_of(&self, process: i32) -> Vec<i32> {
        let threads = self.threads.get(&process).into_iter().flatten();
        std::iter::once(process).chain(threads.copied()).collect()
    }

    /// Whether the whole image is one process.
    pub fn is_one_process(&self) -> bool {
        self.processes <= 1
    }

    /// Whether no process comes after the one that is being read.
    pub fn is_last_process(&self) -> bool {
        self.current.unwrap_or(0) >= self.last_from
    }

    /// The other end of a connection of the internet, if it is in the image.
    pub fn other_end(&self, socket: &Socket) -> Option<i32> {
        let turned = (socket.remote.clone(), socket.local.clone());
        self.connected.get(&turned).copied()
    }

    /// What the next pass over the same image may know, after the last record.
    pub fn foreknowledge(&self) -> Foreknowledge {
        let root = self.tasks.first().and_then(|task| task.table);
        let others = self.tables.iter().filter(|(id, _)| Some(**id) != root);
        let numbers = others.flat_map(|(_, table)| &table.descriptors);
        Foreknowledge {
            numbers: numbers.map(|desc| desc.number).collect(),
            masters: self.masters.iter().copied().collect(),
            planned: None,
            unchanged: 0..0,
        }
    }

    /// What is left of the files where some are kept.
    pub fn keeping(&self, kept: &BTreeSet<i32>) -> Kept {
        let needed = self.needed(kept);
        let unnamed = self.sockets.iter().filter(|(id, socket)| {
            let users = self.users.get(id);
            // A socket with two files was never written.
            let unneeded = |users: &Users| users.count == 1 && !needed.contains(&users.first);
            let named = socket.takes_a_name() || socket.has_lost_its_name();
            named && users.is_some_and(unneeded)
        });
        Kept {
            unnamed: unnamed.map(|(id, _)| *id).collect(),
            kept: kept.clone(),
            needed,
        }
    }

    /// The files that are needed where some are kept: those, those that stand
    /// elsewhere than in a table which has them, and the other ends of all
    /// these.
    fn needed(&self, kept: &BTreeSet<i32>) -> BTreeSet<i32> {
        let tables = self.tables.iter();
        let listed = tables.flat_map(|(id, table)| table.descriptors.iter().map(|d| (d.file, *id)));
        let listed: HashSet<(i32, i32)> = listed.collect();
        let in_place = |id: i32| {
            let table = self.files.get(&id).map_or(0, |file| file.table);
            listed.contains(&(id, table))
        };
        let needs = |id: &&i32| kept.contains(id) || !in_place(**id);
        let whole: HashSet<Whole> = self
            .files
            .keys()
            .filter(needs)
            .map(|id| self.whole(*id))
            .collect();
        let needed = self
            .files
            .keys()
            .filter(|id| whole.contains(&self.whole(**id)));
        needed.copied().collect()
    }

    fn whole(&self, id: i32) -> Whole {
        let Some(file) = self.files.get(&id) else {
            return Whole::File(id);
        };
        match file.file_type {
            file_type::PIPE => Whole::Behind(file.behind),
            file_type::SOCKET => {
                let socket = self.sockets.get(&file.behind);
                let other = socket.and_then(|socket| self.other_end(socket));
                Whole::Behind(other.map_or(file.behind, |other| other.min(file.behind)))
            }
            _ => Whole::File(id),
        }
    }

    /// Takes account of what an earlier pass over the same image found.
    pub fn foresee(&mut self, known: &Foreknowledge) {
        self.masters.extend(&known.masters);
    }

    /// The process of the first task.
    pub fn root_process(&self) -> i32 {
        self.tasks.first().map_or(0, |task| task.process)
    }

    /// The table that is complete with the record told last.
    pub fn complete_table(&self) -> Option<i32> {
        self.filling
            .filter(|table| self.tables.get(table).is_some_and(|t| t.missing == 0))
    }

    /// A file as the planner wants it.
    pub fn descriptor(&self, desc: &Desc) -> Descriptor<'_> {
        let file = self.files.get(&desc.file);
        Descriptor {
            number: desc.number,
            description: u64::from(desc.file.cast_unsigned()),
            kind: file.map_or(Kind::Other, |file| self.kind(file)),
            kind_by_path: file.is_some_and(File::is_kind_unknown),
            path: file.and_then(|file| self.path(file)),
            access: file.map_or(Access::default(), File::access),
            flags: file.map_or(0, |file| file.flags.cast_signed()),
            position: file
                .filter(|file| file.mode & FMODE_LSEEK != 0)
                .map(|file| file.position),
            is_missing: false,
        }
    }

    /// The path by which a file was opened, or to which a socket is bound; the
    /// name of a terminal.
    pub fn path<'a>(&'a self, file: &'a File) -> Option<Cow<'a, [u8]>> {
        match file.file_type {
            file_type::SOCKET => Some(self.sockets.get(&file.behind)?.path()?.into()),
            file_type::TTY => {
                let end = self.ttys.get(&file.behind)?;
                Some(Cow::Owned(match end.link {
                    0 => b"/dev/ptmx".to_vec(),
                    _ => format!("/dev/pts/{}", end.index).into_bytes(),
                }))
            }
            _ => file.path.as_deref().map(Cow::Borrowed),
        }
    }

    /// What kind of file one is.
    pub fn kind(&self, file: &File) -> Kind {
        file.kind(self.sockets.get(&file.behind).map(|s| s.kind))
    }

    /// Whether a terminal's end lies outside the image: a slave, of whose master
    /// no file of the image is known.
    pub fn is_outside(&self, tty: i32) -> bool {
        let Some(end) = self.ttys.get(&tty) else {
            return false;
        };
        end.link != 0 && !self.masters.contains(&end.link)
    }

    /// Takes a whole record into account.
    ///
    /// # Errors
    /// [`Error::Image`] for a record that contradicts the format.
    pub fn record(&mut self, record: &Record<'_>, layout: &Layout) -> Result<(), Error> {
        let version = layout.version;
        let expecting = self.expecting.take();
        // A kernel would take announcements in between; none was ever written
        // there.
        let follows = match expecting {
            Some(Expecting::Command) => fixed::STRING,
            Some(_) => fixed::BUFFER,
            None => record.prefix.kind,
        };
        if record.prefix.kind != follows {
            let follows = forms::name(follows, Some(version));
            return Err(record.error(format!("expected a {follows}")));
        }
        if self.complete_table().is_some() {
            self.filling = None;
        }
        let relative = self.relative.take();
        match record.prefix.kind {
            fixed::OBJREF => self.objref(record, layout)?,
            kind if Some(kind) == version.pids && version.tree != kind => {
                self.first_pid = record.i32(16)?;
                self.expecting = Some(Expecting::Pids);
            }
            kind if kind == version.tree => {
                self.expected = record.u32(8)?;
                self.expecting = Some(Expecting::Tree);
            }
            kind if kind == version.task => {
                let len = version.editable.then_some(version.task_len);
                self.next_task(record, len)?;
                self.expecting = Some(Expecting::Command);
            }
            kind if kind == version.task_objs => {
                let table = record.i32(8)?;
                if let Some(task) = self.current.and_then(|i| self.tasks.get_mut(i)) {
                    task.table = Some(table);
                }
            }
            fixed::BUFFER => match expecting {
                Some(Expecting::Pids) => self.read_pids(record)?,
                Some(Expecting::Tree) => self.read_tree(record)?,
                Some(Expecting::Items) => self.read_items(record)?,
                _ => {}
            },
            fixed::STRING if expecting == Some(Expecting::Command) => {
                let command = String::from_utf8_lossy(record.string()).into_owned();
                if let Some(task) = self.current.and_then(|i| self.tasks.get_mut(i)) {
                    task.command = command;
                }
            }
            fixed::STRING => {
                let socket = relative.and_then(|id| self.sockets.get_mut(&id));
                if let Some(socket) = socket {
                    socket.directory = record.string().to_vec();
                }
            }
            fixed::FILE_TABLE => self.file_table(record)?,
            fixed::FILE => self.file(record, version.file_len)?,
            fixed::FILE_NAME => {
                if let Some(file) = self.named.take().and_then(|id| self.files.get_mut(&id)) {
                    file.path = Some(record.string().into());
                }
            }
            fixed::FILE_DESC => self.descriptor_record(record)?,
            fixed::PIPE_BUF => {
                if let Some(first) = self.filled.take().and_then(|id| self.files.get(&id)) {
                    self.queued.insert(first.behind, record.prefix.len - 8);
                }
            }
            fixed::TTY => {
                if let Some(tty) = self.open_tty.take() {
                    let (link, index) = (record.i32(12)?, record.u32(24)?);
                    self.ttys.insert(tty, Tty { link, index });
                    if link != 0 {
                        self.slaves.insert(link, tty);
                    }
                }
            }
            fixed::EPOLL_ITEMS => {
                self.watching = Some(record.i32(8)?);
                if record.u32(12)? > 0 {
                    self.expecting = Some(Expecting::Items);
                }
            }
            fixed::MM => self.refer(record.i32(12)?, |to| &mut to.executed_by),
            fixed::VMA => self.refer(record.i32(12)?, |to| &mut to.mapped_by),
            fixed::SIGNAL => {
                let tty = record.i32(SIGNAL_TTY)?;
                if tty != 0 {
                    let task = self.task().map_or(0, |task| task.pid);
                    self.controlling.entry(tty).or_default().push(task);
                }
            }
            fixed::SOCKET_QUEUE => {
                let (received, _) = self.queue;
                self.queue = (!received, record.u32(12).ok());
            }
            fixed::SOCKET_BUFFER => self.buffer(record, version.queue_owner),
            fixed::SOCKET => {
                let state = record.u8(version.socket_state)?;
                let dead = record.u64(version.socket_flags)? & SOCKET_DEAD;
                let buffers = match version.socket_buffers {
                    Some(at) => record.u8(at)? != 0,
                    None => false,
                };
                if let Some((_, socket)) = self.open_sockets.last_mut() {
                    socket.state = state;
                    socket.dead = dead != 0;
                    socket.buffers = buffers;
                }
            }
            kind if kind == version.socket_unix => {
                let lengths = version.unix_name_len;
                let [local, _] = addresses(record, lengths, SOCKADDR_UN as usize)?;
                let name = unix_name(record, version, &local)?;
                let peer = record.i32(12)?;
                if self
                    .open_sockets
                    .last()
                    .is_some_and(|(id, _)| Some(*id) != record.i32(8).ok())
                {
                    return Err(record.error("a unix socket with another one's number"));
                }
                let relative = !matches!(local.first(), None | Some(b'/' | 0));
                let id = self.socket(version, |socket| Socket {
                    kind: Kind::Unix,
                    name,
                    local,
                    peer,
                    ..socket
                });
                self.relative = id.filter(|_| relative);
            }
            kind if kind == version.socket_unix + 1 => {
                let lengths = record
                    .bytes
                    .len()
                    .saturating_sub(8 + 2 * SOCKADDR_IN as usize);
                let [local, remote] = addresses(record, lengths, SOCKADDR_IN as usize)?;
                self.socket(version, |socket| Socket {
                    kind: Kind::Inet,
                    local,
                    remote,
                    ..socket
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// A SOCKET's family and addresses are told by the record after it.
    fn socket(&mut self, version: &Version, told: impl FnOnce(Socket) -> Socket) -> Option<i32> {
        let (id, socket) = self.open_sockets.pop()?;
        let mut socket = told(socket);
        let bound = socket.kind == Kind::Inet && !socket.local.is_empty();
        socket.unread = version.closed_queues_unread && socket.is_closed() && bound;
        if !socket.is_listening() && !socket.dead {
            self.work.push(Work::Queues(id));
        }
        if socket.kind == Kind::Inet && !socket.is_listening() && !socket.is_closed() {
            let addresses = (socket.local.clone(), socket.remote.clone());
            self.connected.insert(addresses, id);
        }
        self.sockets.insert(id, socket);
        Some(id)
    }

    /// The first buffer of a queue tells which socket is to receive it.
    fn buffer(&mut self, record: &Record<'_>, owner: Option<usize>) {
        let (received, bytes) = self.queue;
        self.queue = (received, None);
        let owner = owner.and_then(|at| record.i32(at).ok());
        let owner = owner.and_then(|owner| self.sockets.get_mut(&owner));
        if let (true, Some(bytes), Some(owner)) = (received, bytes, owner) {
            owner.queued = bytes;
        }
    }

    fn objref(&mut self, record: &Record<'_>, layout: &Layout) -> Result<(), Error> {
        if record.prefix.len < 16 {
            return Err(record.error("an object reference has 16 bytes"));
        }
        let version = layout.version;
        let (kind, object) = (record.u32(8)?, record.i32(12)?);
        if object <= 0 {
            return Err(record.error(format!("object reference {object}")));
        }
        if object >= Self::HIGH {
            self.high.insert(object);
        }
        match kind {
            _ if kind == version.file_object => {
                if self.open_file.or(self.named).is_some() {
                    return Err(record.error("a file is announced inside another one"));
                }
                if self.files.contains_key(&object) {
                    return Err(record.error(format!("object {object} is announced twice")));
                }
                self.open_file = Some(object);
            }
            _ if kind == version.file_table_object => self.open_table = Some(object),
            _ if kind == version.tty_object => self.open_tty = Some(object),
            _ if kind == version.cred_object => self.cred = object,
            _ if kind == version.socket_object => {
                let socket = Socket {
                    kind: Kind::Other,
                    state: 0,
                    name: Name::None,
                    local: Vec::new(),
                    remote: Vec::new(),
                    directory: Vec::new(),
                    peer: 0,
                    queued: 0,
                    inside: self.open_file,
                    dead: false,
                    buffers: false,
                    unread: false,
                };
                self.open_sockets.push((object, socket));
            }
            _ => {}
        }
        Ok(())
    }

    fn read_pids(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let mut at = 8usize;
        while at < record.bytes.len() {
            let depth = record.u32(at)? as usize;
            self.pids.push(record.i32(at + 4)?);
            at = depth
                .checked_mul(4)
                .and_then(|skip| at.checked_add(skip)?.checked_add(8))
                .ok_or_else(|| record.error("a pid nested too deep"))?;
        }
        Ok(())
    }

    fn read_tree(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let entries = record.bytes.get(8..).unwrap_or_default();
        let size = match entries.len() == self.expected as usize * LONG_TREE_ENTRY {
            true => LONG_TREE_ENTRY,
            false => TREE_ENTRY,
        };
        if entries.len() % size != 0 {
            return Err(record.error("a task tree has 24 bytes for each task"));
        }
        for entry in 0..entries.len() / size {
            let id = |field: usize| -> Result<i32, Error> {
                let id = record.i32(8 + entry * size + field * 4)?;
                Ok(self.pid_of(id))
            };
            let (pid, parent, process) = (id(0)?, id(1)?, id(2)?);
            self.tasks.push(Task {
                pid,
                process,
                parent,
                ..Task::default()
            });
        }
        self.rename();
        let last = self.tasks.last().map(|task| task.process);
        let others = |task: &Task| Some(task.process) != last;
        self.last_from = self
            .tasks
            .iter()
            .rposition(others)
            .map_or(0, |index| index + 1);
        for task in &self.tasks {
            if task.pid == task.process {
                self.processes += 1;
            } else {
                self.threads.entry(task.process).or_default().push(task.pid);
            }
        }
        Ok(())
    }

    /// Gives the tasks the pids that they had.
    fn rename(&mut self) {
        if self.names.len() != self.tasks.len() {
            return;
        }
        let now: Vec<i32> = self.tasks.iter().map(|task| task.pid).collect();
        let names: HashMap<i32, i32> = now.into_iter().zip(self.names.iter().copied()).collect();
        let named = |pid: i32| names.get(&pid).copied().unwrap_or(pid);
        for task in &mut self.tasks {
            task.pid = named(task.pid);
            task.process = named(task.process);
            task.parent = named(task.parent);
        }
    }

    /// Versions with PIDS name pids by object, the others by number.
    fn pid_of(&self, id: i32) -> i32 {
        if self.pids.is_empty() {
            return id;
        }
        id.checked_sub(self.first_pid)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| self.pids.get(index).copied())
            .unwrap_or(0)
    }

    fn next_task(&mut self, record: &Record<'_>, len: Option<u32>) -> Result<(), Error> {
        record.demand_len(len.unwrap_or(record.prefix.len))?;
        let next = self.current.map_or(0, |index| index + 1);
        if next >= self.tasks.len() {
            return Err(record.error(format!(
                "a task more than the {} of the task tree",
                self.tasks.len()
            )));
        }
        self.current = Some(next);
        Ok(())
    }

    fn file_table(&mut self, record: &Record<'_>) -> Result<(), Error> {
        record.demand_len(16)?;
        let Some(table) = self.open_table.take() else {
            return Err(record.error("a file table that was not announced"));
        };
        let count = record.i32(8)?;
        let missing = u32::try_from(count)
            .ok()
            .filter(|&n| n <= 1 << 20)
            .ok_or_else(|| record.error(format!("a file table of {count} descriptors")))?;
        let owner = self.task().map_or(0, |task| task.process);
        let new = Table {
            owner,
            descriptors: Vec::new(),
            missing,
        };
        if self.tables.insert(table, new).is_some() {
            return Err(record.error(format!("file table {table} is announced twice")));
        }
        self.filling = Some(table);
        Ok(())
    }

    fn descriptor_record(&mut self, record: &Record<'_>) -> Result<(), Error> {
        record.demand_len(24)?;
        let desc = Desc {
            file: record.i32(8)?,
            number: record.i32(12)?,
            close_on_exec: record.u32(16)? != 0,
        };
        let Some(table) = self.filling.and_then(|id| self.tables.get_mut(&id)) else {
            return Err(record.error("a descriptor outside a file table"));
        };
        if desc.number < 0 {
            return Err(record.error(format!("descriptor number {}", desc.number)));
        }
        if !self.files.contains_key(&desc.file) {
            return Err(record.error(format!(
                "descriptor {} is object {}, which is no file announced so far",
                desc.number, desc.file
            )));
        }
        table.missing -= 1;
        table.descriptors.push(desc);
        Ok(())
    }

    fn file(&mut self, record: &Record<'_>, common: u32) -> Result<(), Error> {
        let Some(id) = self.open_file.take() else {
            return Err(record.error("a file that was not announced"));
        };
        let filling = self.filling.filter(|_| self.complete_table().is_none());
        let mut file = File {
            table: self.open_table.or(filling).unwrap_or(0),
            file_type: record.u32(8)?,
            mode: record.u32(12)?,
            flags: record.u32(16)?,
            position: record.u64(24)?,
            ..File::default()
        };
        let extra = match file.file_type {
            file_type::GENERIC | file_type::EPOLL => 0,
            file_type::PIPE | file_type::FIFO | file_type::SOCKET | file_type::TTY => 8,
            file_type::EVENTFD => 16,
            other => return Err(record.error(format!("a file of type {other}"))),
        };
        record.demand_len(common + extra)?;
        match extra {
            8 => file.behind = record.i32(common as usize)?,
            16 => file.count = record.u64(common as usize)?,
            _ => {}
        }
        let named = matches!(file.file_type, file_type::GENERIC | file_type::FIFO);
        self.named = named.then_some(id);
        let first_end = matches!(file.file_type, file_type::PIPE | file_type::FIFO)
            && !self.queued.contains_key(&file.behind);
        self.filled = first_end.then_some(id);
        match file.file_type {
            file_type::TTY => {
                self.masters.insert(file.behind);
            }
            file_type::EPOLL => self.work.push(Work::Watches(id)),
            _ => {}
        }
        if file.behind != 0 {
            let users = self.users.entry(file.behind).or_insert(Users {
                first: id,
                count: 0,
            });
            users.count += 1;
        }
        self.files.insert(id, file);
        Ok(())
    }

    fn read_items(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let items = record.bytes.get(8..).unwrap_or_default();
        if items.len() % WATCH != 0 {
            return Err(record.error(format!("watches have {WATCH} bytes each")));
        }
        let watching = self.watching.take().unwrap_or(0);
        for item in 0..items.len() / WATCH {
            let at = 8 + item * WATCH;
            let (number, file) = (record.i32(at + 8)?, record.i32(at + 12)?);
            if let Some(file) = self.files.get_mut(&file) {
                let references = file.references.get_or_insert_default();
                references.watched_by.push((watching, number));
            }
        }
        Ok(())
    }

    /// The memory of the task that is being read refers to a file.
    fn refer(&mut self, file: i32, list: impl FnOnce(&mut References) -> &mut Vec<i32>) {
        let task = self.task().map_or(0, |task| task.pid);
        if let Some(file) = self.files.get_mut(&file) {
            let list = list(file.references.get_or_insert_default());
            if list.last() != Some(&task) {
                list.push(task);
            }
        }
    }
}

/// The two addresses of a socket, its own and its peer's, without their families.
///
/// * `lengths`: where their lengths stand; the addresses follow.
/// * `room`: bytes that each of them has.
fn addresses(record: &Record<'_>, lengths: usize, room: usize) -> Result<[Vec<u8>; 2], Error> {
    let address = |index: usize| {
        let length = record.u32(lengths + 4 * index)? as usize;
        let at = lengths + 8 + room * index;
        let address = record.bytes.get(at..at + length.min(room));
        let name = address.and_then(|address| address.get(SUN_FAMILY as usize..));
        Ok(name.unwrap_or_default().to_vec())
    };
    Ok([address(0)?, address(1)?])
}

/// Whether a record may matter to a survey: small ones, announcements (of any
/// length), and the arrays of tasks and watches. Memory pages never do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interest {
    array: bool,
}

impl Interest {
    const SMALL: u32 = 4200;

    /// To be asked of every prefix in turn.
    pub fn wants(&mut self, prefix: Prefix, layout: Option<&Layout>) -> bool {
        let array = std::mem::take(&mut self.array);
        self.array = layout.is_none_or(|layout| {
            let version = layout.version;
            prefix.kind == version.tree
                || version.pids == Some(prefix.kind)
                || prefix.kind == fixed::EPOLL_ITEMS
        });
        prefix.len <= Self::SMALL
            || (fixed::FILE_TABLE..=fixed::EPOLL_ITEMS).contains(&prefix.kind)
            || prefix.kind == fixed::OBJREF
            || (array && prefix.kind == fixed::BUFFER)
    }
}

/// Surveys a whole image.
#[derive(Default)]
pub struct Surveyor {
    splitter: Splitter,
    state: Surveying,
}

#[derive(Default)]
struct Surveying {
    survey: Survey,
    interest: Interest,
    layout: Option<Layout>,
}

impl Sink for Surveying {
    fn wants(&mut self, prefix: Prefix, layout: Option<&Layout>) -> Result<bool, Error> {
        Ok(self.interest.wants(prefix, layout))
    }

    fn record(&mut self, record: Record<'_>, layout: Option<&Layout>) -> Result<(), Error> {
        self.layout = layout.copied();
        match layout {
            Some(layout) => {
                // The record that settled the layout was wanted without asking.
                self.interest.wants(record.prefix, Some(layout));
                self.survey.record(&record, layout)
            }
            None => Ok(()),
        }
    }

    fn pass(&mut self, _: &[u8]) {}
}

impl Surveyor {
    /// Takes more of the image.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Error> {
        self.splitter.feed(input, &mut self.state)
    }

    /// What is known so far.
    pub fn survey(&self) -> &Survey {
        &self.state.survey
    }

    /// Bytes that come next and may be skipped; see [`Splitter::passing`].
    pub fn passing(&self) -> u64 {
        self.splitter.passing()
    }

    /// So many were skipped.
    pub fn passed(&mut self, bytes: u64) {
        self.splitter.passed(bytes);
    }

    /// What was learnt, after the last byte.
    ///
    /// # Errors
    /// [`Error::Image`] where the image ends early.
    pub fn finish(self) -> Result<(Survey, Option<Layout>), Error> {
        self.splitter.finish()?;
        Ok((self.state.survey, self.state.layout))
    }
}

/// * `address`: without its family.
fn unix_name(record: &Record<'_>, version: &Version, address: &[u8]) -> Result<Name, Error> {
    let linked = record.u32(version.unix_flags)? & UNIX_LINKED != 0;
    Ok(match address.first() {
        None => Name::None,
        Some(0) => Name::Abstract,
        Some(_) if linked => Name::Path,
        Some(_) => Name::Unlinked,
    })
}
