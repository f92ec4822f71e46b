//! Advice met with the file tables of an image: what becomes of every
//! descriptor.
//!
//! One planner serves both engines. It is told of the image's file tables in
//! the order of the image, the root task's first, and answers each at once, so
//! that an engine that reads a stream can use it as well as one that reads a
//! directory.
//!
//! A number without a task means the root task's descriptor, and the same number
//! in every other task where it is the same open file description; where the
//! root task has no such number, every task that has it.

use crate::Error;
use crate::advice::{Action, Advice, Item, Kind, Strictness, Target, TaskSelector};
use crate::caller::{Access, Caller};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One descriptor of a task, as the image has it.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// Its number.
    pub number: i32,
    /// Names the open file description (Linux-CR: objref; CRIU: file id).
    pub description: u64,
    /// What kind of file it is.
    pub kind: Kind,
    /// The path it was opened by, where the image has one.
    pub path: Option<&'a [u8]>,
    /// The access that the description had.
    pub access: Access,
}

impl Descriptor<'_> {
    fn label(&self) -> String {
        match self.path {
            Some(path) => format!("{} {}", self.kind, String::from_utf8_lossy(path)),
            None => self.kind.to_string(),
        }
    }
}

/// What becomes of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As in the image.
    Keep,
    /// Not open after the restart.
    Drop,
    /// The caller's descriptor of this number in its place.
    Give(i32),
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
}

/// One line of the plan, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Pid of the task, as the image has it.
    pub task: i32,
    /// The descriptor.
    pub number: i32,
    /// What the image has there; `None` where it has nothing.
    pub was: Option<String>,
    /// What becomes of it.
    pub fate: Fate,
    /// The item that asks for it, as written.
    pub item: String,
    /// What comes in its place, for people.
    pub gives: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = self.was.as_deref().unwrap_or("not open");
        write!(f, "task {} descriptor {} ({was}): ", self.task, self.number)?;
        match (&self.fate, &self.gives) {
            (Fate::Keep, _) => write!(f, "kept")?,
            (Fate::Drop, _) => write!(f, "dropped")?,
            (Fate::Give(from), Some(gives)) => write!(f, "from the caller's {from} ({gives})")?,
            (Fate::Give(from), None) => write!(f, "from the caller's {from}")?,
        }
        write!(f, " [{}]", self.item)
    }
}

/// An item, with the numbers of the caller that it needs.
struct Bound {
    item: Item,
    /// For PRESERVE: each number that it adds or puts in place.
    numbers: Vec<i32>,
    matched: bool,
}

/// Meets advice with file tables.
pub struct Planner {
    bound: Vec<Bound>,
    caller: Caller,
    strictness: Strictness,
    /// Whether the engine gives the caller's description itself.
    shares: bool,
    root: BTreeMap<i32, u64>,
    root_pid: i32,
    /// Numbers that a task other than the root has, where the whole image is
    /// known in advance.
    census: Option<BTreeSet<i32>>,
    alone: bool,
    tasks: BTreeMap<i32, BTreeSet<i32>>,
    changes: Vec<Change>,
}

impl Planner {
    /// Binds advice to what the caller has.
    ///
    /// * `shares`: the engine gives the caller's open file description itself
    ///   (CRIU); otherwise it opens the same file anew (Linux-CR).
    ///
    /// # Errors
    /// [`Error::NotOpen`] for a number to preserve that is not open in the
    /// caller; [`Error::Unsupported`] for a source that the engine cannot give,
    /// and for what the grammar has and this version does not do.
    pub fn new(advice: &Advice, caller: Caller, shares: bool) -> Result<Self, Error> {
        let mut bound = Vec::with_capacity(advice.items.len());
        for item in &advice.items {
            let numbers = match (&item.action, &item.target) {
                (_, Target::Path(_) | Target::Kind(_) | Target::Id(_)) => {
                    return Err(Error::unsupported(
                        item.to_string(),
                        "paths, kinds and identifiers cannot be selected yet: name the \
                         descriptors by number",
                    ));
                }
                (Action::Substitute(_), _) => {
                    return Err(Error::unsupported(
                        item.to_string(),
                        "substitution from another number or a path is not done yet: open the \
                         file on the number itself and preserve it",
                    ));
                }
                (Action::Ignore, _) => Vec::new(),
                (_, Target::Number(number)) => {
                    if !caller.files.contains_key(number) {
                        return Err(Error::NotOpen {
                            item: item.to_string(),
                            number: *number,
                        });
                    }
                    vec![*number]
                }
                (_, Target::Range(from, to)) => caller
                    .files
                    .range(*from..=to.unwrap_or(i32::MAX))
                    .map(|(number, _)| *number)
                    .collect(),
            };
            if !shares {
                for number in &numbers {
                    let file = &caller.files[number];
                    if let Some(why) = &file.not_by_name {
                        return Err(Error::unsupported(
                            format!("{item}: descriptor {number} ({})", file.link),
                            why.clone(),
                        ));
                    }
                }
            }
            bound.push(Bound {
                item: item.clone(),
                numbers,
                matched: false,
            });
        }
        Ok(Planner {
            bound,
            caller,
            strictness: advice.strictness,
            shares,
            root: BTreeMap::new(),
            root_pid: 0,
            census: None,
            alone: false,
            tasks: BTreeMap::new(),
            changes: Vec::new(),
        })
    }

    /// Tells which numbers the tasks other than the root have, where the whole
    /// image is known in advance.
    pub fn with_census(mut self, numbers: BTreeSet<i32>) -> Self {
        self.foresee(numbers);
        self
    }

    /// As [`Planner::with_census`].
    pub fn foresee(&mut self, numbers: BTreeSet<i32>) {
        self.census = Some(numbers);
    }

    /// Tells that the image has one task, before its tables are planned.
    pub fn one_task(&mut self) {
        self.alone = true;
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
    /// [`Error::Exists`], [`Error::Access`], [`Error::Contradiction`];
    /// [`Error::Unsupported`] where the answer depends on tables not seen yet.
    pub fn table(
        &mut self,
        pids: &[i32],
        root: bool,
        descriptors: &[Descriptor<'_>],
    ) -> Result<TablePlan, Error> {
        let task = pids.first().copied().unwrap_or(0);
        let by_number: BTreeMap<i32, &Descriptor<'_>> =
            descriptors.iter().map(|d| (d.number, d)).collect();
        if root && self.root_pid == 0 {
            self.root_pid = task;
            self.root = by_number
                .values()
                .map(|d| (d.number, d.description))
                .collect();
        }
        let open: BTreeSet<i32> = by_number.keys().copied().collect();
        for pid in pids {
            self.tasks.insert(*pid, open.clone());
        }

        let mut chosen: BTreeMap<i32, (usize, Fate)> = BTreeMap::new();
        for index in 0..self.bound.len() {
            if !self.means(index, pids) {
                continue;
            }
            for (number, fate) in self.selected(index, root, task, &by_number)? {
                self.bound[index].matched = true;
                match chosen.get(&number) {
                    Some((other, Fate::Give(from))) if matches!(fate, Fate::Give(_)) => {
                        if fate != Fate::Give(*from) {
                            return Err(self.contradiction(task, number, *other, index));
                        }
                    }
                    Some((_, Fate::Give(_))) => {}
                    _ => {
                        chosen.insert(number, (index, fate));
                    }
                }
            }
        }
        self.carry_out(task, &chosen, &by_number, descriptors)
    }

    fn carry_out(
        &mut self,
        task: i32,
        chosen: &BTreeMap<i32, (usize, Fate)>,
        by_number: &BTreeMap<i32, &Descriptor<'_>>,
        descriptors: &[Descriptor<'_>],
    ) -> Result<TablePlan, Error> {
        let mut plan = TablePlan::default();
        for (&number, &(index, fate)) in chosen {
            let item = &self.bound[index].item;
            let there = by_number.get(&number);
            if let (Some(descriptor), Fate::Give(from)) = (there, fate) {
                if item.action == Action::Add {
                    return Err(Error::Exists {
                        item: item.to_string(),
                        task,
                        number,
                    });
                }
                self.check_access(item, task, descriptor, from)?;
            }
            if let (None, Fate::Give(from)) = (there, fate) {
                plan.added.push((number, from));
            }
            let change = Change {
                task,
                number,
                was: there.map(|d| d.label()),
                fate,
                item: item.to_string(),
                gives: match fate {
                    Fate::Give(from) => self.gives(from),
                    _ => None,
                },
            };
            self.changes.push(change);
        }
        plan.fates = descriptors
            .iter()
            .map(|d| chosen.get(&d.number).map_or(Fate::Keep, |&(_, fate)| fate))
            .collect();
        Ok(plan)
    }

    fn gives(&self, from: i32) -> Option<String> {
        let file = self.caller.files.get(&from)?;
        let how = if self.shares {
            "shared"
        } else {
            "re-opened, not shared"
        };
        Some(format!("{}, {how}", file.link))
    }

    fn check_access(
        &self,
        item: &Item,
        task: i32,
        descriptor: &Descriptor<'_>,
        from: i32,
    ) -> Result<(), Error> {
        let needs = match descriptor.number {
            0 => Access {
                read: true,
                write: false,
            },
            1 | 2 => Access {
                read: false,
                write: true,
            },
            _ => descriptor.access,
        };
        let has = self.caller.files[&from].access;
        let lacks = if needs.read && !has.read {
            "reading"
        } else if needs.write && !has.write {
            "writing"
        } else {
            return Ok(());
        };
        Err(Error::Access {
            item: item.to_string(),
            task,
            number: descriptor.number,
            lacks,
        })
    }

    fn contradiction(&self, task: i32, number: i32, a: usize, b: usize) -> Error {
        Error::Contradiction {
            what: format!(
                "task {task} descriptor {number} is given two sources: {} and {}",
                self.bound[a].item, self.bound[b].item
            ),
            remedy: "leave one of them out".to_owned(),
        }
    }

    fn means(&self, index: usize, pids: &[i32]) -> bool {
        match self.bound[index].item.task {
            None | Some(TaskSelector::Every) => true,
            Some(TaskSelector::Root) => pids.contains(&self.root_pid),
            Some(TaskSelector::Pid(pid)) => pids.contains(&pid),
        }
    }

    /// What an item selects in one table.
    fn selected(
        &self,
        index: usize,
        root: bool,
        task: i32,
        by_number: &BTreeMap<i32, &Descriptor<'_>>,
    ) -> Result<Vec<(i32, Fate)>, Error> {
        let Bound { item, numbers, .. } = &self.bound[index];
        let follows_root = |number: i32, description: u64| {
            item.task.is_some()
                || root
                || self
                    .root
                    .get(&number)
                    .is_none_or(|&of_root| of_root == description)
        };
        let mut selected = Vec::new();
        if item.action == Action::Ignore {
            let (from, to) = match item.target {
                Target::Number(number) => (number, number),
                Target::Range(from, to) => (from, to.unwrap_or(i32::MAX)),
                _ => return Ok(selected),
            };
            for (&number, descriptor) in by_number.range(from..=to) {
                if follows_root(number, descriptor.description) {
                    selected.push((number, Fate::Drop));
                }
            }
            return Ok(selected);
        }
        for &number in numbers {
            let add = match by_number.get(&number) {
                Some(descriptor) => follows_root(number, descriptor.description),
                None if item.task.is_some() => true,
                None => root && self.nobody_else_has(item, number, task)?,
            };
            if add {
                selected.push((number, Fate::Give(number)));
            }
        }
        Ok(selected)
    }

    fn nobody_else_has(&self, item: &Item, number: i32, task: i32) -> Result<bool, Error> {
        match &self.census {
            _ if self.alone => Ok(true),
            Some(census) => Ok(!census.contains(&number)),
            None => Err(Error::unsupported(
                item.to_string(),
                format!(
                    "task {task} has no descriptor {number}, and whether a later task has one \
                     cannot be known while the image comes through a pipe: give the image as a \
                     file, or name the tasks (root:{number} or *:{number})"
                ),
            )),
        }
    }

    /// The items that selected nothing, each with what the image has instead,
    /// after the last table.
    ///
    /// # Errors
    /// [`Error::Unmatched`] under [`Strictness::Strict`]. Under
    /// [`Strictness::BestEffort`] the list is empty.
    pub fn finish(&self) -> Result<Vec<String>, Error> {
        if self.strictness == Strictness::BestEffort {
            return Ok(Vec::new());
        }
        let unmatched: Vec<String> = self
            .bound
            .iter()
            .filter(|bound| !bound.matched)
            .map(|bound| format!("{}: {}", bound.item, self.instead(bound)))
            .collect();
        if self.strictness == Strictness::Strict && !unmatched.is_empty() {
            return Err(Error::Unmatched {
                items: unmatched.join("; "),
            });
        }
        Ok(unmatched)
    }

    fn instead(&self, bound: &Bound) -> String {
        let item = &bound.item;
        let target = match &item.target {
            Target::Number(number) => number.to_string(),
            Target::Range(from, Some(to)) => format!("{from}-{to}"),
            Target::Range(from, None) => format!("{from}-"),
            _ => "such a descriptor".to_owned(),
        };
        if item.action != Action::Ignore && bound.numbers.is_empty() {
            return format!("nothing in {target} is open here, so nothing is preserved");
        }
        if let Some(TaskSelector::Pid(pid)) = item.task {
            return match self.tasks.get(&pid) {
                Some(open) => format!("task {pid} has no {target}; open there: {}", ranges(open)),
                None => {
                    let pids: BTreeSet<i32> = self.tasks.keys().copied().collect();
                    format!(
                        "the image has no task {pid} with descriptors; it has {}",
                        ranges(&pids)
                    )
                }
            };
        }
        let all: BTreeSet<i32> = self.tasks.values().flatten().copied().collect();
        if item.task == Some(TaskSelector::Root) {
            let open: BTreeSet<i32> = self.root.keys().copied().collect();
            return format!(
                "the root task has no {target}; open there: {}",
                ranges(&open)
            );
        }
        format!("no task has {target}; open are {}", ranges(&all))
    }

    /// What is changed, so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// "0-2, 5, 7-9", or "none".
pub fn ranges(numbers: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, to)) if to.checked_add(1) == Some(number) => *to = number,
            _ => runs.push((number, number)),
        }
    }
    if runs.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> = runs
        .iter()
        .map(|(from, to)| {
            if from == to {
                from.to_string()
            } else {
                format!("{from}-{to}")
            }
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::parse_list;
    use crate::caller::CallerFile;

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
            not_by_name: None,
        };
        Caller {
            files: numbers.iter().map(|&n| (n, file(n))).collect(),
        }
    }

    fn descriptors(list: &[(i32, u64)]) -> Vec<Descriptor<'static>> {
        list.iter()
            .map(|&(number, description)| Descriptor {
                number,
                description,
                kind: Kind::Reg,
                path: None,
                access: Access::of_flags(libc::O_RDWR),
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
        assert_eq!(plan.fates, [Fate::Drop, Fate::Give(1)]);
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
        let mut p = planner("", "7").with_census([7].into());
        assert!(
            p.table(&[10], true, &descriptors(&[(0, 1)]))
                .unwrap()
                .is_untouched()
        );
        let child = p.table(&[11], false, &descriptors(&[(7, 5)])).unwrap();
        assert_eq!(child.fates, [Fate::Give(7)]);
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
}
