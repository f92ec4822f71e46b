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

mod locks;
mod shared_table;
pub mod sockets;
mod split;
mod watches;

pub use locks::without_locks;
use sockets::Sockets;
use split::Split;
pub use watches::{Shown, Watch, watches};

use super::record::{Ask, LeftOut, Record, mark_item};
use crate::Error;
use crate::advice::{Action, Advice, Kind, Target};
use crate::caller::{Access, Caller};
use crate::marks::Mark;
use crate::plan::{Change, Descriptor, Fate, Planner};
use std::borrow::Cow;
use std::cmp::Ordering;
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
    /// What it says of them itself, as far as that is to be acted on; ascending.
    pub marks: Vec<Mark>,
}

/// What a task has open.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its number.
    pub number: i32,
    /// What is known of its file, where advice may concern it: of thousands, nobody
    /// asks in vain.
    pub file: Option<OpenFile>,
}

/// What a descriptor refers to.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// What kind of file it is.
    pub kind: Kind,
    /// What /proc/PID/fd shows.
    pub link: Vec<u8>,
}

/// What only the kernel can tell.
pub trait Kernel {
    /// Equal where two descriptors are one open file description; otherwise some
    /// order of descriptions, always the same.
    fn order(&self, a: Place, b: Place) -> Ordering;

    /// What /proc/PID/fd shows of a descriptor.
    fn link(&self, place: Place) -> Vec<u8>;

    /// Whether a descriptor is an epoll set.
    fn is_set(&self, place: Place) -> bool;

    /// What an epoll set watches, in the kernel's order.
    fn watches(&self, set: Place) -> Vec<Watch>;

    /// Whether a set watches this descriptor's file by a watch of it.
    fn is_watched(&self, set: Place, watch: Watch, target: Place) -> bool;

    /// What /proc/locks shows.
    fn locks(&self) -> Vec<u8>;

    /// The device and the inode of a descriptor's file.
    fn identity(&self, place: Place) -> Option<(u64, u64)>;

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
    /// Epoll sets, each with the watches that CRIU is shown.
    pub sets: Vec<(Place, Shown)>,
    /// Descriptors of which CRIU is shown no lock of fcntl(2).
    pub unlocked: BTreeSet<Place>,
    /// What CRIU is told of unix sockets.
    pub sockets: Sockets,
    /// What the image will lack.
    pub left_out: Vec<LeftOut>,
    /// What the program asks whoever restores it for.
    pub asks: Vec<Ask>,
    /// What is changed, for people.
    pub changes: Vec<Change>,
    /// What may surprise, for people.
    pub warnings: Vec<String>,
    /// The items that selected nothing, for people.
    pub unmatched: Vec<String>,
}

impl Plan {
    /// Of tasks that nobody has anything to say about.
    pub fn nothing(tasks: &[Task]) -> Self {
        Plan {
            hidden: tasks
                .iter()
                .map(|task| (task.pid, BTreeSet::new()))
                .collect(),
            ..Plan::default()
        }
    }

    /// Whether the image is as it would be without it, and needs no record.
    pub fn is_nothing(&self) -> bool {
        self.left_out.is_empty() && self.asks.is_empty()
    }

    /// What is recorded beside the image.
    ///
    /// * `dump`: of which dump it is ([`super::moment`]).
    pub fn record(&self, dump: Option<u64>) -> Record {
        Record {
            dump,
            left_out: self.left_out.clone(),
            asks: self.asks.clone(),
        }
    }
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
/// * `advice`: from [`at_a_dump`]. What the tasks say of themselves comes after it.
///
/// # Errors
/// Those of the [`Planner`]; [`Error::Unsupported`] where what is left could not be
/// restored.
pub fn plan(tasks: &[Task], advice: &Advice, kernel: &dyn Kernel) -> Result<Plan, Error> {
    let tables = Tables::new(tasks);
    for table in &tables.in_order {
        let sharing: Vec<i32> = table.tasks.iter().map(|task| task.pid).collect();
        shared_table::refuse_part(advice, tasks[0].pid, &sharing, &table.pids())?;
    }
    let advice = &with_marks(advice, &tables);
    let mut planner = Planner::new(advice, Caller::default(), true)?;
    let mut plan = Plan::default();
    let mut gone = BTreeMap::new();
    let root = tables.in_order.first();
    for table in &tables.in_order {
        let sharing: Vec<i32> = table.tasks.iter().map(|task| task.pid).collect();
        let pids = table.pids();
        let open = &table.first().descriptors;
        let ids = match root {
            Some(root) => ids(root, table, advice, kernel),
            None => Vec::new(),
        };
        let descriptors: Vec<Descriptor<'_>> = open
            .iter()
            .zip(&ids)
            .map(|(open, &id)| Descriptor {
                number: open.number,
                description: id.into(),
                kind: open.file.as_ref().map_or(Kind::Other, |file| file.kind),
                kind_by_path: false,
                path: open.file.as_ref().and_then(OpenFile::path),
                access: Access::default(),
                flags: 0,
                position: None,
                is_missing: false,
            })
            .collect();
        let is_root = table.tasks[0].pid == tasks[0].pid;
        let fates = planner.table(&pids, is_root, &descriptors)?.fates;
        let mut hidden = BTreeSet::new();
        for ((open, &id), fate) in open.iter().zip(&ids).zip(fates) {
            if let (Some(file), true) = (&open.file, fate != Fate::Keep) {
                hidden.insert(open.number);
                gone.insert(table.place(open), file);
                plan.left_out.push(LeftOut {
                    task: table.first().image_pid,
                    number: open.number,
                    id,
                    flags: kernel.flags(table.place(open)).unwrap_or(libc::O_RDWR),
                    kind: file.kind,
                    file: String::from_utf8_lossy(&file.link).into_owned(),
                });
            }
            if let (Some(file), Some(mark)) = (&open.file, table.asks(open.number)) {
                plan.asks.push(Ask {
                    task: table.first().image_pid,
                    number: open.number,
                    mark,
                    kind: file.kind,
                    file: String::from_utf8_lossy(&file.link).into_owned(),
                });
            }
        }
        for pid in sharing {
            plan.hidden.insert(pid, hidden.clone());
        }
    }
    plan.unmatched = planner.finish()?;
    plan.changes = planner.changes().to_vec();
    if !gone.is_empty() {
        let split = Split::new(&tables, gone, &plan.changes, kernel);
        split.check_terminals()?;
        plan.sets = split.sets()?;
        plan.sockets = split.sockets();
        plan.unlocked = split.unlocked(&tables);
        plan.warnings = plan.unlocked.iter().map(split::lost_lock).collect();
    }
    Ok(plan)
}

/// Advice, and after it what the tasks say of their own descriptors. One that several
/// tasks have in a table that they share is meant as a whole, whoever says so.
fn with_marks(advice: &Advice, tables: &Tables<'_>) -> Advice {
    let mut advice = advice.clone();
    for table in &tables.in_order {
        let marks = table.tasks.iter().flat_map(|task| &task.marks);
        let numbers: BTreeSet<i32> = marks
            .filter(|mark| mark.leaves_out())
            .map(|mark| mark.number)
            .collect();
        let pid = table.first().pid;
        let items = numbers
            .into_iter()
            .map(|number| mark_item(Action::Ignore, pid, number));
        advice.items.extend(items);
    }
    advice
}

impl OpenFile {
    fn path(&self) -> Option<Cow<'_, [u8]>> {
        (self.link.first() == Some(&b'/')).then_some(Cow::Borrowed(self.link.as_slice()))
    }

    /// Whether an epoll set can watch it.
    fn is_pollable(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Reg | Kind::Dir | Kind::Blk | Kind::Memfd | Kind::Ns
        )
    }
}

/// A number for each description of a table: that of the root's descriptor of the
/// same number where they are one, else one of its own.
fn ids(root: &Table<'_>, table: &Table<'_>, advice: &Advice, kernel: &dyn Kernel) -> Vec<u32> {
    let of_root = &root.first().descriptors;
    let open = &table.first().descriptors;
    let mut ids = Vec::with_capacity(open.len());
    for (index, descriptor) in open.iter().enumerate() {
        let shared = match table.base == root.base {
            true => None,
            false => of_root
                .binary_search_by_key(&descriptor.number, |of_root| of_root.number)
                .ok()
                .filter(|_| concerns(advice, descriptor.number))
                .filter(|_| {
                    kernel
                        .order(root.place(descriptor), table.place(descriptor))
                        .is_eq()
                }),
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

    /// The word by which a task asks for a number.
    fn asks(&self, number: i32) -> Option<u64> {
        let of_task = |task: &&Task| {
            let found = task.marks.binary_search_by_key(&number, |mark| mark.number);
            let mark = &task.marks[found.ok()?];
            mark.asks().then_some(mark.word)
        };
        self.tasks.iter().find_map(of_task)
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

#[cfg(test)]
mod tests;
