//! What an image holds, for people.

use super::entry::{Description, Link};
use super::image::{Directory, Image, Reference};
use super::wire::{File, Magic};
use crate::Error;
use crate::listing::{self, Listing};
use std::collections::{BTreeMap, BTreeSet};

impl Image {
    /// What the image holds.
    ///
    /// * `directory`: the image's, for the names of commands, mappings and the
    ///   like, which advice does not need.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn listing(&self, directory: &dyn Directory) -> Result<Listing, Error> {
        let mut tasks = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let command = command(directory, task.pid)?;
            for pid in std::iter::once(&task.pid).chain(&task.threads) {
                tasks.push(listing::Task {
                    pid: *pid,
                    process: task.pid,
                    command: command.clone(),
                });
            }
        }
        let (references, others) = (self.references(), self.other_references(directory)?);
        let watched = self.watched();
        let mut order = Vec::with_capacity(self.descriptions.len());
        let mut holders: BTreeMap<u32, Vec<(i32, i32)>> = BTreeMap::new();
        for table in self.tables_in_order().iter().map(|id| &self.tables[id]) {
            for slot in &table.slots {
                let list = holders.entry(slot.description).or_insert_with(|| {
                    order.push(slot.description);
                    Vec::new()
                });
                list.extend(table.tasks.iter().map(|task| (*task, slot.number)));
            }
        }
        let rest = self.descriptions.keys().copied();
        order.extend(rest.filter(|id| !holders.contains_key(id)));
        let none = (Vec::new(), BTreeSet::new());
        let descriptions = order.iter().map(|id| {
            let references = references.get(id).unwrap_or(&none.0);
            let others = others.get(id).unwrap_or(&none.1);
            let mut also: Vec<String> = references.iter().chain(others).filter_map(said).collect();
            also.dedup();
            let sets = watched.get(id).into_iter().flatten();
            also.extend(sets.map(|set| format!("watched by {set}")));
            let description = &self.descriptions[id];
            listing::Description {
                id: (*id).into(),
                kind: description.kind,
                holders: holders.remove(id).unwrap_or_default(),
                flags: description.flags,
                position: description.position,
                what: what(description),
                also,
            }
        });
        Ok(Listing {
            format: "CRIU".to_owned(),
            descriptions: descriptions.collect(),
            tasks,
        })
    }

    /// The epoll sets that watch a description by a number of a task that has both.
    fn watched(&self) -> BTreeMap<u32, BTreeSet<u32>> {
        let mut watched: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for table in self.tables.values() {
            for slot in &table.slots {
                let Link::Epoll(numbers) = &self.descriptions[&slot.description].link else {
                    continue;
                };
                let there = numbers.iter().filter_map(|n| table.slot(n.cast_signed()));
                for other in there {
                    let sets = watched.entry(other.description).or_default();
                    sets.insert(slot.description);
                }
            }
        }
        watched
    }
}

/// A reference other than a descriptor.
fn said(reference: &Reference) -> Option<String> {
    Some(match reference {
        Reference::Descriptor { .. } => return None,
        Reference::Queue { socket } => format!("in the queue of {socket}"),
        Reference::Opens { description } => format!("for {description}"),
        Reference::Mapping { task } => format!("mapped by {task}"),
        Reference::Executable { task } => format!("executed by {task}"),
        Reference::WorkingDirectory { task } => format!("working directory of {task}"),
        Reference::RootDirectory { task } => format!("root directory of {task}"),
    })
}

fn what(description: &Description) -> String {
    match (&description.path, &description.link) {
        (Some(path), _) => String::from_utf8_lossy(path).into_owned(),
        (None, Link::Pipe(pipe)) => format!("pipe:[{pipe}]"),
        (None, Link::Unix { inode, .. }) => format!("socket:[{inode}]"),
        _ => String::new(),
    }
}

/// The command that a task runs; empty where the image does not have it.
fn command(directory: &dyn Directory, task: i32) -> Result<String, Error> {
    let name = format!("core-{task}.img");
    let Some(bytes) = directory.file(&name)? else {
        return Ok(String::new());
    };
    let file = File {
        name: &name,
        bytes: &bytes,
    };
    for field in file.entry(Magic::CORE)?.message.fields() {
        let field = field?;
        if field.number != 3 {
            continue;
        }
        for field in field.message()?.fields() {
            let field = field?;
            if field.number == 6 {
                let command = field.message()?;
                return Ok(String::from_utf8_lossy(command.bytes()).into_owned());
            }
        }
    }
    Ok(String::new())
}
