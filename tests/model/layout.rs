//! Numbers and lengths of records, for x86_64, in the two layouts that this model knows.
//!
//! Everything is named by its v20 number; [`Layout`] says how that number is written in an image.

/// Record types.
pub mod kind {
    #![allow(missing_docs)]
    pub const HEADER: u32 = 1;
    pub const HEADER_ARCH: u32 = 2;
    pub const CONTAINER: u32 = 3;
    pub const BUFFER: u32 = 4;
    pub const STRING: u32 = 5;
    pub const OBJREF: u32 = 6;
    pub const LSM_INFO: u32 = 7;
    /// Only v23 has this one, in front of the tree.
    pub const PIDS: u32 = 100;
    pub const TREE: u32 = 101;
    pub const TASK: u32 = 102;
    pub const TASK_NS: u32 = 103;
    pub const TASK_OBJS: u32 = 104;
    pub const RESTART_BLOCK: u32 = 105;
    pub const THREAD: u32 = 106;
    pub const CPU: u32 = 107;
    pub const NS: u32 = 108;
    pub const UTS_NS: u32 = 109;
    pub const USER_NS: u32 = 113;
    pub const CRED: u32 = 114;
    pub const USER: u32 = 115;
    pub const GROUPINFO: u32 = 116;
    pub const TASK_CREDS: u32 = 117;
    pub const CPU_FPU: u32 = 201;
    pub const LDT: u32 = 202;
    pub const FILE_TABLE: u32 = 301;
    pub const FILE_DESC: u32 = 302;
    pub const FILE_NAME: u32 = 303;
    pub const FILE: u32 = 304;
    pub const PIPE_BUF: u32 = 305;
    pub const TTY: u32 = 306;
    pub const TTY_LDISC: u32 = 307;
    pub const EPOLL_ITEMS: u32 = 308;
    pub const MM: u32 = 401;
    pub const VMA: u32 = 402;
    pub const PGARR: u32 = 403;
    pub const MM_CONTEXT: u32 = 404;
    pub const FS: u32 = 451;
    pub const SIGHAND: u32 = 601;
    pub const SIGNAL: u32 = 602;
    pub const SIGNAL_TASK: u32 = 603;
    pub const SIGPENDING: u32 = 604;
    pub const SOCKET: u32 = 701;
    pub const SOCKET_QUEUE: u32 = 702;
    pub const SOCKET_BUFFER: u32 = 703;
    pub const SOCKET_UNIX: u32 = 705;
    pub const SOCKET_INET: u32 = 706;
    pub const TAIL: u32 = 9001;
    pub const ERROR: u32 = 9999;
}

/// Object types.
pub mod object {
    #![allow(missing_docs)]
    pub const FILE_TABLE: u32 = 2;
    pub const FILE: u32 = 3;
    pub const MM: u32 = 4;
    pub const FS: u32 = 5;
    pub const SIGHAND: u32 = 6;
    pub const SIGNAL: u32 = 7;
    pub const NS: u32 = 8;
    pub const UTS_NS: u32 = 9;
    pub const IPC_NS: u32 = 10;
    pub const USER_NS: u32 = 12;
    pub const CRED: u32 = 13;
    pub const USER: u32 = 14;
    pub const GROUPINFO: u32 = 15;
    pub const SOCK: u32 = 16;
    pub const TTY: u32 = 17;
    pub const SECURITY: u32 = 19;
    /// Only v23 has this one; its pids are objects without a block.
    pub const PID: u32 = 0;
}

/// One of the two layouts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// v20 on 2.6.33.
    V20,
    /// v23-rc2.
    V23,
}

use Layout::V23;

impl Layout {
    /// The number written for a record type.
    pub fn kind(self, kind: u32) -> u32 {
        match kind {
            100..=117 | kind::MM_CONTEXT if self == V23 => kind + 1,
            _ => kind,
        }
    }

    /// The number written for an object type.
    pub fn object(self, object: u32) -> u32 {
        if self == V23 { object + 1 } else { object }
    }

    /// The object type behind a written number, if it has a restore method.
    pub fn restorable(self, written: u32) -> Option<u32> {
        let object = if self == V23 {
            written.checked_sub(1)?
        } else {
            written
        };
        let known = matches!(object, 2..=6 | 8..=10 | 12..=17 | 19);
        // v23: network namespaces, devices, semaphore undo.
        (known || self == V23 && matches!(object, 20..=22)).then_some(object)
    }

    /// The whole length of a record of fixed size; 0 for the others.
    pub fn length(self, kind: u32) -> usize {
        let v20_v23 = |v20, v23| if self == V23 { v23 } else { v20 };
        match kind {
            kind::HEADER => 72,
            kind::CONTAINER => 8,
            kind::HEADER_ARCH
            | kind::TREE
            | kind::TASK_NS
            | kind::USER_NS
            | kind::USER
            | kind::TASK_CREDS => 16,
            kind::FILE_TABLE | kind::EPOLL_ITEMS | kind::PGARR | kind::SIGNAL_TASK | kind::TAIL => {
                16
            }
            kind::TASK => v20_v23(64, 80),
            kind::TASK_OBJS => 32,
            kind::RESTART_BLOCK => 56,
            kind::THREAD => v20_v23(40, 48),
            kind::CPU => 192,
            kind::NS => v20_v23(16, 24),
            kind::UTS_NS => 400,
            kind::CRED => 96,
            kind::PIDS | kind::FILE_DESC | kind::MM_CONTEXT => 24,
            kind::TTY => v20_v23(72, 96),
            kind::TTY_LDISC => 560,
            kind::MM => 120,
            kind::VMA => v20_v23(72, 80),
            kind::FS => v20_v23(8, 16),
            kind::SIGHAND => 2056,
            kind::SIGNAL | kind::SOCKET_INET => 328,
            kind::SOCKET => v20_v23(112, 120),
            kind::SOCKET_QUEUE => 16,
            kind::SOCKET_BUFFER => 104,
            kind::SOCKET_UNIX => 256,
            _ => 0,
        }
    }

    /// Entries of the auxiliary vector.
    pub fn auxv(self) -> usize {
        if self == V23 { 44 } else { 42 }
    }

    /// The length of one queued signal.
    pub fn siginfo(self) -> u64 {
        if self == V23 { 88 } else { 48 }
    }
}

/// A whole record, prefix included, so that offsets are those of the format's description.
pub struct Record(pub Vec<u8>);

impl Record {
    /// The field at an offset; 0 behind the end, where only records of variable length are read.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.field(at))
    }

    /// The same, signed.
    pub fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.field(at))
    }

    /// The same, of two bytes.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.field(at))
    }

    /// The same, of eight bytes.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.field(at))
    }

    /// The whole length.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What stands behind the prefix.
    pub fn payload(&self) -> &[u8] {
        self.0.get(8..).unwrap_or_default()
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0
            .get(at..at + N)
            .map_or([0; N], |bytes| bytes.try_into().expect("N bytes"))
    }
}
