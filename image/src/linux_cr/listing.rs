//! What an image holds, for people.

use super::layout::{Layout, file_type};
use super::survey::{File, Survey, Tty};
use crate::listing::{self, Description, Listing};
use std::collections::BTreeMap;

impl Survey {
    /// What the image holds, for people.
    pub fn listing(&self, layout: Option<&Layout>) -> Listing {
        let mut holders: BTreeMap<i32, Vec<(i32, i32)>> = BTreeMap::new();
        let mut order = Vec::new();
        for task in &self.tasks {
            let shown = task.pid == task.process;
            let Some(table) = task
                .table
                .filter(|_| shown)
                .and_then(|t| self.tables.get(&t))
            else {
                continue;
            };
            for desc in &table.descriptors {
                let list = holders.entry(desc.file).or_insert_with(|| {
                    order.push(desc.file);
                    Vec::new()
                });
                list.push((task.pid, desc.number));
            }
        }
        let mut rest: Vec<i32> = self
            .files
            .keys()
            .copied()
            .filter(|file| !holders.contains_key(file))
            .collect();
        rest.sort_unstable();
        order.extend(rest);
        let descriptions = order
            .iter()
            .filter_map(|id| {
                let holders = holders.remove(id).unwrap_or_default();
                Some(self.description(*id, self.files.get(id)?, holders))
            })
            .collect();
        let tasks = self.tasks.iter().map(|task| listing::Task {
            pid: task.pid,
            process: task.process,
            command: task.command.clone(),
        });
        Listing {
            format: layout.map_or_else(|| "Linux-CR".to_owned(), Layout::to_string),
            tasks: tasks.collect(),
            descriptions,
        }
    }

    fn description(&self, id: i32, file: &File, holders: Vec<(i32, i32)>) -> Description {
        let mut also = Vec::new();
        if file.mapped {
            also.push("mapped".to_owned());
        }
        also.extend(
            file.watched_by
                .iter()
                .map(|epoll| format!("watched by {epoll}")),
        );
        if self.controlling.contains(&file.behind) {
            also.push("controlling terminal".to_owned());
        }
        let queued = self.queued.get(&file.behind).copied().unwrap_or(0);
        let pipe = matches!(file.file_type, file_type::PIPE | file_type::FIFO);
        if pipe && queued > 0 {
            also.push(format!("{queued} bytes in it"));
        }
        let what = match (file.file_type, &file.path) {
            (_, Some(path)) => String::from_utf8_lossy(path).into_owned(),
            (file_type::PIPE, _) => format!("pipe:[{}]", file.behind),
            (file_type::SOCKET, _) => match self.bound.get(&file.behind) {
                Some(path) => String::from_utf8_lossy(path).into_owned(),
                None => format!("socket:[{}]", file.behind),
            },
            (file_type::TTY, _) => match self.ttys.get(&file.behind) {
                Some(Tty { link: 0, index }) => format!("/dev/ptmx (master of /dev/pts/{index})"),
                Some(tty) if self.is_outside(file.behind) => {
                    format!("/dev/pts/{} (master not in the image)", tty.index)
                }
                Some(tty) => format!("/dev/pts/{}", tty.index),
                None => String::new(),
            },
            _ => String::new(),
        };
        Description {
            id: u64::from(id.cast_unsigned()),
            kind: self.kind(file),
            holders,
            flags: file.flags,
            position: (file.mode & 4 != 0).then_some(file.position),
            what,
            also,
        }
    }
}
