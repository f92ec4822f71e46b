//! Tables that tasks share, of whom advice means some only: those get a table
//! of their own.

use super::giving::Block;
use super::{Editor, put};
use crate::Error;
use crate::linux_cr::layout::fixed;
use crate::linux_cr::records::Record;
use crate::linux_cr::survey::{Desc, Survey};
use crate::plan::{Fate, TablePlan};
use std::collections::{BTreeMap, BTreeSet};

/// Tables that were made for tasks which shared another one.
#[derive(Default)]
pub struct Own {
    /// By the shared table: what advice makes of it, and the table that is so.
    tables: BTreeMap<i32, Vec<(TablePlan, i32)>>,
    /// By process and the table that it shares: the one that it has instead.
    joined: BTreeMap<(i32, i32), i32>,
    made: i32,
}

impl Own {
    /// The numbers of these tables, above those that files are given.
    const FIRST: i32 = Survey::HIGH + 7 * (1 << 21);

    /// Notes what advice made of a table for the process that read it.
    pub fn read(&mut self, process: i32, table: i32, plan: TablePlan) {
        self.tables.insert(table, vec![(plan, table)]);
        self.joined.insert((process, table), table);
    }

    /// Whether a table of that number was made.
    pub fn is_ours(&self, object: i32) -> bool {
        (Self::FIRST..Self::FIRST + self.made).contains(&object)
    }

    /// How many tables were planned, one for each process that has it.
    pub fn plans(&self) -> usize {
        self.joined.len()
    }

    fn fresh(&mut self) -> i32 {
        self.made += 1;
        Self::FIRST + self.made - 1
    }
}

impl Editor {
    /// A task takes a table that it or another one has read. Where advice makes
    /// something else of it for this one, a table of its own goes out first.
    ///
    /// * `record`: TASK_OBJS, which is changed then.
    pub(super) fn join(&mut self, record: &Record<'_>) -> Result<Option<Vec<u8>>, Error> {
        let id = record.i32(8)?;
        let (Some(task), Some(table)) = (self.survey.task(), self.survey.tables.get(&id)) else {
            return Ok(None);
        };
        let (process, owner) = (task.process, table.owner);
        let instead = match self.own.joined.get(&(process, id)) {
            Some(&table) => table,
            None => {
                let descs = table.descriptors.clone();
                let plan = self.plan(process, owner == self.survey.root_process(), &descs)?;
                let known = self.own.tables.get(&id).into_iter().flatten();
                let known = known
                    .clone()
                    .find(|(other, _)| *other == plan)
                    .map(|(_, table)| *table);
                let instead = match known {
                    Some(table) => table,
                    None => self.make_table(process, &descs, &plan)?,
                };
                self.own.tables.entry(id).or_default().push((plan, instead));
                self.own.joined.insert((process, id), instead);
                instead
            }
        };
        if instead == id {
            return Ok(None);
        }
        let mut bytes = record.bytes.to_vec();
        put(record.order, &mut bytes, 8, instead);
        Ok(Some(bytes))
    }

    fn make_table(&mut self, process: i32, descs: &[Desc], plan: &TablePlan) -> Result<i32, Error> {
        let Some(layout) = self.layout else {
            return Ok(0);
        };
        self.check(process, descs, plan)?;
        let table = self.own.fresh();
        if self.survey.high.contains(&table) {
            return Err(Error::unsupported(
                format!("task {process}: a file table of its own"),
                "the image uses every object number that could be given to it",
            ));
        }
        let mut announce = Vec::new();
        for from in plan.origins() {
            self.give(from, &BTreeSet::new(), self.survey.cred, &mut announce)?;
        }
        let kept = descs.iter().zip(&plan.fates);
        let kept: Vec<Desc> = kept
            .filter(|(_, fate)| **fate == Fate::Keep)
            .map(|(d, _)| *d)
            .collect();
        for desc in &kept {
            self.need(desc.file)?;
            self.kept.insert(desc.file);
        }
        let count = plan
            .fates
            .iter()
            .filter(|fate| **fate != Fate::Drop)
            .count()
            + plan.added.len();
        let mut block = Block(&mut self.out, layout.order);
        block.start(fixed::OBJREF, 16);
        block.u32(layout.version.file_table_object);
        block.i32(table);
        self.out.append(&mut announce);
        let mut block = Block(&mut self.out, layout.order);
        block.start(fixed::FILE_TABLE, 16);
        block.i32(i32::try_from(count).unwrap_or(i32::MAX));
        block.u32(0);
        for (desc, fate) in descs.iter().zip(&plan.fates) {
            let object = match fate {
                Fate::Keep => desc.file,
                Fate::Give(from) => self.given[&self.planner.description(*from)],
                Fate::Drop => continue,
            };
            self.descriptor(object, desc.number, desc.close_on_exec);
        }
        for &(number, from) in &plan.added {
            self.add(number, from);
        }
        Ok(table)
    }
}
