//! Which descriptors an item means.
//!
//! A number without a task means the root task's descriptor, and the same number
//! in every other task where it is the same open file description; where the
//! root task has no such number, every task that has it. Paths, kinds and
//! identifiers without a task mean every task.

use super::{Bound, ByNumber, Descriptor, Planner};
use crate::Error;
use crate::advice::{Action, Item, Kind, Target, TaskSelector};

impl Planner {
    /// Whether an item means a process.
    ///
    /// * `pids`: its own and its threads'.
    pub(super) fn means(&self, index: usize, pids: &[i32]) -> bool {
        match self.bound[index].item.task {
            None | Some(TaskSelector::Every) => true,
            Some(TaskSelector::Root) => pids.contains(&self.root_pid),
            Some(TaskSelector::Pid(pid)) => pids.contains(&pid),
        }
    }

    /// What an item selects in one table.
    pub(super) fn selected(
        &self,
        index: usize,
        root: bool,
        task: i32,
        by_number: &ByNumber<'_>,
    ) -> Result<Vec<i32>, Error> {
        let Bound { item, numbers, .. } = &self.bound[index];
        if matches!(item.action, Action::Preserve | Action::Add) {
            return self.preserved(item, numbers, root, task, by_number);
        }
        let (from, to) = item.target.numbers().unwrap_or((0, i32::MAX));
        let meant = by_number
            .range(from, to)
            .filter(|descriptor| match &item.target {
                Target::Number(_) | Target::Range(..) => self.follows_root(item, root, descriptor),
                Target::Path(glob) => {
                    let path = descriptor.path.as_deref();
                    path.is_some_and(|path| glob.matches(path))
                }
                Target::Kind(kind) => self.kind(descriptor) == *kind,
                Target::Id(id) => descriptor.description == *id,
            });
        Ok(meant.map(|descriptor| descriptor.number).collect())
    }

    fn preserved(
        &self,
        item: &Item,
        numbers: &[i32],
        root: bool,
        task: i32,
        by_number: &ByNumber<'_>,
    ) -> Result<Vec<i32>, Error> {
        let mut selected = Vec::new();
        for &number in numbers {
            let gets = match by_number.get(number) {
                Some(descriptor) => self.follows_root(item, root, descriptor),
                None if item.task.is_some() => true,
                None => root && self.nobody_else_has(item, number, task)?,
            };
            if gets {
                selected.push(number);
            }
        }
        Ok(selected)
    }

    /// Whether a number without a task means this descriptor.
    fn follows_root(&self, item: &Item, root: bool, descriptor: &Descriptor<'_>) -> bool {
        let of_root = || {
            let place = self
                .root
                .binary_search_by_key(&descriptor.number, |it| it.0);
            place.ok().map(|place| self.root[place].1)
        };
        item.task.is_some()
            || root
            || of_root().is_none_or(|of_root| of_root == descriptor.description)
    }

    fn kind(&self, descriptor: &Descriptor<'_>) -> Kind {
        match &descriptor.path {
            Some(path) if descriptor.kind_by_path => self.paths.kind(path),
            _ => descriptor.kind,
        }
    }

    fn nobody_else_has(&self, item: &Item, number: i32, task: i32) -> Result<bool, Error> {
        match &self.census {
            _ if self.alone => Ok(true),
            Some(census) => Ok(!census.contains(&number)),
            None => Err(Error::unsupported(
                item.to_string(),
                format!(
                    "task {task} has no descriptor {number}, and whether a later task has one \
                     cannot be known while the image comes through a pipe: give the image as a \
                     file, or name the tasks (root:{number} or *:{number})"
                ),
            )),
        }
    }

    /// Remembers what a table has, to tell where something was not found.
    pub(super) fn note(&mut self, pids: &[i32], descriptors: &ByNumber<'_>) {
        let asks = |is: fn(&Target) -> bool| self.bound.iter().any(|b| is(&b.item.target));
        let kinds = match asks(|target| matches!(target, Target::Kind(_))) {
            true => descriptors.iter().map(|d| self.kind(d)).collect(),
            false => Default::default(),
        };
        let paths = asks(|target| matches!(target, Target::Path(_)));
        let ids = asks(|target| matches!(target, Target::Id(_)));
        self.seen.note(pids, descriptors, kinds, paths, ids);
    }
}
