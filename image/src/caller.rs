//! What the caller of a restart has to give: the descriptors that advice may
//! put in place of the image's.

use crate::advice::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Reading and writing, as an open file description allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Access {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
}

impl Access {
    /// The access of open(2) flags.
    pub fn of_flags(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Access {
                read: true,
                write: false,
            },
            libc::O_WRONLY => Access {
                read: false,
                write: true,
            },
            _ => Access {
                read: true,
                write: true,
            },
        }
    }

    /// The access mode of open(2) for it.
    pub fn flags(self) -> i32 {
        match self {
            Access { write: false, .. } => libc::O_RDONLY,
            Access { read: false, .. } => libc::O_WRONLY,
            _ => libc::O_RDWR,
        }
    }

    /// What this and another allow together.
    pub fn and(self, other: Self) -> Self {
        Access {
            read: self.read || other.read,
            write: self.write || other.write,
        }
    }

    /// Whether it allows all that another does.
    pub fn covers(self, other: Self) -> bool {
        self.and(other) == self
    }
}

/// One descriptor of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerFile {
    /// What kind of file it is.
    pub kind: Kind,
    /// What it may be used for.
    pub access: Access,
    /// F_GETFL: access mode and status flags.
    pub flags: i32,
    /// FMODE_* bits, as the kernel would give them to a new description of the
    /// same file (Linux-CR writes them into the image).
    pub f_mode: u32,
    /// An epoll set can watch it.
    pub pollable: bool,
    /// FD_CLOEXEC is set.
    pub close_on_exec: bool,
    /// Two numbers with one value share an open file description. It is the
    /// lowest number that does.
    pub description: i32,
    /// The name by which a restarting task can open the file anew, for an
    /// engine that can only open. Empty where there is none.
    pub name: Vec<u8>,
    /// readlink of /proc/self/fd/N, for messages.
    pub link: String,
    /// Why the engine cannot have this file, and what to do instead.
    pub not_given: Option<String>,
}

/// The caller's file table, as it was when the program started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// By number.
    pub files: BTreeMap<i32, CallerFile>,
    /// The numbers that a program may get because it asks for them itself, by a mark that
    /// came with its image.
    pub offered: BTreeSet<i32>,
    /// RLIMIT_NOFILE, soft: no task could have a number that is not below it. `None` where
    /// there is no such limit.
    pub limit: Option<u64>,
}

/// A file that advice gives by its path, as it has to be opened. It is never
/// truncated, and made only where it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The item that names it, for messages.
    pub item: Arc<str>,
    /// The absolute path.
    pub path: Arc<[u8]>,
    /// What it is needed for.
    pub access: Access,
    /// Status flags, as of open(2).
    pub flags: i32,
    /// The offset of the file that it takes the place of, in bytes; `None`
    /// where that had none that counts.
    pub position: Option<u64>,
}

impl Opening {
    /// The offset that it gets in a file of this size, both in bytes.
    pub fn start(&self, size: u64) -> u64 {
        match self.position {
            _ if self.appends() => size,
            Some(position) => position.min(size),
            None if self.access.write => size,
            None => 0,
        }
    }

    /// Whether it is written at its end only.
    pub fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    /// open(2) flags.
    pub fn flags(&self) -> i32 {
        self.access.flags() | self.flags
    }

    /// One for each path and way of writing, with the access that all of them
    /// need together, and the offset and flags of the first.
    pub fn united<'a>(all: impl IntoIterator<Item = &'a Opening>) -> Vec<Opening> {
        let mut united: Vec<Opening> = Vec::new();
        for opening in all {
            match united.iter_mut().find(|other| other.is_like(opening)) {
                Some(other) => other.access = other.access.and(opening.access),
                None => united.push(opening.clone()),
            }
        }
        united
    }

    /// Whether one open file description can be both, if its access allows it.
    pub fn is_like(&self, other: &Opening) -> bool {
        (&self.path, self.appends()) == (&other.path, other.appends())
    }
}

/// A file that was opened by its path, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it is.
    pub file: CallerFile,
    /// Its offset in bytes.
    pub position: u64,
    /// It is not there yet.
    pub missing: bool,
}

/// Why a path cannot be opened as it would have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannotOpen {
    /// As open(2) gives it.
    pub errno: i32,
    /// In words, with what to do instead.
    pub why: String,
}

/// What the paths of the system are, here and now.
pub trait Paths: Send {
    /// What kind of file a path of the image is; [`Kind::Reg`] where there is
    /// none.
    fn kind(&self, path: &[u8]) -> Kind;

    /// What opening a file would give. Makes nothing.
    ///
    /// # Errors
    /// It cannot be opened so.
    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen>;

    /// Opens a file that was looked at, since it is needed now.
    ///
    /// # Errors
    /// It could not be opened after all.
    fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen>;
}

/// Knows no path.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPaths;

impl Paths for NoPaths {
    fn kind(&self, _: &[u8]) -> Kind {
        Kind::Reg
    }

    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        self.open(opening)
    }

    fn open(&self, _: &Opening) -> Result<Opened, CannotOpen> {
        Err(CannotOpen {
            errno: libc::ENOENT,
            why: "nothing is known of the paths here".to_owned(),
        })
    }
}
