//! CRIU images: generated ones are edited as advice says, damaged ones refused,
//! and nothing else changes. The encoder here is the test's own.

use ckpt_image::Error;
use ckpt_image::advice::{Action, Advice, Kind, Strictness, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile, NoPaths};
use ckpt_image::criu::{Image, Naming, Reference, Rewrite, inherited, rewrite};
use ckpt_image::plan::{Fate, Origin};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Files = BTreeMap<String, Vec<u8>>;

const COMMON: u32 = 0x5456_4319;
const INVENTORY: u32 = 0x5831_3116;
const PSTREE: u32 = 0x5027_3030;
const CORE: u32 = 0x5505_3847;
const IDS: u32 = 0x5443_2030;
const FILES: u32 = 0x5630_3138;
const FDINFO: u32 = 0x5621_3732;
const LOCKS: u32 = 0x5432_3616;
const QUEUES: u32 = 0x5626_4026;
const MM: u32 = 0x5749_2820;
const FS: u32 = 0x5140_3912;
const REMAPS: u32 = 0x5913_3954;

/// A protobuf message being made: `n` an integer, `s` a string, `m` a message.
#[derive(Clone, Default)]
struct M(Vec<u8>);

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
    fn n(mut self, field: u32, value: u64) -> M {
        self.varint(u64::from(field * 8));
        self.varint(value);
        self
    }
    fn s(mut self, field: u32, bytes: &[u8]) -> M {
        self.varint(u64::from(field * 8 + 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
    fn m(self, field: u32, message: M) -> M {
        self.s(field, &message.0)
    }
    /// A field that nobody knows of yet.
    fn news(self) -> M {
        self.s(99, b"\xffnews")
    }
}

fn m() -> M {
    M::default()
}

fn file(magic: u32, entries: impl IntoIterator<Item = M>) -> Vec<u8> {
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
fn entries(bytes: &[u8]) -> Vec<&[u8]> {
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
enum Made {
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

fn description(id: u32, made: &Made) -> M {
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
struct World {
    made: Vec<Made>,
    /// For each task its table: number to index into `made`.
    tables: Vec<BTreeMap<i32, usize>>,
    /// One more task shares the first table.
    shared: bool,
    /// Kind (1: the task's own; 2: flock), task, number.
    locks: Vec<(u64, i32, i32)>,
    /// In the queue of what, and what.
    in_flight: Vec<(usize, usize)>,
}

const FIRST_PID: i32 = 100;

impl World {
    fn files(&self) -> Files {
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

fn one_task(made: &[Made], numbers: &[i32]) -> World {
    World {
        made: made.to_vec(),
        tables: vec![numbers.iter().copied().zip(0..).collect()],
        shared: false,
        locks: Vec::new(),
        in_flight: Vec::new(),
    }
}

prop_compose! {
    fn worlds()(
        plain in prop::collection::vec(
            prop_oneof![
                Just(Made::Reg), Just(Made::Pipe), Just(Made::Eventfd), Just(Made::Memfd),
                Just(Made::Timerfd), Just(Made::Tty), Just(Made::Deleted),
                prop::collection::vec(0..12u32, 0..3).prop_map(Made::Epoll),
            ],
            1..6,
        ),
        pairs in 0..3usize,
        datagrams in any::<bool>(),
        picks in prop::collection::vec(
            prop::collection::btree_map(0..12i32, any::<prop::sample::Index>(), 0..8),
            1..4,
        ),
        shared in any::<bool>(),
        locks in prop::collection::vec((1..3u64, 0..3i32, 0..12i32), 0..3),
        flies in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 0..3),
    ) -> World {
        let mut made = plain;
        for _ in 0..pairs {
            made.extend([Made::Pair, Made::Other]);
        }
        if datagrams {
            made.extend([Made::Datagrams, Made::OtherDatagrams]);
        }
        let sockets: Vec<usize> = (0..made.len())
            .filter(|&i| matches!(made[i], Made::Pair | Made::Other | Made::Datagrams))
            .collect();
        let count = made.len();
        let table = |table: BTreeMap<i32, prop::sample::Index>| {
            table.into_iter().map(|(n, i)| (n, i.index(count))).collect()
        };
        let flies = flies.into_iter().filter(|_| !sockets.is_empty());
        World {
            tables: picks.into_iter().map(table).collect(),
            shared,
            locks: locks.into_iter().map(|(kind, t, n)| (kind, FIRST_PID + t, n)).collect(),
            in_flight: flies
                .map(|[socket, what]| (sockets[socket.index(sockets.len())], what.index(count)))
                .collect(),
            made,
        }
    }
}

fn advice(preserve: &str, ignore: &str) -> Advice {
    let list = |variable, text: &str, action: Action| match text {
        "" => Vec::new(),
        text => parse_list(variable, text.as_bytes(), &action, 1024).expect("a list"),
    };
    let mut items = list("CKPT_PRESERVE", preserve, Action::Preserve);
    items.extend(list("CKPT_IGNORE", ignore, Action::Ignore));
    Advice {
        items,
        strictness: Strictness::Warn,
    }
}

/// A caller whose 1 and 2 are one description, and whose 9 is close-on-exec.
fn caller() -> Caller {
    let file = |description: i32| CallerFile {
        kind: Kind::Reg,
        access: Access::of_flags(libc::O_RDWR),
        flags: libc::O_RDWR,
        f_mode: 0x1f,
        close_on_exec: description == 9,
        description,
        name: Vec::new(),
        link: format!("/given{description}"),
        pollable: description == 40,
        not_by_name: None,
    };
    let numbers = [(1, 1), (2, 1), (9, 9), (40, 40)];
    Caller {
        files: numbers.iter().map(|&(n, d)| (n, file(d))).collect(),
    }
}

fn advise(files: &Files, preserve: &str, ignore: &str) -> Result<Rewrite, Error> {
    rewrite(
        &Image::read(files)?,
        files,
        &advice(preserve, ignore),
        caller(),
        Box::new(NoPaths),
        Naming::Inherited,
    )
}

/// A table of an image: number to id.
fn table(files: &Files, index: usize) -> BTreeMap<i32, u32> {
    let image = Image::read(files).expect("a valid image");
    let slots = &image.tables[&(index as u32 + 1)].slots;
    slots.iter().map(|s| (s.number, s.description)).collect()
}

fn with(files: &Files, rewrite: &Rewrite) -> Files {
    let mut new = files.clone();
    new.extend(rewrite.files.clone());
    new
}

/// Each entry of `new` stands in `old`, in the same order, byte for byte.
fn is_part_of(new: &[u8], old: &[u8]) -> bool {
    let old = entries(old);
    let mut old = old.iter();
    entries(new)
        .iter()
        .all(|entry| old.any(|other| other == entry))
}

/// The integers and bytes of a message.
fn fields(mut bytes: &[u8]) -> Vec<(u32, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let length = bytes.iter().position(|b| b & 0x80 == 0).expect("a varint") + 1;
        let (number, rest) = bytes.split_at(length);
        *bytes = rest;
        let digits = number.iter().rev();
        digits.fold(0, |value, &byte| value << 7 | u64::from(byte & 0x7f))
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = varint(&mut bytes);
        let length = if key & 7 == 2 { value as usize } else { 0 };
        let (inside, rest) = bytes.split_at(length);
        bytes = rest;
        fields.push(((key >> 3) as u32, value, inside));
    }
    fields
}

fn number(message: &[u8], field: u32) -> u64 {
    let mut all = fields(message).into_iter();
    all.rfind(|(f, _, _)| *f == field)
        .map_or(0, |(_, value, _)| value)
}

fn inside(message: &[u8], field: u32) -> Vec<&[u8]> {
    let all = fields(message).into_iter();
    all.filter(|(f, _, _)| *f == field)
        .map(|(_, _, inside)| inside)
        .collect()
}

/// What criu makes of an image, as far as it would end with an error or an
/// assertion, or restore another thing.
#[derive(Debug, Default)]
struct Restored {
    /// Id, type and entry, in the order of the file.
    files: Vec<(u64, u64, Vec<u8>)>,
    /// By pid: number to id.
    tables: BTreeMap<i32, BTreeMap<i32, u64>>,
    /// Socket and what waits there.
    queues: Vec<(u64, u64)>,
    locks: BTreeSet<(u64, i32, i32)>,
    ghosts: BTreeSet<u64>,
}

impl Restored {
    fn new(files: &Files) -> Self {
        let messages = |name: &str| {
            let bytes = files.get(name).map_or(&[][..], |bytes| &bytes[..]);
            let all = if bytes.is_empty() {
                Vec::new()
            } else {
                entries(bytes)
            };
            all.into_iter()
                .map(|entry| entry[4..].to_vec())
                .collect::<Vec<_>>()
        };
        let mut restored = Restored::default();
        for file in messages("files.img") {
            restored
                .files
                .push((number(&file, 2), number(&file, 1), file));
        }
        for task in messages("pstree.img") {
            let pid = number(&task, 1) as i32;
            let ids = messages(&format!("ids-{pid}.img"));
            let slots = messages(&format!("fdinfo-{}.img", number(&ids[0], 2)));
            let slots = slots.iter().map(|s| (number(s, 4) as i32, number(s, 1)));
            restored.tables.insert(pid, slots.collect());
        }
        for lock in messages("filelocks.img") {
            let number = |field| number(&lock, field);
            restored
                .locks
                .insert((number(1), number(3) as i32, number(4) as i32));
        }
        restored.ghosts = messages("remap-fpath.img")
            .iter()
            .map(|r| number(r, 1))
            .collect();
        let mut queues = files
            .get("sk-queues.img")
            .map_or(&[][..], |bytes| &bytes[8..]);
        while !queues.is_empty() {
            let length = u32::from_le_bytes(queues[..4].try_into().expect("4 bytes")) as usize;
            let packet = &queues[4..4 + length];
            let rights = inside(packet, 4);
            let what = rights.iter().map(|rights| number(rights, 2));
            restored
                .queues
                .extend(what.map(|what| (number(packet, 1), what)));
            queues = &queues[4 + length + number(packet, 2) as usize..];
        }
        restored
    }

    fn holders(&self, id: u64) -> BTreeSet<i32> {
        let tables = self.tables.iter();
        tables
            .filter(|(_, t)| t.values().any(|&other| other == id))
            .map(|(pid, _)| *pid)
            .collect()
    }

    fn queued(&self, id: u64) -> bool {
        self.queues.iter().any(|&(_, what)| what == id)
    }

    /// What the master of a set watches: numbers and files.
    fn watches(&self, id: u64) -> Vec<(u64, Option<u64>)> {
        let (_, _, entry) = self
            .files
            .iter()
            .find(|file| file.0 == id)
            .expect("the set");
        let Some(master) = self.holders(id).first().copied() else {
            return Vec::new();
        };
        let watches = inside(inside(entry, 9)[0], 4);
        let numbers = watches.iter().map(|watch| number(watch, 2));
        numbers
            .map(|n| (n, self.tables[&master].get(&(n as i32)).copied()))
            .collect()
    }

    fn faults(&self) -> BTreeSet<String> {
        let mut faults = BTreeSet::new();
        let ids: BTreeSet<u64> = self.files.iter().map(|file| file.0).collect();
        let slots = self.tables.values().flat_map(|t| t.values());
        for id in slots.chain(self.queues.iter().map(|(_, what)| what)) {
            if !ids.contains(id) {
                faults.insert(format!("no file {id}"));
            }
        }
        for id in &self.ghosts {
            if !ids.contains(id) {
                faults.insert(format!("remap for non existing file {id}"));
            }
        }
        let place = |inode: u64| {
            let mut sockets = self.files.iter();
            sockets.position(|(_, t, entry)| *t == 5 && number(inside(entry, 16)[0], 2) == inode)
        };
        for (index, (id, file_type, entry)) in self.files.iter().enumerate() {
            let held = self.holders(*id);
            if matches!(file_type, 2 | 5 | 11) && held.is_empty() && !self.queued(*id) {
                faults.insert(format!("empty list on {id}"));
            }
            if *file_type == 7 {
                let stray = self
                    .watches(*id)
                    .into_iter()
                    .filter(|(_, file)| file.is_none());
                faults.extend(stray.map(|(n, _)| format!("{id} watches {n}")));
            }
            if *file_type != 5 {
                continue;
            }
            let socket = inside(entry, 16)[0];
            let (stream, peer) = (number(socket, 3) != 2, number(socket, 8));
            if peer == 0 {
                if stream && number(socket, 12) != 3 {
                    faults.insert(format!("wrong shutdown of {id}"));
                }
                continue;
            }
            let Some(other) = place(peer) else {
                faults.insert(format!("peer of {id} unresolved"));
                continue;
            };
            // The later entry's first task makes the pair.
            let other_held = self.holders(self.files[other].0);
            if other < index {
                let maker = held.first();
                let there = maker.is_some_and(|maker| other_held.contains(maker));
                if there && other_held.first() != maker {
                    faults.insert(format!("fle->task != fle_peer->task of {id}"));
                }
            }
        }
        for &(socket, _) in &self.queues {
            if !ids.contains(&socket) {
                faults.insert(format!("no sender for {socket}"));
            }
        }
        for (_, task, number) in &self.locks {
            if !self
                .tables
                .get(task)
                .is_some_and(|t| t.contains_key(number))
            {
                faults.insert(format!("lock by {task} {number}"));
            }
        }
        faults
    }
}

/// CRIU can restore what is left, if it could before; nothing is left of what
/// nobody holds, and what stays is as close(2) would leave it.
fn check_references(new: &Files, old: &Files) -> Result<(), TestCaseError> {
    let (after, before) = (Restored::new(new), Restored::new(old));
    let known = before.faults();
    let faults = after.faults();
    let news: Vec<&String> = faults.difference(&known).collect();
    prop_assert!(news.is_empty(), "{:?}", news);
    let held = |world: &Restored, id| !world.holders(id).is_empty() || world.queued(id);
    for (id, file_type, entry) in &before.files {
        let there = after.files.iter().find(|file| file.0 == *id);
        let stays = held(&after, *id) || !held(&before, *id);
        match there {
            Some(_) if !stays => {
                let file = matches!(file_type, 1 | 18) && !before.ghosts.contains(id);
                prop_assert!(file, "{} is left over", id);
            }
            Some((_, 1, new)) => prop_assert_eq!(new, entry),
            Some(_) => {}
            None => prop_assert!(!stays, "{} is gone", id),
        }
        // A watch is of the same file as before, or of what took its place.
        if *file_type == 7 && there.is_some() && before.holders(*id) == after.holders(*id) {
            let were: BTreeSet<u64> = before
                .watches(*id)
                .into_iter()
                .filter_map(|(_, file)| file)
                .collect();
            for file in after.watches(*id).into_iter().filter_map(|(_, file)| file) {
                let given = !before.files.iter().any(|other| other.0 == file);
                prop_assert!(given || were.contains(&file), "{} is watched", file);
            }
            let is: BTreeSet<u64> = after
                .watches(*id)
                .into_iter()
                .filter_map(|(_, file)| file)
                .collect();
            for file in were {
                prop_assert!(
                    is.contains(&file) || !held(&after, file),
                    "{} is not watched",
                    file
                );
            }
        }
    }
    prop_assert!(after.locks.len() <= before.locks.len());
    Ok(())
}

/// Each entry of `new` but those of sets and sockets stands in `old`, in the same
/// order, byte for byte.
fn is_part_of_but_links(new: &[u8], old: &[u8]) -> bool {
    let kept = |bytes: &[u8]| {
        let all = entries(bytes).into_iter();
        let kept = all.filter(|entry| !matches!(number(&entry[4..], 1), 5 | 7));
        kept.map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let old = kept(old);
    let mut old = old.iter();
    kept(new)
        .iter()
        .all(|entry| old.any(|other| other == entry))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn without_advice_nothing_changes(world in worlds()) {
        let files = world.files();
        prop_assert!(advise(&files, "", "").expect("valid").files.is_empty());
        prop_assert!(advise(&files, "", "500-600").expect("valid").files.is_empty());
    }

    #[test]
    fn what_is_ignored_goes_and_the_rest_stays(
        world in worlds(),
        numbers in prop::collection::btree_set(0..12i32, 1..6),
        every in any::<bool>(),
    ) {
        let files = world.files();
        let prefix = if every { "*:" } else { "" };
        let list: Vec<String> = numbers.iter().map(|n| format!("{prefix}{n}")).collect();
        let list = list.join(",");
        let Ok(rewrite) = advise(&files, "", &list) else { return Ok(()) };
        let new = with(&files, &rewrite);
        for (index, before) in world.tables.iter().enumerate() {
            let after = table(&new, index);
            for (number, description) in before {
                let of_root = world.tables[0].get(number);
                let meant = every || of_root.is_none_or(|d| d == description);
                let gone = numbers.contains(number) && meant;
                prop_assert_eq!(!gone, after.contains_key(number), "{} {}", index, number);
            }
            let name = format!("fdinfo-{}.img", index + 1);
            prop_assert!(is_part_of(&new[&name], &files[&name]));
        }
        prop_assert!(is_part_of_but_links(&new["files.img"], &files["files.img"]));
        check_references(&new, &files)?;
        // Without a task a number means another one once the root task lacks it.
        if every {
            prop_assert!(advise(&new, "", &list).expect("valid").files.is_empty());
        }
    }

    #[test]
    fn what_is_preserved_is_one_description_for_each_of_the_callers(
        world in worlds(),
        which in prop::sample::subsequence(vec!["1", "2", "9", "40", "*:9"], 1..4),
    ) {
        let files = world.files();
        let which = which.join(",");
        let Ok(rewrite) = advise(&files, &which, "") else { return Ok(()) };
        let new = with(&files, &rewrite);
        check_references(&new, &files)?;
        let image = Image::read(&new).expect("an edited image is valid");
        let offered = inherited(&advice(&which, ""), &caller());
        let mut ids: BTreeMap<i32, u32> = BTreeMap::new();
        for change in &rewrite.changes {
            let Fate::Give(Origin::Descriptor(from)) = change.fate else { continue };
            let from = if from == 2 { 1 } else { from };
            let id = table(&new, (change.task - FIRST_PID) as usize)[&change.number];
            prop_assert_eq!(*ids.entry(from).or_insert(id), id);
            let name = format!("ckptadv-preserve-{from}");
            let path = image.descriptions[&id].path.clone();
            prop_assert_eq!(path, Some(format!("/{name}").into_bytes()));
            prop_assert!(offered.iter().any(|i| i.name == name));
        }
        let distinct: BTreeSet<u32> = ids.values().copied().collect();
        prop_assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn damage_is_refused_or_harmless_and_never_a_panic(
        world in worlds(),
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut files = world.files();
        let index = file.index(files.len());
        let bytes = files.values_mut().nth(index).expect("a file");
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        if let Err(error) = advise(&files, "1,40", "0-,*:3") {
            prop_assert!(!error.to_string().is_empty());
        }
        if let Ok(image) = Image::read(&files) {
            let _ = image.references();
            let _ = image.other_references(&files);
        }
    }

    #[test]
    fn noise_is_refused_or_harmless_and_never_a_panic(
        file in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut files = one_task(&[Made::Reg], &[0]).files();
        let index = file.index(files.len());
        let bytes = files.values_mut().nth(index).expect("a file");
        bytes.truncate(8);
        bytes.extend(noise);
        let _ = advise(&files, "1", "0-");
    }
}

fn refusal(world: &World, ignore: &str) -> String {
    match advise(&world.files(), "", ignore) {
        Ok(rewrite) => panic!("not refused: {:?}", rewrite.changes),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_entry_goes_with_its_last_descriptor_unless_it_is_a_file() {
    let mut world = one_task(&[Made::Reg, Made::Pipe], &[3, 4]);
    world.tables[0].insert(5, 1);
    let files = world.files();
    let one = advise(&files, "", "3,4").expect("done");
    assert!(!one.files.contains_key("files.img"));
    let both = advise(&files, "", "3-5").expect("done");
    assert_eq!(entries(&both.files["files.img"]).len(), 1);
    assert_eq!(entries(&both.files["fdinfo-1.img"]).len(), 0);
}

#[test]
fn what_waits_in_a_queue_stays() {
    let mut world = one_task(&[Made::Pipe, Made::Pair, Made::Other], &[3, 4, 5]);
    world.in_flight.push((1, 0));
    let rewrite = advise(&world.files(), "", "3").expect("done");
    assert!(!rewrite.files.contains_key("files.img"));
    let rewrite = advise(&world.files(), "", "3,4").expect("done");
    assert_eq!(entries(&rewrite.files["files.img"]).len(), 1);
    assert_eq!(rewrite.files["sk-queues.img"].len(), 8);
}

#[test]
fn close_on_exec_is_the_images_for_a_number_it_has_else_the_callers() {
    let files = one_task(&[Made::Reg, Made::Reg], &[1, 2]).files();
    let rewrite = advise(&files, "1,2,9,40", "").expect("done");
    let image = Image::read(&with(&files, &rewrite)).expect("valid");
    let slots = image.tables[&1].slots.iter();
    let flags: BTreeMap<i32, u32> = slots.map(|s| (s.number, s.flags)).collect();
    assert_eq!(flags, [(1, 1), (2, 0), (9, 1), (40, 0)].into());
}

#[test]
fn what_cannot_be_right_is_refused_by_name() {
    let mut far = one_task(&[Made::Eventfd, Made::Epoll(vec![3])], &[3, 4]);
    far.tables.push([(3, 0), (4, 1)].into());
    assert_eq!(
        refusal(&far, "root:3"),
        "CKPT_IGNORE=root:3: task 100 descriptor 3 (eventfd): the epoll set of task 100 descriptor \
         4 watches it by descriptor 3, and the file stays open (task 101 descriptor 3) where CRIU \
         cannot watch it: leave it as it is, advise the set as well, or every task (\"*:3\")"
    );
    assert!(advise(&far.files(), "", "3").is_ok());
    assert!(advise(&far.files(), "", "root:3,root:4").is_ok());
    far.tables[1].remove(&3);
    assert!(refusal(&far, "root:4").contains("keeps this epoll set"));
    let mut shared = one_task(&[Made::Reg], &[3]);
    shared.shared = true;
    assert!(advise(&shared.files(), "", "3").is_ok());
    // 101 and 102 are children of 100 and would be left with a table in common.
    let mut files = shared.files();
    let task = |pid, parent| m().n(1, pid).n(2, parent).n(3, 100).n(4, 100).n(5, pid);
    let tree = [task(100, 0), task(101, 100), task(102, 100)];
    files.insert("pstree.img".to_owned(), file(PSTREE, tree));
    files.insert("ids-102.img".to_owned(), files["ids-101.img"].clone());
    let error = advise(&files, "", "root:3").expect_err("no such table");
    assert!(
        error.to_string().contains("neither is the other's parent"),
        "{error}"
    );
    assert!(advise(&files, "", "102:3").is_ok());
    let middle = [task(100, 0), task(101, 100), task(102, 101)];
    files.insert("pstree.img".to_owned(), file(PSTREE, middle));
    assert!(advise(&files, "", "root:3").is_ok());
    let error = advise(&files, "", "101:3").expect_err("no such table");
    assert!(
        error.to_string().starts_with("CKPT_IGNORE=101:3: "),
        "{error}"
    );
}

#[test]
fn a_watch_goes_where_its_file_is() {
    let watched = |new: &Files, rewrite: &Rewrite| {
        let new = Restored::new(&with(new, rewrite));
        new.watches(2)
            .into_iter()
            .map(|(n, _)| n)
            .collect::<Vec<_>>()
    };
    let mut world = one_task(&[Made::Eventfd, Made::Epoll(vec![3, 9])], &[3, 4]);
    world.tables[0].insert(9, 0);
    world.tables[0].insert(7, 0);
    let files = world.files();
    let moved = advise(&files, "", "3").expect("done");
    assert_eq!(watched(&files, &moved), [7, 9]);
    let moved = advise(&files, "", "3,9").map(|_| ());
    assert!(moved.is_err_and(|e| e.to_string().contains("is watched too")));
    let gone = advise(&files, "", "3,7,9").expect("done");
    assert!(watched(&files, &gone).is_empty());
    // Of the caller's descriptors 40 can be watched.
    let files = one_task(&[Made::Eventfd, Made::Epoll(vec![9, 40])], &[9, 4]);
    let mut files = files;
    files.made.push(Made::Pipe);
    files.tables[0].insert(40, 2);
    let files = files.files();
    let given = advise(&files, "9,40", "").expect("done");
    assert_eq!(watched(&files, &given), [40]);
    assert_eq!(given.warnings.len(), 1, "{:?}", given.warnings);
    assert!(given.warnings[0].contains("task 100 descriptor 9: the epoll set on descriptor 4"));
}

#[test]
fn one_of_the_tasks_that_share_a_table_gets_its_own() {
    let mut world = one_task(&[Made::Reg, Made::Pipe], &[3, 4]);
    world.shared = true;
    let files = world.files();
    for (item, lacks) in [("101:3", 101), ("root:3", 100)] {
        let rewrite = advise(&files, "*:40", item).expect("done");
        let new = Restored::new(&with(&files, &rewrite));
        for (pid, table) in new.tables {
            assert_eq!(table.contains_key(&3), pid != lacks, "{item}: {pid}");
            assert!(
                table.contains_key(&4) && table.contains_key(&40),
                "{item}: {pid}"
            );
        }
        assert!(rewrite.files.contains_key("ids-101.img"));
        assert!(!rewrite.files.contains_key("ids-100.img"));
        assert_eq!(rewrite.changes.len(), 3, "{:?}", rewrite.changes);
    }
    assert!(
        !advise(&files, "", "*:3")
            .expect("done")
            .files
            .contains_key("ids-101.img")
    );
}

#[test]
fn locks_go_as_with_close() {
    let mut world = one_task(&[Made::Reg, Made::Reg], &[3, 4]);
    world.tables[0].insert(8, 0);
    world.tables.push([(3, 0)].into());
    world.locks = vec![(2, 100, 3), (1, 100, 3), (1, 101, 3), (1, 100, 4)];
    let files = world.files();
    let locks = |ignore| {
        let rewrite = advise(&files, "", ignore).expect("done");
        Restored::new(&with(&files, &rewrite)).locks
    };
    let others = [(1, 101, 3), (1, 100, 4)];
    let one = |lock| BTreeSet::from_iter(others.into_iter().chain([lock]));
    assert_eq!(locks("root:3"), one((2, 100, 8)));
    assert_eq!(locks("root:8"), one((2, 100, 3)));
    assert_eq!(locks("root:3,8"), one((2, 101, 3)));
    assert_eq!(locks("3,8"), [(1, 100, 4)].into());
}

#[test]
fn a_deleted_file_goes_with_all_that_is_of_it() {
    let mut files = one_task(&[Made::Deleted, Made::Reg], &[3, 4]).files();
    let gone = advise(&files, "", "3").expect("done");
    assert_eq!(entries(&gone.files["files.img"]).len(), 1);
    assert_eq!(gone.files["remap-fpath.img"].len(), 8);
    let memory = m().n(12, 2).m(14, m().n(4, 1).n(7, 1 << 6));
    files.insert("mm-100.img".to_owned(), file(MM, [memory]));
    let mapped = advise(&files, "", "3").expect("done");
    assert_eq!(mapped.files.keys().collect::<Vec<_>>(), ["fdinfo-1.img"]);
}

#[test]
fn what_is_missing_is_refused() {
    let good = one_task(&[Made::Reg], &[3]).files();
    for name in ["inventory.img", "pstree.img", "files.img", "fdinfo-1.img"] {
        let mut files = good.clone();
        files.remove(name);
        let error = Image::read(&files).expect_err(name);
        let says = format!("image: {name}: offset 0: the file is missing");
        assert_eq!(error.to_string(), says);
    }
    // A table that never was, since its task has no descriptor, is none missing.
    let mut none = World {
        tables: vec![BTreeMap::new()],
        ..one_task(&[], &[])
    }
    .files();
    none.remove("fdinfo-1.img");
    let rewrite = advise(&none, "40", "").expect("done");
    assert_eq!(table(&with(&none, &rewrite), 0), [(40, 1)].into());
    let mut old = good;
    old.remove("files.img");
    old.insert("reg-files.img".to_owned(), Vec::new());
    let error = Image::read(&old).expect_err("an old layout");
    assert_eq!(error.errno(), libc::ENOTSUP);
}

#[test]
fn a_zombie_has_neither_table_nor_threads() {
    let mut files = one_task(&[Made::Reg], &[3]).files();
    let task = |pid, parent, thread| m().n(1, pid).n(2, parent).n(3, 1).n(4, 1).n(5, thread);
    let tree = [task(100, 0, 100), task(101, 100, 0xffff_fff0)];
    files.insert("pstree.img".to_owned(), file(PSTREE, tree));
    let dead = m().n(1, 1).m(3, m().n(1, 2));
    files.insert("core-101.img".to_owned(), file(CORE, [dead]));
    let image = Image::read(&files).expect("a valid image");
    assert_eq!(image.tasks[1].table, None);
    assert!(image.tasks[1].threads.is_empty());
    assert!(advise(&files, "", "3").is_ok());
    let alive = m().n(1, 1).m(3, m().n(1, 1));
    files.insert("core-101.img".to_owned(), file(CORE, [alive]));
    let error = Image::read(&files).expect_err("its table is missing");
    assert!(error.to_string().contains("ids-101.img"), "{error}");
}

#[test]
fn a_tree_without_a_root_or_with_a_cycle_is_refused() {
    let task = |pid, parent| m().n(1, pid).n(2, parent).n(3, 1).n(4, 1);
    for tree in [
        vec![],
        vec![task(100, 7)],
        vec![task(100, 0), task(101, 101)],
        vec![task(100, 0), task(101, 102), task(102, 101)],
        vec![task(100, 0), task(100, 100)],
        vec![task(0, 0)],
    ] {
        let mut files = one_task(&[Made::Reg], &[3]).files();
        files.insert("pstree.img".to_owned(), file(PSTREE, tree));
        let error = Image::read(&files).expect_err("no tree");
        assert!(error.to_string().contains("pstree.img: offset"), "{error}");
    }
}

#[test]
fn mappings_executables_and_directories_are_references() {
    let mut files = one_task(&[Made::Reg, Made::Reg, Made::Reg], &[3]).files();
    let vma = |id, status| m().n(4, id).n(7, status);
    let memory = m().n(12, 2).m(14, vma(1, 1 << 6)).m(14, vma(3, 1 << 9));
    files.insert("mm-100.img".to_owned(), file(MM, [memory]));
    files.insert("fs-100.img".to_owned(), file(FS, [m().n(1, 3).n(2, 3)]));
    let image = Image::read(&files).expect("valid");
    let others = image.other_references(&files).expect("valid");
    let task = 100;
    let directories = [
        Reference::WorkingDirectory { task },
        Reference::RootDirectory { task },
    ];
    let expected = [
        (1, BTreeSet::from([Reference::Mapping { task }])),
        (2, BTreeSet::from([Reference::Executable { task }])),
        (3, BTreeSet::from(directories)),
    ];
    assert_eq!(others, BTreeMap::from(expected));
}
