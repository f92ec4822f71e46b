//! Record numbers and lengths, version by version.
//!
//! Three families of numbers exist: the one of v18 and v19-rc2, the one of
//! v19-rc3 to v23-rc1 (v20 among them), and the one of v23-rc2 and the 3.0 port,
//! in which PIDS moved what follows it up by one.

/// At offset 8 of an image, in its byte order.
pub const MAGIC: u64 = 0x00fe_ed0c_c0a2_d200;
/// At offset 8 of the TAIL record.
pub const TAIL_MAGIC: u64 = 0x002d_2a0c_c0de_ef00;
/// Bytes of a record's prefix: type and length, 32 bits each.
pub const PREFIX: usize = 8;

/// A socket that nobody has open: it only sent messages.
pub const SOCKET_DEAD: u64 = 1;
/// A unix socket whose path is still there.
pub const UNIX_LINKED: u32 = 1;

/// Bytes of one watch of an epoll set.
pub const WATCH: usize = 24;
/// Bytes of one task of the tree.
pub const TREE_ENTRY: usize = 24;
/// Where SIGNAL has the controlling terminal.
pub const SIGNAL_TTY: usize = 312;

/// Records whose number never moved.
#[allow(missing_docs)] // The names are those of the format.
pub mod fixed {
    pub const HEADER: u32 = 1;
    pub const HEADER_ARCH: u32 = 2;
    pub const CONTAINER: u32 = 3;
    pub const BUFFER: u32 = 4;
    pub const STRING: u32 = 5;
    pub const OBJREF: u32 = 6;
    pub const LSM_INFO: u32 = 7;
    pub const MM_CONTEXT_LDT: u32 = 202;
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
    pub const SIGNAL: u32 = 602;
    pub const SOCKET: u32 = 701;
    pub const SOCKET_QUEUE: u32 = 702;
    pub const SOCKET_BUFFER: u32 = 703;
    pub const TAIL: u32 = 9001;
    pub const ERROR: u32 = 9999;
}

/// The bits of f_mode that tell what a file may be used for.
pub const FMODE_READ: u32 = 1;
/// As [`FMODE_READ`].
pub const FMODE_WRITE: u32 = 2;
/// It has an offset.
pub const FMODE_LSEEK: u32 = 4;

/// What state a socket is in, whatever its family.
#[allow(missing_docs)] // The names are those of the kernel.
pub mod state {
    pub const TCP_ESTABLISHED: u8 = 1;
    pub const TCP_CLOSE: u8 = 7;
    pub const TCP_LISTEN: u8 = 10;
}

/// Bytes of a unix socket's address that has no name.
pub const SUN_FAMILY: u32 = 2;
/// Bytes that there are for a unix socket's address.
pub const SOCKADDR_UN: u32 = 110;
/// Bytes that there are for an internet socket's address.
pub const SOCKADDR_IN: u32 = 16;

/// What a FILE record is, by its f_type.
#[allow(missing_docs)] // The names are those of the format.
pub mod file_type {
    pub const GENERIC: u32 = 1;
    pub const PIPE: u32 = 2;
    pub const FIFO: u32 = 3;
    pub const SOCKET: u32 = 4;
    pub const TTY: u32 = 5;
    pub const EPOLL: u32 = 6;
    pub const EVENTFD: u32 = 7;
}

/// Byte order of an image's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The lowest byte first: x86, arm.
    #[default]
    Little,
    /// The highest byte first: s390x, ppc.
    Big,
}

impl Order {
    /// The number that bytes are.
    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    /// As [`Order::u16`].
    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    /// As [`Order::u16`].
    pub fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Order::Little => u64::from_le_bytes(bytes),
            Order::Big => u64::from_be_bytes(bytes),
        }
    }

    /// The bytes of a number.
    pub fn bytes(self, value: u32) -> [u8; 4] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    /// As [`Order::bytes`].
    pub fn long_bytes(self, value: u64) -> [u8; 8] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }
}

/// Machine architectures that wrote images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arch {
    X86_32,
    X86_64,
    S390x,
    Ppc32,
    Ppc64,
    Arm,
}

impl Arch {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_32 => "x86_32",
            Arch::X86_64 => "x86_64",
            Arch::S390x => "s390x",
            Arch::Ppc32 => "ppc32",
            Arch::Ppc64 => "ppc64",
            Arch::Arm => "arm",
        }
    }
}

/// One version's record numbers, lengths and object types.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// As people call it.
    pub name: &'static str,
    /// Process identifiers are objects of their own, before the tree.
    pub pids: Option<u32>,
    /// The task tree.
    pub tree: u32,
    /// One task.
    pub task: u32,
    /// The objects of a task.
    pub task_objs: u32,
    /// The fragment of a socket buffer, which a raw page follows.
    pub fragment: Option<u32>,
    /// Length of TASK.
    pub task_len: u32,
    /// Length of the part of FILE that all types have.
    pub file_len: u32,
    /// Where SOCKET has its state.
    pub socket_state: usize,
    /// Where it has its flags, of which the first is [`SOCKET_DEAD`].
    pub socket_flags: usize,
    /// Where it says that its queues follow; every living one has them where
    /// it does not say.
    pub socket_buffers: Option<usize>,
    /// A unix socket's address. That of the internet is one higher.
    pub socket_unix: u32,
    /// Where it has its flags, of which the first is [`UNIX_LINKED`].
    pub unix_flags: usize,
    /// Where it has the length of its own name.
    pub unix_name_len: usize,
    /// Where SOCKET_BUFFER has the socket that is to receive it.
    pub queue_owner: Option<usize>,
    /// Sockets of the internet that are not connected are written with queues
    /// which a restart does not read.
    pub closed_queues_unread: bool,
    /// Object type of a file table.
    pub file_table_object: u32,
    /// Object type of an open file description.
    pub file_object: u32,
    /// Object type of credentials.
    pub cred_object: u32,
    /// Object type of a terminal.
    pub tty_object: u32,
    /// Object type of a socket.
    pub socket_object: u32,
    /// Machine architectures by the header's number, from 1.
    pub archs: &'static [Arch],
    /// Whether this engine edits such images (of the machines that
    /// [`Layout::is_editable`] knows).
    pub editable: bool,
}

const ARCHS_OLD: &[Arch] = &[
    Arch::X86_32,
    Arch::S390x,
    Arch::Ppc32,
    Arch::Ppc64,
    Arch::X86_64,
];
const ARCHS: &[Arch] = &[
    Arch::X86_32,
    Arch::X86_64,
    Arch::S390x,
    Arch::Ppc32,
    Arch::Ppc64,
    Arch::Arm,
];
const ARCHS_V23: &[Arch] = &[Arch::X86_32, Arch::X86_64, Arch::S390x, Arch::Arm];

/// v17, v18 and the first candidates of v19.
pub static V18: Version = Version {
    name: "v18",
    pids: None,
    tree: 101,
    task: 102,
    task_objs: 104,
    fragment: None,
    task_len: 72,
    file_len: 40,
    socket_state: 97,
    socket_flags: 48,
    socket_buffers: None,
    socket_unix: 704,
    unix_flags: 24,
    unix_name_len: 28,
    queue_owner: None,
    closed_queues_unread: true,
    file_table_object: 2,
    file_object: 3,
    cred_object: 11,
    tty_object: 15,
    socket_object: 14,
    archs: ARCHS_OLD,
    editable: false,
};

/// v19 up to its second candidate.
pub static V19_RC2: Version = Version {
    name: "v19-rc2",
    fragment: Some(704),
    socket_unix: 705,
    queue_owner: Some(48),
    task_len: 64,
    file_len: 48,
    cred_object: 12,
    tty_object: 16,
    socket_object: 15,
    ..V18
};

/// v20, and v19 from its third candidate.
pub static V20: Version = Version {
    name: "v20",
    cred_object: 13,
    tty_object: 17,
    socket_object: 16,
    archs: ARCHS,
    editable: true,
    ..V19_RC2
};

/// v21 to the first candidate of v23, until the first task tells which.
pub static V21_TO_V23_RC1: Version = Version {
    name: "v21 to v23-rc1",
    editable: false,
    ..V20
};

/// v21.
pub static V21: Version = Version {
    name: "v21",
    editable: false,
    ..V20
};

/// v22 and the first candidate of v23.
pub static V23_RC1: Version = Version {
    name: "v22 or v23-rc1",
    task_len: 80,
    socket_state: 105,
    socket_flags: 56,
    socket_buffers: Some(8),
    unix_flags: 20,
    unix_name_len: 24,
    closed_queues_unread: false,
    editable: false,
    ..V20
};

/// The second candidate of v23, and the port to 3.0.
pub static V23_RC2: Version = Version {
    name: "v23-rc2",
    pids: Some(101),
    tree: 102,
    task: 103,
    task_objs: 105,
    task_len: 80,
    socket_state: 105,
    socket_flags: 56,
    socket_buffers: Some(8),
    unix_flags: 20,
    unix_name_len: 24,
    closed_queues_unread: false,
    file_table_object: 3,
    file_object: 4,
    cred_object: 14,
    tty_object: 18,
    socket_object: 17,
    archs: ARCHS_V23,
    editable: true,
    ..V20
};

impl Version {
    /// Whether a record is one of a socket's two.
    pub fn is_socket(&self, kind: u32) -> bool {
        [fixed::SOCKET, self.socket_unix, self.socket_unix + 1].contains(&kind)
    }
}

/// How an image is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its version.
    pub version: &'static Version,
    /// The machine that wrote it, where its number is known.
    pub arch: Option<Arch>,
    /// Of its numbers.
    pub order: Order,
    /// The kernel that wrote it: major, minor, patch.
    pub kernel: (u16, u16, u16),
}

impl Layout {
    /// Whether an x86 machine wrote it.
    pub fn is_x86(&self) -> bool {
        matches!(self.arch, Some(Arch::X86_32 | Arch::X86_64))
    }

    /// Whether this engine edits images laid out so.
    pub fn is_editable(&self) -> bool {
        let known = self.is_x86() || self.arch == Some(Arch::S390x);
        self.version.editable && known && self.is_in_its_order()
    }

    /// Whether its numbers are in the byte order of its machine.
    pub fn is_in_its_order(&self) -> bool {
        match self.arch {
            Some(Arch::X86_32 | Arch::X86_64) => self.order == Order::Little,
            Some(Arch::S390x) => self.order == Order::Big,
            // The others were built for either.
            _ => true,
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.kernel;
        write!(
            f,
            "Linux-CR {}, {}, Linux {major}.{minor}.{patch}",
            self.version.name,
            self.arch.map_or("unknown machine", Arch::name)
        )
    }
}
