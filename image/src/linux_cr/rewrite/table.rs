//! File tables: held back from their announcement to their last descriptor,
//! then planned and let go.

use super::buffered::Role;
use super::deferred::{Deferred, Queues};
use super::dropping::{Left, unname};
use super::{Editor, put};
use crate::Error;
use crate::linux_cr::layout::{Layout, Order, PREFIX, file_type, fixed};
use crate::linux_cr::records::Record;
use crate::linux_cr::survey::{Desc, Work};
use crate::plan::{Descriptor, Fate, TablePlan};
use std::collections::{BTreeMap, BTreeSet};

impl Editor {
    /// A record of a file table, or of what stands between its announcement and
    /// it.
    pub(super) fn buffer(&mut self, record: &Record<'_>, layout: &Layout) -> Result<(), Error> {
        let version = layout.version;
        let kind = record.prefix.kind;
        if kind == fixed::TAIL || kind == version.task || kind == version.task_objs {
            return Err(record.error("the file table before it has too few descriptors"));
        }
        let open = self.survey.open_file;
        let named = self.survey.named;
        let filled = self.survey.filled.map(|file| (file, self.fifo(file)));
        let Some(buffered) = &mut self.buffered else {
            return Ok(());
        };
        let role = match kind {
            fixed::OBJREF => {
                let (object, id) = (record.u32(8)?, record.i32(12)?);
                buffered.terminal = open
                    .filter(|_| object == version.tty_object)
                    .map(|file| Role::Terminal { end: id, file });
                match (buffered.terminal, open) {
                    _ if object == version.file_object => Role::File(id),
                    (_, Some(file)) if object == version.socket_object => Role::File(file),
                    (terminal, _) => terminal.unwrap_or(Role::Other),
                }
            }
            // A socket is its file's, a relative name is the socket's.
            fixed::STRING => match buffered.pieces.last() {
                Some(piece) if buffered.last == version.socket_unix => piece.role,
                _ => Role::Other,
            },
            _ if version.is_socket(kind) => open.map_or(Role::Other, Role::File),
            fixed::FILE => open.map_or(Role::Other, Role::File),
            fixed::FILE_NAME => named.map_or(Role::Other, Role::File),
            fixed::PIPE_BUF => match filled {
                Some((file, Some(pipe))) => Role::Contents { pipe, file },
                Some((file, None)) => Role::File(file),
                None => Role::Other,
            },
            fixed::TTY | fixed::TTY_LDISC | fixed::BUFFER => {
                buffered.terminal.unwrap_or(Role::Other)
            }
            fixed::FILE_TABLE => Role::Table,
            fixed::FILE_DESC => Role::Descriptor,
            _ => Role::Other,
        };
        buffered.push(kind, record.bytes, role);
        self.survey.record(record, layout)?;
        self.refuse_master(record)?;
        if let Some(table) = self.survey.complete_table() {
            self.check_peers(record)?;
            self.table(table, layout)?;
        }
        Ok(())
    }

    /// Refuses what the end of the table would crash a kernel with.
    fn check_peers(&self, record: &Record<'_>) -> Result<(), Error> {
        for work in &self.survey.work {
            let Work::Queues(id) = work else { continue };
            let peer = self.survey.sockets.get(id).map_or(0, |socket| socket.peer);
            if peer > 0 && !self.survey.sockets.contains_key(&peer) {
                return Err(record.error(format!(
                    "the peer {peer} of socket {id} has not come, which would crash the kernel"
                )));
            }
        }
        Ok(())
    }

    /// Plans a table that is complete, and lets it go.
    fn table(&mut self, id: i32, layout: &Layout) -> Result<(), Error> {
        let (Some(mut buffered), Some(table)) = (self.buffered.take(), self.survey.tables.get(&id))
        else {
            return Ok(());
        };
        if self.survey.is_one_process() {
            self.planner.one_task();
        }
        let descs = table.descriptors.clone();
        let owner = table.owner;
        let plan = self.plan(owner, owner == self.survey.root_process(), &descs)?;
        let kept: BTreeSet<i32> = of_fate(&descs, &plan, |fate| fate == Fate::Keep);
        let mut dropped: BTreeSet<i32> = of_fate(&descs, &plan, |fate| fate != Fate::Keep);
        dropped.retain(|file| !kept.contains(file));
        self.kept.extend(kept);
        self.check(owner, &descs, &plan)?;

        let here = buffered.files();
        let held = self.hold_back(&dropped, &here);
        let stays = |desc: &&Desc| {
            let goes = held.contains_key(&desc.file) || !here.contains(&desc.file);
            dropped.contains(&desc.file) && !goes
        };
        // A pass that only plans does not know who else drops it.
        if !self.only_plans() || self.survey.is_last_process() {
            for desc in descs.iter().filter(stays) {
                self.refuse_unrestorable(desc.file, || of_task(owner, desc))?;
            }
        }
        let mut queues = self.sockets_left(&dropped, &here, &held);
        let planned = self.planned().is_some_and(|planned| planned.changes);
        if !planned && self.planner.changes().is_empty() {
            // The end of a socket that another table drops may stand in this one.
            queues.retain(|_, queues| *queues == Queues::Emptied);
        }
        let gone = queues.iter().filter(|(_, left)| **left == Queues::Gone);
        self.mended.extend(gone.map(|(id, _)| *id));
        self.warn_of_sockets(owner, &descs, &dropped, &held, &queues);
        let removed = |file: &&i32| held.get(file) == Some(&Left::Gone);
        let sets = self.survey.work.iter().filter_map(|work| match work {
            Work::Watches(set) if removed(&set) => Some(*set),
            _ => None,
        });
        let sets = sets.collect();
        for file in dropped.iter().filter(removed) {
            self.removed.insert(*file);
            self.removed_behind
                .extend(self.survey.files.get(file).map(|file| file.behind));
        }
        self.deferred = Deferred::new(&mut self.survey, layout, queues.clone(), sets);
        buffered.draw_forward(&plan);
        // What will not go out, for all that is known: its objref may be used anew.
        let unused =
            |id: &i32| held.contains_key(id) && (self.held.contains_key(id) || here.contains(id));
        let origins = plan.origins();
        let unused: BTreeSet<i32> = match origins.is_empty() {
            true => BTreeSet::new(),
            false => dropped.iter().copied().filter(unused).collect(),
        };
        let mut announce = Vec::new();
        for from in origins {
            self.give(from, &unused, buffered.cred, &mut announce)?;
        }
        let mut added = plan.added.iter().peekable();
        let mut next = descs.iter().zip(&plan.fates);
        let count = plan.fates.iter().filter(|f| **f != Fate::Drop).count() + plan.added.len();
        // Growing it bit by bit would leave holes as large as itself.
        self.out.reserve(buffered.len());
        for piece in std::mem::take(&mut buffered.pieces) {
            let bytes = buffered.bytes(&piece);
            match piece.role {
                Role::Table => {
                    self.out.append(&mut announce);
                    let mut bytes = bytes.to_vec();
                    let count = i32::try_from(count).unwrap_or(i32::MAX);
                    put(layout.order, &mut bytes, 8, count);
                    self.out.extend_from_slice(&bytes);
                }
                Role::Descriptor => {
                    let Some((desc, fate)) = next.next() else {
                        continue;
                    };
                    while let Some(&(number, from)) = added.next_if(|&&(n, _)| n <= desc.number) {
                        self.add(number, from);
                    }
                    self.place(desc, *fate, bytes)?;
                }
                role if role.is_held(&held) => self.withhold(role, bytes, &held),
                Role::Other => self.out.extend_from_slice(bytes),
                role => {
                    for (kind, record) in records(layout.order, bytes) {
                        self.let_out(role, kind, record, &queues)?;
                    }
                }
            }
            buffered.gone(&piece);
        }
        for &(number, from) in added {
            self.add(number, from);
        }
        self.own.read(owner, id, plan);
        Ok(())
    }

    /// Puts a descriptor where its fate has it.
    fn place(&mut self, desc: &Desc, fate: Fate, record: &[u8]) -> Result<(), Error> {
        match fate {
            Fate::Keep => {
                self.need(desc.file)?;
                self.out.extend_from_slice(record);
            }
            Fate::Drop => {}
            Fate::Give(from) => {
                let numbers = self.replaced.entry(desc.file).or_default();
                numbers.insert(desc.number, from);
                let mut record = record.to_vec();
                let object = self.given[&self.planner.description(from)];
                put(self.order(), &mut record, 8, object);
                self.out.extend_from_slice(&record);
            }
        }
        Ok(())
    }

    /// Keeps a record of what does not go out with its table, if it may later.
    fn withhold(&mut self, role: Role, record: &[u8], held: &BTreeMap<i32, Left>) {
        match role {
            Role::File(file) if held.get(&file) == Some(&Left::HeldBack) => {
                let held = self.held.entry(file).or_default();
                held.reserve_exact(record.len());
                held.extend_from_slice(record);
            }
            Role::Terminal { end, .. } => {
                let held = self.terminals.held.entry(end).or_default();
                held.extend_from_slice(record);
            }
            Role::Contents { pipe, .. } => {
                self.contents.insert(pipe, record.to_vec());
            }
            _ => {}
        }
    }

    /// Lets a record of an announcement go, behind what it needs and in front of what needs it.
    fn let_out(
        &mut self,
        role: Role,
        kind: u32,
        record: &[u8],
        queues: &BTreeMap<i32, Queues>,
    ) -> Result<(), Error> {
        match (role, kind) {
            (Role::File(file), fixed::FILE) => {
                self.refuse_half(file)?;
                self.release_terminal(file);
            }
            (Role::Terminal { end, .. }, fixed::TTY) => {
                let link = self.survey.ttys.get(&end).map_or(0, |end| end.link);
                self.release_end(link);
            }
            _ => {}
        }
        match self.layout {
            Some(layout) if kind == layout.version.socket_unix => {
                let mut record = record.to_vec();
                let id = unix_socket(layout.order, &record);
                let socket = self.survey.sockets.get(&id);
                if let (Some(socket), Some(Queues::Emptied)) = (socket, queues.get(&id)) {
                    unname(&mut record, socket, &layout);
                }
                self.out.extend_from_slice(&record);
            }
            _ => self.out.extend_from_slice(record),
        }
        if let (Role::File(file), fixed::FILE_NAME) = (role, kind) {
            self.release_contents(file);
        }
        Ok(())
    }

    pub(super) fn plan(
        &mut self,
        process: i32,
        root: bool,
        descs: &[Desc],
    ) -> Result<TablePlan, Error> {
        let descriptors: Vec<Descriptor<'_>> =
            descs.iter().map(|d| self.survey.descriptor(d)).collect();
        let pids = self.survey.pids_of(process);
        self.planner.table(&pids, root, &descriptors)
    }

    /// Refuses what cannot be carried out.
    pub(super) fn check(
        &mut self,
        task: i32,
        descs: &[Desc],
        plan: &TablePlan,
    ) -> Result<(), Error> {
        for (desc, fate) in descs.iter().zip(&plan.fates) {
            let Some(file) = self.survey.files.get(&desc.file) else {
                continue;
            };
            let outside = file.file_type == file_type::TTY && self.survey.is_outside(file.behind);
            if *fate == Fate::Keep {
                if outside {
                    let kept = self.terminals.kept.entry(file.behind).or_default();
                    kept.insert((task, desc.number));
                }
                self.refuse_unrestorable(desc.file, || of_task(task, desc))?;
                continue;
            }
            let item = || {
                let mut changes = self.planner.changes().iter().rev();
                changes
                    .find(|change| change.number == desc.number)
                    .map(|change| change.item.clone())
                    .unwrap_or_default()
            };
            if outside {
                let what = format!("{}: task {task} descriptor {}", item(), desc.number);
                self.refuse_controlling(file.behind, what)?;
                let taken = self.terminals.taken.entry(file.behind);
                taken.or_insert_with(|| item().to_string());
            }
        }
        self.check_terminals()
    }
}

/// Whole records one behind the other, and what they are.
pub(super) fn records(order: Order, mut bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, rest) = bytes.split_first_chunk()?;
        let len = order.u32(*rest.first_chunk()?) as usize;
        let (record, behind) = bytes.split_at_checked(len)?;
        bytes = behind;
        Some((order.u32(*kind), record))
    })
}

pub(super) fn of_task(task: i32, desc: &Desc) -> String {
    format!("task {task} descriptor {}", desc.number)
}

/// The socket whose record it is.
fn unix_socket(order: Order, record: &[u8]) -> i32 {
    let id = record.get(PREFIX..).and_then(|rest| rest.first_chunk());
    id.map_or(0, |bytes| order.u32(*bytes).cast_signed())
}

/// The files of the descriptors of a fate.
fn of_fate(descs: &[Desc], plan: &TablePlan, is: impl Fn(Fate) -> bool) -> BTreeSet<i32> {
    descs
        .iter()
        .zip(&plan.fates)
        .filter(|(_, fate)| is(**fate))
        .map(|(desc, _)| desc.file)
        .collect()
}
