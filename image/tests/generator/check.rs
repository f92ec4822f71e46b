//! A strict reader of images, which knows nothing of the product's code: it
//! takes records in the order in which a restarting kernel demands them,
//! announcements wherever the kernel would take one, and demands that every
//! reference was announced before, that counts and lengths are right, that each
//! deferred record is there and none is left over.
//!
//! What it returns says what every task holds, so that two images can be
//! compared as programs would see them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// What an image says.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Byte order.
    pub big_endian: bool,
    /// v23-rc2.
    pub late: bool,
    /// Every task that is not a zombie, in the order of the tree.
    pub tasks: Vec<Holder>,
    /// Pids of the zombies.
    pub zombies: Vec<i32>,
    /// By the table's objref.
    pub tables: BTreeMap<i32, BTreeMap<i32, Held>>,
    /// By objref.
    pub files: BTreeMap<i32, FileBody>,
    /// Sets by objref, with the watched files and their events.
    pub watches: BTreeMap<i32, Vec<Vec<u8>>>,
    /// Files that are mapped or run, in the order of the image.
    pub mapped: Vec<i32>,
    /// Controlling terminals by process.
    pub controlling: BTreeMap<i32, i32>,
    /// Terminal slaves, and the objref of each one's master.
    pub slaves: BTreeMap<i32, i32>,
    /// The table in which a file is announced, by the file's objref.
    pub announced_in: BTreeMap<i32, i32>,
    /// By the table's objref: how many FILE blocks stand before its end.
    pub known: BTreeMap<i32, usize>,
    /// The records, in order: offset and length.
    pub records: Vec<(usize, usize)>,
    /// FILE blocks (announcement, body and tail, not nested objects) in the
    /// order of the image: objref and records.
    pub blocks: Vec<(i32, Vec<usize>)>,
    /// TTY blocks, likewise.
    pub terminals: Vec<(i32, Vec<usize>)>,
    /// By objref.
    pub socks: BTreeMap<i32, Sock>,
    /// Those that leave work for the end of a table, as it is done.
    pub sock_order: Vec<i32>,
    /// Tables behind which stand queues that the kernel which wrote them cannot
    /// read.
    pub unreadable: BTreeSet<i32>,
    /// Messages of which the program had read a part that their queue does not count, so
    /// that the kernel which wrote them refuses them: where they stand, and how much.
    pub half_read: BTreeMap<usize, u32>,
    /// Records of tables, watches, sockets and queues: whoever compares two
    /// images compares them by what they say.
    pub apart: BTreeSet<usize>,
}

/// A task that holds descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// The pid of its process.
    pub process: i32,
    /// Its table.
    pub table: i32,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The file's objref.
    pub file: i32,
    /// Close-on-exec.
    pub close_on_exec: bool,
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileBody {
    /// f_type.
    pub kind: u32,
    /// f_mode.
    pub mode: u32,
    /// f_flags.
    pub flags: u32,
    /// f_pos.
    pub position: u64,
    /// What is behind it, or 0.
    pub behind: i32,
    /// Its name, or nothing.
    pub name: Vec<u8>,
    /// What its pipe held, where this end tells.
    pub data: Option<Vec<u8>>,
}

/// A socket.
#[derive(Clone, Debug, Default)]
pub struct Sock {
    /// 1 unix, 2 internet.
    pub family: u16,
    /// 1 stream, 2 datagram, 5 packets in order.
    pub kind: u16,
    /// 1 connected, 7 not, 10 listening.
    pub state: u8,
    /// Closed.
    pub dead: bool,
    /// Of a unix socket, or 0.
    pub peer: i32,
    /// The path of a unix socket is there.
    pub linked: bool,
    /// Its address, without the family.
    pub name: Vec<u8>,
    /// The one that it is connected to, likewise.
    pub peer_name: Vec<u8>,
    /// Its records, without those of others between them.
    pub block: Vec<u8>,
    /// Its queues, likewise, as they can be read; nothing where it has none.
    pub queues: Vec<u8>,
    /// Who sent what is in them.
    pub senders: BTreeSet<i32>,
    /// Its file.
    pub file: Option<i32>,
}

impl Sock {
    /// Restoring it takes its name, or its port.
    pub fn takes_its_name(&self) -> bool {
        match self.family {
            1 if self.state == 1 || self.name.is_empty() => false,
            1 => self.linked || self.name[0] == 0,
            _ => true,
        }
    }
}

/// Objects by what they are, whatever number the version gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Object {
    Table,
    File,
    Mm,
    Fs,
    Sighand,
    Ns,
    Uts,
    UserNs,
    Cred,
    User,
    Groups,
    Sock,
    Tty,
}

/// Work that the end of the file table does.
#[derive(Clone, Copy)]
enum Deferred {
    Epoll(i32),
    Socket(i32),
    /// The writer left queues where the reader does not look for them.
    Unreadable(i32),
}

#[derive(Clone)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    late: bool,
    big_endian: bool,
    machine: u8,
    objects: HashMap<i32, Object>,
    /// Objrefs that have no announcement: pipes and signal structures.
    silent: HashSet<i32>,
    pipes: HashSet<i32>,
    deferred: VecDeque<Deferred>,
    view: View,
    /// The block that is being read.
    block: Option<(i32, Vec<usize>)>,
    /// The table that is being read.
    table: Option<i32>,
    depth: usize,
}

type Result<T> = std::result::Result<T, String>;

/// Reads a whole image.
pub fn check(bytes: &[u8]) -> Result<View> {
    let mut reader = Reader {
        bytes,
        at: 0,
        late: false,
        big_endian: false,
        machine: 0,
        objects: HashMap::new(),
        silent: HashSet::new(),
        pipes: HashSet::new(),
        deferred: VecDeque::new(),
        view: View::default(),
        block: None,
        table: None,
        depth: 0,
    };
    reader
        .image()
        .map_err(|reason| format!("offset {}: {reason}", reader.at))?;
    Ok(reader.view)
}

/// A record's payload with its prefix, so that offsets are those of the format.
#[derive(Clone, Copy)]
struct Rec<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> Rec<'a> {
    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes: [u8; N] = self.bytes[at..at + N].try_into().unwrap();
        if self.big_endian {
            bytes.reverse();
        }
        bytes
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.number(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.number(at))
    }
    fn i32(&self, at: usize) -> i32 {
        self.u32(at).cast_signed()
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.number(at))
    }
    fn len(&self) -> usize {
        self.bytes.len()
    }
    fn body(&self) -> &'a [u8] {
        &self.bytes[8..]
    }
    /// The address of which the length, with the family, stands here; the
    /// address there.
    fn name(&self, len: usize, at: usize, most: u32) -> Result<Vec<u8>> {
        let len = self.u32(len);
        demand(len <= most, "an address's length")?;
        let len = len.saturating_sub(2) as usize;
        Ok(self.bytes[at + 2..at + 2 + len].to_vec())
    }
}

fn demand(right: bool, otherwise: &str) -> Result<()> {
    if right {
        Ok(())
    } else {
        Err(otherwise.to_owned())
    }
}

impl<'a> Reader<'a> {
    /// 101 to 118 stand one higher in the later version.
    fn moved(&self, kind: u32) -> u32 {
        kind + u32::from(self.late)
    }

    fn by_version(&self, early: usize, late: usize) -> usize {
        if self.late { late } else { early }
    }

    fn peek(&self) -> Result<(u32, usize)> {
        let rest = &self.bytes[self.at..];
        demand(rest.len() >= 8, "ends early")?;
        let prefix = self.rec(rest);
        let (kind, len) = (prefix.u32(0), prefix.u32(4) as usize);
        demand((8..=rest.len()).contains(&len), "a length that cannot be")?;
        Ok((kind, len))
    }

    fn rec(&self, bytes: &'a [u8]) -> Rec<'a> {
        let big_endian = self.big_endian;
        Rec { bytes, big_endian }
    }

    fn take(&mut self, len: usize) -> Rec<'a> {
        self.view.records.push((self.at, len));
        let rec = self.rec(&self.bytes[self.at..self.at + len]);
        self.at += len;
        rec
    }

    /// The next record as the kernel reads it: announcements before it are
    /// carried out.
    fn next(&mut self, kind: u32) -> Result<Rec<'a>> {
        loop {
            let (found, len) = self.peek()?;
            if found == 6 {
                self.object()?;
                continue;
            }
            demand(
                found == kind,
                &format!("type {found} where {kind} is expected"),
            )?;
            return Ok(self.take(len));
        }
    }

    fn exact(&mut self, kind: u32, len: usize) -> Result<Rec<'a>> {
        let rec = self.next(kind)?;
        demand(
            rec.len() == len,
            &format!("type {kind} has {} bytes, not {len}", rec.len()),
        )?;
        Ok(rec)
    }

    /// The head is read by the restart program, which takes no announcements.
    fn head(&mut self, kind: u32, len: usize) -> Result<Rec<'a>> {
        demand(self.peek()?.0 == kind, "not the head's order")?;
        self.exact(kind, len)
    }

    fn text(&mut self, kind: u32) -> Result<Vec<u8>> {
        let rec = self.next(kind)?;
        demand((1..=4096).contains(&rec.body().len()), "a text's length")?;
        let end = rec.body().iter().position(|&b| b == 0);
        Ok(rec.body()[..end.ok_or("a text without its end")?].to_vec())
    }

    fn known(&self, id: i32, object: Object) -> Result<()> {
        let found = self.objects.get(&id);
        demand(
            found == Some(&object),
            &format!("object {id} is {found:?}, not {object:?}"),
        )
    }

    fn fresh(&mut self, id: i32) -> Result<()> {
        demand(
            !self.objects.contains_key(&id) && !self.silent.contains(&id),
            &format!("object {id} twice"),
        )
    }

    fn image(&mut self) -> Result<()> {
        // The magic tells the byte order.
        self.big_endian = self.bytes.get(8) == Some(&0);
        self.big_endian &= self.bytes.get(9) == Some(&0xfe);
        let header = self.head(1, 72)?;
        demand(header.u64(8) == 0x00fe_ed0c_c0a2_d200, "magic")?;
        self.machine = header.bytes[16];
        demand(matches!(self.machine, 1..=3), "machine")?;
        demand(header.bytes[17] == 0, "machine")?;
        demand(self.big_endian == (self.machine == 3), "byte order")?;
        self.late = match header.u16(24) {
            5 => false,
            6 => true,
            _ => return Err("revision".into()),
        };
        (self.view.big_endian, self.view.late) = (self.big_endian, self.late);
        for _ in 0..3 {
            self.head(4, 73)?;
        }
        self.head(2, if self.is_x86() { 16 } else { 8 })?;
        self.head(3, 8)?;
        self.head(4, 19)?;
        self.head(7, 13)?;
        let mut pids = Vec::new();
        let mut first = 0;
        if self.late {
            let rec = self.head(101, 24)?;
            let (count, deeper) = (rec.u32(8) as usize, rec.u32(12) as usize);
            first = rec.i32(16);
            demand((1..1 << 30).contains(&first), "the first pid's object")?;
            demand(count < 100 && deeper < 100, "number of pids")?;
            let array = self.head(4, 8 + 8 * count + 4 * deeper)?;
            let mut at = 8;
            for id in (first..).take(count) {
                demand(at + 8 <= array.len(), "pids and their depths")?;
                pids.push(array.i32(at + 4));
                at += 8 + 4 * array.u32(at) as usize;
                self.silent.insert(id);
            }
            demand(at == array.len(), "pids and their depths")?;
        }
        let kind = self.moved(101);
        let count = self.head(kind, 16)?.u32(8) as usize;
        demand((1..100).contains(&count), "number of tasks")?;
        let tree = self.head(4, 8 + 24 * count)?;
        let mut tasks = HashSet::new();
        for task in 0..count {
            let id = |field: usize| {
                let id = tree.i32(8 + task * 24 + field * 4);
                if pids.is_empty() {
                    return Ok(id);
                }
                let index =
                    usize::try_from(id.wrapping_sub(first)).map_err(|_| "a pid's object")?;
                pids.get(index).copied().ok_or("a pid's object")
            };
            let (pid, process) = (id(0)?, id(2)?);
            tasks.insert((pid, process));
            self.task(pid, process)?;
        }
        let led = |(_, process): &(i32, i32)| tasks.contains(&(*process, *process));
        demand(tasks.iter().all(led), "threads without their leader")?;
        let tail = self.exact(9001, 16)?;
        demand(tail.u64(8) == 0x002d_2a0c_c0de_ef00, "magic at the end")?;
        demand(self.at == self.bytes.len(), "bytes after the end")?;
        demand(self.deferred.is_empty(), "deferred work that nobody does")?;
        self.no_loops()
    }

    fn is_x86(&self) -> bool {
        self.machine != 3
    }

    /// A set that watches itself through others would lose its watches.
    fn no_loops(&self) -> Result<()> {
        let mut left: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        for (set, items) in &self.view.watches {
            let watched = items.iter().map(|item| self.view.watch(item).1);
            let sets = watched.filter(|file| self.view.watches.contains_key(file));
            left.insert(*set, sets.collect());
        }
        while !left.is_empty() {
            let free =
                |(_, sets): &(&i32, &BTreeSet<i32>)| sets.iter().all(|s| !left.contains_key(s));
            let free = left.iter().find(free).map(|(set, _)| *set);
            left.remove(&free.ok_or("a set that watches itself")?);
        }
        Ok(())
    }

    fn task(&mut self, pid: i32, process: i32) -> Result<()> {
        let task = self.exact(self.moved(102), self.by_version(64, 80))?;
        demand(self.text(5)?.len() < 16, "a task's name")?;
        if task.u32(8) == 64 {
            self.view.zombies.push(pid);
            return Ok(());
        }
        self.exact(self.moved(106), self.by_version(40, 48))?;
        self.exact(self.moved(105), 56)?;
        if self.is_x86() {
            let cpu = self.exact(self.moved(107), 192)?;
            if cpu.u32(188) != 0 {
                self.exact(201, 520)?;
            }
        } else {
            self.next(self.moved(107))?;
        }
        let creds = self.exact(self.moved(117), 16)?;
        self.known(creds.i32(8), Object::Cred)?;
        self.known(creds.i32(12), Object::Cred)?;
        let ns = self.exact(self.moved(103), 16)?;
        self.known(ns.i32(8), Object::Ns)?;
        let objs = self.exact(self.moved(104), 32)?;
        let table = objs.i32(8);
        self.known(table, Object::Table)?;
        self.known(objs.i32(12), Object::Mm)?;
        self.known(objs.i32(16), Object::Fs)?;
        let after = self.by_version(20, 24);
        self.known(objs.i32(after), Object::Sighand)?;
        let signal = objs.i32(after + 4);
        demand(signal > 0, "a task's signals")?;
        if self.silent.insert(signal) {
            let rec = self.exact(602, 328)?;
            let tty = rec.i32(312);
            if tty != 0 {
                self.known(tty, Object::Tty)?;
                self.view.controlling.insert(process, tty);
            }
            self.pending()?;
        }
        self.pending()?;
        self.exact(603, 16)?;
        self.view.tasks.push(Holder {
            pid,
            process,
            table,
        });
        Ok(())
    }

    fn pending(&mut self) -> Result<()> {
        let rec = self.next(604)?;
        demand(rec.len() >= 24, "pending signals")?;
        let count = rec.u32(8) as usize;
        demand(rec.len() == 24 + 48 * count, "pending signals")
    }

    fn object(&mut self) -> Result<()> {
        let at = self.view.records.len();
        let (_, len) = self.peek()?;
        demand(len >= 16, "a short announcement")?;
        let rec = self.take(len);
        let (number, id) = (rec.u32(8), rec.i32(12));
        demand(id > 0, "an object's number")?;
        self.fresh(id)?;
        let number = number - u32::from(self.late).min(number);
        self.depth += 1;
        demand(self.depth < 40, "nested too deep")?;
        let object = match number {
            2 => self.table(id).map(|()| Object::Table),
            3 => self.file(id, at).map(|()| Object::File),
            4 => self.mm().map(|()| Object::Mm),
            5 => self.fs().map(|()| Object::Fs),
            6 => self.exact(601, 2056).map(|_| Object::Sighand),
            8 => self.ns().map(|()| Object::Ns),
            9 => self.exact(self.moved(109), 400).map(|_| Object::Uts),
            12 => self.exact(self.moved(113), 16).map(|_| Object::UserNs),
            13 => self.cred().map(|()| Object::Cred),
            14 => self.user().map(|()| Object::User),
            15 => self.groups().map(|()| Object::Groups),
            16 => self.sock(id, at).map(|()| Object::Sock),
            17 => self.tty(id, at).map(|()| Object::Tty),
            _ => Err(format!("an object of type {number}")),
        }?;
        self.depth -= 1;
        self.fresh(id)?;
        self.objects.insert(id, object);
        Ok(())
    }

    fn table(&mut self, id: i32) -> Result<()> {
        self.apart();
        self.table = Some(id);
        let count = self.exact(301, 16)?.i32(8);
        self.apart();
        let mut table = BTreeMap::new();
        demand((0..=1 << 20).contains(&count), "a table's count")?;
        for _ in 0..count {
            let desc = self.exact(302, 24)?;
            self.apart();
            let (file, number) = (desc.i32(8), desc.i32(12));
            self.known(file, Object::File)?;
            demand(number >= 0, "a descriptor's number")?;
            let held = Held {
                file,
                close_on_exec: desc.u32(16) != 0,
            };
            demand(
                table.insert(number, held).is_none(),
                "a descriptor twice in a table",
            )?;
        }
        self.table = None;
        self.view.known.insert(id, self.view.blocks.len());
        self.view.tables.insert(id, table);
        self.run(id)
    }

    /// What is deferred, as a kernel does it, which never looks for the queues
    /// of an unconnected internet socket. An image of the kernel that wrote them
    /// all the same cannot be restarted; it is an image of that kernel still.
    fn run(&mut self, table: i32) -> Result<()> {
        let unreadable = |work: &Deferred| matches!(work, Deferred::Unreadable(_));
        if !self.deferred.iter().any(unreadable) {
            return self.run_as(false);
        }
        let start = self.clone();
        let read = self.run_as(false);
        if read.is_ok() && self.peek()?.0 != 702 {
            return Ok(());
        }
        *self = start;
        self.view.unreadable.insert(table);
        self.run_as(true)
    }

    fn run_as(&mut self, written: bool) -> Result<()> {
        while let Some(work) = self.deferred.pop_front() {
            match work {
                Deferred::Epoll(epoll) => self.items(epoll)?,
                Deferred::Unreadable(sock) if written => self.queues(sock)?,
                Deferred::Unreadable(_) => {}
                Deferred::Socket(sock) => self.queues(sock)?,
            }
        }
        Ok(())
    }

    /// The record read last is compared by what it says.
    fn apart(&mut self) {
        self.view.apart.insert(self.view.records.len() - 1);
    }

    fn items(&mut self, epoll: i32) -> Result<()> {
        let rec = self.exact(308, 16)?;
        self.apart();
        demand(rec.i32(8) == epoll, "items of another set")?;
        let count = rec.u32(12) as usize;
        demand(count < 1000, "number of items")?;
        let mut items = Vec::new();
        let mut keys = HashSet::new();
        if count > 0 {
            let array = self.exact(4, 8 + 24 * count)?;
            self.apart();
            for item in array.body().chunks(24) {
                let (number, file) = (self.rec(item).i32(8), self.rec(item).i32(12));
                self.known(file, Object::File)?;
                // The kernel drops such an item and those behind it silently.
                demand(self.view.files[&file].can_be_watched(), "a watch of no use")?;
                demand(file != epoll, "a set that watches itself")?;
                demand(keys.insert((number, file)), "a watch twice")?;
                items.push(item.to_vec());
            }
        }
        self.view.watches.insert(epoll, items);
        Ok(())
    }

    fn queues(&mut self, sock: i32) -> Result<()> {
        self.view.sock_order.push(sock);
        let first = self.view.records.len();
        self.queue(sock, true)?;
        self.queue(sock, false)?;
        // Announcements in between are not the queue's.
        let own = self.view.records[first..].iter().enumerate();
        let own = own.filter(|(index, _)| self.view.apart.contains(&(first + index)));
        let kind = |at: usize| self.rec(&self.bytes[at..]).u32(0);
        let of_queue = |&(at, _): &(usize, usize)| matches!(kind(at), 4 | 702..=704);
        let records = own.map(|(_, record)| *record).filter(of_queue);
        let bytes = self.view.readable(self.bytes, records);
        self.view.socks.entry(sock).or_default().queues = bytes;
        Ok(())
    }

    fn queue(&mut self, sock: i32, receive: bool) -> Result<()> {
        let of = self.view.socks[&sock].clone();
        let unix = of.family == 1;
        if unix {
            // A kernel crashes otherwise.
            demand(
                of.peer == 0 || self.known(of.peer, Object::Sock).is_ok(),
                "a peer that never comes",
            )?;
        }
        let queue = self.exact(702, 16)?;
        self.apart();
        let (count, room) = (queue.u32(8), u64::from(queue.u32(12)));
        demand(receive || count == 0, "messages in a send queue")?;
        let mut sum = 0;
        let mut first = None;
        for _ in 0..count {
            let rec = self.exact(703, 104)?;
            self.apart();
            let at = self.at - 104;
            first.get_or_insert((at, rec.u32(40)));
            let (from, to) = (rec.i32(44), rec.i32(48));
            demand(to == sock, "a message for another socket")?;
            if from != 0 || unix {
                self.known(from, Object::Sock)?;
                self.view
                    .socks
                    .entry(sock)
                    .or_default()
                    .senders
                    .insert(from);
            }
            let (linear, spread) = (rec.u32(20), rec.u32(24));
            self.exact(4, 8 + linear as usize)?;
            self.apart();
            sum += u64::from(linear) + u64::from(spread);
            let fragments = rec.u16(54);
            demand(!unix || fragments == 0, "fragments of a unix message")?;
            demand(fragments < 18, "number of fragments")?;
            for _ in 0..fragments {
                demand(self.next(704)?.len() == 16, "a fragment")?;
                demand(self.bytes.len() - self.at >= 4096, "ends early")?;
                self.at += 4096;
                // The page goes with its record.
                let record = self.view.records.last_mut();
                record.expect("one was read").1 += 4096;
                self.apart();
            }
            if unix {
                self.sent_again(&of, sock, from)?;
            }
        }
        match first {
            Some((at, read)) if unix && sum > room && sum - u64::from(read) == room => {
                self.view.half_read.insert(at, read);
                Ok(())
            }
            _ => demand(sum <= room, "more than the queue holds"),
        }
    }

    /// A unix message is sent again by its sender, to the name of a socket that
    /// has one, otherwise to what the sender is connected to.
    fn sent_again(&self, to: &Sock, sock: i32, from: i32) -> Result<()> {
        let sender = self.view.socks.get(&from);
        let sender = sender.ok_or("a sender that is no socket")?;
        if to.kind != 2 {
            return demand(
                from == to.peer || sender.peer == sock,
                "a message from a stranger",
            );
        }
        demand(to.peer == 0 || to.peer == from, "a message from a stranger")?;
        if to.name.is_empty() {
            demand(sender.peer == sock, "a message to no name")
        } else {
            demand(to.takes_its_name(), "a message to a name that is not bound")
        }
    }

    fn file(&mut self, id: i32, first: usize) -> Result<()> {
        demand(self.block.is_none(), "a file inside a file")?;
        self.block = Some((id, vec![first]));
        let rec = self.next(304)?;
        demand(rec.len() >= 48, "a file's length")?;
        self.mine();
        let mut file = FileBody {
            kind: rec.u32(8),
            mode: rec.u32(12),
            flags: rec.u32(16),
            position: rec.u64(24),
            ..FileBody::default()
        };
        self.known(rec.i32(20), Object::Cred)?;
        demand(rec.i32(40) == 0, "a security label")?;
        let extra = match file.kind {
            1 | 6 => 0,
            2..=5 => 8,
            7 => 16,
            other => return Err(format!("a file of type {other}")),
        };
        demand(rec.len() == 48 + extra, "a file's length")?;
        if extra == 8 {
            file.behind = rec.i32(48);
        }
        match file.kind {
            1 => {
                demand(file.flags & 0o1700 == 0, "flags that would create")?;
                demand(!bad_seek(&file), "an offset that crashes the kernel")?;
                file.name = self.text(303)?;
                self.mine();
            }
            2 => {
                demand(matches!(file.mode, 1 | 2), "a pipe's mode")?;
                demand(
                    file.flags & 1 == u32::from(file.mode == 2),
                    "a pipe's flags",
                )?;
            }
            3 => {
                file.name = self.text(303)?;
                self.mine();
            }
            4 => {
                self.known(file.behind, Object::Sock)?;
                let sock = self.view.socks.entry(file.behind).or_default();
                demand(sock.file.replace(id).is_none(), "a socket of two files")?;
            }
            5 => {
                self.known(file.behind, Object::Tty)?;
                demand(file.mode == 3, "a terminal's mode")?;
            }
            6 => self.deferred.push_back(Deferred::Epoll(id)),
            _ => demand(file.mode == 3 && rec.u64(48) >> 32 == 0, "an eventfd")?,
        }
        if matches!(file.kind, 2 | 3) {
            demand(file.behind > 0, "a pipe's number")?;
            demand(!self.objects.contains_key(&file.behind), "a pipe's number")?;
            self.silent.insert(file.behind);
            if self.pipes.insert(file.behind) {
                let data = self.next(305)?;
                demand(data.body().len() <= 65536, "a pipe too full")?;
                file.data = Some(data.body().to_vec());
                self.mine();
            }
        }
        self.view.files.insert(id, file);
        self.view
            .announced_in
            .extend(self.table.map(|table| (id, table)));
        self.view.blocks.extend(self.block.take());
        Ok(())
    }

    /// The record read last belongs to the block that is being read.
    fn mine(&mut self) {
        if let Some((_, records)) = &mut self.block {
            records.push(self.view.records.len() - 1);
        }
    }

    fn sock(&mut self, id: i32, first: usize) -> Result<()> {
        self.apart();
        let rec = self.exact(701, self.by_version(112, 120))?;
        self.apart();
        let mut records = vec![first, self.view.records.len() - 1];
        let shift = self.by_version(0, 8);
        let mut sock = Sock {
            family: rec.u16(32 + shift),
            kind: rec.u16(92 + shift),
            state: rec.bytes[97 + shift],
            dead: rec.u64(48 + shift) & 1 != 0,
            ..Sock::default()
        };
        demand(matches!(sock.state, 1 | 7 | 10), "a socket's state")?;
        let owns = match sock.family {
            1 => self.unix(id, &mut sock, &mut records)?,
            2 => self.inet(&mut sock, &mut records)?,
            _ => return Err("a socket of another family".into()),
        };
        let owns = if self.late {
            let has = rec.bytes[8] == 1;
            demand(
                !has || matches!(owns, Some(Deferred::Socket(_))),
                "queues of no use",
            )?;
            has.then_some(Deferred::Socket(id))
        } else {
            owns.map(|owns| match owns {
                Deferred::Unreadable(_) => Deferred::Unreadable(id),
                _ => Deferred::Socket(id),
            })
        };
        self.deferred.extend(owns);
        let bytes = records.iter().flat_map(|&record| {
            let (at, len) = self.view.records[record];
            &self.bytes[at..at + len]
        });
        sock.block = bytes.copied().collect();
        self.view.socks.insert(id, sock);
        Ok(())
    }

    fn unix(
        &mut self,
        id: i32,
        sock: &mut Sock,
        records: &mut Vec<usize>,
    ) -> Result<Option<Deferred>> {
        let rec = self.exact(705, 256)?;
        self.apart();
        records.push(self.view.records.len() - 1);
        demand(rec.i32(8) == id, "a socket's own number")?;
        if self.late {
            self.known(rec.i32(16), Object::Cred)?;
        }
        sock.peer = rec.i32(12);
        sock.linked = rec.u32(self.by_version(24, 20)) & 1 != 0;
        let shift = self.by_version(4, 0);
        sock.name = rec.name(24 + shift, 32 + shift, 110)?;
        sock.peer_name = rec.name(28 + shift, 142 + shift, 110)?;
        if sock
            .name
            .first()
            .is_some_and(|first| !matches!(first, 0 | b'/'))
        {
            self.text(5)?;
            self.apart();
            records.push(self.view.records.len() - 1);
        }
        demand(sock.peer >= 0, "a peer's number")?;
        demand(
            sock.state != 10 || sock.peer == 0,
            "the peer of a listening socket",
        )?;
        Ok((sock.state != 10 && !sock.dead).then_some(Deferred::Socket(id)))
    }

    fn inet(&mut self, sock: &mut Sock, records: &mut Vec<usize>) -> Result<Option<Deferred>> {
        let rec = self.exact(706, 328)?;
        self.apart();
        records.push(self.view.records.len() - 1);
        sock.name = rec.name(288, 296, 16)?;
        sock.peer_name = rec.name(292, 312, 16)?;
        Ok(match sock.state {
            10 => None,
            7 if !sock.name.is_empty() => Some(Deferred::Unreadable(0)),
            _ => Some(Deferred::Socket(0)),
        })
    }

    fn tty(&mut self, id: i32, first: usize) -> Result<()> {
        let rec = self.exact(306, self.by_version(72, 96))?;
        let mut records = vec![first, self.view.records.len() - 1];
        let link = rec.i32(12);
        match rec.u16(10) {
            1 => demand(link == 0 && rec.i32(16) > 0, "a master's links")?,
            2 => {
                self.known(link, Object::Tty)?;
                self.view.slaves.insert(id, link);
            }
            _ => return Err("a terminal of another type".into()),
        }
        let ldisc = self.exact(307, 560)?;
        records.push(self.view.records.len() - 1);
        let waiting = ldisc.u32(12) as usize;
        if waiting > 0 {
            self.exact(4, 8 + waiting)?;
            records.push(self.view.records.len() - 1);
        }
        self.view.terminals.push((id, records));
        Ok(())
    }

    fn mm(&mut self) -> Result<()> {
        let rec = self.exact(401, 120)?;
        let (count, exe) = (rec.u32(8), rec.i32(12));
        self.mapped(exe)?;
        self.exact(4, if self.late { 360 } else { 344 })?;
        demand(count < 1000, "number of areas")?;
        for _ in 0..count {
            let area = self.exact(402, self.by_version(72, 80))?;
            let (kind, file) = (area.u32(8), area.i32(12));
            match kind {
                1 => continue,
                2 => demand(file == 0, "a file behind anonymous memory")?,
                3 => {
                    demand(file != 0, "a mapping of no file")?;
                    self.mapped(file)?;
                }
                // Shared: its contents are the file's.
                6 => {
                    demand(file != 0, "a mapping of no file")?;
                    self.mapped(file)?;
                    continue;
                }
                _ => return Err(format!("an area of type {kind}")),
            }
            loop {
                let pages = self.exact(403, 16)?.u64(8);
                demand(pages < 100, "number of pages")?;
                if pages == 0 {
                    break;
                }
                let pages = usize::try_from(pages).unwrap();
                let word = if self.machine == 1 { 4 } else { 8 };
                self.exact(4, 8 + (4096 + word) * pages)?;
            }
        }
        let kind = 404 + u32::from(self.late);
        if !self.is_x86() {
            self.next(kind)?;
            return Ok(());
        }
        let context = self.exact(kind, 24)?;
        demand(context.u32(20) == 0, "descriptor tables")?;
        self.exact(202, 8)?;
        Ok(())
    }

    fn mapped(&mut self, file: i32) -> Result<()> {
        if file != 0 {
            self.known(file, Object::File)?;
            self.view.mapped.push(file);
        }
        Ok(())
    }

    fn fs(&mut self) -> Result<()> {
        self.exact(451, self.by_version(8, 16))?;
        self.text(303)?;
        self.text(303)?;
        Ok(())
    }

    fn ns(&mut self) -> Result<()> {
        let rec = self.exact(self.moved(108), self.by_version(16, 24))?;
        self.known(rec.i32(8), Object::Uts)?;
        demand(rec.i32(12) == 0, "ipc")
    }

    fn cred(&mut self) -> Result<()> {
        let rec = self.exact(self.moved(114), 96)?;
        self.known(rec.i32(40), Object::User)?;
        self.known(rec.i32(44), Object::Groups)
    }

    fn user(&mut self) -> Result<()> {
        let rec = self.exact(self.moved(115), 16)?;
        self.known(rec.i32(12), Object::UserNs)
    }

    fn groups(&mut self) -> Result<()> {
        let rec = self.next(self.moved(116))?;
        demand(rec.len() >= 16, "groups")?;
        demand(rec.len() == 16 + 4 * rec.u32(8) as usize, "groups")
    }
}

/// The kernel takes such an offset for an error code.
fn bad_seek(file: &FileBody) -> bool {
    let low = file.position as u32;
    file.mode & 4 != 0 && (0x8000_0000..=0xffff_f000).contains(&low)
}

impl FileBody {
    /// A regular file, a directory or /dev/null cannot; what stands in for a
    /// file by a name in /proc may.
    fn can_be_watched(&self) -> bool {
        self.kind != 1 || self.name.starts_with(b"/proc/self/fd/")
    }
}

impl View {
    /// Number and file of a watch.
    pub fn watch(&self, item: &[u8]) -> (i32, i32) {
        let big_endian = self.big_endian;
        let item = Rec {
            bytes: item,
            big_endian,
        };
        (item.i32(8), item.i32(12))
    }

    /// A 32-bit number in a record.
    pub fn number(&self, record: &[u8], at: usize) -> u32 {
        let big_endian = self.big_endian;
        Rec {
            bytes: record,
            big_endian,
        }
        .u32(at)
    }

    /// Records one behind the other, without what had been read of messages that a kernel
    /// refuses for it.
    pub fn readable(
        &self,
        image: &[u8],
        records: impl IntoIterator<Item = (usize, usize)>,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut cut = 0;
        for (at, len) in records {
            let mut record = image[at..at + len].to_vec();
            let mut less = |at: usize, by: u32| {
                let left = self.number(&record, at) - by;
                record[at..at + 4].copy_from_slice(&match self.big_endian {
                    true => left.to_be_bytes(),
                    false => left.to_le_bytes(),
                });
            };
            if let Some(&read) = self.half_read.get(&at) {
                less(20, read);
                less(40, read);
                cut = read;
            } else if cut > 0 {
                less(4, cut);
                record.drain(8..8 + std::mem::take(&mut cut) as usize);
            }
            out.extend(record);
        }
        out
    }

    /// One process has everything.
    pub fn is_alone(&self) -> bool {
        self.zombies.is_empty() && self.processes().len() <= 1
    }

    /// Whether two ends are of one terminal.
    pub fn is_pair(&self, a: i32, b: i32) -> bool {
        self.slaves.get(&a) == Some(&b) || self.slaves.get(&b) == Some(&a)
    }

    /// Every process and its table.
    pub fn processes(&self) -> BTreeSet<(i32, i32)> {
        let of = |task: &Holder| (task.process, task.table);
        self.tasks.iter().map(of).collect()
    }

    /// Numbers that tasks other than the root's process have.
    pub fn others(&self) -> BTreeSet<i32> {
        let root = self.tasks.first().map_or(0, |task| task.process);
        self.tasks
            .iter()
            .filter(|task| task.process != root)
            .filter_map(|task| self.tables.get(&task.table))
            .flat_map(|table| table.keys().copied())
            .collect()
    }

    /// Masters of which a file is known when a table has been read.
    pub fn masters_before(&self, table: i32) -> BTreeSet<i32> {
        self.blocks[..self.known[&table]]
            .iter()
            .map(|(file, _)| &self.files[file])
            .filter(|file| file.kind == 5)
            .map(|file| file.behind)
            .collect()
    }

    /// Files that the controlling terminals and tables leave without a master
    /// in the image: the slave's objref, for a file on a terminal that lies
    /// outside.
    pub fn outside(&self, file: i32) -> Option<i32> {
        let file = self.files.get(&file).filter(|file| file.kind == 5)?;
        let master = self.slaves.get(&file.behind)?;
        let inside = self
            .files
            .values()
            .any(|other| other.kind == 5 && other.behind == *master);
        (!inside).then_some(file.behind)
    }
}
