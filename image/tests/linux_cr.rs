//! Properties of the Linux-CR engine, on images that the generator makes up.
//!
//! What is right is said by code that shares nothing with the engine:
//! `generator/build.rs` writes the images, `generator/check.rs` reads them as a
//! kernel would, and `generator/meaning.rs` says what advice makes of them.

mod generator;

use ckpt_image::Error;
use ckpt_image::advice::{Action, Advice, Kind, Source, Strictness, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile, CannotOpen, Opened, Opening, Paths};
use ckpt_image::linux_cr::delivery::{Delivery, Medium};
use ckpt_image::linux_cr::layout::{Arch, Order};
use ckpt_image::linux_cr::rewrite::Rewriter;
use ckpt_image::linux_cr::survey::{Foreknowledge, Surveyor};
use ckpt_image::plan::Planner;
use generator::build::{
    Datagram, File, Head, Kind as Is, Machine, Name, Process, Recipe, Sender, build, head_only, pid,
};
use generator::check::{Sock, View, check};
use generator::compare::Comparison;
use generator::meaning::{Given, Item, list, outcome};
use generator::recipes::{advice, damage, recipe};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// Counts what each thread has allocated and not freed, and the most it ever
/// had.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(change: impl Fn(usize) -> usize) {
    let now = change(NOW.get());
    NOW.set(now);
    MOST.set(MOST.get().max(now));
}

// SAFETY: the system's allocator does the work; counting touches plain cells of
// the thread only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|now| now.wrapping_add(layout.size()));
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // What another thread allocated may be freed here.
        count(|now| now.saturating_sub(layout.size()));
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// So many cases, or as many as PROPTEST_CASES says.
fn settings(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|n| n.parse().ok()).unwrap_or(cases),
        max_shrink_iters: 3000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    }
}

/// A file of the caller: kind (regular, device, fifo), access, appending,
/// close-on-exec, and whether it shares the description of the one before.
type Own = (u8, u8, bool, bool, bool);

fn owns() -> impl Strategy<Value = BTreeMap<i32, Own>> {
    let own = (0u8..6, 0u8..5, any::<bool>(), any::<bool>(), any::<bool>());
    btree_map(0i32..10, own, 5..9)
}

fn caller(owns: &BTreeMap<i32, Own>) -> Caller {
    let mut caller = Caller::default();
    let mut before: Option<(i32, CallerFile)> = None;
    for (&number, &(kind, access, append, close_on_exec, shares)) in owns {
        let flags = match access {
            0 => libc::O_RDONLY,
            1 => libc::O_WRONLY,
            _ => libc::O_RDWR,
        };
        let flags = flags | if append { libc::O_APPEND } else { 0 };
        let (kind, read_mode) = match kind {
            0 => (Kind::Fifo, 0),
            1 => (Kind::Chr, 0x1c),
            _ => (Kind::Reg, 0x1c),
        };
        let access = Access::of_flags(flags);
        let mut file = CallerFile {
            kind,
            access,
            flags,
            f_mode: read_mode | u32::from(access.read) | (u32::from(access.write) << 1),
            close_on_exec,
            description: number,
            name: format!("/proc/self/fd/{number}").into_bytes(),
            link: format!("/caller/{number}"),
            pollable: kind != Kind::Reg,
            not_given: None,
        };
        if let Some((_, other)) = before.as_ref().filter(|_| shares) {
            file = CallerFile {
                close_on_exec,
                ..other.clone()
            };
        }
        before = Some((number, file.clone()));
        caller.files.insert(number, file);
    }
    caller
}

fn given(caller: &Caller) -> BTreeMap<i32, Given> {
    let given = |file: &CallerFile| Given {
        read: file.access.read,
        write: file.access.write,
        close_on_exec: file.close_on_exec,
        description: file.description,
        name: file.name.clone(),
        mode: file.f_mode,
        flags: file.flags.cast_unsigned() | 0x8000,
        pollable: file.pollable,
    };
    caller.files.iter().map(|(&n, f)| (n, given(f))).collect()
}

/// As the environment would say it.
fn request(items: &[Item]) -> Advice {
    let ignore = list(items, false);
    let preserve = list(items, true);
    let mut all = parse_list(
        "CKPT_PRESERVE",
        preserve.as_bytes(),
        &Action::Preserve,
        1024,
    )
    .expect("a list of ours");
    all.extend(parse_list("CKPT_IGNORE", ignore.as_bytes(), &Action::Ignore, 1024).unwrap());
    Advice {
        items: all,
        strictness: Strictness::Warn,
    }
}

/// What came of a rewriting.
#[derive(Debug, PartialEq)]
struct Rewritten {
    out: Vec<u8>,
    /// Bytes of the output that came with a word that a pipe's contents are
    /// among them.
    /// The refusal.
    error: Option<Error>,
    warnings: Vec<String>,
}

/// How long every file is that is opened by its path.
const LENGTH: u64 = 12;

/// Every path is a regular file.
struct Files;

impl Paths for Files {
    fn kind(&self, _: &[u8]) -> Kind {
        Kind::Reg
    }

    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        let access = opening.access;
        Ok(Opened {
            file: CallerFile {
                kind: Kind::Reg,
                access,
                flags: opening.flags(),
                f_mode: 0x1c | u32::from(access.read) | (u32::from(access.write) << 1),
                close_on_exec: false,
                description: -1,
                name: opening.path.to_vec(),
                link: String::new(),
                pollable: false,
                not_given: None,
            },
            position: opening.start(LENGTH),
            missing: false,
        })
    }

    fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        self.look(opening)
    }
}

/// * `whole`: a pass over the image goes before.
fn rewrite(
    image: &[u8],
    items: &[Item],
    caller: &Caller,
    whole: bool,
    pieces: &[usize],
) -> Rewritten {
    rewrite_as(image, &request(items), caller, whole, pieces)
}

fn rewrite_as(
    image: &[u8],
    advice: &Advice,
    caller: &Caller,
    whole: bool,
    pieces: &[usize],
) -> Rewritten {
    let mut rewritten = Rewritten {
        out: Vec::new(),
        error: None,
        warnings: Vec::new(),
    };
    let rewriter = || -> Result<Rewriter, Error> {
        let planner = Planner::new(advice, caller.clone(), false)?.with_paths(Box::new(Files));
        Ok(Rewriter::new(planner, Box::new(|_| Some(17))))
    };
    let (mut rewriter, expected) = match rewriter() {
        Ok(first) => {
            // As restart programs have an image in a file read.
            let mut surveyor = Surveyor::default();
            match surveyor.feed(image).and_then(|()| surveyor.finish()) {
                Ok((survey, _)) if whole => foreseeing(&rewriter, survey.foreknowledge(), image),
                _ => (first, None),
            }
        }
        Err(error) => {
            rewritten.error = Some(error);
            return rewritten;
        }
    };
    let mut rest = image;
    let mut sizes = pieces.iter().cycle();
    let mut result = Ok(());
    while !rest.is_empty() && result.is_ok() {
        let size = sizes.next().map_or(rest.len(), |&size| size.max(1));
        let (piece, more) = rest.split_at(size.min(rest.len()));
        rest = more;
        result = rewriter.feed(piece);
        rewritten.out.append(rewriter.output());
        rewriter.settle();
    }
    rewritten.warnings = rewriter.warnings().to_vec();
    rewritten.error = result.and_then(|()| rewriter.finish()).err();
    if let Some(expected) = expected {
        assert!(rewritten.error.is_none() && rewritten.out == expected);
    }
    rewritten
}

/// A rewriter that knows what every table comes to, and what it is to make of the image.
fn foreseeing(
    rewriter: &dyn Fn() -> Result<Rewriter, Error>,
    known: Foreknowledge,
    image: &[u8],
) -> (Rewriter, Option<Vec<u8>>) {
    let with = |known| {
        let mut rewriter = rewriter().expect("advice that was good before");
        rewriter.foresee(known);
        rewriter
    };
    let mut planned = with(known.clone());
    let Ok(()) = planned.feed(image).and_then(|()| planned.finish()) else {
        return (with(known), None);
    };
    let known = planned.foreknowledge();
    let mut checked = with(known.clone());
    let Ok(()) = checked.feed(image).and_then(|()| checked.finish()) else {
        return (with(known), None);
    };
    let unchanged = checked.unchanged_since();
    let settled = with(Foreknowledge { unchanged, ..known });
    (settled, Some(std::mem::take(checked.output())))
}

fn deliver(
    medium: Medium,
    image: &[u8],
    pieces: &[usize],
) -> Result<(Vec<u8>, Vec<usize>), String> {
    let mut delivery = Delivery::new(medium);
    let (mut out, mut cuts) = (Vec::new(), Vec::new());
    let mut rest = image;
    for size in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, more) = rest.split_at((*size).min(rest.len()));
        rest = more;
        delivery.feed(piece).map_err(|error| error.to_string())?;
        let (bytes, at) = delivery.output();
        cuts.extend(at.iter().map(|at| out.len() + at));
        out.extend(bytes);
        delivery.taken();
    }
    Ok((out, cuts))
}

/// An image reaches the kernel through either medium, or is refused where a pipe is too full for it.
fn delivered(image: &[u8], view: &View, pieces: &[usize]) -> Result<(), TestCaseError> {
    let filled = |image: &[u8], view: &View| -> Vec<(usize, usize)> {
        let records = view.records.iter().copied();
        records
            .filter(|&(at, len)| view.number(&image[at..], 0) == 305 && len > 8)
            .collect()
    };
    let pipes = filled(image, view);
    let fullest = pipes.iter().map(|&(_, len)| len - 8).max().unwrap_or(0);
    match deliver(Medium::Pipe, image, pieces) {
        Ok((out, cuts)) => {
            prop_assert!(fullest <= 65_528);
            prop_assert!(out == image);
            let begins: Vec<usize> = pipes.iter().map(|&(at, _)| at).collect();
            prop_assert_eq!(cuts, begins);
        }
        Err(refusal) => prop_assert!(fullest > 65_528, "{}", refusal),
    }
    match deliver(Medium::File, image, pieces) {
        Ok((out, _)) => {
            prop_assert!(fullest <= 65_536);
            let after = check(&out).map_err(TestCaseError::fail)?;
            prop_assert_eq!(after.records.len(), view.records.len());
            for (&(at, len), &(was, before)) in after.records.iter().zip(&view.records) {
                let same = out[at..at + len] == image[was..was + before];
                let longer = view.number(&out[at..], 0) == 6
                    && out[at + 8..at + 16] == image[was + 8..was + 16];
                prop_assert!(same || longer);
            }
            for (at, len) in filled(&out, &after) {
                prop_assert!((at + 8) % 4096 + len - 8 <= 65_536);
            }
        }
        Err(refusal) => prop_assert!(fullest > 65_536, "{}", refusal),
    }
    Ok(())
}

/// Holds a rewritten image against what the advice means.
fn compare(
    image: &[u8],
    before: &View,
    rewritten: &Rewritten,
    items: &[Item],
    caller: &Caller,
    whole: bool,
) -> Result<View, TestCaseError> {
    let caller = given(caller);
    let after = check(&rewritten.out).map_err(TestCaseError::fail)?;
    let comparison = Comparison {
        image,
        before,
        out: &rewritten.out,
        after: &after,
        expected: &outcome(before, items, &caller, whole),
        caller: &caller,
        knows: whole || before.is_alone(),
        warnings: &rewritten.warnings,
    };
    comparison.hold()?;
    Ok(after)
}

proptest! {
    #![proptest_config(settings(400))]

    /// The generator and the checker agree, and the engine knows what they know.
    #[test]
    fn generated_images_are_images(recipe in recipe()) {
        let image = build(&recipe);
        let view = check(&image).map_err(TestCaseError::fail)?;
        let mut surveyor = Surveyor::default();
        prop_assert_eq!(surveyor.feed(&image), Ok(()));
        let (survey, layout) = surveyor.finish().unwrap();
        let name = if recipe.late { "v23-rc2" } else { "v20" };
        let layout = layout.unwrap();
        prop_assert_eq!(layout.version.name, name);
        prop_assert_eq!(layout.arch.map(Arch::name), Some(recipe.machine.name()));
        for task in &view.tasks {
            let same = survey.tasks.iter().find(|t| t.pid == task.pid).unwrap();
            prop_assert_eq!((same.process, same.table), (task.process, Some(task.table)));
        }
        for (id, table) in &view.tables {
            let same: Vec<_> = survey.tables[id]
                .descriptors
                .iter()
                .map(|d| (d.number, d.file, d.close_on_exec))
                .collect();
            let held: Vec<_> = table.iter().map(|(n, h)| (*n, h.file, h.close_on_exec)).collect();
            prop_assert_eq!(same, held);
        }
        prop_assert_eq!(survey.files.len(), view.files.len());
        survey.listing(Some(&layout));
        survey.needs();
    }

    #[test]
    fn without_advice_or_a_match_nothing_changes(
        recipe in recipe(),
        pieces in vec(1usize..3000, 0..5),
        owns in owns(),
    ) {
        let image = build(&recipe);
        let view = check(&image).map_err(TestCaseError::fail)?;
        let readable = view.readable(&image, view.records.iter().copied());
        let nobody = [
            Item { preserve: false, task: generator::meaning::Task::Every, from: 50, to: None },
            Item { preserve: true, task: generator::meaning::Task::Pid(99), from: 0, to: None },
        ];
        // Whoever gives advice gets an image that can be read.
        for (items, expected) in [(&nobody[..], &readable), (&[], &image)] {
            let rewritten = rewrite(&image, items, &caller(&owns), false, &pieces);
            prop_assert_eq!(&rewritten.error, &None);
            prop_assert!(rewritten.out == *expected);
        }
    }

    /// The same tables, whose chosen numbers lead to the paths, opened as the files
    /// were whose place they take.
    #[test]
    fn paths_take_the_place_of_numbers(
        recipe in recipe(),
        targets in btree_map(0i32..12, any::<bool>(), 1..6),
        pieces in vec(1usize..3000, 0..5),
    ) {
        let image = build(&recipe);
        let before = check(&image).map_err(TestCaseError::fail)?;
        let path = |second: bool| if second { "/new/b" } else { "/new/a" };
        let list: Vec<String> = targets
            .iter()
            .map(|(number, second)| format!("*:{number}={}", path(*second)))
            .collect();
        let stand_in = Action::Substitute(Source::Descriptor(0));
        let items = parse_list("S", list.join(",").as_bytes(), &stand_in, 1024).unwrap();
        let advice = Advice { items, strictness: Strictness::Warn };
        let rewritten = rewrite_as(&image, &advice, &Caller::default(), false, &pieces);
        if let Some(error) = rewritten.error {
            prop_assert!(before.slaves.len() + before.controlling.len() > 0, "{}", error);
            return Ok(());
        }
        let after = check(&rewritten.out).map_err(TestCaseError::fail)?;
        for (table, was) in &before.tables {
            let is = &after.tables[table];
            prop_assert!(is.keys().eq(was.keys()));
            let mut objects: BTreeMap<(bool, u32), i32> = BTreeMap::new();
            for (number, held) in is {
                prop_assert_eq!(held.close_on_exec, was[number].close_on_exec);
                let Some(second) = targets.get(number) else {
                    prop_assert_eq!(held.file, was[number].file);
                    continue;
                };
                let (old, new) = (&before.files[&was[number].file], &after.files[&held.file]);
                prop_assert_eq!(&new.name, path(*second).as_bytes());
                let (reads, writes) = match number {
                    0 => (true, false),
                    1 | 2 => (false, true),
                    _ => (old.mode & 1 != 0, old.mode & 2 != 0),
                };
                let appends = if writes { old.flags & 0x400 } else { 0 };
                prop_assert_eq!(new.flags & 0x400, appends);
                prop_assert!(new.mode & 1 != 0 || !reads);
                prop_assert!(new.mode & 2 != 0 || !writes);
                prop_assert!(new.position <= LENGTH);
                let object = *objects.entry((*second, appends)).or_insert(held.file);
                prop_assert_eq!(object, held.file, "one path, one object");
            }
        }
    }

    /// The heart: an image in, advice in; out comes what the advice means, or a
    /// refusal exactly where there must be one.
    #[test]
    fn advice_does_what_it_means(
        recipe in recipe(),
        items in advice(),
        owns in owns(),
        whole in prop::bool::weighted(0.6),
    ) {
        let image = build(&recipe);
        let before = check(&image).map_err(TestCaseError::fail)?;
        let caller = caller(&owns);
        let expected = outcome(&before, &items, &given(&caller), whole);
        let once = rewrite(&image, &items, &caller, whole, &[]);
        if let Some(error) = once.error {
            prop_assert!(!expected.refusals.is_empty(), "refused without need: {}", error);
            return Ok(());
        }
        prop_assert!(expected.refusals.is_empty(), "not refused: {:?}", expected.refusals);
        let after = compare(&image, &before, &once, &items, &caller, whole)?;

        // Once more. A number without a task can mean others by now; what means
        // the same changes nothing.
        let second = outcome(&after, &items, &given(&caller), whole);
        let twice = rewrite(&once.out, &items, &caller, whole, &[]);
        prop_assert_eq!(twice.error.is_some(), !second.refusals.is_empty(), "{:?}", twice.error);
        if twice.error.is_none() {
            let same = second.tables != expected.tables || twice.out == once.out;
            prop_assert!(same, "rewriting twice is not rewriting once");
            compare(&once.out, &after, &twice, &items, &caller, whole)?;
        }
    }

    /// Other advice for what was rewritten before.
    #[test]
    fn rewritten_images_are_images(
        recipe in recipe(),
        first in advice(),
        second in advice(),
        owns in owns(),
    ) {
        let image = build(&recipe);
        let caller = caller(&owns);
        let once = rewrite(&image, &first, &caller, true, &[]);
        if once.error.is_some() {
            return Ok(());
        }
        let between = check(&once.out).map_err(TestCaseError::fail)?;
        let twice = rewrite(&once.out, &second, &caller, true, &[]);
        if twice.error.is_none() {
            compare(&once.out, &between, &twice, &second, &caller, true)?;
        }
    }

    /// What was in pipes reaches the kernel, and nothing else is changed for it.
    #[test]
    fn full_pipes_are_delivered(
        recipe in recipe(),
        lengths in vec(prop_oneof![0usize..65_537, 65_528usize..65_537], 1..4),
        pieces in vec(1usize..9000, 1..6),
    ) {
        let mut image = build(&recipe);
        let view = check(&image).map_err(TestCaseError::fail)?;
        let mut lengths = lengths.iter().cycle();
        for &(at, len) in view.records.iter().rev() {
            if view.number(&image[at..], 0) == 305 {
                let length = *lengths.next().unwrap();
                image.splice(at + 8..at + len, std::iter::repeat_n(b'x', length));
                let len = length as u32 + 8;
                image[at + 4..at + 8].copy_from_slice(&match view.big_endian {
                    true => len.to_be_bytes(),
                    false => len.to_le_bytes(),
                });
            }
        }
        let view = check(&image).map_err(TestCaseError::fail)?;
        delivered(&image, &view, &pieces)?;
    }

    #[test]
    fn how_the_input_is_cut_does_not_matter(
        recipe in recipe(),
        items in advice(),
        owns in owns(),
        pieces in vec(1usize..400, 1..6),
        whole in any::<bool>(),
        damage in vec(damage(), 0..2),
    ) {
        let mut image = build(&recipe);
        let view = check(&image).map_err(TestCaseError::fail)?;
        for damage in &damage {
            damage.to(&mut image, &view);
        }
        let caller = caller(&owns);
        let one = rewrite(&image, &items, &caller, whole, &[]);
        let cut = rewrite(&image, &items, &caller, whole, &pieces);
        prop_assert_eq!(&one.error, &cut.error);
        prop_assert!(one.out == cut.out);
        if let (None, Ok(after)) = (&cut.error, check(&cut.out)) {
            delivered(&cut.out, &after, &pieces)?;
        }
    }
}

proptest! {
    #![proptest_config(settings(1000))]

    /// Damaged images are refused, or what is left of them is still an image
    /// where it was one; nothing panics, and memory stays in proportion.
    #[test]
    fn damage_does_no_harm(
        recipe in recipe(),
        damage in vec(damage(), 1..4),
        items in advice(),
        owns in owns(),
        whole in any::<bool>(),
    ) {
        let mut image = build(&recipe);
        let view = check(&image).map_err(TestCaseError::fail)?;
        for damage in &damage {
            damage.to(&mut image, &view);
        }
        let caller = caller(&owns);
        let before = NOW.get();
        MOST.set(before);
        let mut surveyor = Surveyor::default();
        let surveyed = surveyor.feed(&image).and_then(|()| surveyor.finish());
        if let Ok((survey, layout)) = surveyed {
            survey.listing(layout.as_ref());
            survey.needs();
        }
        let rewritten = rewrite(&image, &items, &caller, whole, &[]);
        let used = MOST.get() - before;
        prop_assert!(used < 64 * image.len() + 100_000, "{} bytes", used);
        // What must be refused for what was damaged need not be.
        if let (Ok(before), None) = (check(&image), &rewritten.error)
            && outcome(&before, &items, &given(&caller), whole).refusals.is_empty()
        {
            compare(&image, &before, &rewritten, &items, &caller, whole)?;
        }
    }
}

/// Version, kernel, revision, pids, length of TASK, machines from 1.
type Known = (
    &'static str,
    (u16, u16, u16),
    u16,
    bool,
    usize,
    &'static [&'static str],
);

const KNOWN: &[Known] = &[
    (
        "v18",
        (2, 6, 31),
        3,
        false,
        72,
        &["x86_32", "s390x", "ppc32", "ppc64", "x86_64"],
    ),
    (
        "v19-rc2",
        (2, 6, 32),
        4,
        false,
        64,
        &["x86_32", "s390x", "ppc32", "ppc64", "x86_64"],
    ),
    (
        "v20",
        (2, 6, 33),
        5,
        false,
        64,
        &["x86_32", "x86_64", "s390x", "ppc32", "ppc64", "arm"],
    ),
    (
        "v21",
        (2, 6, 34),
        6,
        false,
        64,
        &["x86_32", "x86_64", "s390x", "ppc32", "ppc64", "arm"],
    ),
    (
        "v22 or v23-rc1",
        (2, 6, 35),
        6,
        false,
        80,
        &["x86_32", "x86_64", "s390x", "ppc32", "ppc64", "arm"],
    ),
    (
        "v23-rc2",
        (2, 6, 37),
        6,
        true,
        80,
        &["x86_32", "x86_64", "s390x", "arm"],
    ),
];

#[test]
fn every_version_and_machine_is_told_by_name() {
    let ignore = Item {
        preserve: false,
        task: generator::meaning::Task::Every,
        from: 0,
        to: None,
    };
    for &(version, kernel, revision, pids, task_len, machines) in KNOWN {
        for (arch, big_endian) in (0..9).flat_map(|arch| [(arch, false), (arch, true)]) {
            let image = head_only(&Head {
                arch,
                kernel,
                revision,
                big_endian,
                pids,
                task_len,
            });
            let machine = usize::from(arch)
                .checked_sub(1)
                .and_then(|index| machines.get(index))
                .copied()
                .unwrap_or("unknown machine");
            let mut surveyor = Surveyor::default();
            surveyor.feed(&image).unwrap();
            let (survey, layout) = surveyor.finish().unwrap();
            let layout = layout.unwrap();
            let (a, b, c) = kernel;
            let name = format!("Linux-CR {version}, {machine}, Linux {a}.{b}.{c}");
            assert_eq!(layout.to_string(), name, "{arch} {big_endian}");
            assert_eq!(layout.order == Order::Big, big_endian);
            assert_eq!(survey.tasks.len(), 1);
            assert_eq!(survey.tasks[0].pid, 100);
            let known = match machine {
                "x86_32" | "x86_64" => !big_endian,
                "s390x" => big_endian,
                _ => false,
            };
            let editable = matches!(version, "v20" | "v23-rc2") && known;
            let ignore = std::slice::from_ref(&ignore);
            let Rewritten { out, error, .. } =
                rewrite(&image, ignore, &Caller::default(), false, &[]);
            if editable {
                assert_eq!(error, None);
                assert_eq!(out, image);
            } else {
                let error = error.expect("an image that is not edited");
                assert!(matches!(error, Error::Unsupported { .. }), "{error}");
                let told = error.to_string();
                // The advice is refused before the record that tells these two apart.
                let name = match version {
                    "v21" | "v22 or v23-rc1" => name.replace(version, "v21 to v23-rc1"),
                    _ => name,
                };
                assert!(told.contains(&name), "{told}\nis not about\n{name}");
                let turned = matches!(machine, "x86_32" | "x86_64" | "s390x") && !known;
                assert_eq!(told.contains("another byte order"), turned, "{told}");
            }
        }
    }
}

/// A root task with these files on 3, 4 and so on.
fn one_task(files: Vec<Is>) -> Recipe {
    let table = (3..).zip((0..files.len()).map(|file| (file, false)));
    let file = |kind| File {
        kind,
        own_cred: false,
    };
    Recipe {
        processes: vec![Process {
            table: table.collect(),
            ..Process::default()
        }],
        files: files.into_iter().map(file).collect(),
        ..Recipe::default()
    }
}

/// Puts bytes before the n-th record of a type.
fn put_before(image: &mut Vec<u8>, kind: u32, n: usize, bytes: &[u8]) {
    let view = check(image).unwrap();
    let of_kind = |&&(at, _): &&(usize, usize)| image[at..at + 4] == kind.to_le_bytes();
    let &(at, _) = view.records.iter().filter(of_kind).nth(n).unwrap();
    image.splice(at..at, bytes.iter().copied());
}

/// A kernel takes announcements there, but never wrote one, and what belongs to
/// what could not be told.
#[test]
fn announcements_inside_what_belongs_together_are_refused() {
    let mut image = build(&one_task(vec![Is::Eventfd(1), Is::Epoll(vec![(0, 3)])]));
    let view = check(&image).unwrap();
    let items = |&&(at, _): &&(usize, usize)| image[at..at + 4] == 308u32.to_le_bytes();
    let &(at, len) = view.records.iter().find(items).unwrap();
    // A user namespace, between the count of watches and the watches.
    let words = [6u32, 16, 12, 4000, 113, 16, 0, 0];
    let block: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.splice(at + len..at + len, block);
    assert!(check(&image).is_ok());
    let rewritten = rewrite(&image, &[], &Caller::default(), false, &[]);
    assert!(rewritten.error.is_some());

    // A file, between another one and its name.
    let mut image = build(&one_task(vec![Is::Regular(0, false, 0)]));
    let words = [
        6u32, 16, 3, 4000, 304, 64, 7, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let block: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    put_before(&mut image, 303, 0, &block);
    let rewritten = rewrite(&image, &[], &Caller::default(), false, &[]);
    assert!(rewritten.error.is_some());
}

/// A large image takes time in proportion: every descriptor of very many is
/// dropped.
#[test]
fn many_descriptors_are_dropped_in_no_time() {
    let mut recipe = one_task(vec![Is::Device]);
    recipe.processes[0].table = (0..30_000).map(|number| (number, (0, false))).collect();
    let image = build(&recipe);
    let every = [Item {
        preserve: false,
        task: generator::meaning::Task::Every,
        from: 0,
        to: None,
    }];
    let start = std::time::Instant::now();
    let rewritten = rewrite(&image, &every, &Caller::default(), false, &[]);
    assert_eq!(rewritten.error, None);
    let after = check(&rewritten.out).unwrap();
    assert!(after.tables.values().all(BTreeMap::is_empty));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

/// The session leader has closed its terminal, a child has it: the leader has
/// been given it by the time the child's table comes.
#[test]
fn a_terminal_is_not_taken_when_its_session_has_been_told_of_it() {
    let mut recipe = one_task(vec![Is::Terminal(0), Is::Device]);
    recipe.processes[0].table = [(0, (1, false))].into();
    recipe.processes[0].leader = Some(0);
    recipe.processes.push(Process {
        table: [(1, (0, false)), (2, (0, false))].into(),
        ..Process::default()
    });
    let image = build(&recipe);
    let item = |from| Item {
        preserve: false,
        task: generator::meaning::Task::Every,
        from,
        to: Some(2),
    };
    let told = rewrite(&image, &[item(1)], &Caller::default(), false, &[]).error;
    assert!(matches!(told, Some(Error::Unsupported { .. })), "{told:?}");
    assert!(told.unwrap().to_string().contains("image as a file"));
    // Where it is known in advance, it never is, and its number is not demanded.
    let rewritten = rewrite(&image, &[item(1)], &Caller::default(), true, &[]);
    assert_eq!(rewritten.error, None);
    let after = check(&rewritten.out).unwrap();
    assert!(after.controlling.is_empty() && after.terminals.is_empty());
    // A child that leads nothing is no reason.
    recipe.processes[0].leader = None;
    recipe.processes[1].leader = Some(0);
    let image = build(&recipe);
    let rewritten = rewrite(&image, &[item(1)], &Caller::default(), false, &[]);
    assert_eq!(rewritten.error, None);
    assert!(check(&rewritten.out).unwrap().controlling.is_empty());
}

/// Without these numbers, of every task.
fn ignore(image: &[u8], from: i32, to: i32) -> Rewritten {
    let item = Item {
        preserve: false,
        task: generator::meaning::Task::Every,
        from,
        to: Some(to),
    };
    rewrite(image, &[item], &Caller::default(), false, &[])
}

/// Without these numbers, of every task.
fn ignore_list(image: &[u8], numbers: &str) -> Rewritten {
    let items: Vec<Item> = numbers.split(',').map(of_every_task).collect();
    rewrite(image, &items, &Caller::default(), false, &[])
}

fn of_every_task(number: &str) -> Item {
    Item {
        preserve: false,
        task: generator::meaning::Task::Every,
        from: number.parse().unwrap(),
        to: Some(number.parse().unwrap()),
    }
}

fn without(image: &[u8], from: i32, to: i32) -> View {
    let rewritten = ignore(image, from, to);
    assert_eq!(rewritten.error, None);
    check(&rewritten.out).unwrap()
}

/// A fifo that nobody has is not opened: its path may be gone.
/// As of type FIFO the kernel would open both directions: whoever has it would never learn that the other side has
/// ended.
#[test]
fn a_pipe_that_is_relayed_is_opened_in_its_direction_only() {
    let image = build(&one_task(vec![Is::Device]));
    for (number, flags) in [(0, libc::O_RDONLY), (1, libc::O_WRONLY)] {
        let access = Access::of_flags(flags);
        let mode = u32::from(access.read) | u32::from(access.write) << 1;
        let file = CallerFile {
            kind: Kind::Pipe,
            access,
            flags,
            f_mode: mode,
            close_on_exec: false,
            description: number,
            name: b"/proc/self/fd/512".to_vec(),
            link: "pipe:[1] through a relay".to_owned(),
            pollable: true,
            not_given: None,
        };
        let caller = Caller {
            files: BTreeMap::from([(number, file)]),
            ..Caller::default()
        };
        let item = Item {
            preserve: true,
            task: generator::meaning::Task::Every,
            from: number,
            to: Some(number),
        };
        let rewritten = rewrite(&image, &[item], &caller, false, &[]);
        assert_eq!(rewritten.error, None);
        let after = check(&rewritten.out).unwrap();
        let given = after
            .files
            .values()
            .find(|file| file.name == b"/proc/self/fd/512");
        let given = given.unwrap();
        assert_eq!((given.kind, given.mode), (1, mode));
    }
}

#[test]
fn the_path_of_a_dropped_fifo_is_not_opened() {
    let image = build(&one_task(vec![
        Is::Fifo(5),
        Is::Fifo(5),
        Is::Epoll(vec![(0, 3)]),
    ]));
    let fifos = |view: &View| view.files.values().filter(|file| file.kind == 3).count();
    assert_eq!(fifos(&without(&image, 3, 4)), 0, "a watch does not need it");
    assert_eq!(fifos(&without(&image, 3, 5)), 0);
    // With the other end the contents stay where they are.
    let after = without(&image, 3, 3);
    assert_eq!(fifos(&after), 2);
    let first = &after.files[&after.blocks[0].0];
    assert_eq!(first.data.as_deref(), Some(&b"fffff"[..]));
}

/// Through a pipe it is not known whether a task that comes later has the watch and what it is of.
#[test]
fn what_only_a_watch_may_need_is_told_of() {
    for (file, what) in [
        (Is::Fifo(5), "its path is opened"),
        (Is::Terminal(0), "its number is taken"),
    ] {
        let mut recipe = one_task(vec![file, Is::Epoll(vec![(0, 3)])]);
        recipe.processes.push(Process::default());
        let image = build(&recipe);
        let both = [of_every_task("3"), of_every_task("4")];
        let piped = rewrite(&image, &both, &Caller::default(), false, &[]);
        assert_eq!(piped.error, None);
        let told = |w: &String| w.contains(what) && w.contains("image as a file");
        assert!(piped.warnings.iter().any(told), "{:?}", piped.warnings);
        let known = rewrite(&image, &both, &Caller::default(), true, &[]);
        assert!(known.warnings.is_empty(), "{:?}", known.warnings);
        let after = check(&known.out).unwrap();
        assert!(
            after.files.values().all(|file| file.kind == 1),
            "executables"
        );
        assert!(after.terminals.is_empty());
    }
}

/// What a pipe does not tell is not guessed at: the way out works.
#[test]
fn a_terminal_of_which_little_is_known_is_refused_with_the_way_out() {
    let mut recipe = one_task(vec![Is::Terminal(0), Is::Terminal(0), Is::Master(0)]);
    recipe.processes[0].table = [(3, (0, false)), (4, (1, false))].into();
    recipe.processes.push(Process {
        table: [(5, (2, false))].into(),
        ..Process::default()
    });
    let image = build(&recipe);
    for numbers in [&["3"][..], &["3", "4"]] {
        let items: Vec<Item> = numbers.iter().map(|n| of_every_task(n)).collect();
        let piped = rewrite(&image, &items, &Caller::default(), false, &[]);
        let refusal = piped.error.unwrap().to_string();
        assert!(refusal.contains("give the image as a file"), "{refusal}");
        let known = rewrite(&image, &items, &Caller::default(), true, &[]);
        assert_eq!(known.error, None);
    }
}

#[test]
fn all_terminals_that_would_be_dead_are_told_of_at_once() {
    let image = build(&one_task([0, 0, 1, 1].map(Is::Terminal).to_vec()));
    let refusal = ignore_list(&image, "3,5").error.unwrap().to_string();
    for part in [
        "CKPT_IGNORE=*:3: terminal /dev/pts/3 would be left at 100:4 ",
        "CKPT_IGNORE=*:5: terminal /dev/pts/4 would be left at 100:6 ",
        "ignore 100:4,100:6 too (or substitute 100:4=2,100:6=2)",
    ] {
        assert!(refusal.contains(part), "{refusal}\nhas no\n{part}");
    }
    assert_eq!(ignore_list(&image, "3,4,5,6").error, None);
}

/// The contents of the first pipe are so many bytes.
fn filled(mut image: Vec<u8>, bytes: usize) -> Vec<u8> {
    let (at, len) = of_kind(&image, 305, 0);
    image.splice(at + 8..at + len, vec![b'p'; bytes]);
    let len = u32::try_from(8 + bytes).unwrap();
    image[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
    image
}

/// A new pipe holds 64 KiB: who has one with more is told, and it can go.
#[test]
fn a_pipe_that_is_too_full_is_refused_unless_it_goes() {
    const FULL: usize = 65536;
    let mut recipe = one_task(vec![
        Is::Pipe(0, false, 9),
        Is::Pipe(0, true, 9),
        Is::Device,
    ]);
    let image = |recipe: &Recipe, bytes| filled(build(recipe), bytes);
    let too_full = image(&recipe, FULL + 1);
    for (numbers, who) in [
        ("5", "task 100 descriptor 3: a pipe with 65537 bytes"),
        ("3", "task 100 descriptor 4: a pipe with 65537 bytes"),
        ("4", "task 100 descriptor 3: a pipe with 65537 bytes"),
    ] {
        let refusal = ignore_list(&too_full, numbers)
            .error
            .expect(who)
            .to_string();
        assert!(refusal.contains(who), "{refusal}");
        assert!(refusal.contains("ignore both ends of it"), "{refusal}");
    }
    let gone = ignore_list(&too_full, "3,4");
    assert_eq!(gone.error, None);
    assert!(gone.out.len() < FULL);
    assert_eq!(ignore_list(&image(&recipe, FULL), "5").error, None);

    // In a stream nobody knows that the child has it no more.
    recipe.processes.push(recipe.processes[0].clone());
    let shared = image(&recipe, FULL + 1);
    let both = ["3", "4"].map(of_every_task);
    let ignored = |whole| rewrite(&shared, &both, &Caller::default(), whole, &[]);
    assert_eq!(ignored(true).error, None);
    let refusal = ignored(false).error.expect("it stays").to_string();
    assert!(refusal.contains("give the image as a file"), "{refusal}");

    let fifo = image(&one_task(vec![Is::Fifo(5), Is::Device]), FULL + 1);
    let refusal = ignore_list(&fifo, "4").error.expect("a fifo").to_string();
    assert!(
        refusal.contains("descriptor 3: a fifo with 65537 bytes"),
        "{refusal}"
    );
    assert_eq!(ignore_list(&fifo, "3").error, None);
}

/// One table is read before the first that advice changes; where that is known, it can be read.
#[test]
fn what_no_kernel_reads_is_mended_wherever_it_stands() {
    let mut recipe = one_task(vec![Is::Udp(0, 2), Is::Device]);
    recipe.processes[0].table.remove(&4);
    recipe.processes.push(Process {
        table: [(3, (0, false)), (7, (1, false))].into(),
        ..Process::default()
    });
    let image = build(&recipe);
    let item = [of_every_task("7")];
    for whole in [false, true] {
        let rewritten = rewrite(&image, &item, &Caller::default(), whole, &[]);
        assert_eq!(rewritten.error, None);
        assert_eq!(check(&rewritten.out).unwrap().unreadable.is_empty(), whole);
        assert_eq!(rewritten.warnings.is_empty(), whole);
    }
}

#[test]
fn the_contents_of_a_fifo_go_to_the_next_one() {
    let mut recipe = one_task(vec![Is::Fifo(5), Is::Device, Is::Fifo(0)]);
    recipe.processes[0].table = [(3, (0, false)), (4, (1, false))].into();
    recipe.processes.push(Process {
        table: [(5, (2, false))].into(),
        ..Process::default()
    });
    let after = without(&build(&recipe), 3, 3);
    let fifos: Vec<_> = after.files.values().filter(|file| file.kind == 3).collect();
    assert_eq!(fifos.len(), 1);
    assert_eq!(fifos[0].data.as_deref(), Some(&b"fffff"[..]));
}

/// An orphan stands where it is read before what the table defers: in front of
/// the last descriptor that is left, or of the table.
#[test]
fn orphans_are_read_before_deferred_work() {
    let files = vec![
        Is::Eventfd(1),
        Is::Pipe(0, true, 9),
        Is::Pipe(0, false, 9),
        Is::Socket(0, false, 2),
        Is::Socket(0, true, 1),
        Is::Epoll(vec![(0, 3), (3, 6)]),
    ];
    let mut recipe = one_task(files);
    // It might need some of them.
    recipe.processes.push(Process::default());
    let image = build(&recipe);
    for (from, to, count, before) in [(4, 8, 1, 302), (3, 8, 0, 301)] {
        let Rewritten { out, error, .. } = ignore(&image, from, to);
        assert_eq!(error, None);
        let after = check(&out).unwrap();
        let left = after.tables.values().map(|table| table.len()).max();
        assert_eq!(left, Some(count));
        // The executables come later, and the eventfd for its watch.
        let orphans: Vec<_> = after
            .blocks
            .iter()
            .filter(|(id, _)| !matches!(after.files[id].kind, 1 | 7))
            .collect();
        let first = |kind: u32| {
            let is = |&(at, _): &(usize, usize)| out[at..at + 4] == kind.to_le_bytes();
            after.records.iter().position(is).unwrap()
        };
        let last = orphans.iter().flat_map(|(_, of)| of).max().unwrap();
        assert!(*last < first(before), "{last} is behind {before}");
        assert_eq!(orphans.len(), 5);
    }
}

/// What is connected to it needs it, but nobody its name. Where another task may
/// need that, the user is told: something else may bear it now.
#[test]
fn a_dropped_bound_socket_stays_without_its_name() {
    let names = [Name::Path, Name::Relative, Name::Abstract];
    for (others, name) in names.iter().flat_map(|name| [(false, name), (true, name)]) {
        let mut recipe = one_task(vec![
            Is::Datagram(Datagram {
                name: Some(*name),
                ..Datagram::default()
            }),
            Is::Datagram(Datagram {
                to: Some(0),
                ..Datagram::default()
            }),
            Is::Device,
        ]);
        recipe.processes[0].table.insert(6, (0, false));
        if others {
            recipe.processes.push(Process::default());
        }
        let image = build(&recipe);
        for (numbers, dropped) in [("3,6", true), ("3", false), ("5", false)] {
            let rewritten = ignore_list(&image, numbers);
            assert_eq!(rewritten.error, None);
            let after = check(&rewritten.out).unwrap();
            assert_eq!(after.socks.len(), 2);
            let told = rewritten.warnings.iter().any(|w| w.contains("name"));
            assert_eq!(told, dropped && others, "{:?}", rewritten.warnings);
            let named = after.socks.values().any(Sock::takes_its_name);
            assert_eq!(named, others || !dropped);
        }
    }
}

/// The socket goes with its file, or neither; its name is not taken.
#[test]
fn a_dropped_listener_leaves_nothing_behind() {
    for name in [Name::Path, Name::Relative, Name::Abstract] {
        let mut recipe = one_task(vec![Is::Listener(name), Is::Device]);
        recipe.processes.push(Process {
            table: [(7, (0, false))].into(),
            ..Process::default()
        });
        let image = build(&recipe);
        let sockets = |from, to| {
            let out = ignore(&image, from, to).out;
            let view = check(&out).unwrap();
            let is = |&&(at, _): &&(usize, usize)| out[at..at + 4] == 701u32.to_le_bytes();
            view.records.iter().filter(is).count()
        };
        assert_eq!(sockets(3, 7), 0);
        assert_eq!(sockets(3, 3), 1, "another task has it");
        assert_eq!(sockets(7, 7), 1);
    }
}

/// Terminals have the names of their devices, and sockets that of their bind.
#[test]
fn what_has_no_path_of_its_own_has_its_name() {
    for late in [false, true] {
        let mut recipe = one_task(vec![
            Is::Listener(Name::Path),
            Is::Listener(Name::Relative),
            Is::Master(0),
            Is::Terminal(0),
        ]);
        recipe.late = late;
        let mut surveyor = Surveyor::default();
        surveyor.feed(&build(&recipe)).unwrap();
        let survey = surveyor.survey();
        let table = survey.tables.values().next().unwrap();
        let paths = table.descriptors.iter().map(|desc| {
            let path = survey.descriptor(desc).path.unwrap().into_owned();
            String::from_utf8(path).unwrap()
        });
        let paths: Vec<String> = paths.collect();
        assert_eq!(paths[..3], ["/tmp/sock0", "/tmp/sock1", "/dev/ptmx"]);
        assert!(paths[3].starts_with("/dev/pts/"), "{paths:?}");
    }
}

/// Both ends are in the image: the terminal stays for the other.
#[test]
fn an_end_of_a_terminal_pair_goes_without_its_terminal() {
    let image = build(&one_task(vec![Is::Master(0), Is::Terminal(0), Is::Device]));
    for (from, to, left) in [(3, 3, 1), (4, 4, 1), (3, 4, 0), (3, 5, 0)] {
        let after = without(&image, from, to);
        let ends = after.files.values().filter(|file| file.kind == 5).count();
        assert_eq!(ends, left);
        // Its number is not demanded for nobody.
        assert_eq!(after.terminals.len(), 2 * left);
    }
}
/// Whether its master is in the image is known too late, unless a pass went
/// before.
#[test]
fn a_master_may_come_later() {
    let mut recipe = one_task(vec![Is::Terminal(0), Is::Master(0)]);
    recipe.processes[0].table = [(3, (0, false))].into();
    recipe.processes.push(Process {
        table: [(4, (1, false))].into(),
        ..Process::default()
    });
    let image = build(&recipe);
    let item = Item {
        preserve: false,
        task: generator::meaning::Task::Every,
        from: 3,
        to: Some(3),
    };
    for whole in [false, true] {
        let item = std::slice::from_ref(&item);
        let rewritten = rewrite(&image, item, &Caller::default(), whole, &[]);
        assert_eq!(rewritten.error.is_none(), whole, "{:?}", rewritten.error);
        if whole {
            let after = check(&rewritten.out).unwrap();
            assert_eq!(after.terminals.len(), 2, "the slave's state is lost");
        }
    }
}

/// A closed socket is announced where its first message stands, and sent others
/// elsewhere.
#[test]
fn a_closed_sender_is_announced_for_whoever_is_left() {
    let bound = || {
        Is::Datagram(Datagram {
            name: Some(Name::Path),
            messages: vec![Sender::Dead(0), Sender::Dead(1), Sender::Dead(0)],
            ..Datagram::default()
        })
    };
    for late in [false, true] {
        let mut recipe = one_task(vec![bound(), Is::Device, bound()]);
        recipe.late = late;
        let image = build(&recipe);
        let before = check(&image).unwrap();
        for (number, kept) in [("3", 5), ("5", 3)] {
            let rewritten = ignore_list(&image, number);
            assert_eq!(rewritten.error, None);
            let after = check(&rewritten.out).unwrap();
            let sock = |view: &View| {
                let table = view.tables.values().next().unwrap();
                let file = table[&kept].file;
                view.socks[&view.files[&file].behind].clone()
            };
            assert_eq!(sock(&after).queues, sock(&before).queues);
            assert_eq!(sock(&after).senders.len(), 2);
            let named = after.socks.values().filter(|s| s.takes_its_name());
            assert_eq!(named.count(), 1);
        }
    }
}

/// Three tasks share a table; whoever is meant gets one of its own, also the
/// first, which had it written.
#[test]
fn one_of_those_that_share_a_table_leaves_it() {
    let files = vec![
        Is::Regular(2, false, 5),
        Is::Socket(0, false, 2),
        Is::Socket(0, true, 1),
        Is::Epoll(vec![(1, 4), (2, 5)]),
    ];
    let mut recipe = one_task(files);
    for _ in 0..2 {
        recipe.processes.push(Process {
            shares: Some(0),
            threads: 1,
            ..Process::default()
        });
    }
    let image = build(&recipe);
    for meant in 0..3 {
        let item = Item {
            preserve: false,
            task: generator::meaning::Task::Pid(pid(meant, 0)),
            from: 4,
            to: Some(6),
        };
        for whole in [false, true] {
            let item = std::slice::from_ref(&item);
            let rewritten = rewrite(&image, item, &Caller::default(), whole, &[]);
            assert_eq!(rewritten.error, None);
            let after = check(&rewritten.out).unwrap();
            assert_eq!(after.tables.len(), 2);
            for task in &after.tasks {
                let has: Vec<i32> = after.tables[&task.table].keys().copied().collect();
                let all = task.process != pid(meant, 0);
                let right: &[i32] = if all { &[3, 4, 5, 6] } else { &[3] };
                assert_eq!(has, right, "{meant}: {}", task.pid);
            }
        }
    }
}

/// A message that is cut into pieces, with one behind it, where something is told of the
/// queue in other ways.
#[test]
fn what_had_been_read_of_a_message_goes() {
    const TWO_AND_TWO_READ: u8 = 2 + 2 * 3;
    const COUNTED: u8 = 9;
    let image = |queued, late| {
        let files = vec![Is::Socket(0, false, queued), Is::Socket(0, true, 1)];
        build(&Recipe {
            late,
            ..one_task(files)
        })
    };
    for late in [false, true] {
        let whole = image(TWO_AND_TWO_READ, late);
        let before = check(&whole).unwrap();
        assert_eq!(before.half_read.len(), 1);
        let expected = before.readable(&whole, before.records.iter().copied());
        assert_eq!(expected.len() + 2, whole.len());
        let nobodys = [of_every_task("99")];
        for pieces in [&[][..], &[1], &[4096, 7]] {
            let once = rewrite(&whole, &nobodys, &Caller::default(), false, pieces);
            assert_eq!(once.error, None);
            assert!(once.out == expected);
            let twice = rewrite(&once.out, &nobodys, &Caller::default(), true, pieces);
            assert!(twice.out == expected);
            let none = rewrite(&whole, &[], &Caller::default(), false, pieces);
            assert!(none.out == whole);
        }
        // A kernel takes what is counted.
        let whole = image(TWO_AND_TWO_READ + COUNTED, late);
        let same = rewrite(&whole, &nobodys, &Caller::default(), false, &[]);
        assert_eq!(same.error, None);
        assert!(same.out == whole);
    }
}

/// The kernel that wrote the queues of an unconnected socket cannot read them.
#[test]
fn queues_that_nobody_reads_go() {
    let recipe = one_task(vec![
        Is::Device,
        Is::Udp(0, 2),
        Is::Socket(3, false, 2),
        Is::Udp(1, 0),
    ]);
    let image = build(&recipe);
    let before = check(&image).unwrap();
    assert_eq!(before.unreadable.len(), 1);
    for numbers in ["3", "4", "6", "5", "4,5"] {
        let rewritten = ignore_list(&image, numbers);
        assert_eq!(rewritten.error, None);
        let after = check(&rewritten.out).unwrap();
        assert!(after.unreadable.is_empty(), "{numbers}");
        let twice = ignore_list(&rewritten.out, numbers);
        assert_eq!(twice.error, None);
        assert!(twice.out == rewritten.out);
    }
    let image = build(&Recipe {
        late: true,
        ..recipe
    });
    assert_eq!(ignore_list(&image, "4").error, None);
}

/// A socket, or its peer, that is announced nowhere crashes the kernel.
#[test]
fn a_peer_that_never_comes_is_refused() {
    let sockets = vec![Is::Socket(0, false, 2), Is::Socket(0, true, 1), Is::Device];
    let image = build(&one_task(sockets));
    for at in [8, 12] {
        let mut image = image.clone();
        put(&mut image, 705, 1, at, 4000);
        let rewritten = ignore_list(&image, "5");
        assert!(rewritten.error.is_some(), "{at}");
    }
}

/// Bytes behind the end are none of a kernel's.
#[test]
fn what_stands_behind_the_end_does_not_matter() {
    let image = build(&one_task(vec![Is::Device, Is::Eventfd(1)]));
    let longer = [&image[..], &[7; 5000]].concat();
    for numbers in ["3", "4", "9"] {
        let rewritten = ignore_list(&image, numbers);
        let more = ignore_list(&longer, numbers);
        assert_eq!(more.error, None);
        assert_eq!(more.out[..rewritten.out.len()], rewritten.out);
        assert_eq!(more.out[rewritten.out.len()..], [7; 5000]);
    }
}

/// The n-th record of a type: its offset and length.
fn of_kind(image: &[u8], kind: u32, n: usize) -> (usize, usize) {
    let view = check(image).unwrap();
    let of_kind = |&&(at, _): &&(usize, usize)| image[at..at + 4] == kind.to_le_bytes();
    *view.records.iter().filter(of_kind).nth(n).unwrap()
}

/// Changes the n-th record of a type: a field of it.
fn put(image: &mut [u8], kind: u32, n: usize, at: usize, value: u32) {
    let (start, len) = of_kind(image, kind, n);
    assert!(at + 4 <= len);
    image[start + at..start + at + 4].copy_from_slice(&value.to_le_bytes());
}

/// An offset that crashes the kernel, a name without a byte: nothing of the kind
/// goes out.
#[test]
fn what_crashes_a_kernel_is_refused() {
    let image = build(&one_task(vec![Is::Regular(2, false, 5), Is::Device]));
    let mut offset = image.clone();
    put(&mut offset, 304, 0, 24, 0x8000_0000);
    let mut name = image.clone();
    let view = check(&name).unwrap();
    let is = |&&(at, _): &&(usize, usize)| name[at..at + 4] == 303u32.to_le_bytes();
    let &(at, len) = view.records.iter().find(is).unwrap();
    name.drain(at + 8..at + len);
    name[at + 4..at + 8].copy_from_slice(&8u32.to_le_bytes());
    for (what, image) in [("offset", offset), ("name", name)] {
        assert!(check(&image).is_err(), "{what}");
        let error = ignore_list(&image, "4").error.expect(what);
        assert!(!error.to_string().is_empty());
    }
    // Who is dropped may have any offset.
    let mut dropped = image;
    put(&mut dropped, 304, 0, 24, 0x8000_0000);
    let rewritten = ignore_list(&dropped, "3");
    assert_eq!(rewritten.error, None);
    assert!(check(&rewritten.out).is_ok());
}

/// What leaves nothing out, with threads of a process that shares nothing.
fn everything(late: bool) -> Recipe {
    let pair = |to| {
        Is::Datagram(Datagram {
            name: Some(Name::Path),
            to: Some(to),
            messages: vec![Sender::Live(to)],
            ..Datagram::default()
        })
    };
    let mut recipe = one_task(vec![
        Is::Regular(2, false, 5),
        Is::Epoll(vec![(4, 7)]),
        pair(3),
        pair(2),
        Is::Pipe(0, false, 9),
        Is::Pipe(0, true, 9),
        Is::Master(0),
        Is::Terminal(0),
        Is::Listener(Name::Abstract),
        Is::Connection(0, false, 2),
        Is::Fifo(5),
    ]);
    recipe.processes[0].maps = vec![0];
    recipe.processes[0].leader = Some(0);
    recipe.processes.push(Process::default());
    recipe.late = late;
    recipe
}

/// The small seeds of the fuzzer, which leave out what nobody refers to.
#[test]
fn what_is_lean_is_edited() {
    for late in [false, true] {
        let image = build(&Recipe {
            lean: true,
            ..everything(late)
        });
        assert_eq!(ignore_list(&image, "3").error, None);
    }
}

/// Each is refused under advice, by the name of a record; without, nothing is changed.
fn is_refused(what: &str, image: &[u8], by: &str) {
    let refusal = ignore_list(image, "3").error.expect(what).to_string();
    assert!(refusal.starts_with("image: offset "), "{what}: {refusal}");
    assert!(refusal.contains(by), "{what}: {refusal}");
    let without = rewrite(image, &[], &Caller::default(), false, &[]);
    if without.error.is_none() {
        assert!(without.out == image, "{what}");
    }
}

#[test]
fn references_to_what_has_not_come_are_refused() {
    for late in [false, true] {
        let image = build(&everything(late));
        assert_eq!(ignore_list(&image, "3").error, None);
        let moved = |kind| kind + u32::from(late);
        let (creds, _) = of_kind(&image, moved(117), 0);
        let cred = u32::from_le_bytes(image[creds + 8..creds + 12].try_into().unwrap());
        for (what, kind, n, at) in [
            ("a file's credentials", 304, 1, 20),
            ("a socket", 304, 2, 48),
            ("a pipe of no number", 304, 4, 48),
            ("a terminal", 304, 6, 48),
            ("a watched file", 308, 0, 36),
            ("a watching set", 308, 0, 8),
            ("a terminal's master", 306, 1, 12),
            ("a sender", 703, 0, 44),
            ("a receiver", 703, 0, 48),
            ("a file table", moved(104), 0, 8),
            ("an address space", moved(104), 0, 12),
            ("credentials", moved(117), 0, 8),
            ("a set of namespaces", moved(103), 0, 8),
            ("a user", moved(114), 0, 40),
            ("an executable", 401, 0, 12),
            ("a controlling terminal", 602, 0, 312),
        ] {
            for value in [4000, cred, u32::MAX] {
                let pipe = what == "a pipe of no number";
                if (pipe && value == 4000) || (what.contains("credentials") && value == cred) {
                    continue;
                }
                let mut image = image.clone();
                let (start, _) = of_kind(&image, kind, n);
                image[start + at..start + at + 4].copy_from_slice(&value.to_le_bytes());
                is_refused(what, &image, "record, ");
            }
        }
    }
}

#[test]
fn counts_of_what_does_not_come_are_refused() {
    for late in [false, true] {
        let image = build(&everything(late));
        let moved = |kind| kind + u32::from(late);
        for (what, kind, at, by) in [
            ("tasks", moved(101), 8, "TREE"),
            ("watches", 308, 12, "EPOLL_ITEMS"),
            ("messages", 702, 8, "SOCKET_QUEUE"),
            ("bytes of a message", 703, 20, "SOCKET_BUFFER"),
            ("fragments", 703, 52, "SOCKET_BUFFER"),
            ("mappings", 401, 8, "MM record"),
            ("signals", 604, 8, "SIGPENDING"),
            ("groups", moved(116), 8, "GROUPINFO"),
            ("flags that create", 304, 16, "FILE record"),
            ("a type of object", 6, 8, "OBJREF"),
        ] {
            for value in [0x8000_0041, 0x00ff_0041] {
                let mut image = image.clone();
                put(&mut image, kind, 0, at, value);
                is_refused(what, &image, by);
            }
        }
    }
}

/// Longer or shorter than it is by 8 bytes: every record that has a length.
#[test]
fn records_have_their_lengths() {
    for (late, machine) in [(false, Machine::X86_64), (true, Machine::X86_32)] {
        let image = build(&Recipe {
            machine,
            ..everything(late)
        });
        let view = check(&image).unwrap();
        for &(at, len) in &view.records {
            let kind = view.number(&image[at..], 0);
            // Texts, bytes, and what a processor holds. An announcement may be longer.
            let free = matches!(kind, 4 | 5 | 7 | 201 | 202 | 303 | 305);
            for more in [true, false] {
                // Its length tells the version.
                let tells = late && kind == 101;
                if free || tells || (kind == 6 && more) || len < 16 {
                    continue;
                }
                let (mut damaged, end) = (image.clone(), at + len);
                let new = if more { len + 8 } else { len - 8 };
                match more {
                    true => drop(damaged.splice(end..end, [0; 8])),
                    false => drop(damaged.drain(end - 8..end)),
                }
                let new = u32::try_from(new).unwrap();
                damaged[at + 4..at + 8].copy_from_slice(&new.to_le_bytes());
                let what = format!("{kind} of {new} bytes");
                let refusal = ignore_list(&damaged, "3").error.expect(&what).to_string();
                let here = format!("image: offset {at}: ");
                assert!(refusal.starts_with(&here), "{what}: {refusal}");
            }
        }
    }
}

/// What a kernel reads one after the other, out of place; and what it does not know.
#[test]
fn records_come_in_their_order() {
    let image = build(&everything(false));
    let view = check(&image).unwrap();
    let refused = |damaged: &[u8], what: &str| {
        let refusal = ignore_list(damaged, "3").error.expect(what).to_string();
        assert!(refusal.starts_with("image: offset "), "{what}: {refusal}");
    };
    let mut seen = BTreeSet::new();
    let records = || view.records.iter().map(|&(at, len)| (at, at + len));
    let kind = |at: usize| view.number(&image[at..], 0);
    for (at, end) in records().filter(|(at, _)| seen.insert(kind(*at))) {
        let doubled = [&image[..end], &image[at..]].concat();
        let dropped = [&image[..at], &image[end..]].concat();
        // Of the task and its files.
        if matches!(kind(at), 103..=107 | 117 | 301 | 303 | 305 | 602..=604) {
            refused(&doubled, &format!("{} twice", kind(at)));
        }
        if matches!(kind(at), 103..=107 | 117 | 302 | 303 | 305 | 404 | 602..=604) {
            refused(&dropped, &format!("no {}", kind(at)));
        }
        if at > 0 {
            let unknown = [777u32, 8].map(u32::to_le_bytes).concat();
            let strange = [&image[..at], &unknown, &image[at..]].concat();
            refused(&strange, &format!("777 before {}", kind(at)));
        }
    }
}

/// Each object in another is a call of a kernel by itself.
#[test]
fn objects_are_not_nested_without_end() {
    let image = build(&everything(false));
    let view = check(&image).unwrap();
    let (file, _) = *view
        .records
        .iter()
        .find(|(at, _)| view.number(&image[*at..], 0) == 304)
        .unwrap();
    let announced = |id: u32| [6u32, 16, 15, id].map(u32::to_le_bytes).concat();
    let sockets: Vec<u8> = (0..1000).flat_map(|n| announced(900_000 + n)).collect();
    let nested = [&image[..file], &sockets, &image[file..]].concat();
    let refusal = ignore_list(&nested, "3")
        .error
        .expect("refused")
        .to_string();
    assert!(
        refusal.contains("before the bodies of 64 others"),
        "{refusal}"
    );
}

/// References that go in circles, objects of which there are two, counts of
/// everything: an answer, in memory that is in proportion.
#[test]
fn hostile_images_are_answered() {
    let pair = |to| {
        Is::Datagram(Datagram {
            name: Some(Name::Path),
            to: Some(to),
            messages: vec![Sender::Live(to), Sender::Dead(0)],
            ..Datagram::default()
        })
    };
    let mut recipe = one_task(vec![
        Is::Epoll(vec![(1, 4), (2, 5)]),
        Is::Epoll(vec![(2, 5)]),
        pair(3),
        pair(2),
        Is::Connection(0, false, 2),
        Is::Master(0),
        Is::Terminal(0),
        Is::Pipe(0, false, 9),
        Is::Pipe(0, true, 9),
    ]);
    recipe.processes.push(Process {
        shares: Some(0),
        ..Process::default()
    });
    let most = [0u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    for late in [false, true] {
        recipe.late = late;
        let image = build(&recipe);
        let view = check(&image).unwrap();
        let ids = view.files.keys().chain(view.socks.keys());
        let mut ids = ids.map(|id| id.cast_unsigned()).cycle();
        for &(at, len) in &view.records {
            let kind = view.number(&image[at..], 0);
            // Those of descriptors, and their references.
            if !matches!(kind, 6 | 301..=308 | 701..=706) {
                continue;
            }
            for field in (at + 4..at + len.min(64)).step_by(4) {
                let other = ids.next().unwrap();
                for value in [most[field / 4 % 5], most[(field / 4 + 2) % 5], other] {
                    let mut image = image.clone();
                    let Some(word) = image.get_mut(field..field + 4) else {
                        continue;
                    };
                    word.copy_from_slice(&value.to_le_bytes());
                    let before = NOW.get();
                    MOST.set(before);
                    for (numbers, whole) in [("5,7", true), ("3,4,8,9", false)] {
                        let items: Vec<Item> = numbers.split(',').map(of_every_task).collect();
                        rewrite(&image, &items, &Caller::default(), whole, &[]);
                    }
                    let used = MOST.get() - before;
                    assert!(used < 64 * image.len() + 100_000, "{used} bytes");
                }
            }
        }
    }
}
