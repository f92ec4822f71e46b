//! What advice by numbers means for an image, written down a second time: for
//! each process, what every number of it becomes, or why the request must be
//! refused.

use super::check::View;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One item.
#[derive(Clone, Debug)]
pub struct Item {
    /// PRESERVE and IGNORE; IGNORE alone otherwise.
    pub preserve: bool,
    /// Whose.
    pub task: Task,
    /// From here.
    pub from: i32,
    /// To there, or without end.
    pub to: Option<i32>,
}

/// Whose descriptors an item means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nobody is named.
    Unnamed,
    /// The root task's.
    Root,
    /// Everybody's.
    Every,
    /// The task's of this pid.
    Pid(i32),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Task::Unnamed => {}
            Task::Root => write!(f, "root:")?,
            Task::Every => write!(f, "*:")?,
            Task::Pid(pid) => write!(f, "{pid}:")?,
        }
        match self.to {
            Some(to) if to == self.from => write!(f, "{}", self.from),
            Some(to) => write!(f, "{}-{to}", self.from),
            None => write!(f, "{}-", self.from),
        }
    }
}

/// The LIST of those that preserve, or of those that ignore.
pub fn list(items: &[Item], preserve: bool) -> String {
    let items: Vec<String> = items
        .iter()
        .filter(|item| item.preserve == preserve)
        .map(Item::to_string)
        .collect();
    items.join(",")
}

/// A descriptor of the caller, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Given {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Close-on-exec.
    pub close_on_exec: bool,
    /// Numbers that share a description have the same.
    pub description: i32,
    /// The name by which it is opened.
    pub name: Vec<u8>,
    /// f_mode and f_flags to write.
    pub mode: u32,
    /// See there.
    pub flags: u32,
    /// It can be watched.
    pub pollable: bool,
}

/// What a number is afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// The image's file.
    Kept(i32),
    /// The caller's number.
    Given(i32),
}

/// A table afterwards: number, what it is, close-on-exec.
pub type After = BTreeMap<i32, (Becomes, bool)>;

impl Outcome {
    /// Whether a descriptor keeps a file.
    pub fn keeps(&self, file: i32) -> bool {
        let all = self.tables.values().flat_map(BTreeMap::values);
        all.into_iter()
            .any(|(becomes, _)| *becomes == Becomes::Kept(file))
    }
}

/// What becomes of an image.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why it must be refused; empty where it must not.
    pub refusals: BTreeSet<&'static str>,
    /// By process.
    pub tables: BTreeMap<i32, After>,
    /// Files that lost at least one number.
    pub touched: BTreeSet<i32>,
    /// Terminals (the slave's objref) that are taken from everybody.
    pub taken: BTreeSet<i32>,
}

/// Meets them.
///
/// * `whole`: the engine knows the image in advance.
pub fn outcome(view: &View, items: &[Item], caller: &BTreeMap<i32, Given>, whole: bool) -> Outcome {
    let mut outcome = Outcome::default();
    for item in items.iter().filter(|item| item.preserve) {
        if item.to == Some(item.from) && !caller.contains_key(&item.from) {
            outcome.refusals.insert("not open");
        }
    }
    let Some(root) = view.tasks.first() else {
        return outcome;
    };
    let alone = view.is_alone();
    for (process, table) in view.processes() {
        let after = one(
            view,
            items,
            caller,
            (process, table, root.table),
            (whole || alone).then(|| view.others()),
            &mut outcome.refusals,
        );
        outcome.tables.insert(process, after);
    }
    judge(view, caller, whole, &mut outcome);
    outcome
}

/// One process's table.
fn one(
    view: &View,
    items: &[Item],
    caller: &BTreeMap<i32, Given>,
    (process, table, root_table): (i32, i32, i32),
    others: Option<BTreeSet<i32>>,
    refusals: &mut BTreeSet<&'static str>,
) -> After {
    let held = &view.tables[&table];
    let root = &view.tables[&root_table];
    let is_root = table == root_table;
    let named = |task: Task| match task {
        Task::Unnamed | Task::Every => true,
        Task::Root => process == view.tasks.first().map_or(0, |task| task.process),
        Task::Pid(pid) => view
            .tasks
            .iter()
            .any(|task| task.pid == pid && task.process == process),
    };
    let in_range = |item: &Item, n: i32| n >= item.from && item.to.is_none_or(|to| n <= to);
    let mut after = After::new();
    for (&number, held) in held {
        let mut becomes = Some(Becomes::Kept(held.file));
        let meant = |item: &&Item| {
            let follows = match (item.task, root.get(&number)) {
                (Task::Unnamed, Some(of_root)) => is_root || of_root.file == held.file,
                _ => true,
            };
            named(item.task) && in_range(item, number) && follows
        };
        let preserved = |item: &&Item| item.preserve && caller.contains_key(&number);
        if items.iter().filter(meant).any(|item| preserved(&item)) {
            becomes = Some(Becomes::Given(number));
        } else if items.iter().filter(meant).any(|item| !item.preserve) {
            becomes = None;
        }
        if let Some(becomes) = becomes {
            after.insert(number, (becomes, held.close_on_exec));
        }
    }
    for (&number, given) in caller.iter().filter(|(n, _)| !held.contains_key(n)) {
        for item in items.iter().filter(|item| item.preserve) {
            if !named(item.task) || !in_range(item, number) {
                continue;
            }
            let add = match item.task {
                Task::Unnamed if is_root => match &others {
                    Some(others) => !others.contains(&number),
                    None => {
                        refusals.insert("not known in advance");
                        false
                    }
                },
                Task::Unnamed => false,
                _ => true,
            };
            if add {
                after.insert(number, (Becomes::Given(number), given.close_on_exec));
            }
        }
    }
    after
}

/// What cannot be carried out.
fn judge(view: &View, caller: &BTreeMap<i32, Given>, whole: bool, outcome: &mut Outcome) {
    let mut left = BTreeSet::new();
    for (process, table) in view.processes() {
        let (held, after) = (&view.tables[&table], &outcome.tables[&process]);
        for (number, held) in held {
            let file = &view.files[&held.file];
            let slave = view.outside(held.file);
            let becomes = after.get(number).map(|(becomes, _)| *becomes);
            if let Some(Becomes::Kept(_)) = becomes {
                left.extend(slave);
                continue;
            }
            if let Some(Becomes::Given(from)) = becomes {
                let (read, write) = match number {
                    0 => (true, false),
                    1 | 2 => (false, true),
                    _ => (file.mode & 1 != 0, file.mode & 2 != 0),
                };
                if (read && !caller[&from].read) || (write && !caller[&from].write) {
                    outcome.refusals.insert("access");
                }
            }
            outcome.touched.insert(held.file);
            outcome.taken.extend(slave);
            let inside =
                view.slaves.contains_key(&file.behind) && file.kind == 5 && slave.is_none();
            if !whole
                && inside
                && !view
                    .masters_before(table)
                    .contains(&view.slaves[&file.behind])
            {
                outcome.refusals.insert("a master that comes later");
            }
        }
    }
    if outcome.taken.intersection(&left).next().is_some() {
        outcome.refusals.insert("part of a terminal");
    }
    // What a task has been told of its controlling terminal when another loses
    // the terminal cannot be taken back, where that was not known in advance.
    if whole {
        return;
    }
    let of_process = |process: i32| view.tasks.iter().position(|t| t.process == process);
    for (process, slave) in &view.controlling {
        let first_to_lose = view.tasks.iter().position(|task| {
            let after = &outcome.tables[&task.process];
            view.tables[&task.table].iter().any(|(number, held)| {
                let kept = after.get(number).map(|(becomes, _)| *becomes);
                view.outside(held.file) == Some(*slave) && kept != Some(Becomes::Kept(held.file))
            })
        });
        if first_to_lose > of_process(*process) {
            outcome.refusals.insert("controlling terminal");
        }
    }
}
