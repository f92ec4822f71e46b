//! CRIU images: generated ones are edited as advice says, damaged ones refused,
//! and nothing else changes.

mod criu_images;

use ckpt_image::Error;
use ckpt_image::advice::{Action, Advice, Kind, Strictness, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile, NoPaths};
use ckpt_image::criu::record::{self, Ask, LeftOut, RECORD, Record};
use ckpt_image::criu::{Image, Naming, Reference, Rewrite, inherited, moment, rewrite};
use ckpt_image::plan::{Fate, Origin};
use criu_images::build::*;
use criu_images::model::{Restored, number};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

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
        not_given: None,
    };
    let numbers = [(1, 1), (2, 1), (9, 9), (40, 40)];
    Caller {
        files: numbers.iter().map(|&(n, d)| (n, file(d))).collect(),
        ..Caller::default()
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
            let path = image.descriptions[id].path.clone();
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
            let _ = image.needs(&files);
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
    assert!(advise(&files, "", "root:9").expect("done").files.is_empty());
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
    // Of two of one descriptor, which stays, it is said once.
    world.locks = vec![(1, 100, 8), (1, 100, 8)];
    let rewrite = advise(&world.files(), "", "root:3").expect("done");
    assert_eq!(rewrite.warnings.len(), 1, "{:?}", rewrite.warnings);
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
fn what_is_left_of_an_image_can_be_advised_again() {
    let mut world = one_task(&[Made::Reg], &[3]);
    world.tables.push(BTreeMap::new());
    let mut files = world.files();
    files.remove("fdinfo-2.img");
    let rewrite = advise(&files, "", "3").expect("done");
    let files = with(&files, &rewrite);
    assert!(advise(&files, "", "3").expect("done").files.is_empty());
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

/// Of tens of thousands, in an image of as many tasks: whoever looks for each among all of
/// them is not done in minutes.
#[test]
fn a_long_record_is_met_with_a_large_image() {
    const MANY: i32 = 90_000;
    const LAST: u64 = 50_000;
    let mut files = one_task(&[Made::Reg, Made::Reg], &[0, 1]).files();
    let task = |pid, parent| m().n(1, pid).n(2, parent).n(3, 1).n(4, 1).n(5, pid);
    let dead = file(CORE, [m().n(1, 1).m(3, m().n(1, 2))]);
    let zombies = 1000..LAST;
    for pid in zombies.clone() {
        files.insert(format!("core-{pid}.img"), dead.clone());
    }
    // The last task shares the first one's table.
    let zombies = zombies.map(|pid| task(pid, 100));
    let tree = std::iter::once(task(100, 0)).chain(zombies);
    let tree = file(PSTREE, tree.chain([task(LAST, 100)]));
    files.insert("pstree.img".to_owned(), tree);
    let ids = files["ids-100.img"].clone();
    files.insert(format!("ids-{LAST}.img"), ids);
    let kind = |odd| if odd { Kind::Chr } else { Kind::Reg };
    let left_out = |number| LeftOut {
        task: LAST as i32,
        number,
        id: 0,
        flags: 0,
        kind: kind(number % 2 == 1),
        file: String::new(),
    };
    let ask = |number| Ask {
        task: LAST as i32,
        number,
        mark: 1,
        kind: kind(number % 4 > 1),
        file: String::new(),
    };
    let record = Record {
        dump: None,
        left_out: (0..MANY).map(left_out).collect(),
        asks: (0..MANY).map(ask).collect(),
    };
    files.insert(RECORD.to_owned(), record::write(&record));
    let image = Image::read(&files).expect("a valid image");
    assert_eq!(image.left_out.keys().collect::<Vec<_>>(), [&1]);
    assert!(image.left_out[&1].iter().eq(&record.left_out[2..]));
    // The image has two regular files, and two of four of what it lacks are of the kind.
    let kept = |ask: &&Ask| ask.number < 2 || matches!(ask.number % 4, 0 | 3);
    assert!(image.asks.iter().eq(record.asks.iter().filter(kept)));
}

#[test]
fn a_record_of_another_dump_does_not_count() {
    const TIMENS: u32 = 0x4321_4433;
    let clocks = |at| file(TIMENS, [m().m(1, m().n(1, 40).n(2, at))]);
    let left_out = LeftOut {
        task: 100,
        number: 7,
        id: 0,
        flags: 0,
        kind: Kind::Chr,
        file: "/dev/fuse".to_owned(),
    };
    let of = |files: &Files, dump| {
        let record = Record {
            dump,
            left_out: vec![left_out.clone()],
            asks: Vec::new(),
        };
        let mut files = files.clone();
        files.insert(RECORD.to_owned(), record::write(&record));
        let image = Image::read(&files).expect("a valid image");
        image.left_out.values().flatten().count()
    };
    let mut files = one_task(&[Made::Reg], &[3]).files();
    // Of an old criu: nothing tells.
    assert_eq!(moment(&files), Ok(None));
    assert_eq!(of(&files, None), 1);
    assert_eq!(of(&files, Some(0)), 0);
    files.insert("timens-0.img".to_owned(), clocks(1));
    let first = moment(&files).expect("read");
    assert!(first.is_some());
    assert_eq!((of(&files, None), of(&files, first)), (1, 1));
    files.insert("timens-0.img".to_owned(), clocks(2));
    assert_eq!(of(&files, first), 0);
    // The next one is of a task in a time namespace of its own, and the file stays.
    let second = moment(&files).expect("read");
    let ids = m().n(1, 1).n(2, 1).n(3, 1).n(4, 1).n(12, 9);
    files.insert("ids-100.img".to_owned(), file(IDS, [ids]));
    assert_eq!(of(&files, second), 1);
    files.insert("timens-9.img".to_owned(), clocks(3));
    assert_eq!(of(&files, second), 0);
    let third = moment(&files).expect("read");
    assert_eq!(of(&files, third), 1);
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
