//! The records of the versions that are edited: what each is called, how long it is and
//! which objects it refers to, in one table. [`super::soundness`] holds images against it.

use super::layout::{SOCKADDR_IN, Version};

/// How long a record is, its prefix included, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So long.
    Exactly(u32),
    /// From so long to so long.
    Within(u32, u32),
    /// So long on x86. Other machines have a content of their own.
    OnX86(u32),
    /// So long without what it counts at offset 8, and how long each of that is.
    Counted(u32, u32),
}

/// What a record may refer to, by the object type of v20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // The names are those of the format.
pub enum Object {
    FileTable = 2,
    File,
    Mm,
    Fs,
    Sighand,
    Ns = 8,
    Uts,
    Ipc,
    Mnt,
    UserNs,
    Cred,
    User,
    Groups,
    Socket,
    Tty,
    Security = 19,
    /// From v21 on, as what follows.
    Net,
    Netdev,
    SemUndo,
}

impl Object {
    const ALL: [Object; 19] = [
        Object::FileTable,
        Object::File,
        Object::Mm,
        Object::Fs,
        Object::Sighand,
        Object::Ns,
        Object::Uts,
        Object::Ipc,
        Object::Mnt,
        Object::UserNs,
        Object::Cred,
        Object::User,
        Object::Groups,
        Object::Socket,
        Object::Tty,
        Object::Security,
        Object::Net,
        Object::Netdev,
        Object::SemUndo,
    ];

    /// The object of a type that a kernel can restore.
    pub fn of(number: u32, version: &Version) -> Option<Self> {
        let late = version.pids.is_some();
        let number = number.checked_sub(u32::from(late))?;
        let found = Object::ALL
            .into_iter()
            .find(|object| *object as u32 == number)?;
        let early = (found as u32) <= Object::Security as u32 && found != Object::Mnt;
        (late || early).then_some(found)
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Object::FileTable => "file table",
            Object::File => "file",
            Object::Mm => "address space",
            Object::Fs => "root and working directory",
            Object::Sighand => "table of signal handlers",
            Object::Ns => "set of namespaces",
            Object::Uts => "UTS namespace",
            Object::Ipc => "IPC namespace",
            Object::Mnt => "mount namespace",
            Object::UserNs => "user namespace",
            Object::Cred => "set of credentials",
            Object::User => "user",
            Object::Groups => "list of groups",
            Object::Socket => "socket",
            Object::Tty => "terminal",
            Object::Security => "security label",
            Object::Net => "network namespace",
            Object::Netdev => "network device",
            Object::SemUndo => "list of semaphore adjustments",
        }
    }
}

/// A reference in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where in the record.
    pub at: usize,
    /// To what.
    pub to: Object,
    /// It may be 0, for none.
    pub or_none: bool,
}

/// What a kernel takes for a field. No other value is one that a kernel wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// From this, signed, to that.
    Within(i64, i64),
    /// One of these.
    OneOf(&'static [i64]),
    /// No other bits than these.
    Bits(u64),
}

/// A field of which a kernel does not take every value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub name: &'static str,
    /// Where in the record.
    pub at: usize,
    /// How long, in bytes: 1, 2, 4 or 8.
    pub len: usize,
    /// What it may be.
    pub values: Values,
}

/// One record: its number and length in v20 and in v23-rc2.
#[derive(Debug)]
pub struct Form {
    kind: [u32; 2],
    /// Its name.
    pub name: &'static str,
    length: [Length; 2],
    references: [&'static [Reference]; 2],
    fields: [&'static [Field]; 2],
    /// The object whose body it is.
    pub body: Option<Object>,
}

impl Form {
    /// How long it is in a version.
    pub fn length(&self, version: &Version) -> Length {
        self.length[column(version)]
    }

    /// What it refers to there.
    pub fn references(&self, version: &Version) -> &'static [Reference] {
        self.references[column(version)]
    }

    /// What a kernel demands of its fields there.
    pub fn fields(&self, version: &Version) -> &'static [Field] {
        self.fields[column(version)]
    }

    const fn late(mut self, length: Length) -> Self {
        self.length[1] = length;
        self
    }

    const fn refers(mut self, references: &'static [Reference]) -> Self {
        self.references = [references, references];
        self
    }

    const fn refers_late(mut self, references: &'static [Reference]) -> Self {
        self.references[1] = references;
        self
    }

    const fn fields_are(mut self, fields: &'static [Field]) -> Self {
        self.fields = [fields, fields];
        self
    }

    const fn fields_are_late(mut self, fields: &'static [Field]) -> Self {
        self.fields[1] = fields;
        self
    }

    const fn body(mut self, object: Object) -> Self {
        self.body = Some(object);
        self
    }
}

/// The number is one higher where PIDS has come before.
const fn form(kind: u32, name: &'static str, length: Length) -> Form {
    let late = match kind {
        101..=118 | 404 => kind + 1,
        _ => kind,
    };
    Form {
        kind: [kind, late],
        name,
        length: [length, length],
        references: [&[], &[]],
        fields: [&[], &[]],
        body: None,
    }
}

const fn late(kind: u32, name: &'static str, length: u32) -> Form {
    let mut form = form(0, name, Exactly(length));
    form.kind = [kind, kind];
    form
}

const fn to(at: usize, to: Object) -> Reference {
    Reference {
        at,
        to,
        or_none: false,
    }
}

const fn maybe(at: usize, to: Object) -> Reference {
    Reference {
        at,
        to,
        or_none: true,
    }
}

const fn field(name: &'static str, at: usize, len: usize, values: Values) -> Field {
    Field {
        name,
        at,
        len,
        values,
    }
}

use Length::{Counted, Exactly, OnX86, Within};
use Object::{Cred, File, FileTable, Fs, Groups, Ipc, Mm, Net, Ns, SemUndo, Sighand};
use Object::{Security, Socket, Tty, User, UserNs, Uts};

/// The longest record that anybody wants whole: those hold descriptors, names and the
/// contents of pipes, and a pipe holds a MiB at most.
pub const LONGEST_WHOLE: u32 = 16 << 20;
/// The longest name of a file with its prefix.
const NAME: u32 = 8 + 4096;
/// What only other machines than x86 have is no longer.
pub const PAGE: u32 = 4096;
/// Of memory: a chunk holds 64 MiB and some more.
const ANY: u32 = i32::MAX as u32;

/// Numbers of descriptors, where no administrator has made room for more.
const MOST_DESCRIPTORS: i64 = 1 << 20;
/// What a line discipline holds, in bytes.
const TTY_BUFFER: i64 = 4096;
/// A kernel takes no more fragments of one message.
const MOST_FRAGMENTS: i64 = 17;
const MOST_ERRNO: i64 = 4095;
/// Being closed, or emptied: what a kernel waits for before it writes one.
const TTY_IN_TRANSIT: u64 = 1 << 7 | 1 << 19;
/// What kernels up to 3.0 know of FMODE_ and of socket flags, and what the next ones added.
const FILE_MODES: u64 = 0x0100_7fff;
const SOCKET_FLAGS: u64 = (1 << 26) - 1;

/// * `shift`: what stands in front of them in later versions, in bytes.
const fn of_sockets(shift: usize) -> [Field; 8] {
    [
        field("state of its file", 16 + shift, 1, Values::Within(0, 4)),
        // IPv6 has room in the format.
        field("family", 32 + shift, 2, Values::OneOf(&[1, 2, 10])),
        field("flags", 48 + shift, 8, Values::Bits(SOCKET_FLAGS)),
        field("error", 72 + shift, 4, Values::Within(0, MOST_ERRNO)),
        field("type", 92 + shift, 2, Values::OneOf(&[1, 2, 3, 5])),
        field("state", 97 + shift, 1, Values::Within(1, 11)),
        field("directions shut down", 98 + shift, 1, Values::Bits(3)),
        field("locks", 99 + shift, 1, Values::Bits(0xf)),
    ]
}

const SOCKETS: &[Field] = &of_sockets(0);
const SOCKETS_LATE: &[Field] = &of_sockets(8);

/// By number.
static FORMS: &[Form] = &[
    form(1, "HEADER", Exactly(72)),
    form(2, "HEADER_ARCH", OnX86(16)),
    form(3, "CONTAINER", Exactly(8)),
    form(4, "BUFFER", Within(8, ANY)),
    form(5, "STRING", Within(9, NAME)),
    form(6, "OBJREF", Within(16, LONGEST_WHOLE)),
    form(7, "LSM_INFO", Within(8, 208)),
    form(8, "SECURITY", Exactly(16)).body(Security),
    form(101, "TREE", Exactly(16)),
    form(102, "TASK", Exactly(64)).late(Exactly(80)),
    form(103, "TASK_NS", Exactly(16)).refers(&[to(8, Ns)]),
    form(104, "TASK_OBJS", Exactly(32))
        .refers(&[to(8, FileTable), to(12, Mm), to(16, Fs), to(20, Sighand)])
        .refers_late(&[
            to(8, FileTable),
            to(12, Mm),
            to(16, Fs),
            maybe(20, SemUndo),
            to(24, Sighand),
        ]),
    form(105, "RESTART_BLOCK", Exactly(56)),
    form(106, "THREAD", OnX86(40)).late(OnX86(48)),
    form(107, "CPU", OnX86(192)),
    form(108, "NS", Exactly(16))
        .late(Exactly(24))
        .refers(&[to(8, Uts), maybe(12, Ipc)])
        .refers_late(&[to(8, Uts), maybe(12, Ipc), maybe(16, Net)])
        .body(Ns),
    form(109, "UTS_NS", Exactly(400)).body(Uts),
    form(110, "IPC_NS", Exactly(56)),
    form(113, "USER_NS", Exactly(16)).body(UserNs),
    form(114, "CRED", Exactly(96))
        .refers(&[to(40, User), to(44, Groups)])
        .body(Cred),
    form(115, "USER", Exactly(16))
        .refers(&[to(12, UserNs)])
        .body(User),
    form(116, "GROUPINFO", Counted(16, 4)).body(Groups),
    form(117, "TASK_CREDS", Exactly(16)).refers(&[to(8, Cred), to(12, Cred)]),
    form(201, "CPU_FPU", Within(8, NAME)),
    form(202, "MM_CONTEXT_LDT", Within(8, 8 + 8 * 8192)),
    form(301, "FILE_TABLE", Exactly(16)).body(FileTable),
    form(302, "FILE_DESC", Exactly(24))
        .refers(&[to(8, File)])
        .fields_are(&[field(
            "number",
            12,
            4,
            Values::Within(0, MOST_DESCRIPTORS - 1),
        )]),
    form(303, "FILE_NAME", Within(9, NAME)),
    form(304, "FILE", Within(48, 64))
        .refers(&[to(20, Cred)])
        .fields_are(&[
            field("type", 8, 4, Values::Within(1, 7)),
            field("mode", 12, 4, Values::Bits(FILE_MODES)),
        ])
        .body(File),
    form(305, "PIPE_BUF", Within(8, LONGEST_WHOLE)),
    form(306, "TTY", Exactly(72))
        .late(Exactly(96))
        .refers(&[maybe(12, Tty)])
        .fields_are(&[
            field("driver", 8, 2, Values::OneOf(&[4])),
            field("end", 10, 2, Values::OneOf(&[1, 2])),
            field("line discipline", 28, 4, Values::OneOf(&[0])),
            field("flags", 32, 8, Values::Bits(!TTY_IN_TRANSIT)),
        ])
        .body(Tty),
    form(307, "TTY_LDISC", Exactly(560)).fields_are(&[
        field("bytes of input", 12, 4, Values::Within(0, TTY_BUFFER)),
        field("bytes of lines", 20, 4, Values::Within(0, TTY_BUFFER)),
    ]),
    form(308, "EPOLL_ITEMS", Exactly(16)).refers(&[to(8, File)]),
    form(401, "MM", Exactly(120))
        .refers(&[maybe(12, File)])
        .body(Mm),
    form(402, "VMA", Exactly(72)).late(Exactly(80)),
    form(403, "PGARR", Exactly(16)),
    form(404, "MM_CONTEXT", OnX86(24)),
    form(451, "FS", Exactly(8)).late(Exactly(16)).body(Fs),
    form(501, "IPC", Exactly(16)),
    form(502, "IPC_SHM", Exactly(120)),
    form(503, "IPC_MSG", Exactly(120)),
    form(504, "IPC_MSG_MSG", Exactly(24)),
    form(505, "IPC_SEM", Exactly(88)),
    form(601, "SIGHAND", Exactly(2056)).body(Sighand),
    form(602, "SIGNAL", Exactly(328)).refers(&[maybe(312, Tty)]),
    form(603, "SIGNAL_TASK", Exactly(16)),
    form(604, "SIGPENDING", Counted(24, 48)).late(Counted(24, 88)),
    form(701, "SOCKET", Exactly(112))
        .late(Exactly(120))
        .fields_are(SOCKETS)
        .fields_are_late(SOCKETS_LATE)
        .body(Socket),
    form(702, "SOCKET_QUEUE", Exactly(16)),
    form(703, "SOCKET_BUFFER", Exactly(104))
        .refers(&[maybe(44, Socket), to(48, Socket)])
        .refers_late(&[maybe(44, Socket), maybe(48, Socket)])
        .fields_are(&[field("fragments", 54, 2, Values::Within(0, MOST_FRAGMENTS))]),
    form(704, "SOCKET_FRAG", Exactly(16)).fields_are(&[field(
        "bytes of a page",
        8,
        4,
        Values::Within(0, PAGE as i64),
    )]),
    form(705, "SOCKET_UNIX", Exactly(256)).fields_are(&[field(
        "peer",
        12,
        4,
        Values::Within(0, i32::MAX as i64),
    )]),
    form(706, "SOCKET_INET", Exactly(328)).fields_are(&[
        field(
            "bytes of its address",
            288,
            4,
            Values::Within(0, SOCKADDR_IN as i64),
        ),
        field(
            "bytes of its peer's",
            292,
            4,
            Values::Within(0, SOCKADDR_IN as i64),
        ),
    ]),
    form(9001, "TAIL", Exactly(16)),
    form(9999, "ERROR", Within(8, NAME)),
];

/// Those that v20 has not.
static LATE: &[Form] = &[
    late(101, "PIDS", 24),
    late(404, "HPAGE", 24),
    late(506, "TASK_SEM_UNDO_LIST", 16),
    late(507, "TASK_SEM_UNDO", 16),
    late(707, "NET_NS", 16),
    late(708, "NETDEV", 40),
];

/// Of the versions that are edited, by what they have.
fn column(version: &Version) -> usize {
    usize::from(version.pids.is_some())
}

/// The form of a record, where it is known.
pub fn find(kind: u32, version: &Version) -> Option<&'static Form> {
    let column = column(version);
    let found = FORMS.binary_search_by_key(&kind, |form| form.kind[column]);
    match found {
        Ok(index) => Some(&FORMS[index]),
        Err(_) if version.pids.is_none() => None,
        Err(_) => LATE.iter().find(|form| form.kind[column] == kind),
    }
}

/// What a record is called, where its number is known.
///
/// * `version`: of the image, once it has told.
pub fn name(kind: u32, version: Option<&Version>) -> String {
    // These have had others in other versions.
    let moved = matches!(kind, 101..=118 | 404..=600 | 704..=799);
    let known = match version {
        Some(version) if version.editable || !moved => find(kind, version),
        None if !moved => FORMS.iter().find(|form| form.kind[0] == kind),
        _ => None,
    };
    match known {
        Some(form) => format!("{} record", form.name),
        None => format!("record of type {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux_cr::layout::{V18, V20, V23_RC2, fixed};

    #[test]
    fn numbers_ascend_and_are_those_of_the_layout() {
        for column in [0, 1] {
            let kinds: Vec<u32> = FORMS.iter().map(|form| form.kind[column]).collect();
            assert!(kinds.is_sorted());
        }
        for version in [&V20, &V23_RC2] {
            for (kind, called) in [
                (version.tree, "TREE"),
                (version.task, "TASK"),
                (version.task_objs, "TASK_OBJS"),
                (version.socket_unix, "SOCKET_UNIX"),
                (version.fragment.unwrap(), "SOCKET_FRAG"),
                (fixed::SIGNAL, "SIGNAL"),
                (fixed::EPOLL_ITEMS, "EPOLL_ITEMS"),
            ] {
                assert_eq!(find(kind, version).unwrap().name, called);
            }
            let task = find(version.task, version).unwrap();
            assert_eq!(task.length(version), Exactly(version.task_len));
            for (number, object) in [
                (version.file_table_object, FileTable),
                (version.file_object, File),
                (version.cred_object, Cred),
                (version.tty_object, Tty),
                (version.socket_object, Socket),
            ] {
                assert_eq!(Object::of(number, version), Some(object));
            }
        }
        assert_eq!(find(101, &V23_RC2).unwrap().name, "PIDS");
        assert_eq!(Object::of(20, &V20), None);
        assert_eq!(Object::of(7, &V20), None);
    }

    #[test]
    fn records_are_called_by_their_names() {
        assert_eq!(name(304, None), "FILE record");
        assert_eq!(name(104, Some(&V20)), "TASK_OBJS record");
        assert_eq!(name(104, Some(&V23_RC2)), "TASK_NS record");
        assert_eq!(name(104, Some(&V18)), "record of type 104");
        assert_eq!(name(704, Some(&V18)), "record of type 704");
        assert_eq!(name(7777, Some(&V20)), "record of type 7777");
    }
}
