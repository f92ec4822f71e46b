//! A dump with advice: which descriptors of the tasks are left out, and what else
//! CRIU must then be told otherwise.
//!
//! CRIU reads what a task has open, and learns of the rest from what refers to it.
//! A descriptor that it is not shown is not in the image. What stays must look as if
//! the task had closed that descriptor just before: an epoll set does not watch it
//! any more, and a connected socket has lost its peer.
//!
//! What the tasks are comes in, what is to be changed goes out; who asks the kernel
//! is told by a [`Kernel`].

pub mod sockets;
mod watches;

use sockets::Sockets;
pub use watches::{Watch, watches, without};

use super::record::LeftOut;
use super::shared_table;
use crate::Error;
use crate::advice::{Action, Advice, Kind, Target};
use crate::caller::{Access, Caller};
use crate::plan::{Change, Descriptor, Fate, Planner};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// A descriptor of a task: its pid here, and the number.
pub type Place = (i32, i32);

/// A process that is being dumped.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its pid here.
    pub pid: i32,
    /// Its pid in the image, that of the innermost namespace.
    pub image_pid: i32,
    /// Its other threads.
    pub threads: Vec<i32>,
    /// Tasks with the same one share their file table.
    pub table: usize,
    /// Its descriptors, ascending.
    pub descriptors: Vec<Open>,
}

/// What a task has open.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its number.
    pub number: i32,
    /// What kind of file it is.
    pub kind: Kind,
    /// What /proc/PID/fd shows.
    pub link: Vec<u8>,
}

/// What only the kernel can tell.
pub trait Kernel {
    /// Whether two descriptors are one open file description.
    fn same(&self, a: Place, b: Place) -> bool;

    /// What an epoll set watches, in the kernel's order.
    fn watches(&self, set: Place) -> Vec<Watch>;

    /// Whether a set watches this descriptor's file by a watch of it.
    fn is_watched(&self, set: Place, watch: Watch, target: Place) -> bool;

    /// The flags of a descriptor as open(2) has them, O_CLOEXEC included.
    fn flags(&self, place: Place) -> Option<i32>;

    /// The number of the terminal pair that a descriptor is the master of.
    fn terminal_of_master(&self, master: Place) -> Option<u32>;

    /// The number of the terminal pair that a task is controlled by.
    fn controlling_terminal(&self, task: i32) -> Option<u32>;
}

/// What is to be done about a dump.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The numbers that CRIU is not shown, by task.
    pub hidden: BTreeMap<i32, BTreeSet<i32>>,
    /// Epoll sets, each with the watches that CRIU is not shown.
    pub sets: Vec<(Place, Vec<Watch>)>,
    /// What CRIU is told of unix sockets.
    pub sockets: Sockets,
    /// What the image will lack.
    pub left_out: Vec<LeftOut>,
    /// What is changed, for people.
    pub changes: Vec<Change>,
    /// The items that selected nothing, for people.
    pub unmatched: Vec<String>,
}

/// What advice means at a dump: whatever it is, to leave out.
///
/// # Errors
/// [`Error::Unsupported`] for what has no meaning then.
pub fn at_a_dump(advice: &Advice) -> Result<Advice, Error> {
    let mut advice = advice.clone();
    for item in &mut advice.items {
        if let Action::Substitute(_) = item.action {
            return Err(Error::unsupported(
                item.to_string(),
                "nothing can be put in the place of a descriptor at a dump: ignore it now, and \
                 preserve it at the restore",
            ));
        }
        if let Target::Id(_) = item.target {
            return Err(Error::unsupported(
                item.to_string(),
                "descriptions have no identifiers before they are dumped: name the descriptor by \
                 its number",
            ));
        }
        item.action = Action::Ignore;
    }
    // What cannot be meant at all is said before anything is looked at.
    Planner::new(&advice, Caller::default(), true)?;
    Ok(advice)
}

/// Whether some item may select a number, so that the kind of its file matters.
pub fn concerns(advice: &Advice, number: i32) -> bool {
    advice.items.iter().any(|item| match item.target {
        Target::Number(wanted) => wanted == number,
        Target::Range(from, to) => (from..=to.unwrap_or(i32::MAX)).contains(&number),
        _ => true,
    })
}

/// Meets advice with the tasks that are being dumped.
///
/// * `tasks`: the root task first.
/// * `advice`: from [`at_a_dump`].
///
/// # Errors
/// Those of the [`Planner`]; [`Error::Unsupported`] where what is left could not be
/// restored.
pub fn plan(tasks: &[Task], advice: &Advice, kernel: &dyn Kernel) -> Result<Plan, Error> {
    let tables = Tables::new(tasks);
    let mut planner = Planner::new(advice, Caller::default(), true)?;
    let mut plan = Plan::default();
    let root = tables.in_order.first();
    for table in &tables.in_order {
        let sharing: Vec<i32> = table.tasks.iter().map(|task| task.pid).collect();
        let pids = table.pids();
        shared_table::refuse_part(advice, tasks[0].pid, &sharing, &pids)?;
        let open = &table.first().descriptors;
        let ids = match root {
            Some(root) => ids(root, table, kernel),
            None => Vec::new(),
        };
        let descriptors: Vec<Descriptor<'_>> = open
            .iter()
            .zip(&ids)
            .map(|(open, &id)| Descriptor {
                number: open.number,
                description: id.into(),
                kind: open.kind,
                kind_by_path: false,
                path: (open.link.first() == Some(&b'/')).then_some(Cow::Borrowed(&open.link)),
                access: Access::default(),
                append: false,
                position: None,
            })
            .collect();
        let is_root = table.tasks[0].pid == tasks[0].pid;
        let fates = planner.table(&pids, is_root, &descriptors)?.fates;
        let mut hidden = BTreeSet::new();
        for ((open, &id), fate) in open.iter().zip(&ids).zip(fates) {
            if fate != Fate::Keep {
                hidden.insert(open.number);
                plan.left_out.push(LeftOut {
                    task: table.first().image_pid,
                    number: open.number,
                    id,
                    flags: kernel.flags(table.place(open)).unwrap_or(libc::O_RDWR),
                    kind: open.kind,
                    file: String::from_utf8_lossy(&open.link).into_owned(),
                });
            }
        }
        for pid in sharing {
            plan.hidden.insert(pid, hidden.clone());
        }
    }
    plan.unmatched = planner.finish()?;
    plan.changes = planner.changes().to_vec();
    if !plan.left_out.is_empty() {
        let split = Split {
            tables: &tables,
            hidden: &plan.hidden,
            changes: &plan.changes,
            kernel,
        };
        split.check_terminals()?;
        let (sets, sockets) = (split.sets()?, split.sockets());
        plan.sets = sets;
        plan.sockets = sockets;
    }
    Ok(plan)
}

/// A number for each description of a table: that of the root's descriptor of the
/// same number where they are one, else one of its own.
fn ids(root: &Table<'_>, table: &Table<'_>, kernel: &dyn Kernel) -> Vec<u32> {
    let of_root = &root.first().descriptors;
    let open = &table.first().descriptors;
    let mut ids = Vec::with_capacity(open.len());
    for (index, descriptor) in open.iter().enumerate() {
        let shared = match table.base == root.base {
            true => None,
            false => of_root
                .binary_search_by_key(&descriptor.number, |of_root| of_root.number)
                .ok()
                .filter(|&index| of_root[index].link == descriptor.link)
                .filter(|_| kernel.same(root.place(descriptor), table.place(descriptor))),
        };
        let (base, index) = match shared {
            Some(index) => (root.base, index),
            None => (table.base, index),
        };
        ids.push(base.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)));
    }
    ids
}

/// A file table, with the tasks that share it.
struct Table<'a> {
    tasks: Vec<&'a Task>,
    /// What its descriptors are counted from.
    base: u32,
}

impl Table<'_> {
    fn first(&self) -> &Task {
        self.tasks[0]
    }

    fn place(&self, open: &Open) -> Place {
        (self.first().pid, open.number)
    }

    /// Every process that has it, each followed by its threads.
    fn pids(&self) -> Vec<i32> {
        let with_threads = |task: &&Task| {
            let threads = task.threads.iter().copied();
            std::iter::once(task.pid)
                .chain(threads)
                .collect::<Vec<i32>>()
        };
        self.tasks.iter().flat_map(with_threads).collect()
    }
}

struct Tables<'a> {
    in_order: Vec<Table<'a>>,
}

impl<'a> Tables<'a> {
    fn new(tasks: &'a [Task]) -> Self {
        let mut in_order: Vec<Table<'a>> = Vec::new();
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        let mut base: u32 = 0;
        for task in tasks {
            if let Some(&index) = seen.get(&task.table) {
                in_order[index].tasks.push(task);
                continue;
            }
            seen.insert(task.table, in_order.len());
            in_order.push(Table {
                tasks: vec![task],
                base,
            });
            base = base.saturating_add(u32::try_from(task.descriptors.len()).unwrap_or(u32::MAX));
        }
        Tables { in_order }
    }
}

/// The descriptors, parted into those that stay and those that go.
struct Split<'a> {
    tables: &'a Tables<'a>,
    hidden: &'a BTreeMap<i32, BTreeSet<i32>>,
    changes: &'a [Change],
    kernel: &'a dyn Kernel,
}

impl<'a> Split<'a> {
    fn is_hidden(&self, place: Place) -> bool {
        let hidden = self.hidden.get(&place.0);
        hidden.is_some_and(|hidden| hidden.contains(&place.1))
    }

    fn all(&self) -> impl Iterator<Item = (Place, &'a Open)> {
        self.tables.in_order.iter().flat_map(|table| {
            let open = table.tasks[0].descriptors.iter();
            open.map(|open| (table.place(open), open))
        })
    }

    fn kept(&self) -> impl Iterator<Item = (Place, &'a Open)> {
        self.all().filter(|(place, _)| !self.is_hidden(*place))
    }

    fn gone(&self) -> impl Iterator<Item = (Place, &'a Open)> {
        self.all().filter(|(place, _)| self.is_hidden(*place))
    }

    /// Other descriptors of the same open file description that stay.
    fn kept_too(&self, (place, open): (Place, &Open)) -> impl Iterator<Item = Place> {
        let same = move |(other, of_other): &(Place, &Open)| {
            of_other.link == open.link && self.kernel.same(place, *other)
        };
        self.kept().filter(same).map(|(other, _)| other)
    }

    fn refusal(&self, (task, number): Place, kind: Kind, why: String) -> Error {
        let item = self
            .changes
            .iter()
            .find(|change| (change.task, change.number) == (task, number))
            .map_or("advice", |change| &change.item);
        Error::unsupported(
            format!("{item}: task {task} descriptor {number} ({kind})"),
            why,
        )
    }

    /// A slave without its master cannot be dumped.
    fn check_terminals(&self) -> Result<(), Error> {
        for (place, open) in self.gone() {
            if !open.link.ends_with(b"/ptmx") {
                continue;
            }
            let Some(pair) = self.kernel.terminal_of_master(place) else {
                continue;
            };
            if self.kept_too((place, open)).next().is_some() {
                continue;
            }
            let name = format!("/pts/{pair}");
            let slave = self.kept().find(|((task, _), open)| match &*open.link {
                b"/dev/tty" => self.kernel.controlling_terminal(*task) == Some(pair),
                link => link.ends_with(name.as_bytes()),
            });
            if let Some(((task, number), _)) = slave {
                return Err(self.refusal(
                    place,
                    open.kind,
                    format!(
                        "it is the master of a terminal that task {task} descriptor {number} \
                         keeps, and CRIU cannot dump that without its master: leave both out, or \
                         dump both and ignore the master at the restore"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// What epoll sets must not be seen to watch.
    fn sets(&self) -> Result<Vec<(Place, Vec<Watch>)>, Error> {
        let mut sets = Vec::new();
        let mut seen: Vec<Place> = Vec::new();
        for (set, open) in self.kept() {
            // CRIU dumps a set by the first descriptor of it, and asks what the
            // numbers mean to that task.
            let again = |other: &Place| self.kernel.same(set, *other);
            if open.kind != Kind::Epoll || seen.iter().any(again) {
                continue;
            }
            seen.push(set);
            let mut gone = Vec::new();
            let watches = self.kernel.watches(set);
            for &watch in &watches {
                if self.is_lost(set, watch)? {
                    gone.push(watch);
                }
            }
            if gone.is_empty() {
                continue;
            }
            if let Some(confused) = watches::stays_after(&watches, &gone) {
                return Err(self.refusal(
                    (set.0, confused.number),
                    Kind::Other,
                    format!(
                        "the epoll set on descriptor {} watches two files by this number, and \
                         CRIU could not tell them apart any more: leave the set out as well",
                        set.1
                    ),
                ));
            }
            sets.push((set, gone));
        }
        Ok(sets)
    }

    /// Whether what is watched is held by no descriptor that stays.
    fn is_lost(&self, set: Place, watch: Watch) -> Result<bool, Error> {
        let task = set.0;
        let is = |place: Place| self.kernel.is_watched(set, watch, place);
        let by_number = (task, watch.number);
        if !self.is_hidden(by_number) && is(by_number) {
            return Ok(false);
        }
        // Nearly always it is the descriptor that has the number now.
        let first = self.gone().filter(|(place, _)| *place == by_number);
        let rest = self
            .gone()
            .filter(|(place, _)| place.0 == task && *place != by_number);
        let Some(target) = first.chain(rest).find(|(place, _)| is(*place)) else {
            return Ok(false);
        };
        let mut elsewhere = None;
        for (other, number) in self.kept_too(target) {
            if other == task {
                return Ok(false);
            }
            elsewhere = Some((other, number));
        }
        match elsewhere {
            None => Ok(true),
            Some((other, number)) => Err(self.refusal(
                target.0,
                target.1.kind,
                format!(
                    "the epoll set on descriptor {} watches it, and only task {other} would keep \
                     it (as {number}), which CRIU cannot express: leave the set out as well, or \
                     the descriptor in every task (\"*:{}\")",
                    set.1, target.0.1
                ),
            )),
        }
    }

    fn sockets(&self) -> Sockets {
        let inodes = |list: &mut dyn Iterator<Item = (Place, &Open)>| -> BTreeSet<u32> {
            list.filter_map(|(_, open)| inode(&open.link)).collect()
        };
        let kept = inodes(&mut self.kept());
        let gone = inodes(&mut self.gone());
        Sockets::new(gone.difference(&kept).copied().collect(), kept)
    }
}

/// Of "socket:[INODE]".
fn inode(link: &[u8]) -> Option<u32> {
    let inside = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inside).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
