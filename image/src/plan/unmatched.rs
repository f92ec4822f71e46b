//! Items that selected nothing, each with what the image has instead.

use super::{Bound, ByNumber, Planner};
use crate::Error;
use crate::advice::{Action, Kind, Strictness, Target, TaskSelector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many paths and identifiers a message names at most.
const MOST: usize = 8;

/// What the tables had.
#[derive(Default)]
pub(super) struct Seen {
    /// The numbers of each task, ascending.
    numbers: BTreeMap<i32, Arc<[i32]>>,
    /// Of all tasks, as far as items ask for them.
    kinds: BTreeSet<Kind>,
    paths: BTreeSet<String>,
    ids: BTreeSet<u64>,
}

impl Seen {
    pub fn note(
        &mut self,
        pids: &[i32],
        descriptors: &ByNumber<'_>,
        kinds: BTreeSet<Kind>,
        paths: bool,
        ids: bool,
    ) {
        let open: Arc<[i32]> = descriptors.iter().map(|d| d.number).collect();
        for pid in pids {
            self.numbers.insert(*pid, open.clone());
        }
        self.kinds.extend(kinds);
        if !paths && !ids {
            return;
        }
        for descriptor in descriptors.iter() {
            if let (true, Some(path)) = (paths, &descriptor.path)
                && self.paths.len() <= MOST
            {
                self.paths
                    .insert(String::from_utf8_lossy(path).into_owned());
            }
            if ids && self.ids.len() <= MOST {
                self.ids.insert(descriptor.description);
            }
        }
    }
}

impl Planner {
    /// The items that selected nothing, each with what the image has instead,
    /// after the last table.
    ///
    /// # Errors
    /// [`Error::Unmatched`] under [`Strictness::Strict`]. Under
    /// [`Strictness::BestEffort`] the list is empty.
    pub fn finish(&self) -> Result<Vec<String>, Error> {
        if self.strictness == Strictness::BestEffort {
            return Ok(Vec::new());
        }
        let unmatched: Vec<String> = self
            .bound
            .iter()
            .filter(|bound| !bound.matched)
            .map(|bound| format!("{}: {}", bound.item, self.instead(bound)))
            .collect();
        if self.strictness == Strictness::Strict && !unmatched.is_empty() {
            return Err(Error::Unmatched {
                items: unmatched.join("; "),
            });
        }
        Ok(unmatched)
    }

    fn instead(&self, bound: &Bound) -> String {
        let item = &bound.item;
        if let Some(not_offered) = &bound.asked
            && !item
                .target
                .numbers()
                .is_some_and(|(n, _)| self.caller.offered.contains(&n))
        {
            return not_offered.clone();
        }
        let tasks = &self.seen.numbers;
        if let Some(TaskSelector::Pid(pid)) = item.task
            && !tasks.contains_key(&pid)
        {
            return format!(
                "the image has no task {pid} with descriptors; it has {}",
                ranges(tasks.keys().copied())
            );
        }
        let who = match item.task {
            Some(TaskSelector::Pid(pid)) => format!("task {pid} has"),
            Some(TaskSelector::Root) => "the root task has".to_owned(),
            Some(TaskSelector::Every) | None => "no task has".to_owned(),
        };
        let (no, a) = match item.task {
            Some(TaskSelector::Pid(_) | TaskSelector::Root) => ("no ", "no"),
            Some(TaskSelector::Every) | None => ("", "a"),
        };
        let target = match &item.target {
            Target::Number(number) => number.to_string(),
            Target::Range(from, Some(to)) => format!("{from}-{to}"),
            Target::Range(from, None) => format!("{from}-"),
            Target::Path(_) => {
                let paths = few(self.seen.paths.iter().map(String::as_str));
                return format!("{who} {a} file of such a path; the image has {paths}");
            }
            Target::Kind(kind) => {
                let kinds = few(self.seen.kinds.iter().map(|kind| kind.name()));
                return format!("{who} {a} descriptor of kind {kind}; the image has {kinds}");
            }
            Target::Id(id) => {
                let ids: Vec<String> = self.seen.ids.iter().map(u64::to_string).collect();
                let ids = few(ids.iter().map(String::as_str));
                return format!("{who} {a} descriptor of {id}; the image has {ids}");
            }
        };
        let preserves = matches!(item.action, Action::Preserve | Action::Add);
        if preserves && bound.numbers.is_empty() {
            return format!("nothing in {target} is open here, so nothing is preserved");
        }
        match item.task {
            Some(TaskSelector::Pid(pid)) => {
                format!(
                    "{who} {no}{target}; open there: {}",
                    ranges(tasks[&pid].iter().copied())
                )
            }
            Some(TaskSelector::Root) => {
                let open = ranges(self.root.iter().map(|(number, _)| *number));
                format!("{who} {no}{target}; open there: {open}")
            }
            Some(TaskSelector::Every) | None => {
                let all: BTreeSet<i32> = tasks.values().flat_map(|t| t.iter().copied()).collect();
                format!("{who} {target}; open are {}", ranges(all))
            }
        }
    }
}

/// "a, b, c and more", or "none".
fn few<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0 => "none".to_owned(),
        n if n > MOST => format!("{} and more", names[..MOST].join(", ")),
        _ => names.join(", "),
    }
}

/// Ascending numbers as "0-2, 5, 7-9", or "none".
fn ranges(numbers: impl IntoIterator<Item = i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, to)) if to.checked_add(1) == Some(number) => *to = number,
            _ => runs.push((number, number)),
        }
    }
    if runs.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> = runs
        .iter()
        .map(|(from, to)| {
            if from == to {
                from.to_string()
            } else {
                format!("{from}-{to}")
            }
        })
        .collect();
    texts.join(", ")
}
