//! Epoll sets, which name what they watch by numbers of a task.
//!
//! CRIU writes the numbers of the first task that has the set, and restores the
//! set in the task of the lowest pid that has it.

use super::entry::{Description, Link};
use super::holders::{Holder, Holders};
use crate::Error;
use crate::plan::{Fate, Origin, Planner};
use std::collections::{BTreeMap, BTreeSet};

/// For each set whose watches change, what becomes of each: the number by which
/// it is watched, or nothing.
///
/// A watch is of a number and a file, and ends with the file. So where the number
/// is dropped or replaced, the watch goes on by another number of the file. What
/// takes the place of a file that is gone takes over its watch.
///
/// * `warnings`: gets what may surprise.
pub(super) fn edited(
    holders: &Holders<'_>,
    planner: &Planner,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<u32, Vec<Option<u32>>>, Error> {
    let mut changed = BTreeMap::new();
    for description in holders.image.descriptions.iter() {
        let Link::Epoll(watched) = &description.link else {
            continue;
        };
        if watched.is_empty() || holders.is_gone(description.id) {
            continue;
        }
        let Some(set) = Set::new(holders, description)? else {
            continue;
        };
        let watches = set.watches(watched, planner, warnings)?;
        if watches
            .iter()
            .zip(watched)
            .any(|(new, old)| *new != Some(*old))
        {
            changed.insert(description.id, watches);
        }
    }
    Ok(changed)
}

/// A set that stays.
struct Set<'a> {
    holders: &'a Holders<'a>,
    id: u32,
    /// The descriptor in whose task the numbers mean what is watched.
    old: &'a Holder,
    /// The one in whose task it is restored.
    new: &'a Holder,
}

impl<'a> Set<'a> {
    /// `None` where its watches cannot change.
    fn new(holders: &'a Holders<'a>, description: &Description) -> Result<Option<Self>, Error> {
        let id = description.id;
        let Some(old) = holders.of(id).first() else {
            return Ok(None);
        };
        let Some(new) = holders.restorer(holders.kept(id)) else {
            return Err(holders.refusal_of(
                id,
                "this epoll set waits in a socket's queue, and no task is left in which what it \
                 watches could be known: leave it as it is, or advise the socket as well",
            ));
        };
        let stays = old.table == new.table || holders.of(id).iter().all(|holder| holder.kept);
        let touched = |table| !holders.plans[&table].is_untouched();
        let concerned = !stays || touched(old.table) || touched(new.table);
        Ok(concerned.then_some(Set {
            holders,
            id,
            old,
            new,
        }))
    }

    fn watches(
        &self,
        watched: &[u32],
        planner: &Planner,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Option<u32>>, Error> {
        let mut watches: Vec<Option<u32>> = Vec::with_capacity(watched.len());
        let mut lost = Vec::new();
        for (index, &number) in watched.iter().enumerate() {
            // A number that its task does not have is CRIU's to judge.
            let stays = self
                .watched(number)
                .is_none_or(|id| self.is_held_by(number, id));
            watches.push(stays.then_some(number));
            if !stays {
                lost.push(index);
            }
        }
        let mut taken: BTreeSet<u32> = watches.iter().flatten().copied().collect();
        for index in lost {
            let number = watched[index];
            let Some(file) = self.watched(number) else {
                continue;
            };
            watches[index] = match self.another_number(file, &taken) {
                Some(other) => Some(other),
                None if !self.holders.is_gone(file) => return Err(self.out_of_reach(number, file)),
                None => self.passes_on(number, planner, warnings),
            };
            taken.extend(watches[index]);
        }
        Ok(watches)
    }

    /// The description that a number means.
    fn watched(&self, number: u32) -> Option<u32> {
        let number = i32::try_from(number).ok()?;
        let table = &self.holders.image.tables[&self.old.table];
        table.slot(number).map(|slot| slot.description)
    }

    fn is_held_by(&self, number: u32, file: u32) -> bool {
        self.numbers(file).any(|other| other == number)
    }

    /// The numbers of a file in the task that restores the set, ascending.
    fn numbers(&self, file: u32) -> impl Iterator<Item = u32> {
        let here = self.holders.kept(file);
        here.filter(|holder| holder.table == self.new.table)
            .map(|holder| holder.number as u32)
    }

    fn another_number(&self, file: u32, taken: &BTreeSet<u32>) -> Option<u32> {
        self.numbers(file).find(|number| !taken.contains(number))
    }

    /// The number itself, where the caller's file is there and can be watched.
    fn passes_on(&self, number: u32, planner: &Planner, warnings: &mut Vec<String>) -> Option<u32> {
        let here = number as i32;
        let given = self.given(self.old.table, here)?;
        if self.given(self.new.table, here) != Some(given) {
            return None;
        }
        let file = planner.file(given)?;
        if file.pollable {
            return Some(number);
        }
        warnings.push(format!(
            "task {} descriptor {number}: the epoll set on descriptor {} watches it no more, \
             since {} cannot be watched",
            self.holders.task(self.new.table),
            self.new.number,
            file.link
        ));
        None
    }

    /// Where a number comes from that is not the image's any more.
    fn given(&self, table: u32, number: i32) -> Option<Origin> {
        let plan = &self.holders.plans[&table];
        let slots = &self.holders.image.tables[&table].slots;
        let place = slots.iter().position(|slot| slot.number == number);
        match place.map(|index| plan.fates[index]) {
            Some(Fate::Give(from)) => Some(from),
            Some(_) => None,
            None => {
                let mut added = plan.added.iter();
                let from = added.find(|(n, _)| *n == number).map(|(_, from)| *from);
                from.map(Origin::Descriptor)
            }
        }
    }

    fn out_of_reach(&self, number: u32, file: u32) -> Error {
        let holders = self.holders;
        let set = holders.name(self.new);
        if self.old.table != self.new.table {
            return holders.refusal_of(
                self.id,
                format!(
                    "{set} keeps this epoll set, and CRIU cannot watch there what it watches: \
                     advise it in every task (\"*:{}\")",
                    self.old.number
                ),
            );
        }
        let others = match self.numbers(file).next() {
            Some(_) => "every other descriptor of the same file is watched too".to_owned(),
            None => format!(
                "the file stays open ({}) where CRIU cannot watch it",
                holders.who_keeps(file)
            ),
        };
        holders.refusal_of(
            file,
            format!(
                "the epoll set of {set} watches it by descriptor {number}, and {others}: leave it \
                 as it is, advise the set as well, or every task (\"*:{number}\")"
            ),
        )
    }
}
