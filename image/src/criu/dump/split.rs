//! What goes and what stays, and what must look as if the one had been closed: epoll
//! sets, locks and sockets; and what cannot stay without the other.

use super::locks;
use super::sockets::Sockets;
use super::watches::{Shown, Watch};
use super::{Kernel, OpenFile, Place, Tables};
use crate::Error;
use crate::advice::Kind;
use crate::plan::Change;
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};

/// The descriptors, parted into those that stay and those that go.
pub(super) struct Split<'a> {
    kept: Copies<'a>,
    gone: BTreeMap<Place, &'a OpenFile>,
    changes: &'a [Change],
    kernel: &'a dyn Kernel,
}

impl<'a> Split<'a> {
    pub fn new(
        tables: &Tables<'_>,
        gone: BTreeMap<Place, &'a OpenFile>,
        changes: &'a [Change],
        kernel: &'a dyn Kernel,
    ) -> Self {
        let all = tables.in_order.iter().flat_map(|table| {
            let open = table.first().descriptors.iter();
            open.map(|open| table.place(open))
        });
        Split {
            kept: Copies {
                places: all.filter(|place| !gone.contains_key(place)).collect(),
                sorted: OnceCell::new(),
                lookups: Cell::new(0),
                kernel,
            },
            gone,
            changes,
            kernel,
        }
    }

    fn refusal(&self, (task, number): Place, why: String) -> Error {
        let item = self
            .changes
            .iter()
            .find(|change| (change.task, change.number) == (task, number))
            .map_or("advice", |change| &change.item);
        let kind = self.gone.get(&(task, number)).map(|file| file.kind);
        let kind = kind.map_or(String::new(), |kind| format!(" ({kind})"));
        Error::unsupported(
            format!("{item}: task {task} descriptor {number}{kind}"),
            why,
        )
    }

    /// A slave without its master cannot be dumped.
    pub fn check_terminals(&self) -> Result<(), Error> {
        for (&place, file) in &self.gone {
            if !file.link.ends_with(b"/ptmx") {
                continue;
            }
            let Some(pair) = self.kernel.terminal_of_master(place) else {
                continue;
            };
            if !self.kept.of(place).is_empty() {
                continue;
            }
            let name = format!("/pts/{pair}");
            let slave = self.kept.places.iter().find(|&&(task, number)| {
                match self.kernel.link((task, number)).as_slice() {
                    b"/dev/tty" => self.kernel.controlling_terminal(task) == Some(pair),
                    link => link.ends_with(name.as_bytes()),
                }
            });
            if let Some((task, number)) = slave {
                return Err(self.refusal(
                    place,
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

    /// What epoll sets must be seen to watch, where that is not what they do.
    pub fn sets(&self) -> Result<Vec<(Place, Shown)>, Error> {
        let mut sets = Vec::new();
        if !self.gone.values().any(|file| file.is_pollable()) {
            return Ok(sets);
        }
        let mut seen: Vec<Place> = Vec::new();
        for &set in &self.kept.places {
            if !self.kernel.is_set(set) {
                continue;
            }
            // CRIU dumps a set by the first descriptor of it, and asks what the
            // numbers mean to that task.
            match seen.binary_search_by(|&other| self.kernel.order(other, set)) {
                Ok(_) => continue,
                Err(at) => seen.insert(at, set),
            }
            let shown = self.shown(set)?;
            if shown.differs() {
                sets.push((set, shown));
            }
        }
        Ok(sets)
    }

    /// What a set is seen to watch.
    fn shown(&self, set: Place) -> Result<Shown, Error> {
        let watches = self.kernel.watches(set);
        let mut taken = BTreeSet::new();
        let mut moves = Vec::new();
        let mut shown: Vec<(Watch, Option<i32>)> = Vec::with_capacity(watches.len());
        for watch in watches {
            let is = |place: &Place| self.kernel.is_watched(set, watch, *place);
            let by_number = (set.0, watch.number);
            // Nearly always it is the descriptor that has the number now.
            let target = match is(&by_number) {
                true => {
                    taken.insert(watch.number);
                    self.gone.contains_key(&by_number).then_some(by_number)
                }
                false => {
                    let mut of_task = self.gone.range((set.0, 0)..=(set.0, i32::MAX));
                    of_task
                        .find(|(place, _)| is(place))
                        .map(|(place, _)| *place)
                }
            };
            if let Some(target) = target {
                moves.push((shown.len(), target));
            }
            shown.push((watch, Some(watch.number)));
        }
        for (at, target) in moves {
            shown[at].1 = self.moved(set, target, &mut taken)?;
        }
        Ok(Shown::new(shown))
    }

    /// The number by which a set can go on watching what is left out: that of a copy that
    /// stays.
    ///
    /// * `taken`: the numbers by which it watches already.
    fn moved(
        &self,
        set: Place,
        target: Place,
        taken: &mut BTreeSet<i32>,
    ) -> Result<Option<i32>, Error> {
        let kept = self.kept.of(target);
        let of_task = || kept.iter().filter(|place| place.0 == set.0);
        let Some((other, number)) = kept.first() else {
            return Ok(None);
        };
        if let Some((_, number)) = of_task().find(|(_, number)| !taken.contains(number)) {
            taken.insert(*number);
            return Ok(Some(*number));
        }
        let why = match of_task().next() {
            Some((_, number)) => format!(
                "the epoll set on descriptor {} watches it, and its copy {number} beside it, which \
                 CRIU cannot express without it: leave out {number} as well, or the set",
                set.1
            ),
            None => format!(
                "the epoll set on descriptor {} watches it, and only task {other} would keep it \
                 (as {number}), which CRIU cannot express: leave the set out as well, or the \
                 descriptor in every task (\"*:{}\")",
                set.1, target.1
            ),
        };
        Err(self.refusal(target, why))
    }

    /// The descriptors that stay of files of which a task loses its locks.
    pub fn unlocked(&self, tables: &Tables<'_>) -> BTreeSet<Place> {
        let locks = locks::of_processes(&self.kernel.locks());
        let mut unlocked = BTreeSet::new();
        if locks.is_empty() {
            return unlocked;
        }
        for table in &tables.in_order {
            let of_tasks = table.tasks.iter().filter_map(|task| locks.get(&task.pid));
            let locked: BTreeSet<u64> = of_tasks.flatten().copied().collect();
            if locked.is_empty() {
                continue;
            }
            let (mut closed, mut stays) = (BTreeSet::new(), Vec::new());
            for open in &table.first().descriptors {
                let place = table.place(open);
                match self.kernel.identity(place) {
                    Some(file) if !locked.contains(&file.1) => {}
                    Some(file) if self.gone.contains_key(&place) => {
                        closed.insert(file);
                    }
                    Some(file) => stays.push((place, file)),
                    None => {}
                }
            }
            let lost = stays.into_iter().filter(|(_, file)| closed.contains(file));
            unlocked.extend(lost.map(|(place, _)| place));
        }
        unlocked
    }

    pub fn sockets(&self) -> Sockets {
        let unix = self.gone.iter().filter(|(_, file)| file.kind == Kind::Unix);
        let gone = unix.filter(|(place, _)| self.kept.of(**place).is_empty());
        Sockets::new(gone.filter_map(|(_, file)| inode(&file.link)).collect())
    }
}

/// The descriptors that stay, to be found by their open file description.
struct Copies<'a> {
    /// In the order of the tasks.
    places: Vec<Place>,
    /// By the kernel's order, once that pays.
    sorted: OnceCell<Vec<Place>>,
    lookups: Cell<u32>,
    kernel: &'a dyn Kernel,
}

impl Copies<'_> {
    /// Those that are the same open file description.
    fn of(&self, place: Place) -> Vec<Place> {
        self.lookups.set(self.lookups.get().saturating_add(1));
        if self.lookups.get() <= self.places.len().checked_ilog2().unwrap_or(0) {
            let same = |other: &&Place| self.kernel.order(**other, place).is_eq();
            return self.places.iter().filter(same).copied().collect();
        }
        let sorted = self.sorted.get_or_init(|| {
            let mut sorted = self.places.clone();
            sorted.sort_by(|a, b| self.kernel.order(*a, *b));
            sorted
        });
        let from = sorted.partition_point(|other| self.kernel.order(*other, place).is_lt());
        let same = |other: &&Place| self.kernel.order(**other, place).is_eq();
        let mut same: Vec<Place> = sorted[from..].iter().take_while(same).copied().collect();
        same.sort_unstable();
        same
    }
}

pub(super) fn lost_lock((task, number): &Place) -> String {
    format!(
        "task {task} loses any fcntl(2) lock that it holds by descriptor {number} in the image, as \
         it would by closing what is left out, which is the same file"
    )
}

/// Of "socket:[INODE]".
fn inode(link: &[u8]) -> Option<u32> {
    let inside = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inside).ok()?.parse().ok()
}
