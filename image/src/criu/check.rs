//! A last look at what CRIU is to read: it ends with an assertion, or hangs, on an
//! image whose parts do not fit.

use super::entry::{Description, FileType, Link, Slot};
use super::image::{Image, read_flights, read_outlines, read_slots};
use crate::Error;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Checks files as they are to be.
///
/// # Errors
/// Something does not fit that did fit in the image: a mistake of this library,
/// and [`Error::Image`] says which.
pub(super) fn check(image: &Image, files: &BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    let faults = Parts::new(image, files)?.faults();
    if faults.is_empty() {
        return Ok(());
    }
    let known = Parts::new(image, &BTreeMap::new())?.faults();
    match faults.difference(&known).next() {
        None => Ok(()),
        Some(fault) => Err(Error::Image {
            file: "as CRIU would get it".to_owned(),
            offset: 0,
            reason: format!("{fault}; this is a mistake of ckptadv, please report it"),
        }),
    }
}

/// The parts of an image that must fit, some as they are and some as they are to
/// be.
struct Parts<'a> {
    /// The ids of the descriptions, ascending.
    ids: Vec<u32>,
    /// The descriptions that something must hold, or that name others.
    concerned: Vec<Cow<'a, Description>>,
    /// File tables with their tasks.
    tables: Vec<(i32, Cow<'a, [Slot]>)>,
    /// What waits in queues.
    queued: BTreeSet<u32>,
}

impl<'a> Parts<'a> {
    fn new(image: &'a Image, files: &BTreeMap<String, Vec<u8>>) -> Result<Self, Error> {
        let (mut ids, concerned) = match files.get("files.img") {
            Some(bytes) => {
                let (ids, concerned) = read_outlines(bytes)?;
                (ids, concerned.into_iter().map(Cow::Owned).collect())
            }
            None => {
                let all = image.descriptions.iter();
                let concerned = all.filter(|it| it.file_type.must_fit()).map(Cow::Borrowed);
                (image.descriptions.ids().collect(), concerned.collect())
            }
        };
        ids.sort_unstable();
        let mut tables = Vec::with_capacity(image.tables.len());
        for table in image.tables.values() {
            let slots = match files.get(&table.file) {
                Some(bytes) => Cow::Owned(read_slots(&table.file, bytes)?),
                None => Cow::Borrowed(&table.slots[..]),
            };
            tables.push((table.tasks[0], slots));
        }
        let flights = match files.get("sk-queues.img") {
            Some(bytes) => Cow::Owned(read_flights(bytes)?),
            None => Cow::Borrowed(&image.flights[..]),
        };
        let queued = flights.iter().flat_map(|flight| &flight.descriptions);
        Ok(Parts {
            ids,
            concerned,
            tables,
            queued: queued.copied().collect(),
        })
    }

    fn faults(&self) -> BTreeSet<String> {
        let mut faults = BTreeSet::new();
        let mut holders = Vec::with_capacity(self.tables.iter().map(|(_, t)| t.len()).sum());
        for (task, slots) in &self.tables {
            holders.extend(
                slots
                    .iter()
                    .map(|slot| (slot.description, *task, slot.number)),
            );
        }
        holders.sort_unstable();
        // Both ascend.
        let mut ids = self.ids.iter().copied().peekable();
        for &(id, task, number) in &holders {
            while ids.next_if(|known| *known < id).is_some() {}
            if ids.peek() != Some(&id) {
                faults.insert(format!("task {task} descriptor {number} is no file"));
            }
        }
        for id in &self.queued {
            if self.ids.binary_search(id).is_err() {
                faults.insert(format!("the file {id:#x} of a queue is gone"));
            }
        }
        let holder = |id: u32| {
            let first = holders.partition_point(|(held, ..)| *held < id);
            holders.get(first).filter(|(held, ..)| *held == id)
        };
        let inodes: BTreeSet<u32> = self.concerned.iter().filter_map(|it| inode(it)).collect();
        for description in &self.concerned {
            let id = description.id;
            let must = description.file_type != FileType::EVENTPOLL;
            if must && holder(id).is_none() && !self.queued.contains(&id) {
                faults.insert(format!("nobody holds the {} {id:#x}", description.kind));
            }
            match &description.link {
                Link::Unix { peer, .. } if *peer != 0 && !inodes.contains(peer) => {
                    faults.insert(format!("the peer of the socket {id:#x} is gone"));
                }
                // The first holder's task is that of the lowest pid.
                Link::Epoll(watched) => faults.extend(holder(id).and_then(|&(_, task, _)| {
                    let (_, slots) = self.tables.iter().find(|(first, _)| *first == task)?;
                    let open: BTreeSet<i32> = slots.iter().map(|slot| slot.number).collect();
                    let stray = watched.iter().find(|n| !open.contains(&(**n as i32)))?;
                    Some(format!(
                        "the epoll set {id:#x} watches {stray}, which task {task} lacks"
                    ))
                })),
                _ => {}
            }
        }
        faults
    }
}

fn inode(description: &Description) -> Option<u32> {
    match description.link {
        Link::Unix { inode, .. } => Some(inode),
        _ => None,
    }
}
