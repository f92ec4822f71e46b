//! What an image holds, for people.

use super::entry::{Description, Link};
use super::image::{Image, Reference};
use crate::listing::{self, Listing};
use std::collections::{BTreeMap, BTreeSet};

impl Image {
    /// What the image holds, for people.
    ///
    /// * `other`: what refers to descriptions but descriptors, queues and other
    ///   descriptions, as [`Image::other_references`] gives it.
    pub fn listing(&self, other: &BTreeMap<u32, BTreeSet<Reference>>) -> Listing {
        let mut holders: BTreeMap<u32, Vec<(i32, i32)>> = BTreeMap::new();
        let mut order = Vec::new();
        for task in &self.tasks {
            let Some(table) = task.table.and_then(|id| self.tables.get(&id)) else {
                continue;
            };
            for slot in &table.slots {
                let list = holders.entry(slot.description).or_insert_with(|| {
                    order.push(slot.description);
                    Vec::new()
                });
                list.push((task.pid, slot.number));
            }
        }
        let rest = self.descriptions.keys().copied();
        let rest: Vec<u32> = rest.filter(|id| !holders.contains_key(id)).collect();
        order.extend(rest);
        let references = self.references();
        let descriptions = order.iter().filter_map(|id| {
            let description = self.descriptions.get(id)?;
            let here = references.get(id).into_iter().flatten();
            let there = other.get(id).into_iter().flatten();
            let also = here.chain(there).filter_map(|reference| say(*reference));
            Some(listing::Description {
                id: u64::from(*id),
                kind: description.kind,
                holders: holders.remove(id).unwrap_or_default(),
                flags: flags(description),
                position: description.position,
                what: what(description),
                also: also.collect(),
            })
        });
        let descriptions = descriptions.collect();
        let mut tasks = Vec::new();
        for task in &self.tasks {
            for pid in std::iter::once(task.pid).chain(task.threads.iter().copied()) {
                tasks.push(listing::Task {
                    pid,
                    process: task.pid,
                    command: String::new(),
                });
            }
        }
        Listing {
            format: "CRIU".to_owned(),
            tasks,
            descriptions,
        }
    }
}

fn flags(description: &Description) -> u32 {
    let flags = match (description.access.read, description.access.write) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    flags.cast_unsigned()
}

fn what(description: &Description) -> String {
    match (&description.path, &description.link) {
        (Some(path), _) => String::from_utf8_lossy(path).into_owned(),
        (None, Link::Unix { inode, .. }) => format!("socket:[{inode}]"),
        (None, _) => String::new(),
    }
}

fn say(reference: Reference) -> Option<String> {
    Some(match reference {
        Reference::Descriptor { .. } => return None,
        Reference::Queue { socket } => format!("waits in socket {socket}"),
        Reference::Opens { description } => format!("opens {description}"),
        Reference::Mapping { task } => format!("mapped by {task}"),
        Reference::Executable { task } => format!("executable of {task}"),
        Reference::WorkingDirectory { task } => format!("working directory of {task}"),
        Reference::RootDirectory { task } => format!("root directory of {task}"),
    })
}
