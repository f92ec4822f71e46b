//! What a restart needs of the machine that it happens on: files that must be
//! there, names and ports that must be free, terminals, other ends. Both engines
//! tell it in the same words; who knows the machine judges it.

use crate::caller::Access;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What the restart of an image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// For each open file description that a restart makes, by id.
    pub descriptions: BTreeMap<u64, Vec<Need>>,
    /// For the image as a whole.
    pub image: Vec<Need>,
    /// What is made in namespaces of its own.
    pub apart: Apart,
}

/// Which namespaces an image brings along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// Its paths lead from elsewhere.
    pub files: bool,
    /// Nobody else has its ports and abstract names.
    pub network: bool,
    /// Nobody else has its pids.
    pub pids: bool,
}

/// One thing that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A file that is opened.
    File(File),
    /// Directories on the way to a file that is made, as far as they are there.
    Way(Vec<u8>),
    /// A path that a unix socket is bound to, and what becomes of what is there.
    UnixPath(Vec<u8>, InTheWay),
    /// An abstract name, without the zero byte in front.
    UnixName(Vec<u8>),
    /// A path at which another program's socket is.
    UnixPeer(Vec<u8>),
    /// A port of this machine.
    Port(Port),
    /// An established connection, by both its addresses.
    Connection(SocketAddr, SocketAddr),
    /// The terminal that the restart program has: this one's own is outside.
    Terminal,
    /// A number under /dev/pts.
    Pty(u32),
    /// What is at its other end, which the image does not have.
    OtherEnd,
    /// A lock that was held.
    Lock(Lock),
    /// A file that the restart program is told to use, by this name.
    Given(String),
    /// What a plugin of the engine restores.
    Plugin,
    /// Pids.
    Pids(Vec<i32>),
    /// A session whose leader the image does not have. It is the restart program's own,
    /// or the leader's pid must be free.
    Session(i32),
    /// It was dumped with `--tcp-close`, and is restored so only.
    TcpClose,
}

/// A file that is opened by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Absolute.
    pub path: Vec<u8>,
    /// The file type bits of a mode that it must have.
    pub kind: Option<u32>,
    /// The mode that it must have, with the type.
    pub mode: Option<u32>,
    /// The bytes that it must have.
    pub size: Option<u64>,
    /// Bytes that it had at least, without which it is not what it was.
    pub least: u64,
    /// How it is opened.
    pub access: Access,
}

impl File {
    /// One of which nothing is known but how it is opened.
    ///
    /// * `path`: absolute.
    pub fn new(path: Vec<u8>, access: Access) -> Self {
        File {
            path,
            kind: None,
            mode: None,
            size: None,
            least: 0,
            access,
        }
    }
}

/// What an engine makes of what is at a path that it binds a socket to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// A socket is removed, anything else is in the way.
    SocketIsRemoved,
    /// Anything but a directory is removed.
    IsRemoved,
}

/// A port that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The machine need not have the address.
    pub foreign: bool,
}

/// Who counts ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A lock on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The file, where the image tells.
    pub path: Option<Vec<u8>>,
    /// flock(2), or a record lock.
    pub whole: bool,
    /// It excludes others.
    pub exclusive: bool,
}
