//! The objects of an image by their numbers.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libc::pid_t;

use crate::layout::object;
use crate::sockets::Socket;

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
    /// The other end, until the restart ends.
    pub slave: Rc<Slave>,
    /// Its number in the devpts of the task that restored it.
    pub index: u32,
    /// Which of the two ends this object is.
    pub is_master: bool,
}

/// A slave that the model holds open, for it has to open it where the kernel has not: closing the last one
/// is something that the master notices.
pub struct Slave {
    /// None only while this is dropped.
    pub fd: Option<OwnedFd>,
    /// Whether some file of the image opened it, so that the end of that is noticed rightly.
    pub opened: Cell<bool>,
}

impl Drop for Slave {
    fn drop(&mut self) {
        if !self.opened.get() {
            std::mem::forget(self.fd.take());
        }
    }
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
    /// A socket.
    Socket(Rc<Socket>),
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
            Self::Socket(_) => object::SOCK,
            Self::Plain(kind) => *kind,
        }
    }
}

/// Objects by objref. What only the hash holds ends with it, at the end of the restart.
pub type Hash = HashMap<i32, Object>;
