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
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
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
}

/// A task that holds descriptors.
#[derive(Debug, PartialEq, Eq)]
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
    /// A listening socket.
    pub listens: bool,
    /// What its pipe held, where this end tells.
    pub data: Option<Vec<u8>>,
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
enum Deferred {
    Epoll(i32),
    Socket,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    late: bool,
    objects: HashMap<i32, Object>,
    /// Objrefs that have no announcement: pipes and signal structures.
    silent: HashSet<i32>,
    pipes: HashSet<i32>,
    listening: HashSet<i32>,
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
        objects: HashMap::new(),
        silent: HashSet::new(),
        pipes: HashSet::new(),
        listening: HashSet::new(),
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
struct Rec<'a>(&'a [u8]);

impl<'a> Rec<'a> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }
    fn i32(&self, at: usize) -> i32 {
        self.u32(at).cast_signed()
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
    fn body(&self) -> &'a [u8] {
        &self.0[8..]
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
        let (kind, len) = (Rec(rest).u32(0), Rec(rest).u32(4) as usize);
        demand((8..=rest.len()).contains(&len), "a length that cannot be")?;
        Ok((kind, len))
    }

    fn take(&mut self, len: usize) -> Rec<'a> {
        self.view.records.push((self.at, len));
        let rec = Rec(&self.bytes[self.at..self.at + len]);
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
            rec.0.len() == len,
            &format!("type {kind} has {} bytes, not {len}", rec.0.len()),
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
        let header = self.head(1, 72)?;
        demand(header.u64(8) == 0x00fe_ed0c_c0a2_d200, "magic")?;
        demand(header.u32(16) & 0xffff == 2, "machine")?;
        self.late = match header.u32(24) & 0xffff {
            5 => false,
            6 => true,
            _ => return Err("revision".into()),
        };
        for _ in 0..3 {
            self.head(4, 73)?;
        }
        self.head(2, 16)?;
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
                demand(at + 8 <= array.0.len(), "pids and their depths")?;
                pids.push(array.i32(at + 4));
                at += 8 + 4 * array.u32(at) as usize;
                self.silent.insert(id);
            }
            demand(at == array.0.len(), "pids and their depths")?;
        }
        let kind = self.moved(101);
        let count = self.head(kind, 16)?.u32(8) as usize;
        demand((1..100).contains(&count), "number of tasks")?;
        let tree = self.head(4, 8 + 24 * count)?;
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
            self.task(pid, process)?;
        }
        let tail = self.exact(9001, 16)?;
        demand(tail.u64(8) == 0x002d_2a0c_c0de_ef00, "magic at the end")?;
        demand(self.at == self.bytes.len(), "bytes after the end")?;
        demand(self.deferred.is_empty(), "deferred work that nobody does")
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
        let cpu = self.exact(self.moved(107), 192)?;
        if cpu.u32(188) != 0 {
            self.exact(201, 520)?;
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
        demand(rec.0.len() >= 24, "pending signals")?;
        let count = rec.u32(8) as usize;
        demand(rec.0.len() == 24 + 48 * count, "pending signals")
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
        demand(self.depth < 12, "nested too deep")?;
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
        self.table = Some(id);
        let count = self.exact(301, 16)?.i32(8);
        let mut table = BTreeMap::new();
        demand((0..=1 << 20).contains(&count), "a table's count")?;
        for _ in 0..count {
            let desc = self.exact(302, 24)?;
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
        while let Some(work) = self.deferred.pop_front() {
            match work {
                Deferred::Epoll(epoll) => self.items(epoll)?,
                Deferred::Socket => {
                    self.queue(true)?;
                    self.queue(false)?;
                }
            }
        }
        self.view.tables.insert(id, table);
        Ok(())
    }

    fn items(&mut self, epoll: i32) -> Result<()> {
        let rec = self.exact(308, 16)?;
        demand(rec.i32(8) == epoll, "items of another set")?;
        let count = rec.u32(12) as usize;
        demand(count < 1000, "number of items")?;
        let mut items = Vec::new();
        if count > 0 {
            let array = self.exact(4, 8 + 24 * count)?;
            for item in array.body().chunks(24) {
                self.known(Rec(item).i32(12), Object::File)?;
                items.push(item.to_vec());
            }
        }
        self.view.watches.insert(epoll, items);
        Ok(())
    }

    fn queue(&mut self, receive: bool) -> Result<()> {
        let queue = self.exact(702, 16)?;
        let (count, mut room) = (queue.u32(8), queue.u32(12));
        demand(receive || count == 0, "messages in a send queue")?;
        for _ in 0..count {
            let rec = self.exact(703, 104)?;
            self.known(rec.i32(44), Object::Sock)?;
            self.known(rec.i32(48), Object::Sock)?;
            let len = rec.u32(20);
            self.exact(4, 8 + len as usize)?;
            room = room.checked_sub(len).ok_or("more than the queue holds")?;
            demand(rec.u32(52) >> 16 == 0, "fragments of a unix message")?;
        }
        Ok(())
    }

    fn file(&mut self, id: i32, first: usize) -> Result<()> {
        demand(self.block.is_none(), "a file inside a file")?;
        self.block = Some((id, vec![first]));
        let rec = self.next(304)?;
        demand(rec.0.len() >= 48, "a file's length")?;
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
        demand(rec.0.len() == 48 + extra, "a file's length")?;
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
                file.listens = self.listening.contains(&file.behind);
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
        let socket = self.exact(701, self.by_version(112, 120))?;
        let listens = socket.0[self.by_version(97, 105)] == 10;
        let mut records = vec![first, self.view.records.len() - 1];
        let rec = self.exact(705, 256)?;
        records.push(self.view.records.len() - 1);
        demand(rec.i32(8) == id, "a socket's own number")?;
        if self.late {
            self.known(rec.i32(16), Object::Cred)?;
        }
        let (len, name) = (self.by_version(28, 24), self.by_version(38, 34));
        if rec.u32(len) > 2 && !matches!(rec.0[name], 0 | b'/') {
            self.text(5)?;
            records.push(self.view.records.len() - 1);
        }
        if listens {
            // It is its file's alone.
            demand(rec.i32(12) == 0, "the peer of a listening socket")?;
            self.listening.insert(id);
            if let Some((_, block)) = &mut self.block {
                block.extend(records);
            }
        } else {
            self.deferred.push_back(Deferred::Socket);
        }
        Ok(())
    }

    fn tty(&mut self, id: i32, first: usize) -> Result<()> {
        let rec = self.exact(306, self.by_version(72, 96))?;
        let mut records = vec![first, self.view.records.len() - 1];
        let link = rec.i32(12);
        match rec.u32(8) >> 16 {
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
                _ => return Err(format!("an area of type {kind}")),
            }
            loop {
                let pages = self.exact(403, 16)?.u64(8);
                demand(pages < 100, "number of pages")?;
                if pages == 0 {
                    break;
                }
                let pages = usize::try_from(pages).unwrap();
                self.exact(4, 8 + 4104 * pages)?;
            }
        }
        let context = self.exact(404 + u32::from(self.late), 24)?;
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
        demand(rec.0.len() >= 16, "groups")?;
        demand(rec.0.len() == 16 + 4 * rec.u32(8) as usize, "groups")
    }
}

/// The kernel takes such an offset for an error code.
fn bad_seek(file: &FileBody) -> bool {
    let low = file.position as u32;
    file.mode & 4 != 0 && (0x8000_0000..=0xffff_f000).contains(&low)
}

impl View {
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
