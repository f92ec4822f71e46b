//! Advice met with the file tables of an image: what becomes of every
//! descriptor.
//!
//! One planner serves both engines. It is told of the image's file tables in
//! the order of the image, the root task's first, and answers each at once, so
//! that an engine that reads a stream can use it as well as one that reads a
//! directory.
//!
//! * [`selection`]: which descriptors an item means;
//! * [`giving`]: what comes in their place, and whether it will do;
//! * [`unmatched`]: what the image has instead of what was asked for.

mod by_number;
mod giving;
mod selection;
mod unmatched;

use crate::Error;
use crate::advice::{Action, Advice, Item, Kind, Source, Strictness, Target};
use crate::caller::{Access, Caller, NoPaths, Paths};
use by_number::ByNumber;
use giving::Given;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use unmatched::Seen;

/// One descriptor of a task, as the image has it.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// Its number.
    pub number: i32,
    /// Names the open file description (Linux-CR: objref; CRIU: file id).
    pub description: u64,
    /// What kind of file it is.
    pub kind: Kind,
    /// The image does not tell a file from a directory or a device: what its
    /// path is here and now counts.
    pub kind_by_path: bool,
    /// The absolute path that it was opened by or is bound to, where the image
    /// has one.
    pub path: Option<Cow<'a, [u8]>>,
    /// The access that the description had.
    pub access: Access,
    /// Its status flags, as of open(2); others are passed over.
    pub flags: i32,
    /// Its offset in bytes, where the image has one.
    pub position: Option<u64>,
    /// The task had it, and the image lacks it: whoever adds one takes nothing away.
    pub is_missing: bool,
}

impl Descriptor<'_> {
    fn label(&self) -> Cow<'static, str> {
        match &self.path {
            Some(path) => [self.kind.name(), " ", &String::from_utf8_lossy(path)]
                .concat()
                .into(),
            None => self.kind.name().into(),
        }
    }
}

/// Where a descriptor comes from that is not the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The caller's descriptor of this number.
    Descriptor(i32),
    /// A file that is opened by its path: which, as [`Planner::opening`] has it.
    Path(usize),
}

/// What becomes of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As in the image.
    Keep,
    /// Not open after the restart.
    Drop,
    /// Another file in its place.
    Give(Origin),
}

/// What becomes of one file table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablePlan {
    /// One for each descriptor, in the order in which they were given.
    pub fates: Vec<Fate>,
    /// Numbers that the table gets in addition, ascending, each with the
    /// caller's number that it comes from.
    pub added: Vec<(i32, i32)>,
}

impl TablePlan {
    /// Whether the table stays as it is.
    pub fn is_untouched(&self) -> bool {
        self.added.is_empty() && self.fates.iter().all(|fate| *fate == Fate::Keep)
    }

    /// Where its new descriptors come from, in an order that does not depend on
    /// whether the table had the numbers.
    pub fn origins(&self) -> BTreeSet<Origin> {
        let placed = self.fates.iter().filter_map(|fate| match fate {
            Fate::Give(from) => Some(*from),
            _ => None,
        });
        let added = self.added.iter().map(|&(_, from)| Origin::Descriptor(from));
        placed.chain(added).collect()
    }
}

/// One line of the plan, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Pid of the task, as the image has it.
    pub task: i32,
    /// The descriptor.
    pub number: i32,
    /// What the image has there; `None` where it has nothing.
    pub was: Option<Cow<'static, str>>,
    /// What becomes of it.
    pub fate: Fate,
    /// The item that asks for it, as written.
    pub item: Arc<str>,
    /// What comes in its place, for people.
    pub gives: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = self.was.as_deref().unwrap_or("not open");
        write!(f, "task {} descriptor {} ({was}): ", self.task, self.number)?;
        let gives = self.gives.as_deref().unwrap_or("unknown");
        match &self.fate {
            Fate::Keep => write!(f, "kept")?,
            Fate::Drop => write!(f, "dropped")?,
            Fate::Give(Origin::Descriptor(from)) => {
                write!(f, "from the caller's {from} ({gives})")?;
            }
            Fate::Give(Origin::Path(_)) => write!(f, "from {gives}")?,
        }
        write!(f, " [{}]", self.item)
    }
}

/// An item, with the numbers of the caller that it needs.
struct Bound {
    item: Item,
    /// As it was written.
    text: Arc<str>,
    /// For PRESERVE: each number that it adds or puts in place.
    numbers: Vec<i32>,
    matched: bool,
    /// The program asks for it itself: it gives way to what whoever restores it says. And
    /// why nothing comes of it, where the number is not offered.
    asked: Option<String>,
}

/// What a program asks for itself.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The number, in a task by its pid.
    pub item: Item,
    /// Why nothing comes of it, where the number is not offered.
    pub not_offered: String,
}

/// A number of a table, and the item that decides on it.
#[derive(Clone, Copy)]
struct Choice {
    number: i32,
    /// Which of the advice.
    index: usize,
}

/// What an item puts in the place of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted<'a> {
    /// The caller's descriptor of this number.
    Number(i32),
    /// A file that is opened by its path.
    Path(&'a Arc<[u8]>),
}

/// Meets advice with file tables.
pub struct Planner {
    bound: Vec<Bound>,
    caller: Caller,
    paths: Box<dyn Paths>,
    strictness: Strictness,
    /// Whether the engine gives the caller's description itself.
    shares: bool,
    given: Vec<Given>,
    /// The root task's numbers, ascending, each with its description.
    root: Vec<(i32, u64)>,
    root_pid: i32,
    /// Numbers that a task other than the root has, where the whole image is
    /// known in advance.
    census: Option<BTreeSet<i32>>,
    alone: bool,
    seen: Seen,
    changes: Vec<Change>,
}

impl Planner {
    /// Binds advice to what the caller has.
    ///
    /// * `shares`: the engine gives the caller's open file description itself
    ///   (CRIU); otherwise it opens the same file anew (Linux-CR).
    ///
    /// # Errors
    /// [`Error::NotOpen`] for a number to give that is not open in the caller;
    /// [`Error::TooHigh`] for one that is not below its limit;
    /// [`Error::Unsupported`] for one that the engine cannot give.
    pub fn new(advice: &Advice, caller: Caller, shares: bool) -> Result<Self, Error> {
        let mut bound = Vec::with_capacity(advice.items.len());
        for item in &advice.items {
            let (named, range) = match (&item.action, &item.target) {
                (Action::Ignore | Action::Substitute(Source::Path(_)), _) => (None, None),
                (Action::Substitute(Source::Descriptor(number)), _) => (Some(*number), None),
                (_, Target::Number(number)) => (Some(*number), None),
                (_, target) => (None, target.numbers()),
            };
            if let Some(number) = named.filter(|number| !caller.files.contains_key(number)) {
                return Err(Error::NotOpen {
                    item: item.to_string(),
                    number,
                });
            }
            let in_range = range
                .iter()
                .flat_map(|&(from, to)| caller.files.range(from..=to));
            let given: Vec<i32> = named
                .into_iter()
                .chain(in_range.map(|(number, _)| *number))
                .collect();
            let too_high = |&&number: &&i32| caller.limit.is_some_and(|it| number as u64 >= it);
            if let (Some(&number), Some(limit)) = (given.iter().find(too_high), caller.limit) {
                return Err(Error::TooHigh {
                    item: item.to_string(),
                    number,
                    limit,
                });
            }
            for number in &given {
                let file = &caller.files[number];
                if let Some(why) = &file.not_given {
                    return Err(Error::unsupported(
                        format!("{item}: descriptor {number} ({})", file.link),
                        why.clone(),
                    ));
                }
            }
            let substitutes = matches!(item.action, Action::Substitute(_));
            bound.push(Bound {
                item: item.clone(),
                text: item.to_string().into(),
                numbers: if substitutes { Vec::new() } else { given },
                matched: false,
                asked: None,
            });
        }
        Ok(Planner {
            bound,
            caller,
            paths: Box::new(NoPaths),
            strictness: advice.strictness,
            shares,
            given: Vec::new(),
            root: Vec::new(),
            root_pid: 0,
            census: None,
            alone: false,
            seen: Seen::default(),
            changes: Vec::new(),
        })
    }

    /// Tells what the program itself asks for: descriptors that are the image's unless
    /// the caller offers its own, and no advice says otherwise.
    pub fn with_asked(mut self, asked: impl Iterator<Item = Asked>) -> Self {
        self.bound.extend(asked.map(|asked| Bound {
            text: asked.item.to_string().into(),
            item: asked.item,
            numbers: Vec::new(),
            matched: false,
            asked: Some(asked.not_offered),
        }));
        self
    }

    /// Tells which numbers the tasks other than the root have, where the whole
    /// image is known in advance.
    pub fn foresee(&mut self, numbers: BTreeSet<i32>) {
        self.census = Some(numbers);
    }

    /// Tells who knows the paths of the system.
    pub fn with_paths(mut self, paths: Box<dyn Paths>) -> Self {
        self.paths = paths;
        self
    }

    /// Tells that the image has one task, before its tables are planned.
    pub fn one_task(&mut self) {
        self.alone = true;
    }

    /// Whether there is no advice at all.
    pub fn is_idle(&self) -> bool {
        self.bound.is_empty()
    }

    /// What the caller has.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Plans one process's file table.
    ///
    /// * `pids`: the process and its threads, the process first.
    /// * `root`: it is the image's first task, or shares that one's table.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Access`], [`Error::Path`],
    /// [`Error::Contradiction`]; [`Error::Unsupported`] where the answer depends
    /// on tables not seen yet.
    pub fn table(
        &mut self,
        pids: &[i32],
        root: bool,
        descriptors: &[Descriptor<'_>],
    ) -> Result<TablePlan, Error> {
        let task = pids.first().copied().unwrap_or(0);
        let by_number = ByNumber::new(descriptors);
        if root && self.root_pid == 0 {
            self.root_pid = task;
            self.root = by_number
                .iter()
                .map(|d| (d.number, d.description))
                .collect();
        }
        let mut selected: Vec<Choice> = Vec::new();
        for index in 0..self.bound.len() {
            if self.bound[index].asked.is_some() || !self.means(index, pids) {
                continue;
            }
            let numbers = self.selected(index, root, task, &by_number)?;
            self.bound[index].matched |= !numbers.is_empty();
            let choices = numbers.into_iter().map(|number| Choice { number, index });
            selected.extend(choices);
        }
        let mut chosen = self.decide(task, selected)?;
        self.answer(pids, &by_number, &mut chosen);
        self.note(pids, &by_number);
        self.carry_out(task, &chosen, &by_number, descriptors)
    }

    /// Of the items that select a number the one that decides: the first that gives
    /// something, or the last.
    fn decide(&self, task: i32, mut selected: Vec<Choice>) -> Result<Vec<Choice>, Error> {
        selected.sort_by_key(|choice| choice.number);
        let mut chosen: Vec<Choice> = Vec::with_capacity(selected.len());
        for choice in selected {
            let Choice { number, index } = choice;
            match chosen.last_mut().filter(|other| other.number == number) {
                None => chosen.push(choice),
                Some(other) if self.wanted(other.index, number).is_none() => *other = choice,
                Some(other) if self.contradict(other.index, index, number) => {
                    return Err(self.contradiction(task, number, other.index, index));
                }
                Some(_) => {}
            }
        }
        Ok(chosen)
    }

    /// What becomes of the descriptors that the program asks for, once all advice is met.
    fn answer(&mut self, pids: &[i32], by_number: &ByNumber<'_>, chosen: &mut Vec<Choice>) {
        for index in 0..self.bound.len() {
            let Bound { item, asked, .. } = &self.bound[index];
            let Target::Number(number) = item.target else {
                continue;
            };
            if asked.is_none() || !self.means(index, pids) {
                continue;
            }
            let place = chosen.binary_search_by_key(&number, |choice| choice.number);
            let caller = &self.caller;
            let is_offered = caller.offered.contains(&number) && caller.files.contains_key(&number);
            let is_there = by_number.get(number).is_some();
            let gets = is_offered && is_there;
            self.bound[index].matched |= gets || place.is_ok();
            let choice = Choice { number, index };
            match place {
                Err(place) if gets => chosen.insert(place, choice),
                // Preserved by whoever restores it, who need not say that the image's goes.
                Ok(place) if is_there && self.adds(chosen[place].index) => chosen[place] = choice,
                _ => {}
            }
        }
    }

    fn carry_out(
        &mut self,
        task: i32,
        chosen: &[Choice],
        by_number: &ByNumber<'_>,
        descriptors: &[Descriptor<'_>],
    ) -> Result<TablePlan, Error> {
        let fates = self.fates(task, chosen, by_number)?;
        let mut plan = TablePlan::default();
        self.changes.reserve(chosen.len());
        for (&Choice { number, index }, &fate) in chosen.iter().zip(&fates) {
            let there = by_number.get(number);
            if let (None, Fate::Give(Origin::Descriptor(from))) = (there, fate) {
                plan.added.push((number, from));
            }
            let change = Change {
                task,
                number,
                was: there.map(|d| d.label()),
                fate,
                item: self.bound[index].text.clone(),
                gives: match fate {
                    Fate::Give(from) => self.gives(from),
                    _ => None,
                },
            };
            self.changes.push(change);
        }
        let fate = |descriptor: &Descriptor<'_>| {
            let place = chosen.binary_search_by_key(&descriptor.number, |choice| choice.number);
            place.map_or(Fate::Keep, |place| fates[place])
        };
        plan.fates = descriptors.iter().map(fate).collect();
        Ok(plan)
    }

    /// What an item puts in the place of a number that it selects; `None` where
    /// it drops it.
    fn wanted(&self, index: usize, number: i32) -> Option<Wanted<'_>> {
        match &self.bound[index].item.action {
            Action::Ignore => None,
            Action::Preserve | Action::Add => Some(Wanted::Number(number)),
            Action::Substitute(Source::Descriptor(from)) => Some(Wanted::Number(*from)),
            Action::Substitute(Source::Path(path)) => Some(Wanted::Path(path)),
        }
    }

    /// Whether an item is PRESERVE alone.
    fn adds(&self, index: usize) -> bool {
        self.bound[index].item.action == Action::Add
    }

    /// Whether two items that select one number cannot both be meant: one
    /// preserves and one substitutes, or they have different sources as written.
    fn contradict(&self, a: usize, b: usize, number: i32) -> bool {
        let substitutes =
            |index: usize| matches!(self.bound[index].item.action, Action::Substitute(_));
        let (one, other) = (self.wanted(a, number), self.wanted(b, number));
        other.is_some() && (one != other || substitutes(a) != substitutes(b))
    }

    fn contradiction(&self, task: i32, number: i32, a: usize, b: usize) -> Error {
        Error::Contradiction {
            what: format!(
                "task {task} descriptor {number} is given by two items: {} and {}",
                self.bound[a].item, self.bound[b].item
            ),
            remedy: "leave one of them out".to_owned(),
        }
    }

    /// What is changed, so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::parse_list;
    use crate::caller::{CallerFile, CannotOpen, Opened, Opening};

    fn advice(ignore: &str, preserve: &str) -> Advice {
        let mut items = parse_list(
            "CKPT_PRESERVE",
            preserve.as_bytes(),
            &Action::Preserve,
            1024,
        )
        .unwrap();
        items.extend(parse_list("CKPT_IGNORE", ignore.as_bytes(), &Action::Ignore, 1024).unwrap());
        Advice {
            items,
            strictness: Strictness::Warn,
        }
    }

    fn caller(numbers: &[i32], flags: i32) -> Caller {
        let file = |n: i32| CallerFile {
            kind: Kind::Reg,
            access: Access::of_flags(flags),
            flags,
            f_mode: 0x1f,
            close_on_exec: false,
            description: n,
            name: Vec::new(),
            link: format!("/file{n}"),
            pollable: false,
            not_given: None,
        };
        Caller {
            files: numbers.iter().map(|&n| (n, file(n))).collect(),
            ..Caller::default()
        }
    }

    fn descriptors(list: &[(i32, u64)]) -> Vec<Descriptor<'static>> {
        list.iter()
            .map(|&(number, description)| Descriptor {
                number,
                description,
                kind: Kind::Reg,
                kind_by_path: false,
                path: None,
                access: Access::of_flags(libc::O_RDWR),
                flags: 0,
                position: None,
                is_missing: false,
            })
            .collect()
    }

    fn planner(ignore: &str, preserve: &str) -> Planner {
        let caller = caller(&[0, 1, 2, 7], libc::O_RDWR);
        Planner::new(&advice(ignore, preserve), caller, false).unwrap()
    }

    #[test]
    fn a_number_means_the_root_task_and_what_others_share_of_it() {
        let mut p = planner("1", "");
        let root = p
            .table(&[10], true, &descriptors(&[(0, 1), (1, 2)]))
            .unwrap();
        assert_eq!(root.fates, [Fate::Keep, Fate::Drop]);
        let same = p.table(&[11], false, &descriptors(&[(1, 2)])).unwrap();
        assert_eq!(same.fates, [Fate::Drop]);
        let other = p.table(&[12], false, &descriptors(&[(1, 3)])).unwrap();
        assert_eq!(other.fates, [Fate::Keep]);
        assert_eq!(p.finish(), Ok(vec![]));
    }

    #[test]
    fn where_the_root_task_lacks_it_every_task_that_has_it() {
        let mut p = planner("9", "");
        assert!(
            p.table(&[10], true, &descriptors(&[(0, 1)]))
                .unwrap()
                .is_untouched()
        );
        let child = p.table(&[11], false, &descriptors(&[(9, 5)])).unwrap();
        assert_eq!(child.fates, [Fate::Drop]);
    }

    #[test]
    fn preserve_wins_over_ignore_and_adds_what_nobody_has() {
        let mut p = planner("0-", "1,7");
        p.one_task();
        let plan = p
            .table(&[10], true, &descriptors(&[(0, 1), (1, 2)]))
            .unwrap();
        assert_eq!(plan.fates, [Fate::Drop, Fate::Give(Origin::Descriptor(1))]);
        assert_eq!(plan.added, [(7, 7)]);
    }

    #[test]
    fn a_number_that_a_later_task_has_is_not_added_to_the_root() {
        let mut p = planner("", "7");
        assert_eq!(
            p.table(&[10], true, &descriptors(&[(0, 1)]))
                .map_err(|e| e.errno()),
            Err(libc::ENOTSUP)
        );
        let mut p = planner("", "7");
        p.foresee([7].into());
        assert!(
            p.table(&[10], true, &descriptors(&[(0, 1)]))
                .unwrap()
                .is_untouched()
        );
        let child = p.table(&[11], false, &descriptors(&[(7, 5)])).unwrap();
        assert_eq!(child.fates, [Fate::Give(Origin::Descriptor(7))]);
    }

    #[test]
    fn a_named_task_that_lacks_the_number_gets_it() {
        let mut p = planner("", "11:7");
        assert!(
            p.table(&[10], true, &descriptors(&[(0, 1)]))
                .unwrap()
                .is_untouched()
        );
        let child = p.table(&[11], false, &descriptors(&[(0, 1)])).unwrap();
        assert_eq!(child.added, [(7, 7)]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let no_nine = Planner::new(&advice("", "9"), caller(&[0], 0), false);
        assert_eq!(no_nine.err().map(|e| e.errno()), Some(libc::EBADF));
        // One of a range that was opened before the limit was lowered.
        let lowered = Caller {
            limit: Some(8),
            ..caller(&[7, 8], libc::O_RDWR)
        };
        assert!(Planner::new(&advice("", "0-7"), lowered.clone(), true).is_ok());
        let eight = Planner::new(&advice("", "0-"), lowered, true);
        assert_eq!(eight.err().map(|e| e.errno()), Some(libc::EBADF));
        let mut p = Planner::new(&advice("", "1"), caller(&[1], libc::O_RDONLY), false).unwrap();
        assert_eq!(
            p.table(&[10], true, &descriptors(&[(1, 1)]))
                .map_err(|e| e.errno()),
            Err(libc::EACCES)
        );
        let mut advice = advice("", "1");
        advice.items[0].action = Action::Add;
        let mut p = Planner::new(&advice, caller(&[1], libc::O_RDWR), false).unwrap();
        assert_eq!(
            p.table(&[10], true, &descriptors(&[(1, 1)]))
                .map_err(|e| e.errno()),
            Err(libc::EEXIST)
        );
    }

    #[test]
    fn the_root_task_is_one_task_also_where_it_shares_its_table() {
        let mut p = planner("root:1", "");
        let shared = descriptors(&[(1, 2)]);
        assert_eq!(p.table(&[10], true, &shared).unwrap().fates, [Fate::Drop]);
        assert_eq!(p.table(&[11], true, &shared).unwrap().fates, [Fate::Keep]);
    }

    #[test]
    fn what_did_not_match_is_said_by_name() {
        let mut p = planner("12,99:1,10:5", "");
        p.table(&[10], true, &descriptors(&[(0, 1), (1, 2), (2, 2), (9, 3)]))
            .unwrap();
        assert_eq!(
            p.finish().unwrap(),
            [
                "CKPT_IGNORE=12: no task has 12; open are 0-2, 9",
                "CKPT_IGNORE=99:1: the image has no task 99 with descriptors; it has 10",
                "CKPT_IGNORE=10:5: task 10 has no 5; open there: 0-2, 9",
            ]
        );
    }

    /// Everything that is looked for is a regular file of 100 bytes, but what
    /// begins with `/no/` or `/d/`; those in `/open/` were opened for both.
    struct World;

    impl Paths for World {
        fn kind(&self, path: &[u8]) -> Kind {
            match path.starts_with(b"/d/") {
                true => Kind::Dir,
                false => Kind::Reg,
            }
        }

        fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
            if opening.path.starts_with(b"/no/") {
                return Err(CannotOpen {
                    errno: libc::ENOENT,
                    why: "not there".to_owned(),
                });
            }
            let mut file = caller(&[0], libc::O_RDWR).files.remove(&0).unwrap();
            file.access = match opening.path.starts_with(b"/open/") {
                true => Access::of_flags(libc::O_RDWR),
                false => opening.access,
            };
            Ok(Opened {
                file,
                position: opening.start(100),
                missing: false,
            })
        }

        fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
            self.look(opening)
        }
    }

    fn substitutes(list: &str) -> Planner {
        let stand_in = Action::Substitute(Source::Descriptor(0));
        let mut advice = advice("", "");
        advice.items = parse_list("CKPT_SUBSTITUTE", list.as_bytes(), &stand_in, 1024).unwrap();
        let caller = caller(&[0, 1, 2, 7], libc::O_RDWR);
        Planner::new(&advice, caller, true)
            .unwrap()
            .with_paths(Box::new(World))
    }

    fn of_kind(number: i32, description: u64, kind: Kind, path: &str) -> Descriptor<'static> {
        let mut descriptor = descriptors(&[(number, description)]).remove(0);
        descriptor.kind = kind;
        descriptor.path = Some(Cow::Owned(path.as_bytes().to_vec()));
        descriptor.position = Some(30);
        descriptor
    }

    fn log() -> Vec<Descriptor<'static>> {
        vec![
            of_kind(1, 1, Kind::Reg, "/var/log"),
            of_kind(2, 1, Kind::Reg, "/var/log"),
            of_kind(3, 2, Kind::Pipe, ""),
            of_kind(4, 3, Kind::Reg, "/d/here"),
        ]
    }

    #[test]
    fn paths_kinds_and_identifiers_mean_every_task() {
        for (list, root, child) in [
            ("/var/*", vec![1, 2], vec![1, 2]),
            ("type=pipe", vec![3], vec![3]),
            ("11:type=pipe", vec![], vec![3]),
            ("id=1", vec![1, 2], vec![1, 2]),
            ("root:id=1", vec![1, 2], vec![]),
            ("type=reg", vec![1, 2, 4], vec![1, 2, 4]),
            ("/,/var", vec![], vec![]),
        ] {
            let mut p = planner(list, "");
            for (pid, expected) in [(10, root), (11, child)] {
                let plan = p.table(&[pid], pid == 10, &log()).unwrap();
                let is = plan.fates.iter().map(|fate| *fate == Fate::Drop);
                let dropped: Vec<i32> = (1..).zip(is).filter(|d| d.1).map(|d| d.0).collect();
                assert_eq!(dropped, expected, "{list} in {pid}");
            }
        }
    }

    #[test]
    fn where_the_image_does_not_tell_the_kind_the_path_does() {
        let mut p = substitutes("type=dir=7");
        let mut log = log();
        log[3].kind_by_path = true;
        let plan = p.table(&[10], true, &log).unwrap();
        let given = Fate::Give(Origin::Descriptor(7));
        assert_eq!(plan.fates, [Fate::Keep, Fate::Keep, Fate::Keep, given]);
    }

    #[test]
    fn one_path_is_one_description() {
        let mut p = substitutes("1=/a,2=/a,3=/b");
        let plan = p.table(&[10], true, &log()).unwrap();
        let [a, b] = [0, 1].map(|index| Fate::Give(Origin::Path(index)));
        assert_eq!(plan.fates, [a, a, b, Fate::Keep]);
        // A pipe had no offset, the file had.
        assert_eq!((p.position(0), p.position(1)), (30, 100));
        // The child's 3 is opened for what it needs, which the parent's can do.
        let child = p.table(&[11], false, &log()).unwrap();
        assert_eq!(child, plan);
        assert_eq!(p.openings().len(), 2);
        assert_eq!(p.opening(0).unwrap().flags(), libc::O_WRONLY);
        assert_eq!(p.opening(1).unwrap().flags(), libc::O_RDWR);
    }

    #[test]
    fn what_cannot_share_a_description_has_its_own() {
        let mut p = substitutes("1=/a,4=/a");
        let mut appending = log();
        appending[0].flags = libc::O_APPEND;
        let plan = p.table(&[10], true, &appending).unwrap();
        assert_ne!(plan.fates[0], plan.fates[3]);
        assert_eq!(p.position(0), 100, "it appends");

        // A later table needs more; what was opened in advance has it.
        for (list, same) in [("1=/a,11:4=/a", false), ("1=/open/a,11:4=/open/a", true)] {
            let mut p = substitutes(list);
            let root = p.table(&[10], true, &log()).unwrap();
            let child = p.table(&[11], false, &log()).unwrap();
            assert_eq!(root.fates[0] == child.fates[3], same, "{list}");
            assert_eq!(p.openings().len(), 1);
            assert_eq!(p.openings()[0].flags(), libc::O_RDWR);
        }
    }

    #[test]
    fn a_source_that_is_not_needed_is_not_looked_at() {
        let mut p = substitutes("9=/no/a");
        assert!(p.table(&[10], true, &log()).unwrap().is_untouched());
        assert_eq!(p.finish().unwrap().len(), 1, "nothing is added");
        let mut p = substitutes("1=/no/a");
        let error = p.table(&[10], true, &log()).unwrap_err();
        assert_eq!(error.errno(), libc::ENOENT);
        assert_eq!(
            error.to_string(),
            "CKPT_SUBSTITUTE=1=/no/a: task 10 descriptor 1: /no/a: not there"
        );
    }

    #[test]
    fn two_sources_of_one_descriptor_contradict() {
        for (substitute, preserve, refused) in [
            ("1=7,1=2", "", true),
            ("1=7,/var/*=7", "", false),
            ("1=/a,id=1=/b", "", true),
            ("1=/a,/var/log=/a", "", false),
            ("1=1", "1", true),
            ("2=1", "1", false),
            ("", "1,0-2", false),
        ] {
            let stand_in = Action::Substitute(Source::Descriptor(0));
            let mut all = advice("0-", preserve);
            let list = parse_list("S", substitute.as_bytes(), &stand_in, 1024).unwrap();
            all.items.extend(list);
            let caller = caller(&[0, 1, 2, 7], libc::O_RDWR);
            let planner = Planner::new(&all, caller, true).unwrap();
            let mut p = planner.with_paths(Box::new(World));
            p.foresee(BTreeSet::new());
            let errno = p.table(&[10], true, &log()).map_err(|e| e.errno());
            assert_eq!(
                errno.err(),
                refused.then_some(libc::EINVAL),
                "{substitute} {preserve}"
            );
        }
    }

    #[test]
    fn the_numbers_of_the_caller_that_are_wanted_are_known() {
        let stand_in = Action::Substitute(Source::Descriptor(0));
        let mut all = advice("3", "5,8-9");
        let list = parse_list("S", b"1=40,2=/a,6=/a,7=/b", &stand_in, 1024).unwrap();
        all.items.extend(list);
        let wanted: Vec<i32> = (0..100).filter(|&n| all.wants(n)).collect();
        assert_eq!(wanted, [5, 8, 9, 40]);
        assert_eq!(all.paths(), [b"/a"[..].into(), b"/b"[..].into()]);
    }

    #[test]
    fn selectors_that_matched_nothing_are_said_by_name() {
        let mut p = planner("/x/*,10:type=tun,id=77", "");
        p.table(&[10], true, &log()).unwrap();
        assert_eq!(
            p.finish().unwrap(),
            [
                "CKPT_IGNORE=/x/*: no task has a file of such a path; the image has , /d/here, \
                 /var/log",
                "CKPT_IGNORE=10:type=tun: task 10 has no descriptor of kind tun; the image has \
                 reg, pipe",
                "CKPT_IGNORE=id=77: no task has a descriptor of 77; the image has 1, 2, 3",
            ]
        );
    }

    #[test]
    fn what_the_program_asks_for_is_given_only_where_it_is_offered_and_nobody_says_otherwise() {
        let ask = |task, number| Asked {
            item: Item {
                action: Action::Preserve,
                task: Some(crate::advice::TaskSelector::Pid(task)),
                target: Target::Number(number),
                variable: "mark".to_owned(),
                text: format!("{task}:{number}"),
            },
            not_offered: "not offered".to_owned(),
        };
        let plan = |ignore: &str, preserve: &str, offered: &[i32], asked: &[Asked]| {
            let mut caller = caller(&[5, 6], libc::O_RDWR);
            caller.offered = offered.iter().copied().collect();
            let planner = Planner::new(&advice(ignore, preserve), caller, true).unwrap();
            let mut planner = planner.with_asked(asked.iter().cloned());
            planner.foresee(BTreeSet::new());
            let there = descriptors(&[(5, 1), (7, 2)]);
            let plan = planner.table(&[10], true, &there).unwrap();
            (plan.fates[0], plan.added, planner.finish().unwrap())
        };
        let gives = |from| Fate::Give(Origin::Descriptor(from));
        let asked = [ask(10, 5)];
        let nothing = Vec::new;
        assert_eq!(plan("", "", &[5], &asked), (gives(5), vec![], nothing()));
        let (fate, _, unmatched) = plan("", "", &[6], &asked);
        assert_eq!(
            (fate, unmatched),
            (Fate::Keep, vec!["mark=10:5: not offered".to_owned()])
        );
        assert_eq!(plan("5", "", &[5], &asked), (Fate::Drop, vec![], nothing()));
        assert_eq!(plan("5", "", &[], &asked), (Fate::Drop, vec![], nothing()));
        assert_eq!(plan("", "5", &[5], &asked), (gives(5), vec![], nothing()));
        // PRESERVE alone is refused, but of what is asked for, and of what is missing.
        let add = |number: i32, is_missing: bool, asked: &[Asked]| {
            let mut advice = advice("", &number.to_string());
            advice.items[0].action = Action::Add;
            let planner = Planner::new(&advice, caller(&[5], libc::O_RDWR), true).unwrap();
            let mut planner = planner.with_asked(asked.iter().cloned());
            planner.foresee(BTreeSet::new());
            let mut there = descriptors(&[(5, 1)]);
            there[0].is_missing = is_missing;
            let plan = planner.table(&[10], true, &there);
            plan.map(|plan| (plan.fates[0], planner.finish().unwrap()))
                .map_err(|error| error.errno())
        };
        assert_eq!(add(5, false, &[]), Err(libc::EEXIST));
        assert_eq!(add(5, false, &[ask(11, 5)]), Err(libc::EEXIST));
        assert_eq!(add(5, false, &asked), Ok((gives(5), nothing())));
        assert_eq!(add(5, true, &[]), Ok((gives(5), nothing())));
        // Of a number that is not there, of one that is not open here, of another task.
        for (asked, offered) in [(ask(10, 6), 6), (ask(10, 7), 7), (ask(11, 5), 5)] {
            let (fate, added, unmatched) = plan("", "", &[offered], &[asked]);
            assert_eq!((fate, added, unmatched.len()), (Fate::Keep, vec![], 1));
        }
    }
}
