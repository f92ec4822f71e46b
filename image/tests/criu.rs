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
    /// A set that watches these numbers.
    Epoll(Vec<u32>),
}

fn description(id: u32, made: &Made) -> M {
    let owner = (1..=5).fold(m(), |owner, field| owner.n(field, 0));
    let own = || m().n(1, id.into());
    let (number, field, body) = match made {
        Made::Reg => {
            let name = format!("/f{id}");
            let reg = own().n(2, 2).n(3, 7).m(5, owner).s(6, name.as_bytes());
            (1, 3, reg.n(10, 0o100_644).news())
        }
        Made::Pipe => (2, 18, own().n(2, 4).n(3, 1).m(4, owner)),
        Made::Eventfd => (6, 8, own().n(2, 2).m(3, owner).n(4, 0)),
        Made::Memfd => (18, 20, own().n(2, 2).n(3, 0).m(4, owner).n(5, 1)),
        Made::Timerfd => (17, 12, own()),
        Made::Tty => (11, 19, own().n(2, u64::from(id) * 2).n(3, 2).m(4, owner)),
        Made::Pair | Made::Other => {
            let inode = |id: u32| u64::from(id) + 1000;
            let peer = match made {
                Made::Pair => id + 1,
                _ => id - 1,
            };
            let socket = own().n(2, inode(id)).n(3, 1).n(8, inode(peer));
            (5, 16, socket.s(11, b""))
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
    locks: Vec<(i32, i32)>,
    in_flight: Option<usize>,
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
            let locks = self
                .locks
                .iter()
                .map(|&(pid, number)| m().n(1, 2).n(2, 1).n(3, pid as u64).n(4, number as u64));
            put("filelocks.img", file(LOCKS, locks));
        }
        if let Some(index) = self.in_flight {
            let rights = m().n(1, 1).n(2, index as u64 + 1);
            let mut bytes = file(QUEUES, [m().n(1, 5000).n(2, 3).m(4, rights)]);
            bytes.extend(b"abc");
            put("sk-queues.img", bytes);
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
        in_flight: None,
    }
}

prop_compose! {
    fn worlds()(
        plain in prop::collection::vec(
            prop_oneof![
                Just(Made::Reg), Just(Made::Pipe), Just(Made::Eventfd), Just(Made::Memfd),
                Just(Made::Timerfd), Just(Made::Tty),
                prop::collection::vec(0..12u32, 0..3).prop_map(Made::Epoll),
            ],
            1..6,
        ),
        pairs in 0..2usize,
        picks in prop::collection::vec(
            prop::collection::btree_map(0..12i32, any::<prop::sample::Index>(), 0..8),
            1..4,
        ),
        shared in any::<bool>(),
        lock in prop::option::of((0..3i32, 0..12i32)),
        flies in prop::option::of(any::<prop::sample::Index>()),
    ) -> World {
        let mut made = plain;
        for _ in 0..pairs {
            made.extend([Made::Pair, Made::Other]);
        }
        let count = made.len();
        let table = |table: BTreeMap<i32, prop::sample::Index>| {
            table.into_iter().map(|(n, i)| (n, i.index(count))).collect()
        };
        World {
            made,
            tables: picks.into_iter().map(table).collect(),
            shared,
            locks: lock.into_iter().map(|(t, n)| (FIRST_PID + t, n)).collect(),
            in_flight: flies.map(|i| i.index(count)),
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
        pollable: false,
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

/// Every descriptor has its description, and what only descriptors keep alive
/// went with the last of them.
fn check_references(new: &Files, old: &Files) -> Result<(), TestCaseError> {
    let new = Image::read(new).expect("an edited image is valid");
    let old = Image::read(old).expect("a valid image");
    let (after, before) = (new.references(), old.references());
    for (id, description) in &new.descriptions {
        let stays = matches!(description.kind, Kind::Reg | Kind::Memfd);
        let held = after.contains_key(id) || !before.contains_key(id);
        prop_assert!(stays || held, "{:?} is left over", description);
    }
    for id in old.descriptions.keys() {
        let lost = after.contains_key(id) && !new.descriptions.contains_key(id);
        prop_assert!(!lost, "{} is gone", id);
    }
    Ok(())
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
        prop_assert!(is_part_of(&new["files.img"], &files["files.img"]));
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
    let mut world = one_task(&[Made::Pipe], &[3]);
    world.in_flight = Some(0);
    let rewrite = advise(&world.files(), "", "3").expect("done");
    assert!(!rewrite.files.contains_key("files.img"));
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
    let pair = one_task(&[Made::Pair, Made::Other], &[3, 4]);
    assert_eq!(
        refusal(&pair, "3"),
        "CKPT_IGNORE=3: task 100 descriptor 3 (unix): its other end stays (task 100 descriptor \
         4) and cannot be hung up yet: leave it as it is, or advise both ends"
    );
    let watched = one_task(&[Made::Eventfd, Made::Epoll(vec![3])], &[3, 4]);
    assert!(refusal(&watched, "3").contains("the epoll set of task 100 descriptor 4 watches it"));
    assert!(advise(&watched.files(), "", "3,4").is_ok());
    let mut locked = one_task(&[Made::Reg], &[3]);
    locked.locks.push((100, 3));
    assert!(refusal(&locked, "3").contains("task 100 holds a lock by it"));
    let mut shared = one_task(&[Made::Reg], &[3]);
    shared.shared = true;
    assert!(refusal(&shared, "101:3").contains("shared by the tasks 100, 101"));
    assert!(advise(&shared.files(), "", "3").is_ok());
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
