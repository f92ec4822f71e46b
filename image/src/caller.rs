//! What the caller of a restart has to give: the descriptors that advice may
//! put in place of the image's.

use crate::advice::Kind;
use std::collections::BTreeMap;

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
    /// Why an engine that can only open by name cannot have this file, and what
    /// to do instead.
    pub not_by_name: Option<String>,
}

/// The caller's file table, as it was when the program started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// By number.
    pub files: BTreeMap<i32, CallerFile>,
}
