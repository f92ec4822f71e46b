//! Who holds which open file description, before and after.
//!
//! Descriptors do, and so do the queues of sockets, as long as somebody holds the
//! socket: what waits in the queue of a socket that goes, goes with it.

use super::image::Image;
use crate::Error;
use crate::plan::{Change, Fate, TablePlan};
use std::collections::{BTreeMap, BTreeSet};

/// One descriptor of a file table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub description: u32,
    /// When a task first has the table, in the order of the image.
    rank: usize,
    pub number: i32,
    pub table: u32,
    /// It stays as it is.
    pub kept: bool,
}

pub(super) struct Holders<'a> {
    pub image: &'a Image,
    pub plans: &'a BTreeMap<u32, TablePlan>,
    changes: &'a [Change],
    /// By description, table and number.
    all: Vec<Holder>,
    released: Vec<Holder>,
    /// What waits in queues that stay.
    flying: BTreeSet<u32>,
    gone: BTreeSet<u32>,
}

impl<'a> Holders<'a> {
    pub fn new(
        image: &'a Image,
        plans: &'a BTreeMap<u32, TablePlan>,
        changes: &'a [Change],
    ) -> Self {
        let mut all = Vec::with_capacity(plans.keys().map(|id| image.tables[id].slots.len()).sum());
        for (rank, table) in image.tables_in_order().into_iter().enumerate() {
            for (slot, fate) in image.tables[&table].slots.iter().zip(&plans[&table].fates) {
                all.push(Holder {
                    description: slot.description,
                    rank,
                    number: slot.number,
                    table,
                    kept: *fate == Fate::Keep,
                });
            }
        }
        let released = all.iter().filter(|holder| !holder.kept).copied().collect();
        all.sort_unstable();
        let mut holders = Holders {
            image,
            plans,
            changes,
            all,
            released,
            flying: BTreeSet::new(),
            gone: BTreeSet::new(),
        };
        holders.follow_queues();
        let queued = image.flights.iter().flat_map(|flight| &flight.descriptions);
        let concerned = holders.released.iter().map(|holder| &holder.description);
        holders.gone = concerned
            .chain(queued)
            .filter(|id| !holders.flying.contains(id) && !holders.is_kept(**id))
            .copied()
            .collect();
        holders
    }

    /// Finds what is in the queues of sockets that somebody holds, which may be
    /// the queue of such a socket.
    fn follow_queues(&mut self) {
        let mut queues: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for flight in &self.image.flights {
            let queue = queues.entry(flight.socket).or_default();
            queue.extend_from_slice(&flight.descriptions);
        }
        let queued: BTreeSet<u32> = queues.values().flatten().copied().collect();
        // What nobody held before is not for advice to judge.
        let nobodys = |id| self.of(id).is_empty() && !queued.contains(&id);
        let sockets = queues.keys().copied();
        let mut held: Vec<u32> = sockets
            .filter(|&id| self.is_kept(id) || nobodys(id))
            .collect();
        while let Some(socket) = held.pop() {
            for id in queues.remove(&socket).unwrap_or_default() {
                if self.flying.insert(id) {
                    held.push(id);
                }
            }
        }
    }

    /// The descriptors of a description.
    pub fn of(&self, id: u32) -> &[Holder] {
        let start = self.all.partition_point(|holder| holder.description < id);
        let count = self.all[start..].partition_point(|holder| holder.description == id);
        &self.all[start..start + count]
    }

    /// Those that stay.
    pub fn kept(&self, id: u32) -> impl Iterator<Item = &Holder> {
        self.of(id).iter().filter(|holder| holder.kept)
    }

    fn is_kept(&self, id: u32) -> bool {
        self.kept(id).next().is_some()
    }

    /// Whether a descriptor of it is dropped or replaced.
    pub fn is_released(&self, id: u32) -> bool {
        self.of(id).iter().any(|holder| !holder.kept)
    }

    /// The descriptors that are dropped or replaced.
    pub fn released(&self) -> &[Holder] {
        &self.released
    }

    /// The descriptions that had a holder and have none afterwards.
    pub fn gone(&self) -> &BTreeSet<u32> {
        &self.gone
    }

    pub fn is_gone(&self, id: u32) -> bool {
        self.gone.contains(&id)
    }

    /// Whether it waits in a queue that stays.
    pub fn is_flying(&self, id: u32) -> bool {
        self.flying.contains(&id)
    }

    /// The task that stands for a table: CRIU restores it there.
    pub fn task(&self, table: u32) -> i32 {
        self.image.tables[&table].tasks[0]
    }

    /// Where CRIU restores what these hold: by the task of the lowest pid.
    pub fn restorer<'h>(&self, holders: impl Iterator<Item = &'h Holder>) -> Option<&'h Holder> {
        holders.min_by_key(|holder| self.task(holder.table))
    }

    /// "task T descriptor N", of a descriptor that stays, for messages.
    pub fn who_keeps(&self, id: u32) -> String {
        match self.kept(id).next() {
            Some(holder) => self.name(holder),
            None => "a socket's queue".to_owned(),
        }
    }

    pub fn name(&self, holder: &Holder) -> String {
        format!(
            "task {} descriptor {}",
            self.task(holder.table),
            holder.number
        )
    }

    /// An error for a descriptor that cannot be dropped or replaced.
    pub fn refusal(&self, released: &Holder, why: impl Into<String>) -> Error {
        let task = self.task(released.table);
        let item = self
            .changes
            .iter()
            .find(|change| (change.task, change.number) == (task, released.number))
            .map_or("advice", |change| &change.item);
        let kind = self.image.descriptions[released.description].kind;
        Error::unsupported(format!("{item}: {} ({kind})", self.name(released)), why)
    }

    /// An error for a description all whose descriptors, or some, are dropped or
    /// replaced.
    pub fn refusal_of(&self, id: u32, why: impl Into<String>) -> Error {
        match self.of(id).iter().find(|holder| !holder.kept) {
            Some(released) => self.refusal(released, why),
            None => Error::unsupported(format!("the open file {id:#x} of a socket's queue"), why),
        }
    }
}
