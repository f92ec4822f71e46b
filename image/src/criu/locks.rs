//! Locks and leases, which CRIU takes anew by a descriptor of a task.

use super::entry::Lock;
use super::holders::{Holder, Holders};
use super::image::{Directory, Table, optional};
use super::wire::{Magic, Splices};
use crate::Error;
use crate::plan::Fate;
use std::collections::{BTreeMap, BTreeSet};

/// The file that has them.
pub(super) const NAME: &str = "filelocks.img";

/// filelocks.img as it is to be; `None` where it stays as it is. As with close(2),
/// a lock of an open file description stays while a descriptor of it does, and a
/// task loses its own locks of a file with any descriptor of that file.
///
/// * `warnings`: gets what may surprise.
pub(super) fn edited(
    holders: &Holders<'_>,
    directory: &dyn Directory,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(list) = optional(directory, NAME)? else {
        return Ok(None);
    };
    let mut tables: BTreeMap<i32, (u32, &Table)> = BTreeMap::new();
    for (&id, table) in &holders.image.tables {
        tables.extend(table.tasks.iter().map(|&task| (task, (id, table))));
    }
    // One descriptor may hold many locks.
    let mut told = BTreeSet::new();
    let mut splices = Splices::default();
    for entry in list.file().entries(Magic::FILE_LOCKS)? {
        let entry = entry?;
        let lock = Lock::read(&entry)?;
        let Some(&(id, table)) = tables.get(&lock.task) else {
            continue;
        };
        let Some(slot) = table.slot(lock.number) else {
            continue;
        };
        let holder = holders
            .of(slot.description)
            .iter()
            .find(|h| h.number == lock.number && h.table == id);
        let Some(holder) = holder else { continue };
        if lock.of_task {
            if let Some(closed) = closes(holders, id, slot.description) {
                if holder.kept && told.insert((lock.task, lock.number)) {
                    warnings.push(format!(
                        "task {} loses the fcntl(2) lock that it holds by descriptor {}, as it \
                         would by closing descriptor {closed}, which is the same file",
                        lock.task, lock.number
                    ));
                }
                splices.remove(lock.span);
            }
        } else if !holder.kept {
            match successor(holders, holder) {
                Some(next) => {
                    let (task, number) = (holders.task(next.table), next.number);
                    let moved = Lock::moved(&entry.message, task, number)?;
                    splices.replace(lock.span, moved.into_entry());
                }
                None if holders.is_flying(slot.description) => {
                    return Err(holders.refusal(
                        holder,
                        "a lock is held by it, and its file is left only in a socket's queue, \
                         by which CRIU cannot lock: leave it as it is",
                    ));
                }
                None => splices.remove(lock.span),
            }
        }
    }
    Ok((!splices.is_empty()).then(|| splices.apply(&list.bytes, 0)))
}

/// A descriptor that stays and holds what one that goes did, of the same task if
/// there is one.
fn successor<'h>(holders: &'h Holders<'_>, gone: &Holder) -> Option<&'h Holder> {
    holders
        .kept(gone.description)
        .min_by_key(|other| (other.table != gone.table, other.table, other.number))
}

/// A descriptor of the table that is dropped or replaced and is the same file.
fn closes(holders: &Holders<'_>, table: u32, description: u32) -> Option<i32> {
    let descriptions = &holders.image.descriptions;
    let file = &descriptions[description];
    let slots = holders.image.tables[&table].slots.iter();
    let mut slots = slots.zip(&holders.plans[&table].fates);
    slots
        .find(|(slot, fate)| {
            let other = &descriptions[slot.description];
            **fate != Fate::Keep
                && (slot.description == description
                    || (other.kind == file.kind && other.path.is_some() && other.path == file.path))
        })
        .map(|(slot, _)| slot.number)
}
