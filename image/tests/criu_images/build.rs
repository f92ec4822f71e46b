//! Makes CRIU images. The encoder is the tests' own.

use std::collections::BTreeMap;

pub type Files = BTreeMap<String, Vec<u8>>;

pub const COMMON: u32 = 0x5456_4319;
pub const INVENTORY: u32 = 0x5831_3116;
pub const PSTREE: u32 = 0x5027_3030;
pub const CORE: u32 = 0x5505_3847;
pub const IDS: u32 = 0x5443_2030;
pub const FILES: u32 = 0x5630_3138;
pub const FDINFO: u32 = 0x5621_3732;
pub const LOCKS: u32 = 0x5432_3616;
pub const QUEUES: u32 = 0x5626_4026;
pub const MM: u32 = 0x5749_2820;
pub const FS: u32 = 0x5140_3912;
pub const REMAPS: u32 = 0x5913_3954;

/// A protobuf message being made: `n` an integer, `s` a string, `m` a message.
#[derive(Clone, Default)]
pub struct M(pub Vec<u8>);

impl M {
    fn varint(&mut self, mut value: u64) {
        loop {
            let more = value > 0x7f;
            self.0
                .push((value & 0x7f) as u8 | if more { 0x80 } else { 0 });
            value >>= 7;
            if !more {
                return;
            }
        }
    }
    pub fn n(mut self, field: u32, value: u64) -> M {
        self.varint(u64::from(field * 8));
        self.varint(value);
        self
    }
    pub fn s(mut self, field: u32, bytes: &[u8]) -> M {
        self.varint(u64::from(field * 8 + 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
    pub fn m(self, field: u32, message: M) -> M {
        self.s(field, &message.0)
    }
    /// A field that nobody knows of yet.
    pub fn news(self) -> M {
        self.s(99, b"\xffnews")
    }
}

pub fn m() -> M {
    M::default()
}

pub fn file(magic: u32, entries: impl IntoIterator<Item = M>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if magic != INVENTORY {
        bytes.extend(COMMON.to_le_bytes());
    }
    bytes.extend(magic.to_le_bytes());
    for entry in entries {
        bytes.extend((entry.0.len() as u32).to_le_bytes());
        bytes.extend(entry.0);
    }
    bytes
}

/// The entries of a file, whole.
pub fn entries(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = &bytes[8..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().expect("4 bytes")) as usize;
        entries.push(&rest[..4 + length]);
        rest = &rest[4 + length..];
    }
    entries
}

#[derive(Clone, Debug)]
pub enum Made {
    Reg,
    Pipe,
    Eventfd,
    Memfd,
    Timerfd,
    /// A terminal without a master in the image.
    Tty,
    /// An end of a pair; the other is the next description.
    Pair,
    /// The other end.
    Other,
    /// The same, of a pair of datagram sockets.
    Datagrams,
    /// The other end.
    OtherDatagrams,
    /// A file that has lost its name.
    Deleted,
    /// A set that watches these numbers.
    Epoll(Vec<u32>),
}

pub fn description(id: u32, made: &Made) -> M {
    let owner = (1..=5).fold(m(), |owner, field| owner.n(field, 0));
    let own = || m().n(1, id.into());
    let (number, field, body) = match made {
        Made::Reg | Made::Deleted => {
            let name = format!("/f{id}");
            let reg = own().n(2, 2).n(3, 7).m(5, owner).s(6, name.as_bytes());
            (1, 3, reg.n(10, 0o100_644).news())
        }
        Made::Pipe => (2, 18, own().n(2, 4).n(3, 1).m(4, owner)),
        Made::Eventfd => (6, 8, own().n(2, 2).m(3, owner).n(4, 0)),
        Made::Memfd => (18, 20, own().n(2, 2).n(3, 0).m(4, owner).n(5, 1)),
        Made::Timerfd => (17, 12, own()),
        Made::Tty => (11, 19, own().n(2, u64::from(id) * 2).n(3, 2).m(4, owner)),
        Made::Pair | Made::Other | Made::Datagrams | Made::OtherDatagrams => {
            let inode = |id: u32| u64::from(id) + 1000;
            let peer = match made {
                Made::Pair | Made::Datagrams => id + 1,
                _ => id - 1,
            };
            let datagram = matches!(made, Made::Datagrams | Made::OtherDatagrams);
            let socket = own().n(2, inode(id)).n(3, 1 + u64::from(datagram));
            (5, 16, socket.n(8, inode(peer)).s(11, b"").news())
        }
        Made::Epoll(watched) => {
            let watch = |n: u32| own().n(2, n.into()).n(3, 1).n(4, 9);
            let set = own().n(2, 2).m(3, owner);
            let set = watched.iter().fold(set, |set, &n| set.m(4, watch(n)));
            (7, 9, set)
        }
    };
    m().n(1, number).n(2, id.into()).m(field, body).news()
}

#[derive(Clone, Debug)]
pub struct World {
    pub made: Vec<Made>,
    /// For each task its table: number to index into `made`.
    pub tables: Vec<BTreeMap<i32, usize>>,
    /// One more task shares the first table.
    pub shared: bool,
    /// Kind (1: the task's own; 2: flock), task, number.
    pub locks: Vec<(u64, i32, i32)>,
    /// In the queue of what, and what.
    pub in_flight: Vec<(usize, usize)>,
}

pub const FIRST_PID: i32 = 100;

impl World {
    pub fn files(&self) -> Files {
        let mut files = Files::new();
        let mut put = |name: &str, bytes| files.insert(name.to_owned(), bytes);
        put(
            "inventory.img",
            file(INVENTORY, [m().n(1, 2).n(2, 1).news()]),
        );
        let mut owners: Vec<usize> = (0..self.tables.len()).collect();
        if self.shared {
            owners.push(0);
        }
        let mut tree = Vec::new();
        for (pid, owner) in (FIRST_PID..).zip(owners) {
            let parent = if pid == FIRST_PID { 0 } else { FIRST_PID };
            let task = m().n(1, pid as u64).n(2, parent as u64);
            tree.push(task.n(3, 100).n(4, 100).n(5, pid as u64));
            let ids = m().n(1, 1).n(2, owner as u64 + 1).n(3, 1).n(4, 1);
            put(&format!("ids-{pid}.img"), file(IDS, [ids]));
        }
        put("pstree.img", file(PSTREE, tree));
        for (index, table) in self.tables.iter().enumerate() {
            let slots = table.iter().map(|(&number, &description)| {
                let slot = m().n(1, description as u64 + 1);
                let slot = slot.n(2, u64::from(number % 2 == 1));
                slot.n(3, 1).n(4, number as u64).news()
            });
            put(&format!("fdinfo-{}.img", index + 1), file(FDINFO, slots));
        }
        let made = (1..)
            .zip(&self.made)
            .map(|(id, made)| description(id, made));
        put("files.img", file(FILES, made));
        if !self.locks.is_empty() {
            let locks = self.locks.iter().map(|&(kind, pid, number)| {
                let lock = m().n(1, kind).n(2, 1).n(3, pid as u64).n(4, number as u64);
                lock.n(5, 0).news()
            });
            put("filelocks.img", file(LOCKS, locks));
        }
        if !self.in_flight.is_empty() {
            let mut bytes = file(QUEUES, []);
            for &(socket, what) in &self.in_flight {
                let rights = m().n(1, 1).n(2, what as u64 + 1);
                let packet = m().n(1, socket as u64 + 1).n(2, 3).m(4, rights);
                bytes.extend(&file(QUEUES, [packet])[8..]);
                bytes.extend(b"abc");
            }
            put("sk-queues.img", bytes);
        }
        let deleted = (1..).zip(&self.made);
        let deleted = deleted.filter(|(_, made)| matches!(made, Made::Deleted));
        let remaps: Vec<M> = deleted
            .map(|(id, _)| m().n(1, id).n(2, 1).n(3, 1))
            .collect();
        if !remaps.is_empty() {
            put("remap-fpath.img", file(REMAPS, remaps));
        }
        files
    }
}

pub fn one_task(made: &[Made], numbers: &[i32]) -> World {
    World {
        made: made.to_vec(),
        tables: vec![numbers.iter().copied().zip(0..).collect()],
        shared: false,
        locks: Vec::new(),
        in_flight: Vec::new(),
    }
}
