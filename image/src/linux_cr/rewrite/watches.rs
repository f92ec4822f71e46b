//! The watches of epoll sets.

use super::{Editor, put};
use crate::Error;
use crate::linux_cr::layout::{PREFIX, WATCH};
use crate::linux_cr::records::Record;
use std::collections::BTreeSet;

impl Editor {
    /// The watches of an epoll set. One of a number that the caller's file took
    /// passes to that file, where nobody else is known to hold the old one; one
    /// that was dropped stays, and ends with its file when the restart does. One
    /// of a file that nobody can need any more goes at once, as after close(2).
    pub(super) fn watches(&mut self, mut count: Vec<u8>, record: &Record<'_>) -> Result<(), Error> {
        let mut items = record.bytes[..PREFIX].to_vec();
        let mut moved = BTreeSet::new();
        for (index, item) in record.bytes[PREFIX..].chunks_exact(WATCH).enumerate() {
            let at = PREFIX + index * WATCH;
            let (number, file) = (record.i32(at + 8)?, record.i32(at + 12)?);
            let kept = self.is_kept(file);
            let from = self.replaced.get(&file).and_then(|by| by.get(&number));
            let Some(&from) = from.filter(|_| !kept) else {
                let held = self.held.contains_key(&file);
                if self.removed.contains(&file) || (held && self.is_needed_no_more(file)) {
                    continue;
                }
                if held {
                    self.warn_of_watched(number, file);
                }
                self.need(file)?;
                items.extend_from_slice(item);
                continue;
            };
            let own = self.planner.file(from);
            if !own.is_some_and(|own| own.pollable) {
                self.warnings.push(format!(
                    "descriptor {number} was watched by epoll, and what takes its place ({}) \
                     cannot be: the watch is gone",
                    own.map_or("", |own| own.link.as_str())
                ));
                continue;
            }
            // The kernel takes one watch of a file under one number.
            let given = self.given[&self.planner.description(from)];
            if !moved.insert((given, number)) {
                continue;
            }
            let mut item = item.to_vec();
            put(record.order, &mut item, 12, given);
            items.extend_from_slice(&item);
        }
        if items == record.bytes {
            self.out.append(&mut count);
            self.out.append(&mut items);
            return Ok(());
        }
        let left = (items.len() - PREFIX) / WATCH;
        let order = record.order;
        put(
            order,
            &mut count,
            12,
            i32::try_from(left).unwrap_or(i32::MAX),
        );
        put(
            order,
            &mut items,
            4,
            i32::try_from(PREFIX + left * WATCH).unwrap_or(i32::MAX),
        );
        self.out.extend_from_slice(&count);
        if left > 0 {
            self.out.extend_from_slice(&items);
        }
        Ok(())
    }
}
