//! The objects of an image by their numbers.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libc::pid_t;

use crate::layout::object;

/// An open file description that the restart made.
pub struct OpenFile {
    /// Our hold on it.
    pub fd: OwnedFd,
    /// f_mode, as a 2.6.33 kernel would have it.
    pub mode: u32,
    /// What it is, as far as later records ask.
    pub nature: Nature,
}

/// What later records ask about a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Anything that is none of the others.
    Other,
    /// May get epoll items.
    Epoll,
    /// A regular file, block or character device, which can be mapped.
    Mappable {
        /// Device and inode.
        inode: (u64, u64),
    },
}

/// A terminal pair.
pub struct Terminal {
    /// The only file of the master, which keeps the slave alive until the restart ends.
    pub master: Rc<OpenFile>,
    /// Its number in the devpts of the task that restored it.
    pub index: u32,
    /// Which of the two ends this object is.
    pub is_master: bool,
}

/// Descriptors by number, with close-on-exec.
pub type Descriptors = BTreeMap<i32, (Rc<OpenFile>, bool)>;

/// What a number can stand for.
pub enum Object {
    /// An open file description.
    File(Rc<OpenFile>),
    /// A table, and the task that has it.
    FileTable(pid_t, Descriptors),
    /// One end of a terminal pair.
    Terminal(Terminal),
    /// An object of which the model only checks the references; its type.
    Plain(u32),
}

impl Object {
    /// The object type.
    pub fn kind(&self) -> u32 {
        match self {
            Self::File(_) => object::FILE,
            Self::FileTable(..) => object::FILE_TABLE,
            Self::Terminal(_) => object::TTY,
            Self::Plain(kind) => *kind,
        }
    }
}

/// Objects by objref. What only the hash holds ends with it, at the end of the restart.
pub type Hash = HashMap<i32, Object>;
