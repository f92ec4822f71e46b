//! What an image holds: its tasks, their file tables, and the open file
//! descriptions with everything that refers to them. Both engines give it in the
//! same words.
//!
//! It grows with the image, not with the square of anything: who shares a table
//! stands with the table, and the two ends of something share the list of each
//! other.

use crate::advice::Kind;
use crate::json::{Array, Json, Lines, Object};
use std::fmt::{self, Write};
use std::sync::Arc;

/// The version of what [`Listing`] is as JSON. A field that goes or changes its
/// meaning makes it a higher one, a field that comes does not.
pub const SCHEMA: u32 = 1;

/// Who made an image, and restarts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A kernel with the C/R patches.
    LinuxCr,
    /// criu(8).
    Criu,
}

impl Engine {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::LinuxCr => "linux-cr",
            Engine::Criu => "criu",
        }
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Who made it.
    pub engine: Engine,
    /// Its format: version, machine, kernel, as far as it has them.
    pub format: String,
    /// Whether advice can be carried out on it.
    pub advisable: bool,
    /// Its tasks, in the order of the image.
    pub tasks: Vec<Task>,
    /// Its file tables, in the order of their first task.
    pub tables: Vec<Table>,
    /// Its open file descriptions, in the order of their first descriptor.
    pub descriptions: Vec<Description>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its pid.
    pub pid: i32,
    /// The pid of its process, which differs for a thread.
    pub process: i32,
    /// The pid of its parent, which need not be in the image; 0 where the image
    /// does not tell.
    pub parent: i32,
    /// Its command name.
    pub command: String,
    /// Its file table; a zombie has none.
    pub table: Option<u64>,
}

/// A file table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// As the image knows it.
    pub id: u64,
    /// The processes that have it (CLONE_FILES, where there are two), and
    /// threads that have it and are not of these.
    pub tasks: Vec<i32>,
    /// What is in it.
    pub descriptors: Vec<Descriptor>,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// The open file description.
    pub description: u64,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// An open file description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// As `id=` in advice names it.
    pub id: u64,
    /// What kind of file it is.
    pub kind: Kind,
    /// Each descriptor: the place of its table among the listing's, its number.
    pub holders: Vec<(usize, i32)>,
    /// open(2) flags.
    pub flags: u32,
    /// Offset, in bytes; `None` where it has none.
    pub position: Option<u64>,
    /// The path by which it was opened, or to which it is bound.
    pub path: Option<Vec<u8>>,
    /// The path, or what else tells it from others.
    pub name: String,
    /// Where a socket stands.
    pub state: Option<&'static str>,
    /// The address of an internet socket's peer.
    pub remote: Option<String>,
    /// Bytes that wait in a pipe, or to be received from a socket.
    pub queued: Option<u64>,
    /// What an eventfd counts.
    pub count: Option<u64>,
    /// What is at the other end of a pipe, terminal or connection, ascending, this
    /// one perhaps among it; `None` for what has no other end.
    pub other_ends: Option<Arc<[u64]>>,
    /// What an epoll set watches, and by which numbers.
    pub watches: Vec<(i32, u64)>,
    /// What refers to it besides descriptors.
    pub references: Vec<Reference>,
}

/// What refers to an open file description besides descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A task has mapped it.
    Mapping(i32),
    /// It is the executable of a task.
    Executable(i32),
    /// It is the working directory of a task.
    WorkingDirectory(i32),
    /// It is the root directory of a task.
    RootDirectory(i32),
    /// It is the controlling terminal of a task.
    ControllingTerminal(i32),
    /// An epoll set watches it.
    Epoll(u64),
    /// It is on its way in the queue of a socket.
    Queue(u64),
    /// Another description is opened by its path.
    Opens(u64),
}

impl Reference {
    /// What refers to it, the field of JSON that names that, and its number.
    fn parts(&self) -> (&'static str, &'static str, u64) {
        let task = |pid: &i32| u64::try_from(*pid).unwrap_or(0);
        match self {
            Reference::Mapping(pid) => ("mapping", "task", task(pid)),
            Reference::Executable(pid) => ("executable", "task", task(pid)),
            Reference::WorkingDirectory(pid) => ("working directory", "task", task(pid)),
            Reference::RootDirectory(pid) => ("root directory", "task", task(pid)),
            Reference::ControllingTerminal(pid) => ("controlling terminal", "task", task(pid)),
            Reference::Epoll(id) => ("epoll", "description", *id),
            Reference::Queue(id) => ("queue", "description", *id),
            Reference::Opens(id) => ("opens", "description", *id),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, _, who) = self.parts();
        match self {
            Reference::Mapping(_) => write!(f, "mapped by {who}"),
            Reference::Epoll(_) => write!(f, "watched by {who}"),
            Reference::Queue(_) => write!(f, "in the queue of {who}"),
            Reference::Opens(_) => write!(f, "opens {who}"),
            _ => write!(f, "{by} of {who}"),
        }
    }
}

impl Listing {
    /// Every descriptor of a description as an item of advice names it: task and
    /// number.
    pub fn descriptors(
        &self,
        description: &Description,
    ) -> impl Iterator<Item = (i32, i32)> + Clone {
        description
            .holders
            .iter()
            .filter_map(|&(table, number)| Some((self.tables.get(table)?, number)))
            .flat_map(|(table, number)| table.tasks.iter().map(move |&task| (task, number)))
    }
}

impl Description {
    /// The other ends, without itself; `None` for what has no other end.
    pub fn others(&self) -> Option<impl Iterator<Item = u64> + Clone> {
        let ends = self.other_ends.as_ref()?;
        Some(ends.iter().copied().filter(|&end| end != self.id))
    }

    /// How many they are.
    pub fn other_count(&self) -> usize {
        let ends = self.other_ends.as_deref().unwrap_or_default();
        ends.len() - usize::from(ends.binary_search(&self.id).is_ok())
    }

    /// Adds to an object what a listing and a difference say of it alike.
    pub(crate) fn fields<'a>(&self, object: Object<'a>) -> Result<Object<'a>, fmt::Error> {
        let path = self.path.as_deref().map(String::from_utf8_lossy);
        object
            .field("kind", self.kind.name())?
            .field("access", access(self.flags))?
            .field("flags", &Array(status_flags(self.flags)))?
            .field("offset", &self.position)?
            .field("path", &path.as_deref())?
            .field("name", &self.name)?
            .field("state", &self.state)?
            .field("remote", &self.remote)?
            .field("queued", &self.queued)?
            .field("count", &self.count)
    }
}

/// "r", "w" or "rw".
pub fn access(flags: u32) -> &'static str {
    match flags.cast_signed() & libc::O_ACCMODE {
        libc::O_RDONLY => "r",
        libc::O_WRONLY => "w",
        _ => "rw",
    }
}

/// The status flags by name.
pub fn status_flags(flags: u32) -> impl Iterator<Item = &'static str> + Clone {
    const NAMES: &[(i32, &str)] = &[
        (libc::O_APPEND, "append"),
        (libc::O_NONBLOCK, "nonblock"),
        (libc::O_DIRECT, "direct"),
        (libc::O_SYNC, "sync"),
        (libc::O_NOATIME, "noatime"),
    ];
    let flags = flags.cast_signed();
    NAMES
        .iter()
        .filter(move |(bits, _)| flags & bits == *bits)
        .map(|(_, name)| *name)
}

/// "r", "w" or "rw", and the status flags.
pub fn flags(flags: u32) -> String {
    let all = std::iter::once(access(flags)).chain(status_flags(flags));
    all.collect::<Vec<_>>().join(",")
}

impl Json for Listing {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let described = self.descriptions.iter().map(|it| Described(self, it));
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("engine", self.engine.name())?
            .field("format", &self.format)?
            .field("advisable", &self.advisable)?
            .field("tasks", &Lines(self.tasks.iter()))?
            .field("tables", &Lines(self.tables.iter()))?
            .field("descriptions", &Lines(described))?
            .end()
    }
}

impl Json for Task {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("pid", &self.pid)?
            .field("process", &self.process)?
            .field("parent", &self.parent)?
            .field("command", &self.command)?
            .field("table", &self.table)?
            .end()
    }
}

impl Json for Table {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("id", &self.id)?
            .field("tasks", self.tasks.as_slice())?
            .field("descriptors", self.descriptors.as_slice())?
            .end()
    }
}

impl Json for Descriptor {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("number", &self.number)?
            .field("description", &self.description)?
            .field("close_on_exec", &self.close_on_exec)?
            .end()
    }
}

impl Json for Reference {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let (by, what, who) = self.parts();
        Object::new(out).field("by", by)?.field(what, &who)?.end()
    }
}

/// So many other ends are named, the rest is counted: thousands may have one
/// fifo open, each of them an end of all the others.
const ENDS: usize = 64;

/// A description, and the listing that it is in.
struct Described<'a>(&'a Listing, &'a Description);

impl Json for Described<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let Described(listing, it) = self;
        let items = listing.descriptors(it);
        let items = items.map(|(task, number)| format!("{task}:{number}"));
        let object = Object::new(out).field("id", &it.id)?;
        it.fields(object)?
            .field(
                "other_ends",
                &it.others().map(|ends| Array(ends.take(ENDS))),
            )?
            .field("more_ends", &(it.other_count().saturating_sub(ENDS) as u64))?
            .field("watches", &Array(it.watches.iter().map(Watch)))?
            .field("descriptors", &Array(items))?
            .field("references", it.references.as_slice())?
            .end()
    }
}

struct Watch<'a>(&'a (i32, u64));

impl Json for Watch<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("number", &self.0.0)?
            .field("description", &self.0.1)?
            .end()
    }
}
