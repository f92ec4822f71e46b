//! File tables that tasks share, where advice means only some of these tasks: they
//! get a table of their own, as by unshare(2).

use super::image::{Directory, Image, Table, optional};
use super::wire::{Magic, Splices, Writer};
use crate::Error;
use crate::advice::{Advice, Item, TaskSelector};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// An image whose tables are such that advice means all tasks of one or none.
pub(super) struct Split<'a> {
    pub image: Cow<'a, Image>,
    /// The tables that are new.
    pub tables: BTreeSet<u32>,
    /// The tables that are the root task's or were part of it.
    pub of_root: BTreeSet<u32>,
}

/// Gives the tasks that an item names a table of their own, where they share one
/// with others.
///
/// # Errors
/// [`Error::Unsupported`] where CRIU could not restore that: it makes a task with
/// its parent's table or with one of its own.
pub(super) fn split<'a>(image: &'a Image, advice: &Advice) -> Result<Split<'a>, Error> {
    let mut split = Split {
        image: Cow::Borrowed(image),
        tables: BTreeSet::new(),
        of_root: image.root_table().into_iter().collect(),
    };
    let named: Vec<(usize, &Item)> = advice
        .items
        .iter()
        .enumerate()
        .filter(|(_, item)| matches!(item.task, Some(TaskSelector::Pid(_) | TaskSelector::Root)))
        .collect();
    if named.is_empty() {
        return Ok(split);
    }
    let parents: BTreeMap<i32, i32> = image.tasks.iter().map(|t| (t.pid, t.parent)).collect();
    for (&id, table) in &image.tables {
        let mut groups: BTreeMap<Vec<usize>, Vec<i32>> = BTreeMap::new();
        for &pid in &table.tasks {
            let items = named.iter().filter(|(_, item)| means(image, item, pid));
            let group = groups.entry(items.map(|(index, _)| *index).collect());
            group.or_default().push(pid);
        }
        if groups.len() < 2 {
            continue;
        }
        for (items, group) in &groups {
            let apart = group
                .iter()
                .skip(1)
                .find(|pid| !group.contains(&parents[pid]));
            if let Some(apart) = apart {
                let item = items.first().or(groups.keys().flatten().next());
                return Err(refusal(
                    item.map(|&i| &advice.items[i]),
                    table,
                    group[0],
                    *apart,
                ));
            }
        }
        let rest = groups.into_values().filter(|g| g[0] != table.tasks[0]);
        for group in rest {
            split.part(id, &group)?;
        }
    }
    Ok(split)
}

/// Whether an item names a process, or a thread of it.
fn means(image: &Image, item: &Item, process: i32) -> bool {
    match item.task {
        Some(TaskSelector::Root) => image.tasks[0].pid == process,
        Some(TaskSelector::Pid(pid)) => {
            let mut tasks = image.tasks.iter().filter(|task| task.pid == process);
            pid == process || tasks.any(|task| task.threads.contains(&pid))
        }
        _ => false,
    }
}

fn refusal(item: Option<&Item>, table: &Table, one: i32, other: i32) -> Error {
    let tasks: Vec<String> = table.tasks.iter().map(i32::to_string).collect();
    Error::unsupported(
        item.map_or_else(|| "advice".to_owned(), Item::to_string),
        format!(
            "the tasks {} share a file table, and CRIU cannot restore one that {one} and {other} \
             share alone, since neither is the other's parent or child: name no task, or write \
             \"*:\" for all",
            tasks.join(", ")
        ),
    )
}

impl Split<'_> {
    /// Gives tasks a copy of a table.
    fn part(&mut self, id: u32, group: &[i32]) -> Result<(), Error> {
        let image = self.image.to_mut();
        let new = image
            .tables
            .keys()
            .next_back()
            .and_then(|id| id.checked_add(1));
        let Some(new) = new else {
            return Err(Error::Image {
                file: "pstree.img".to_owned(),
                offset: 0,
                reason: "no id is left for another file table".to_owned(),
            });
        };
        let Some(table) = image.tables.get_mut(&id) else {
            return Ok(());
        };
        table.tasks.retain(|pid| !group.contains(pid));
        let copy = Table {
            file: format!("fdinfo-{new}.img"),
            tasks: group.to_vec(),
            is_new: true,
            ..table.clone()
        };
        image.tables.insert(new, copy);
        if let Some(left_out) = image.left_out.get(&id).cloned() {
            image.left_out.insert(new, left_out);
        }
        for task in image
            .tasks
            .iter_mut()
            .filter(|task| group.contains(&task.pid))
        {
            task.table = Some(new);
        }
        self.tables.insert(new);
        if self.of_root.contains(&id) {
            self.of_root.insert(new);
        }
        Ok(())
    }

    /// The files that say which table a task has, as they are to be.
    pub fn files(&self, directory: &dyn Directory) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut files = BTreeMap::new();
        for id in &self.tables {
            for task in &self.image.tables[id].tasks {
                let name = format!("ids-{task}.img");
                let Some(file) = optional(directory, &name)? else {
                    return Err(Error::unsupported(
                        format!("task {task}"),
                        "it shares its file table, and images of this age cannot be edited to \
                         give it one of its own: name no task, or write \"*:\" for all",
                    ));
                };
                let ids = file.file().entry(Magic::IDS)?;
                let edited = ids.message.edited(|field| {
                    Ok((field.number == 2).then(|| Writer::default().number(2, (*id).into())))
                })?;
                let mut splices = Splices::default();
                splices.replace(ids.span, edited.into_entry());
                let bytes = splices.apply(&file.bytes, 0);
                files.insert(name, bytes);
            }
        }
        Ok(files)
    }
}
