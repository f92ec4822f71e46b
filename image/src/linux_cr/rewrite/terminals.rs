//! Terminals, of which advice takes all descriptors or none.

use super::Editor;
use crate::Error;
use crate::linux_cr::layout::{Layout, file_type, fixed};
use crate::linux_cr::records::Record;
use crate::linux_cr::survey::Tty;
use std::collections::{BTreeMap, BTreeSet};

/// Which terminals advice takes, and which it leaves.
#[derive(Default)]
pub struct Terminals {
    /// By the slave's objref: the item that took it.
    pub taken: BTreeMap<i32, String>,
    /// By the slave's objref: tasks and numbers that keep it.
    pub kept: BTreeMap<i32, BTreeSet<(i32, i32)>>,
    /// The records of ends that no file has needed so far, by objref.
    pub held: BTreeMap<i32, Vec<u8>>,
    /// By the slave's objref: the task whose controlling terminal it stays.
    pub controlling: BTreeMap<i32, i32>,
    /// The end outside file tables whose records are read, and which is held back.
    withheld: Option<i32>,
}

impl Editor {
    /// Both ends of the terminals that were taken.
    pub(super) fn ends_taken(&self) -> BTreeSet<i32> {
        let slaves = self.terminals.taken.keys();
        let ends = slaves.map(|slave| (*slave, self.survey.ttys.get(slave).map(|tty| tty.link)));
        ends.flat_map(|(slave, master)| std::iter::once(slave).chain(master))
            .collect()
    }

    /// Whether advice takes an end of a terminal, for all that is known.
    pub(super) fn is_taken(&self, end: i32) -> bool {
        let planned = self.planned();
        self.terminals.taken.contains_key(&end)
            || planned.is_some_and(|planned| planned.taken.contains(&end))
    }

    /// A task has got a terminal as its controlling one, and a later table drops it.
    ///
    /// * `what`: the item, and the descriptor.
    pub(super) fn refuse_controlling(&self, slave: i32, what: String) -> Result<(), Error> {
        match self.terminals.controlling.get(&slave) {
            Some(leader) if !self.only_plans() => Err(Error::unsupported(
                what,
                format!(
                    "the terminal is the controlling one of task {leader}, which comes earlier in \
                     the image and would hang up with it: give the image as a file"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Holds a record back that is announced outside file tables, and of an end that advice takes.
    pub(super) fn withhold_end(
        &mut self,
        record: &Record<'_>,
        layout: &Layout,
    ) -> Result<bool, Error> {
        match record.prefix.kind {
            fixed::OBJREF => {
                let (object, end) = (record.u32(8)?, record.i32(12)?);
                let is_end = object == layout.version.tty_object;
                self.terminals.withheld = Some(end).filter(|end| is_end && self.is_taken(*end));
            }
            fixed::TTY | fixed::TTY_LDISC | fixed::BUFFER => {}
            _ => self.terminals.withheld = None,
        }
        let Some(end) = self.terminals.withheld else {
            return Ok(false);
        };
        let held = self.terminals.held.entry(end).or_default();
        held.extend_from_slice(record.bytes);
        Ok(true)
    }

    /// A terminal of the outside is taken from everybody or nobody: what is left
    /// of it would come back dead.
    pub(super) fn check_terminals(&self) -> Result<(), Error> {
        let half = self
            .terminals
            .taken
            .iter()
            .filter_map(|(slave, item)| Some((slave, item, self.terminals.kept.get(slave)?)));
        let (mut what, mut numbers) = (Vec::new(), Vec::new());
        for (slave, item, kept) in half {
            let index = self.survey.ttys.get(slave).map_or(0, |tty| tty.index);
            let list: Vec<String> = kept.iter().map(|(task, n)| format!("{task}:{n}")).collect();
            what.push(format!(
                "{item}: terminal /dev/pts/{index} would be left at {} and be dead there",
                list.join(",")
            ));
            numbers.extend(list);
        }
        if what.is_empty() {
            return Ok(());
        }
        let others: Vec<String> = numbers.iter().map(|one| format!("{one}=2")).collect();
        let (list, others) = (numbers.join(","), others.join(","));
        // Another task may have the master, and the terminal would live.
        let either = match self.is_told() {
            true => "",
            false => "give the image as a file, or, where no later task has its master, ",
        };
        Err(Error::Contradiction {
            what: what.join("; "),
            remedy: format!("{either}ignore {list} too (or substitute {others})"),
        })
    }

    /// A terminal taken as one of the outside turns out to have its master in
    /// the image.
    pub(super) fn refuse_master(&self, record: &Record<'_>) -> Result<(), Error> {
        if record.prefix.kind != fixed::FILE || record.u32(8)? != file_type::TTY {
            return Ok(());
        }
        let end = record.i32(48)?;
        let master_of = self
            .terminals
            .taken
            .iter()
            .find(|(slave, _)| self.survey.ttys.get(slave).is_some_and(|t| t.link == end));
        match master_of {
            None => Ok(()),
            Some((_, item)) => Err(Error::unsupported(
                item.clone(),
                "the master of that terminal is in the image too, with a task that comes later, \
                 and it was taken for one of the outside by then: give the image as a file",
            )),
        }
    }

    /// Lets the terminal go on which a file is, since the file goes out.
    pub(super) fn release_terminal(&mut self, file: i32) {
        let file = self.survey.files.get(&file);
        let file = file.filter(|file| file.file_type == file_type::TTY);
        if let Some(end) = file.map(|file| file.behind) {
            self.release_both_ends(end);
        }
    }

    /// Lets a terminal go, since the next record refers to an end of it. The other one has settings and input of its
    /// own, which whoever opens it anew finds.
    pub(super) fn release_both_ends(&mut self, end: i32) {
        let master = match self.survey.ttys.get(&end) {
            Some(Tty { link: 0, .. }) | None => end,
            Some(slave) => slave.link,
        };
        self.release_end(master);
        if let Some(&slave) = self.survey.slaves.get(&master) {
            self.release_end(slave);
        }
        self.release_end(end);
    }

    /// Lets one end of a terminal go, since the next record refers to it.
    pub(super) fn release_end(&mut self, end: i32) {
        if let Some(bytes) = self.terminals.held.remove(&end) {
            self.out.extend_from_slice(&bytes);
        }
    }
}
