//! What an image holds, for people: one entry for each open file description,
//! with every task and descriptor that shares it. Both engines give it in the
//! same words.

use crate::advice::Kind;

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Which engine, version and machine wrote it.
    pub format: String,
    /// Its tasks, in the order of the image.
    pub tasks: Vec<Task>,
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
    /// Its command name.
    pub command: String,
}

/// An open file description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// As `id=` in advice names it.
    pub id: u64,
    /// What kind of file it is.
    pub kind: Kind,
    /// Task and number of each descriptor.
    pub holders: Vec<(i32, i32)>,
    /// open(2) flags.
    pub flags: u32,
    /// Offset; `None` where it has none.
    pub position: Option<u64>,
    /// The path, or what else tells it from others.
    pub what: String,
    /// What else refers to it: "mapped", "watched by 16" and the like.
    pub also: Vec<String>,
}

/// "r", "w" or "rw", and the status flags by name.
pub fn flags(flags: u32) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::O_APPEND, "append"),
        (libc::O_NONBLOCK, "nonblock"),
        (libc::O_DIRECT, "direct"),
        (libc::O_SYNC, "sync"),
        (libc::O_NOATIME, "noatime"),
    ];
    let flags = flags.cast_signed();
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "r",
        libc::O_WRONLY => "w",
        _ => "rw",
    };
    let set = NAMES
        .iter()
        .filter(|(bits, _)| flags & bits == *bits)
        .map(|(_, name)| *name);
    std::iter::once(access)
        .chain(set)
        .collect::<Vec<_>>()
        .join(",")
}
