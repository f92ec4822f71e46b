//! Writes images from recipes, record by record as the kernel would. It shares
//! nothing with the product but the format.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What an image is to hold. Indices are taken modulo what there is, so that
/// every recipe gives an image.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// v23-rc2; v20 otherwise.
    pub late: bool,
    /// What wrote it.
    pub machine: Machine,
    /// Only the records that an editor looks at: no image for a kernel, but a
    /// small seed.
    pub lean: bool,
    /// The first is the root.
    pub processes: Vec<Process>,
    /// What there is to open.
    pub files: Vec<File>,
    /// Files announced before anybody needs them: at which announcement point,
    /// and which.
    pub early: Vec<(u8, usize)>,
    /// Number objects downwards, as a checkpoint of a whole container may.
    pub backwards: bool,
    /// Bytes behind every fifth announcement that a kernel reads and drops.
    pub surplus: u16,
}

/// A machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// 64 bits, little-endian.
    #[default]
    X86_64,
    /// 32 bits, little-endian.
    X86_32,
    /// 64 bits, big-endian.
    S390x,
}

impl Machine {
    /// The header's number of it.
    pub fn number(self) -> u8 {
        match self {
            Machine::X86_32 => 1,
            Machine::X86_64 => 2,
            Machine::S390x => 3,
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Machine::X86_32 => "x86_32",
            Machine::X86_64 => "x86_64",
            Machine::S390x => "s390x",
        }
    }

    /// Byte order.
    pub fn big_endian(self) -> bool {
        self == Machine::S390x
    }

    fn word(self) -> usize {
        if self == Machine::X86_32 { 4 } else { 8 }
    }

    fn is_x86(self) -> bool {
        self != Machine::S390x
    }
}

/// A process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Not for the root.
    pub zombie: bool,
    /// Child of the process before it; of the root otherwise.
    pub nested: bool,
    /// Further threads.
    pub threads: usize,
    /// It shares the table of this earlier process.
    pub shares: Option<usize>,
    /// Otherwise its own: numbers, files, close-on-exec.
    pub table: BTreeMap<i32, (usize, bool)>,
    /// Files mapped.
    pub maps: Vec<usize>,
    /// Runs one of the files; its own executable otherwise.
    pub exe: Option<usize>,
    /// It leads the session of this terminal.
    pub leader: Option<u8>,
    /// Pages of memory, in one chunk.
    pub pages: u8,
}

/// A file.
#[derive(Clone, Debug)]
pub struct File {
    /// What it is.
    pub kind: Kind,
    /// Its credentials are an object of its own.
    pub own_cred: bool,
}

/// What a file is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A regular file: 0 read, 1 write, 2 both; append; offset.
    Regular(u8, bool, u32),
    /// A directory.
    Directory,
    /// /dev/null.
    Device,
    /// One end of one of two pipes: which, whether it writes, bytes in it.
    Pipe(u8, bool, u8),
    /// A named pipe.
    Fifo(u8),
    /// An event counter.
    Eventfd(u32),
    /// Watches: a file, and the number it had.
    Epoll(Vec<(usize, i32)>),
    /// One half of one of four socket pairs, and [`Queued`] for it: a stream, one
    /// of which the second half was accepted, packets in order, datagrams.
    Socket(u8, bool, u8),
    /// A listening unix socket.
    Listener(Name),
    /// A unix datagram socket.
    Datagram(Datagram),
    /// A listening TCP socket: its port, above 7000.
    Port(u8),
    /// An unconnected UDP socket, likewise, and messages for it.
    Udp(u8, u8),
    /// One end of one of two connections, the first TCP, the second UDP, and
    /// messages for it. Where no file is the other end, it is outside.
    Connection(u8, bool, u8),
    /// The slave of one of two terminals. Where no file is its master, that is
    /// outside.
    Terminal(u8),
    /// Its master.
    Master(u8),
}

/// Messages for one half of a socket pair, as a number of two digits to base 3 and a third
/// one: how many there are; of a stream, how many bytes of the first have been read, and
/// whether the queue counts them all the same, which no kernel does that writes them.
#[derive(Clone, Copy)]
struct Queued(u8);

impl Queued {
    fn messages(&self) -> usize {
        usize::from(self.0 % 3)
    }

    fn read(&self) -> u32 {
        u32::from(self.0 / 3 % 3)
    }

    fn counted(&self) -> u32 {
        self.read() * u32::from(self.0 / 9 % 2)
    }
}

/// What a unix socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// An absolute path.
    Path,
    /// A path from the directory that comes with it.
    Relative,
    /// A name that is in no file system.
    Abstract,
}

/// A unix datagram socket.
#[derive(Clone, Debug, Default)]
pub struct Datagram {
    /// What it is bound to.
    pub name: Option<Name>,
    /// The path is gone.
    pub unlinked: bool,
    /// Connected to this file, where it is another such socket that is bound.
    pub to: Option<usize>,
    /// For it, where they can be sent again.
    pub messages: Vec<Sender>,
}

/// Who sent a message.
#[derive(Clone, Copy, Debug)]
pub enum Sender {
    /// The socket of this file.
    Live(usize),
    /// One of the sockets that were closed since.
    Dead(u8),
}

/// A number that no object has until it is given.
type Id = i32;

/// A socket: half of a pair, end of a connection, a file's own, a closed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Pair(u8, bool),
    Connection(u8, bool),
    Own(usize),
    Dead(u8),
}

/// What the records of a socket say.
#[derive(Default)]
struct Socket {
    inet: bool,
    kind: u16,
    state: u8,
    dead: bool,
    peer: Option<End>,
    linked: bool,
    name: Vec<u8>,
    peer_name: Vec<u8>,
    directory: bool,
    queues: bool,
}

struct Writer<'a> {
    recipe: &'a Recipe,
    /// Sockets that have a file in the image, once that is known.
    alive: Option<&'a BTreeSet<End>>,
    out: Vec<u8>,
    ids: i32,
    points: u8,
    files: BTreeMap<usize, Id>,
    /// Pipes: their number; whether the data has been written.
    pipes: BTreeMap<u8, Id>,
    socks: BTreeMap<End, Id>,
    known_socks: BTreeSet<End>,
    /// Master, its reserved file, slave.
    terminals: BTreeMap<u8, (Id, Id, Id)>,
    deferred: VecDeque<Work>,
    cred: Id,
    user: Id,
    groups: Id,
    announced: BTreeSet<usize>,
    /// By process: table, mm, fs, sighand, signal.
    objects: Vec<Objects>,
}

enum Work {
    Epoll(usize),
    Socket(End),
}

#[derive(Clone, Copy, Default)]
struct Objects {
    table: Id,
    mm: Id,
    fs: Id,
    sighand: Id,
    signal: Id,
}

/// A record's payload. Numbers stand in it in little-endian order until it is
/// written.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    /// Where numbers are, and how long.
    numbers: Vec<(usize, usize)>,
}

impl Body {
    fn number(mut self, bytes: &[u8]) -> Self {
        self.numbers.push((self.bytes.len(), bytes.len()));
        self.bytes(bytes)
    }
    fn u16(self, value: u16) -> Self {
        self.number(&value.to_le_bytes())
    }
    fn u32(self, value: u32) -> Self {
        self.number(&value.to_le_bytes())
    }
    fn i32(self, value: i32) -> Self {
        self.u32(value.cast_unsigned())
    }
    fn u64(self, value: u64) -> Self {
        self.number(&value.to_le_bytes())
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }
    /// Zeroes up to this offset from the record's start.
    fn to(mut self, at: usize) -> Self {
        assert!(self.bytes.len() + 8 <= at, "a field written too late");
        self.bytes.resize(at - 8, 0);
        self
    }
    fn in_order(mut self, big_endian: bool) -> Vec<u8> {
        for (at, len) in self.numbers.drain(..).filter(|_| big_endian) {
            self.bytes[at..at + len].reverse();
        }
        self.bytes
    }
}

fn body() -> Body {
    Body::default()
}

/// Pid of a process's first task, or of one of its threads.
pub fn pid(process: usize, thread: usize) -> i32 {
    i32::try_from(100 + process * 10 + thread).unwrap()
}

/// Writes the image.
pub fn build(recipe: &Recipe) -> Vec<u8> {
    let mut first = Writer::new(recipe, None);
    first.image();
    let ends = first.announced.iter().filter_map(|&file| first.end(file));
    let alive: BTreeSet<End> = ends.collect();
    let mut writer = Writer::new(recipe, Some(&alive));
    writer.image();
    writer.out
}

/// The head up to the task tree, for any version, machine and byte order.
pub struct Head {
    /// The header's number of the machine.
    pub arch: u16,
    /// Kernel version.
    pub kernel: (u16, u16, u16),
    /// Format revision.
    pub revision: u16,
    /// Byte order.
    pub big_endian: bool,
    /// A record of process identifiers comes before the tree.
    pub pids: bool,
    /// Length of a task's record.
    pub task_len: usize,
}

/// An image with one task that has nothing, for the recogniser.
pub fn head_only(head: &Head) -> Vec<u8> {
    let mut out = Vec::new();
    let swap = |value: u32| {
        if head.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let swap16 = |value: u16| {
        if head.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let swap64 = |value: u64| {
        if head.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut rec = |kind: u32, payload: &[u8]| {
        out.extend(swap(kind));
        out.extend(swap(u32::try_from(payload.len()).unwrap() + 8));
        out.extend(payload);
    };
    let mut header = vec![0; 64];
    header[..8].copy_from_slice(&swap64(0x00fe_ed0c_c0a2_d200));
    header[8..10].copy_from_slice(&head.arch.to_le_bytes());
    header[10..12].copy_from_slice(&swap16(head.kernel.0));
    header[12..14].copy_from_slice(&swap16(head.kernel.1));
    header[14..16].copy_from_slice(&swap16(head.kernel.2));
    header[16..18].copy_from_slice(&swap16(head.revision));
    rec(1, &header);
    for _ in 0..3 {
        rec(4, &[b'x'; 65]);
    }
    rec(2, &[0; 8]);
    rec(3, &[]);
    if head.revision >= 4 {
        rec(4, b"lsm_none\0\0\0");
        rec(7, b"dummy");
    }
    let late = u32::from(head.pids);
    let word = |value: u32| swap(value).to_vec();
    if head.pids {
        rec(101, &[word(1), word(0), word(1), word(0)].concat());
        rec(4, &[word(0), word(100)].concat());
    }
    rec(101 + late, &[word(1), word(0)].concat());
    let id = if head.pids { 1 } else { 100 };
    let tree = [word(id), word(0), word(id), word(id), word(id), word(0)];
    rec(4, &tree.concat());
    rec(102 + late, &vec![0; head.task_len - 8]);
    rec(5, b"task\0");
    rec(9001, &swap64(0x002d_2a0c_c0de_ef00));
    out
}

impl<'a> Writer<'a> {
    fn new(recipe: &'a Recipe, alive: Option<&'a BTreeSet<End>>) -> Self {
        Writer {
            recipe,
            alive,
            out: Vec::new(),
            ids: if recipe.backwards { 5000 } else { 0 },
            points: 0,
            files: BTreeMap::new(),
            pipes: BTreeMap::new(),
            socks: BTreeMap::new(),
            known_socks: BTreeSet::new(),
            terminals: BTreeMap::new(),
            deferred: VecDeque::new(),
            cred: 0,
            user: 0,
            groups: 0,
            announced: BTreeSet::new(),
            objects: Vec::new(),
        }
    }

    fn late(&self) -> bool {
        self.recipe.late
    }

    fn id(&mut self) -> Id {
        self.ids += if self.recipe.backwards { -1 } else { 1 };
        self.ids
    }

    fn rec(&mut self, kind: u32, payload: Body) {
        let big_endian = self.recipe.machine.big_endian();
        let len = u32::try_from(payload.bytes.len()).unwrap() + 8;
        let prefix = body().u32(kind).u32(len);
        self.out.extend(prefix.in_order(big_endian));
        self.out.extend(payload.in_order(big_endian));
    }

    /// A record of which only the length matters here.
    fn filler(&mut self, kind: u32, len: usize) {
        if !self.recipe.lean {
            self.rec(kind, body().to(len));
        }
    }

    fn moved(&self, kind: u32) -> u32 {
        kind + u32::from(self.late())
    }

    fn by_version(&self, early: usize, late: usize) -> usize {
        if self.late() { late } else { early }
    }

    fn objref(&mut self, object: u32, id: Id) {
        let object = self.moved(object);
        let surplus = if id % 5 == 3 { self.recipe.surplus } else { 0 };
        let objref = body().u32(object).i32(id);
        self.rec(6, objref.to(16 + usize::from(surplus)));
    }

    fn image(&mut self) {
        let tree = self.tree();
        let (late, first) = (self.late(), 1);
        let kernel = if late { 37 } else { 33 };
        let machine = self.recipe.machine;
        // The one field that has the same order everywhere.
        let header = body()
            .u64(0x00fe_ed0c_c0a2_d200)
            .bytes(&[machine.number(), 0]);
        let header = header.u16(2).u16(6);
        let header = header.u16(kernel).u16(if late { 6 } else { 5 });
        self.rec(1, header.to(64).u64(1));
        for text in ["2.6.33", "#1", "x86_64"] {
            self.rec(4, body().bytes(text.as_bytes()).to(73));
        }
        let own = if machine.is_x86() {
            body().u16(1).u16(0).u16(512).u16(0)
        } else {
            body()
        };
        self.rec(2, own);
        self.rec(3, body());
        self.rec(4, body().bytes(b"lsm_none").to(19));
        self.rec(7, body().bytes(b"dummy"));
        let count = u32::try_from(tree.len()).unwrap();
        let mut numbers: Vec<i32> = tree.iter().map(|task| task.0).collect();
        if late {
            self.rec(101, body().u32(count).u32(0).i32(first).u32(0));
            let array = tree.iter().fold(body(), |b, task| b.u32(0).i32(task.0));
            self.rec(4, array);
            numbers = (first..).take(tree.len()).collect();
            // A container's numbers stay clear of them all the same.
            if !self.recipe.backwards {
                self.ids = i32::try_from(tree.len()).unwrap();
            }
        }
        let number = |pid: i32| {
            let index = tree.iter().position(|task| task.0 == pid);
            index.map_or(if late { 0 } else { pid }, |index| numbers[index])
        };
        let mut array = body();
        for &(pid, parent, process, _, _) in &tree {
            for id in [pid, parent, process, process, 100] {
                array = array.i32(number(id));
            }
            array = array.u32(0);
        }
        let kind = self.moved(101);
        self.rec(kind, body().u32(count).u32(0));
        self.rec(4, array);
        for &(_, _, _, process, thread) in &tree {
            self.task(process, thread);
        }
        self.rec(9001, body().u64(0x002d_2a0c_c0de_ef00));
    }

    /// Pid, parent, process; index of the process and of the thread.
    fn tree(&self) -> Vec<(i32, i32, i32, usize, usize)> {
        let mut tree = Vec::new();
        for (index, process) in self.recipe.processes.iter().enumerate() {
            let parent = match index {
                0 => 1,
                _ if process.nested && !self.zombie(index - 1) => pid(index - 1, 0),
                _ => pid(0, 0),
            };
            let threads = if self.zombie(index) {
                0
            } else {
                process.threads
            };
            for thread in 0..=threads {
                tree.push((pid(index, thread), parent, pid(index, 0), index, thread));
            }
        }
        tree
    }

    fn zombie(&self, process: usize) -> bool {
        process > 0 && self.recipe.processes[process].zombie
    }

    fn task(&mut self, index: usize, thread: usize) {
        let recipe = self.recipe;
        let process = &recipe.processes[index];
        let zombie = self.zombie(index);
        let (kind, len) = (self.moved(102), self.by_version(64, 80));
        let state = if zombie { 64 } else { 2 };
        let exit = if zombie { 16 } else { 0 };
        self.rec(kind, body().u32(state).u32(exit).to(len));
        self.rec(5, body().bytes(b"task").to(24));
        if zombie {
            self.objects.push(Objects::default());
            return;
        }
        let tls = self.by_version(40, 48);
        self.filler(self.moved(106), tls);
        self.filler(self.moved(105), 56);
        if !recipe.machine.is_x86() {
            self.filler(self.moved(107), 299);
        } else if !recipe.lean {
            let fpu = u32::from(index % 2 == 1);
            self.rec(self.moved(107), body().to(188).u32(fpu));
            if fpu == 1 {
                self.filler(201, 520);
            }
        }
        if index == 0 && thread == 0 {
            self.cred = self.new_cred();
        }
        let creds = body().i32(self.cred).i32(self.cred);
        self.rec(self.moved(117), creds);
        if !recipe.lean {
            self.namespaces(index, thread);
        }
        if thread == 0 {
            self.objects(index, process);
        }
        let o = self.objects[index];
        let objs = body().i32(o.table).i32(o.mm).i32(o.fs);
        let objs = if self.late() { objs.i32(0) } else { objs };
        let objs = objs.i32(o.sighand).i32(o.signal).to(32);
        self.rec(self.moved(104), objs);
        if thread == 0 {
            self.signal(process);
            self.filler(604, 24);
        }
        self.filler(604, 24);
        self.filler(603, 16);
    }

    /// All tasks are in the namespaces of the first.
    fn namespaces(&mut self, index: usize, thread: usize) {
        if index == 0 && thread == 0 {
            let (ns, uts) = (self.id(), self.id());
            self.objref(8, ns);
            self.objref(9, uts);
            self.filler(self.moved(109), 400);
            let (kind, len) = (self.moved(108), self.by_version(16, 24));
            self.rec(kind, body().i32(uts).i32(0).to(len));
            self.pipes.insert(u8::MAX, ns);
        }
        let ns = self.pipes[&u8::MAX];
        self.rec(self.moved(103), body().i32(ns).to(16));
    }

    fn new_cred(&mut self) -> Id {
        let cred = self.id();
        self.objref(13, cred);
        if self.user == 0 {
            (self.groups, self.user) = (self.id(), self.id());
            let ns = self.id();
            self.objref(15, self.groups);
            self.rec(self.moved(116), body().u32(1).u32(7).to(20));
            self.objref(14, self.user);
            self.objref(12, ns);
            self.rec(self.moved(113), body().to(16));
            self.rec(self.moved(115), body().u32(0).i32(ns));
        }
        let fields = body().to(40).i32(self.user).i32(self.groups).to(96);
        self.rec(self.moved(114), fields);
        cred
    }

    fn objects(&mut self, index: usize, process: &Process) {
        let earlier: Vec<usize> = (0..index).filter(|&i| !self.zombie(i)).collect();
        let shared = process
            .shares
            .filter(|_| !earlier.is_empty())
            .map(|of| self.objects[earlier[of % earlier.len()]].table);
        let table = match shared {
            Some(table) => table,
            None => self.table(process),
        };
        let mm = self.mm(process);
        let fs = self.id();
        self.objref(5, fs);
        let len = self.by_version(8, 16);
        self.rec(451, body().to(len));
        self.rec(303, body().bytes(b"/job\0"));
        self.rec(303, body().bytes(b"/\0"));
        let shared = earlier.first().map(|&of| self.objects[of].sighand);
        let sighand = match shared.filter(|_| self.recipe.lean) {
            Some(sighand) => sighand,
            None => {
                let sighand = self.id();
                self.objref(6, sighand);
                self.rec(601, body().to(2056));
                sighand
            }
        };
        let signal = self.id();
        self.objects.push(Objects {
            table,
            mm,
            fs,
            sighand,
            signal,
        });
    }

    /// A point at which files may be announced early; those that leave work for
    /// the end of a file table only in front of one.
    fn point(&mut self, in_table: bool) {
        let point = self.points;
        self.points = point.wrapping_add(1);
        let due: Vec<usize> = self
            .recipe
            .early
            .iter()
            .filter(|(at, _)| *at == point)
            .map(|(_, file)| *file)
            .collect();
        for file in due {
            let Some(index) = self.file(file) else {
                continue;
            };
            let epoll = matches!(self.recipe.files[index].kind, Kind::Epoll(_));
            let defers = epoll || self.end(index).is_some();
            if in_table || !defers {
                self.announce(index);
            }
        }
    }

    fn table(&mut self, process: &Process) -> Id {
        self.point(true);
        let table = self.id();
        self.objref(2, table);
        self.point(true);
        let count = if self.recipe.files.is_empty() {
            0
        } else {
            process.table.len()
        };
        self.rec(301, body().u32(u32::try_from(count).unwrap()).u32(0));
        for (&number, &(file, close)) in process.table.iter().take(count) {
            self.point(true);
            let file = self.file(file).map_or(0, |file| self.announce(file));
            let desc = body().i32(file).i32(number).u32(close.into()).u32(0);
            self.rec(302, desc);
        }
        while let Some(work) = self.deferred.pop_front() {
            match work {
                Work::Epoll(file) => self.items(file),
                Work::Socket(end) => self.queues(end),
            }
        }
        table
    }

    fn file_id(&mut self, file: usize) -> Id {
        if let Some(id) = self.files.get(&file) {
            return *id;
        }
        let id = self.id();
        self.files.insert(file, id);
        id
    }

    /// The file's block, unless it has stood before; its number.
    fn announce(&mut self, index: usize) -> Id {
        let id = self.file_id(index);
        if !self.announced.insert(index) {
            return id;
        }
        let File { kind, own_cred } = self.recipe.files[index].clone();
        self.objref(3, id);
        let cred = if own_cred { self.new_cred() } else { self.cred };
        let common = |kind: u32, mode: u32, flags: u32, position: u64| {
            let b = body().u32(kind).u32(mode).u32(flags).i32(cred);
            b.u64(position).u64(0).u64(0)
        };
        match kind {
            Kind::Regular(access, append, position) => {
                let access = u32::from(access % 3);
                let append = if append { 0x400 } else { 0 };
                let mode = [0x1d, 0x1e, 0x1f][access as usize];
                let position = u64::from(position & 0x7fff_ffff);
                self.rec(304, common(1, mode, 0x8000 | access | append, position));
                let name = format!("/mnt/file{index}\0");
                self.rec(303, body().bytes(name.as_bytes()));
            }
            Kind::Directory => {
                self.rec(304, common(1, 0x1d, 0x18000, 0));
                self.rec(303, body().bytes(b"/mnt\0"));
            }
            Kind::Device => {
                self.rec(304, common(1, 0x1f, 0x8002, 0));
                self.rec(303, body().bytes(b"/dev/null\0"));
            }
            Kind::Pipe(pipe, writes, bytes) => {
                let new = !self.pipes.contains_key(&(pipe % 2));
                let pipe = self.pipe(pipe % 2);
                let mode = if writes { 2 } else { 1 };
                self.rec(304, common(2, mode, mode - 1, 0).i32(pipe).u32(0));
                if new {
                    self.rec(305, body().bytes(&vec![b'p'; bytes.into()]));
                }
            }
            Kind::Fifo(bytes) => {
                let new = !self.pipes.contains_key(&2);
                let pipe = self.pipe(2);
                self.rec(304, common(3, 3, 0x8002, 0).i32(pipe).u32(0));
                self.rec(303, body().bytes(b"/mnt/fifo\0"));
                if new {
                    self.rec(305, body().bytes(&vec![b'f'; bytes.into()]));
                }
            }
            Kind::Eventfd(count) => {
                let file = common(7, 3, 2, 0).u64(count.into()).u64(0);
                self.rec(304, file);
            }
            Kind::Epoll(_) => {
                self.rec(304, common(6, 3, 2, 0));
                self.deferred.push_back(Work::Epoll(index));
            }
            Kind::Terminal(of) => {
                let (_, _, slave) = self.terminal(of % 2);
                self.rec(304, common(5, 3, 0x8002, 0).i32(slave).u32(0));
            }
            Kind::Master(of) => {
                let (master, _, _) = self.terminal(of % 2);
                self.rec(304, common(5, 3, 0x8002, 0).i32(master).u32(0));
            }
            _ => {
                let sock = self.end(index).map_or(0, |end| self.sock(end));
                self.rec(304, common(4, 3, 2, 0).i32(sock).u32(0));
            }
        }
        id
    }

    fn pipe(&mut self, pipe: u8) -> Id {
        if let Some(id) = self.pipes.get(&pipe) {
            return *id;
        }
        let id = self.id();
        self.pipes.insert(pipe, id);
        id
    }

    fn items(&mut self, index: usize) {
        let epoll = self.files[&index];
        let Kind::Epoll(watches) = &self.recipe.files[index].kind else {
            return;
        };
        let mut items = body();
        let mut seen = BTreeSet::new();
        for &(file, number) in watches {
            let Some(file) = self
                .file(file)
                .filter(|&file| self.can_be_watched(index, file))
            else {
                continue;
            };
            // What is announced nowhere by now would have failed the checkpoint.
            if !self.announced.contains(&file) || !seen.insert((file, number)) {
                continue;
            }
            let watched = self.files[&file];
            items = items.u64(number as u64).i32(number).i32(watched);
            items = items.u32(1).u32(0);
        }
        let count = u32::try_from(seen.len()).unwrap();
        self.rec(308, body().i32(epoll).u32(count));
        if count > 0 {
            self.rec(4, items);
        }
    }

    /// The set before what it watches, so that nothing watches itself.
    fn can_be_watched(&self, by: usize, file: usize) -> bool {
        match self.recipe.files[file].kind {
            Kind::Regular(..) | Kind::Directory | Kind::Device => false,
            Kind::Epoll(_) => by < file,
            _ => true,
        }
    }

    /// A file by any number; a socket and a master have one only.
    fn file(&self, number: usize) -> Option<usize> {
        let files = &self.recipe.files;
        let file = number.checked_rem(files.len())?;
        let same = |other: &usize| match (&files[file].kind, &files[*other].kind) {
            (Kind::Master(a), Kind::Master(b)) => a % 2 == b % 2,
            _ => self.end(file).is_some() && self.end(*other) == self.end(file),
        };
        let has_others = matches!(
            files[file].kind,
            Kind::Master(_) | Kind::Socket(..) | Kind::Connection(..)
        );
        let before = if has_others { 0..file } else { file..file };
        Some(before.into_iter().find(same).unwrap_or(file))
    }

    /// The socket of a file.
    fn end(&self, file: usize) -> Option<End> {
        match self.recipe.files[file].kind {
            Kind::Socket(pair, second, _) => Some(End::Pair(pair % 4, second)),
            Kind::Connection(of, second, _) => Some(End::Connection(of % 2, second)),
            Kind::Listener(_) | Kind::Datagram(_) | Kind::Port(_) | Kind::Udp(..) => {
                Some(End::Own(file))
            }
            _ => None,
        }
    }

    fn is_alive(&self, end: End) -> bool {
        self.alive.is_none_or(|alive| alive.contains(&end))
    }

    fn sock_id(&mut self, end: End) -> Id {
        if let Some(id) = self.socks.get(&end) {
            return *id;
        }
        let id = self.id();
        self.socks.insert(end, id);
        id
    }

    /// The address of a file's unix socket.
    fn address(name: Name, file: usize) -> Vec<u8> {
        match name {
            Name::Path => format!("/tmp/sock{file}\0").into_bytes(),
            Name::Relative => format!("sock{file}\0").into_bytes(),
            Name::Abstract => format!("\0sock{file}").into_bytes(),
        }
    }

    fn datagram(&self, end: End) -> Option<&'a Datagram> {
        match end {
            End::Own(file) => match &self.recipe.files[file].kind {
                Kind::Datagram(datagram) => Some(datagram),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a datagram socket is connected to.
    fn connected(&self, end: End) -> Option<End> {
        let target = |end: End| {
            let file = self.file(self.datagram(end)?.to?)?;
            let target = self.end(file).filter(|&target| target != end)?;
            self.datagram(target)?.name.map(|_| target)
        };
        let to = target(end)?;
        (target(to).is_none_or(|back| back == end)).then_some(to)
    }

    fn socket(&self, end: End) -> Socket {
        const ESTABLISHED: u8 = 1;
        const CLOSE: u8 = 7;
        const LISTEN: u8 = 10;
        if !self.is_alive(end) {
            return Socket {
                kind: match end {
                    End::Pair(pair, _) => [1, 1, 5, 2][usize::from(pair)],
                    _ => 2,
                },
                state: CLOSE,
                dead: true,
                ..Socket::default()
            };
        }
        let internet = |address: u8, port: u16| {
            let port = port.to_be_bytes();
            vec![port[0], port[1], 127, 0, 0, address]
        };
        match end {
            End::Pair(pair, second) => Socket {
                kind: [1, 1, 5, 2][usize::from(pair)],
                state: if pair == 3 { CLOSE } else { ESTABLISHED },
                peer: Some(End::Pair(pair, !second)),
                linked: pair == 1 && second,
                name: if pair == 1 && second {
                    b"/tmp/accept\0".to_vec()
                } else {
                    Vec::new()
                },
                peer_name: if pair == 1 && !second {
                    b"/tmp/accept\0".to_vec()
                } else {
                    Vec::new()
                },
                queues: true,
                ..Socket::default()
            },
            End::Connection(of, second) => {
                let port = |second: bool| 9000 + 10 * u16::from(of) + u16::from(second);
                let outside = !self.is_alive(End::Connection(of, !second));
                Socket {
                    inet: true,
                    kind: if of == 0 { 1 } else { 2 },
                    state: ESTABLISHED,
                    name: internet(1, port(second)),
                    peer_name: internet(if outside { 99 } else { 1 }, port(!second)),
                    queues: true,
                    ..Socket::default()
                }
            }
            End::Own(file) => match &self.recipe.files[file].kind {
                Kind::Listener(name) => Socket {
                    kind: 1,
                    state: LISTEN,
                    linked: *name != Name::Abstract,
                    name: Self::address(*name, file),
                    directory: *name == Name::Relative,
                    ..Socket::default()
                },
                Kind::Datagram(datagram) => Socket {
                    kind: 2,
                    state: CLOSE,
                    peer: self.connected(end),
                    linked: !datagram.unlinked
                        && matches!(datagram.name, Some(Name::Path | Name::Relative)),
                    name: datagram
                        .name
                        .map_or_else(Vec::new, |name| Self::address(name, file)),
                    directory: datagram.name == Some(Name::Relative),
                    queues: true,
                    ..Socket::default()
                },
                Kind::Port(port) => Socket {
                    inet: true,
                    kind: 1,
                    state: LISTEN,
                    name: internet(1, 7000 + u16::from(*port)),
                    ..Socket::default()
                },
                Kind::Udp(port, _) => Socket {
                    inet: true,
                    kind: 2,
                    state: CLOSE,
                    name: internet(1, 7000 + u16::from(*port)),
                    // The earlier version writes what it cannot read.
                    queues: !self.late(),
                    ..Socket::default()
                },
                _ => Socket::default(),
            },
            End::Dead(_) => Socket::default(),
        }
    }

    fn sock(&mut self, end: End) -> Id {
        let id = self.sock_id(end);
        if !self.known_socks.insert(end) {
            return id;
        }
        let socket = self.socket(end);
        self.objref(16, id);
        let shift = self.by_version(0, 8);
        let record = if self.late() {
            body().bytes(&[u8::from(socket.queues)]).to(16)
        } else {
            body()
        };
        let (connected, family) = (socket.state == 1, if socket.inet { 2 } else { 1 });
        let record = record.u64(0).bytes(&[if connected { 3 } else { 1 }]);
        let record = record.to(32 + shift).u16(family);
        let record = record.to(48 + shift).u64(0x100 | u64::from(socket.dead));
        let record = record.to(92 + shift).u16(socket.kind).u16(10);
        let record = record.bytes(&[0, socket.state]).to(112 + shift);
        self.rec(701, record);
        if socket.inet {
            let len = |name: &[u8]| if name.is_empty() { 0 } else { 16 };
            let inet = body()
                .to(288)
                .u32(len(&socket.name))
                .u32(len(&socket.peer_name));
            let inet = inet.u16(2).bytes(&socket.name).to(312);
            self.rec(706, inet.u16(2).bytes(&socket.peer_name).to(328));
        } else {
            self.unix(id, &socket);
        }
        if socket.queues {
            self.deferred.push_back(Work::Socket(end));
        }
        id
    }

    fn unix(&mut self, id: Id, socket: &Socket) {
        let peer = socket.peer.map_or(0, |peer| self.sock(peer));
        let unix = body().i32(id).i32(peer);
        let unix = if self.late() {
            unix.i32(self.cred)
        } else {
            unix.u32(0).u32(0)
        };
        let len = |name: &[u8]| u32::try_from(name.len()).unwrap() + 2;
        let unix = unix.u32(socket.linked.into());
        let unix = unix.u32(len(&socket.name)).u32(len(&socket.peer_name));
        let peer_name = self.by_version(146, 142);
        let unix = unix.u16(1).bytes(&socket.name).to(peer_name);
        self.rec(705, unix.u16(1).bytes(&socket.peer_name).to(256));
        if socket.directory {
            self.rec(5, body().bytes(b"/tmp\0"));
        }
    }

    /// The file of a socket, where it has one.
    fn kind_of(&self, end: End) -> Option<&'a Kind> {
        let mut files = 0..self.recipe.files.len();
        let file = files.find(|&file| self.end(file) == Some(end))?;
        Some(&self.recipe.files[file].kind)
    }

    /// What has been read of the first message of a stream.
    fn half_read(&self, end: End) -> Option<Queued> {
        match (self.kind_of(end), end) {
            (Some(&Kind::Socket(_, _, queued)), End::Pair(0 | 1, _)) => Some(Queued(queued)),
            _ => None,
        }
        .filter(|queued| queued.messages() > 0 && queued.read() > 0)
    }

    /// Who sent what waits for a socket.
    fn messages(&mut self, end: End) -> Vec<Option<End>> {
        let Some(kind) = self.kind_of(end) else {
            return Vec::new();
        };
        match kind {
            Kind::Socket(pair, second, queued) => {
                let from = End::Pair(pair % 4, !second);
                // Nobody can send a datagram again to what has no name.
                let can = pair % 4 != 3 || self.is_alive(from);
                vec![Some(from); if can { Queued(*queued).messages() } else { 0 }]
            }
            Kind::Connection(_, _, count) | Kind::Udp(_, count) => {
                vec![None; usize::from(count % 3)]
            }
            Kind::Datagram(datagram) => {
                let from = |sender: &Sender| match *sender {
                    Sender::Live(file) => self.end(self.file(file)?),
                    Sender::Dead(number) => Some(End::Dead(number % 2)),
                };
                let bound = datagram.name == Some(Name::Abstract)
                    || (datagram.name.is_some() && !datagram.unlinked);
                let can = |from: &End| {
                    let dead = matches!(from, End::Dead(_));
                    let peer = self.connected(end);
                    let known = self.datagram(*from).is_some()
                        && self.known_socks.contains(from)
                        && self.is_alive(*from)
                        && (datagram.name.is_none() || bound);
                    let sends = bound || self.connected(*from) == Some(end);
                    (dead && bound && peer.is_none())
                        || (known && sends && peer.is_none_or(|peer| peer == *from))
                };
                let senders = datagram.messages.iter().filter_map(from);
                senders.filter(can).map(Some).collect()
            }
            _ => Vec::new(),
        }
    }

    fn queues(&mut self, end: End) {
        let messages = self.messages(end);
        let to = self.sock_id(end);
        // Of the internet's messages the second has fragments.
        let fragments = |at: usize, from: &Option<End>| match from {
            None => u32::try_from(at).unwrap() * 2,
            Some(_) => 0,
        };
        let half_read = self.half_read(end);
        let last = messages.len().saturating_sub(1);
        // Some are longer than what is put together without need.
        let linear = |at: usize| match half_read {
            Some(_) if at == last => 5000,
            _ => 5,
        };
        let (read, counted) = half_read.map_or((0, 0), |queued| (queued.read(), queued.counted()));
        let all = messages.iter().enumerate();
        let total: u32 = all
            .map(|(at, from)| linear(at) + 3 * fragments(at, from))
            .sum();
        let count = u32::try_from(messages.len()).unwrap();
        self.rec(702, body().u32(count).u32(total - read + counted));
        for (at, from) in messages.into_iter().enumerate() {
            let fragments = fragments(at, &from);
            // A closed sender is announced here, once.
            let from = from.map_or(0, |from| self.sock(from));
            let (linear, read) = (linear(at), if at == 0 { read } else { 0 });
            let message = body()
                .to(20)
                .u32(linear)
                .u32(3 * fragments)
                .u32(linear - read + 3 * fragments);
            let message = message.to(40).u32(read).i32(from).i32(to).to(54);
            let message = message.u16(u16::try_from(fragments).unwrap());
            self.rec(703, message.to(104));
            let text = body().bytes(b"hell").bytes(&[b'0' + at as u8]);
            self.rec(4, text.to(8 + linear as usize));
            for fragment in 0..fragments {
                self.rec(704, body().u32(3).u32(fragment));
                // As if records stood in it.
                let page = [6u8, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0].repeat(256);
                self.out.extend(page);
            }
        }
        self.rec(702, body().u32(0).u32(0));
    }

    /// Master, reserved file, slave; written where they are first seen.
    fn terminal(&mut self, of: u8) -> (Id, Id, Id) {
        if let Some(ids) = self.terminals.get(&of) {
            return *ids;
        }
        let ids = (self.id(), self.id(), self.id());
        self.terminals.insert(of, ids);
        let len = self.by_version(72, 96);
        for (id, subtype, link, file) in [(ids.0, 1, 0, ids.1), (ids.2, 2, ids.0, 0)] {
            self.objref(17, id);
            let tty = body().u16(4).u16(subtype).i32(link).i32(file);
            let tty = tty.to(24).u32(3 + u32::from(of)).u32(0);
            // Its line discipline is there, and open.
            self.rec(306, tty.u64(0xa00).to(len));
            if self.recipe.lean {
                continue;
            }
            let waiting = u32::from(subtype) - 1;
            self.rec(307, body().u32(0).u32(waiting).to(560));
            if waiting > 0 {
                self.rec(4, body().bytes(b"x"));
            }
        }
        ids
    }

    fn mm(&mut self, process: &Process) -> Id {
        let recipe = self.recipe;
        self.point(false);
        let mm = self.id();
        self.objref(4, mm);
        self.point(false);
        let plain = |file: usize| {
            let file = file % recipe.files.len();
            matches!(recipe.files[file].kind, Kind::Regular(..)).then_some(file)
        };
        let some = !recipe.files.is_empty();
        let exe = match process.exe.filter(|_| some).and_then(plain) {
            Some(file) => self.announce(file),
            None => self.executable(),
        };
        let maps: Vec<usize> = process.maps.iter().copied().filter(|_| some).collect();
        let maps: Vec<usize> = maps.into_iter().filter_map(plain).collect();
        let count = u32::try_from(maps.len()).unwrap() + 2;
        self.rec(401, body().u32(count).i32(exe).to(120));
        let len = self.by_version(344, 360);
        self.filler(4, len);
        let len = self.by_version(72, 80);
        for (at, file) in maps.into_iter().enumerate() {
            let file = self.announce(file);
            self.point(false);
            let shared = at % 2 == 1;
            let kind = if shared { 6 } else { 3 };
            self.rec(402, body().u32(kind).i32(file).to(len));
            if !shared {
                self.rec(403, body().u64(0));
            }
        }
        self.rec(402, body().u32(2).to(len));
        if process.pages > 0 {
            let pages = u64::from(process.pages);
            self.rec(403, body().u64(pages));
            let word = recipe.machine.word();
            let chunk = 8 + (4096 + word) * usize::from(process.pages);
            let addresses = (0..pages).fold(body(), |b, page| match word {
                4 => b.u32((page << 12) as u32),
                _ => b.u64(page << 12),
            });
            self.rec(4, addresses.to(chunk));
        }
        self.rec(403, body().u64(0));
        self.rec(402, body().u32(1).to(len));
        let kind = if self.late() { 405 } else { 404 };
        if recipe.machine.is_x86() {
            self.filler(kind, 24);
            self.filler(202, 8);
        } else {
            self.filler(kind, 41);
        }
        mm
    }

    /// Every process that runs none of the files has an executable of its own.
    fn executable(&mut self) -> Id {
        let id = self.id();
        self.objref(3, id);
        let cred = self.new_cred();
        let file = body().u32(1).u32(0x1d).u32(0x8020).i32(cred);
        self.rec(304, file.u64(0).u64(0).u64(0));
        self.rec(303, body().bytes(b"/bin/program\0"));
        id
    }

    fn signal(&mut self, process: &Process) {
        self.point(false);
        let tty = process.leader.map_or(0, |of| self.terminal(of % 2).2);
        self.rec(602, body().to(312).i32(tty).i32(100).i32(-1).to(328));
    }
}
