//! Carries a plan out on a stream, in one pass.
//!
//! Only file tables are held back, from their announcement to their last
//! descriptor: their count stands before them. A file whose known descriptors
//! were all dropped stays as an orphan, or is held back until somebody needs it
//! (a later table, a mapping, an epoll set) and goes out where the kernel will
//! read it, before the record that refers to it: [`dropping`] says which.
//! Everything else is passed on as it is, in order.
//!
//! Where the caller's file is given, the kernel opens it by name: a FILE block
//! for it goes before the FILE_TABLE record, where the task that reads it still
//! has the descriptors that it inherited from the restart program.

mod buffered;
mod deferred;
mod dropping;
mod giving;
mod sharing;
mod terminals;

use super::layout::{Layout, Order, PREFIX, file_type, fixed};
use super::records::{Prefix, Record, Sink, Splitter};
use super::survey::{Desc, Foreknowledge, Interest, Survey, Work};
use crate::Error;
use crate::caller::Opening;
use crate::listing::Engine;
use crate::plan::{Change, Descriptor, Fate, Origin, Planner, TablePlan};
use crate::report::{Outcome, Report};
use buffered::{Buffered, Role};
use deferred::{Becomes, Deferred, Queues};
use dropping::{Left, unname};
use sharing::Own;
use std::collections::{BTreeMap, BTreeSet};
use terminals::Terminals;

const FMODE_LSEEK: u32 = 4;
const SIGNAL_TTY: usize = 312;
/// Bytes of one watch of an epoll set.
const ITEM: usize = 24;

/// Tells the offset of a descriptor of the caller, at the moment it is asked.
pub type Offsets = Box<dyn Fn(i32) -> Option<i64> + Send>;

/// Rewrites a stream as a plan says.
pub struct Rewriter {
    splitter: Splitter,
    editor: Editor,
}

impl Rewriter {
    /// A rewriter for one image.
    ///
    /// * `offsets`: asked for a caller's file when its table goes out.
    pub fn new(planner: Planner, offsets: Offsets) -> Self {
        Rewriter {
            splitter: Splitter::default(),
            editor: Editor {
                planner,
                offsets,
                survey: Survey::default(),
                interest: Interest::default(),
                layout: None,
                out: Vec::new(),
                buffered: None,
                held: BTreeMap::new(),
                contents: BTreeMap::new(),
                kept: BTreeSet::new(),
                removed: BTreeSet::new(),
                given: BTreeMap::new(),
                own: Own::default(),
                deferred: Deferred::default(),
                foreknowledge: None,
                terminals: Terminals::default(),
                replaced: BTreeMap::new(),
                watches: None,
                warnings: Vec::new(),
                unmatched: Vec::new(),
            },
        }
    }

    /// Tells what an earlier pass over the same image found.
    pub fn foresee(&mut self, known: Foreknowledge) {
        self.editor.planner.foresee(known.numbers.clone());
        self.editor.survey.foresee(&known);
        self.editor.foreknowledge = Some(known);
    }

    /// Gives the tasks the pids by which advice names them, in the order of the
    /// tree: restart programs write new ones into it on its way.
    pub fn name_tasks(&mut self, pids: Vec<i32>) {
        self.editor.survey.names = pids;
    }

    /// Takes more of the image. What can go out is in [`Rewriter::output`].
    ///
    /// # Errors
    /// [`Error::Image`], or whatever the advice is refused for.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Error> {
        self.splitter.feed(input, &mut self.editor)
    }

    /// What goes out next. The caller empties it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.editor.out
    }

    /// The most that a pipe of the image has in it, of those that have come, in bytes.
    pub fn fullest_pipe(&self) -> u32 {
        let queued = self.editor.survey.queued.values();
        queued.copied().max().unwrap_or(0)
    }

    /// Bytes that come next and go out unchanged after what is in the output;
    /// whoever moves them otherwise tells [`Rewriter::passed`].
    pub fn passing(&self) -> u64 {
        if self.editor.deferred.swallows() {
            return 0;
        }
        self.splitter.passing()
    }

    /// Whether the image's last record has been read; bytes may follow it.
    pub fn is_complete(&self) -> bool {
        self.splitter.is_complete()
    }

    /// So many went by.
    pub fn passed(&mut self, bytes: u64) {
        self.splitter.passed(bytes);
    }

    /// The image has ended.
    ///
    /// # Errors
    /// [`Error::Image`] where it ends early.
    pub fn finish(&self) -> Result<(), Error> {
        self.splitter.finish()
    }

    /// What was changed.
    pub fn changes(&self) -> &[Change] {
        self.editor.planner.changes()
    }

    /// What the plan opens by path.
    pub fn openings(&self) -> Vec<Opening> {
        self.editor.planner.openings()
    }

    /// What may not be as meant: to be said once, after the last byte.
    pub fn warnings(&self) -> &[String] {
        &self.editor.warnings
    }

    /// What advice made of the image, after the last byte.
    pub fn report(&self, outcome: Outcome) -> Report<'_> {
        Report {
            format: self.splitter.layout().map(Layout::to_string),
            changes: self.changes(),
            unmatched: &self.editor.unmatched,
            warnings: self.warnings(),
            ..Report::new(Engine::LinuxCr, outcome)
        }
    }
}

struct Editor {
    planner: Planner,
    offsets: Offsets,
    survey: Survey,
    interest: Interest,
    layout: Option<Layout>,
    out: Vec<u8>,
    buffered: Option<Buffered>,
    /// Files that nobody has needed so far, by objref.
    held: BTreeMap<i32, Vec<u8>>,
    /// What was in the fifos of which one is held back, by the pipe's objref.
    contents: BTreeMap<i32, Vec<u8>>,
    /// Files that some descriptor keeps.
    kept: BTreeSet<i32>,
    /// Files that never go out.
    removed: BTreeSet<i32>,
    /// Objrefs given to what comes in place of the image's files.
    given: BTreeMap<Origin, i32>,
    own: Own,
    deferred: Deferred,
    foreknowledge: Option<Foreknowledge>,
    terminals: Terminals,
    /// What took the place of a file's numbers, by its objref and the number.
    replaced: BTreeMap<i32, BTreeMap<i32, Origin>>,
    /// EPOLL_ITEMS, until its items have come.
    watches: Option<Vec<u8>>,
    warnings: Vec<String>,
    unmatched: Vec<String>,
}

impl Sink for Editor {
    fn wants(&mut self, prefix: Prefix) -> bool {
        let wanted = self.interest.wants(prefix, self.layout.as_ref()) || self.buffered.is_some();
        if !wanted {
            self.deferred.passes(prefix);
        }
        wanted
    }

    fn record(&mut self, record: Record<'_>, layout: Option<&Layout>) -> Result<(), Error> {
        let Some(layout) = layout else {
            self.out.extend_from_slice(record.bytes);
            return Ok(());
        };
        if self.layout.is_none() {
            // The record that settled the layout was wanted without asking.
            self.interest.wants(record.prefix, Some(layout));
        }
        if !layout.is_editable() {
            return Err(Error::unsupported(
                format!("image: {layout}"),
                "advice is carried out on v20 and v23-rc2 images of x86_64, x86_32 and s390x \
                 only: restart it without advice",
            ));
        }
        self.layout = Some(*layout);
        if record.prefix.kind == fixed::OBJREF {
            self.refuse_given(record.i32(12)?)?;
        }
        if self.buffered.is_some() {
            return self.buffer(&record, layout);
        }
        let file = self.survey.open_file.or(self.survey.named);
        self.survey.record(&record, layout)?;
        self.refuse_master(&record)?;
        self.pass_on(&record, layout, file)
    }

    fn pass(&mut self, bytes: &[u8]) {
        // Never in front of what is held back.
        match (&mut self.buffered, self.watches.take()) {
            (Some(buffered), _) => buffered.push(0, bytes, Role::Other),
            (None, watches) => {
                self.out.extend(watches.unwrap_or_default());
                let bytes = self.deferred.pass(bytes);
                self.out.extend_from_slice(bytes);
            }
        }
    }
}

impl Editor {
    fn order(&self) -> Order {
        self.layout.map_or(Order::Little, |layout| layout.order)
    }

    /// A record outside file tables.
    ///
    /// * `file`: the file whose body or name is awaited.
    fn pass_on(
        &mut self,
        record: &Record<'_>,
        layout: &Layout,
        file: Option<i32>,
    ) -> Result<(), Error> {
        let version = layout.version;
        if !self.deferred.is_idle() {
            match self.deferred.record(record, layout)? {
                Becomes::Itself => {}
                Becomes::Nothing => return Ok(()),
                Becomes::Changed(bytes) => {
                    self.out.extend_from_slice(&bytes);
                    return Ok(());
                }
            }
        }
        if let Some(watches) = self.watches.take() {
            if record.prefix.kind == fixed::BUFFER {
                return self.watches(watches, record);
            }
            self.out.extend_from_slice(&watches);
        }
        match record.prefix.kind {
            fixed::OBJREF if record.u32(8)? == version.file_table_object => {
                let mut buffered = Buffered {
                    cred: self.survey.cred,
                    ..Buffered::default()
                };
                buffered.push(record.prefix.kind, record.bytes, Role::Other);
                self.buffered = Some(buffered);
                return Ok(());
            }
            fixed::EPOLL_ITEMS if record.u32(12)? > 0 => {
                self.watches = Some(record.bytes.to_vec());
                return Ok(());
            }
            fixed::FILE => {
                if let Some(file) = file {
                    self.release_terminal(file);
                }
            }
            fixed::FILE_NAME => {
                self.out.extend_from_slice(record.bytes);
                if let Some(file) = file {
                    self.release_contents(file);
                }
                return Ok(());
            }
            fixed::MM | fixed::VMA => self.need(record.i32(12)?)?,
            fixed::TTY => self.release_end(record.i32(12)?),
            kind if kind == version.task_objs => {
                self.deferred.finish(record)?;
                self.deferred = Deferred::default();
                if let Some(bytes) = self.join(record)? {
                    self.out.extend_from_slice(&bytes);
                    return Ok(());
                }
            }
            fixed::SIGNAL => {
                let tty = record.i32(SIGNAL_TTY)?;
                if self.terminals.taken.contains_key(&tty) {
                    let mut bytes = record.bytes.to_vec();
                    put(record.order, &mut bytes, SIGNAL_TTY, 0);
                    self.out.extend_from_slice(&bytes);
                    return Ok(());
                }
                self.release_both_ends(tty);
                let task = self.survey.task().map_or(0, |task| task.pid);
                self.terminals.controlling.insert(tty, task);
            }
            fixed::TAIL => self.unmatched = self.planner.finish()?,
            _ => {}
        }
        self.out.extend_from_slice(record.bytes);
        Ok(())
    }

    /// The watches of an epoll set. One of a number that the caller's file took
    /// passes to that file, where nobody else is known to hold the old one; one
    /// that was dropped stays, and ends with its file when the restart does. One
    /// of a file that nobody can need any more goes at once, as after close(2).
    fn watches(&mut self, mut count: Vec<u8>, record: &Record<'_>) -> Result<(), Error> {
        let mut items = record.bytes[..PREFIX].to_vec();
        let mut moved = BTreeSet::new();
        for (index, item) in record.bytes[PREFIX..].chunks_exact(ITEM).enumerate() {
            let at = PREFIX + index * ITEM;
            let (number, file) = (record.i32(at + 8)?, record.i32(at + 12)?);
            let kept = self.kept.contains(&file);
            let from = self.replaced.get(&file).and_then(|by| by.get(&number));
            let Some(&from) = from.filter(|_| !kept) else {
                let held = self.held.contains_key(&file);
                if self.removed.contains(&file) || (held && self.is_needed_no_more(file)) {
                    continue;
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
        let left = (items.len() - PREFIX) / ITEM;
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
            i32::try_from(PREFIX + left * ITEM).unwrap_or(i32::MAX),
        );
        self.out.extend_from_slice(&count);
        if left > 0 {
            self.out.extend_from_slice(&items);
        }
        Ok(())
    }

    /// A record of a file table, or of what stands between its announcement and
    /// it.
    fn buffer(&mut self, record: &Record<'_>, layout: &Layout) -> Result<(), Error> {
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
                Some(piece) if piece.kind == version.socket_unix => piece.role,
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
            self.table(table, layout)?;
        }
        Ok(())
    }

    /// Plans a table that is complete, and lets it go.
    fn table(&mut self, id: i32, layout: &Layout) -> Result<(), Error> {
        let order = layout.order;
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
        let queues = if plan.is_untouched() {
            BTreeMap::new()
        } else {
            self.sockets_left(&dropped, &here, &held)
        };
        self.warn_of_sockets(owner, &descs, &dropped, &held, &queues);
        let removed = |file: &&i32| held.get(file) == Some(&Left::Gone);
        let sets = self.survey.work.iter().filter_map(|work| match work {
            Work::Watches(set) if removed(&set) => Some(*set),
            _ => None,
        });
        let sets = sets.collect();
        self.removed.extend(dropped.iter().filter(removed));
        self.deferred = Deferred::new(&mut self.survey, queues.clone(), sets);
        buffered.draw_forward(&plan, &held);
        // What will not go out, for all that is known: its objref may be used anew.
        let unused =
            |id: &i32| held.contains_key(id) && (self.held.contains_key(id) || here.contains(id));
        let unused: BTreeSet<i32> = dropped.iter().copied().filter(unused).collect();
        let mut announce = Vec::new();
        for from in plan.origins() {
            self.give(from, &unused, buffered.cred, &mut announce)?;
        }
        let mut added = plan.added.iter().peekable();
        let mut next = descs.iter().zip(&plan.fates);
        let count = plan.fates.iter().filter(|f| **f != Fate::Drop).count() + plan.added.len();
        for piece in &buffered.pieces {
            let bytes = &buffered.bytes[piece.start..piece.end];
            match piece.role {
                Role::File(file) if held.get(&file) == Some(&Left::Gone) => {}
                Role::File(file) if piece.role.is_held(&held) => {
                    self.held.entry(file).or_default().extend_from_slice(bytes);
                }
                Role::Terminal { end, .. } if piece.role.is_held(&held) => {
                    let held = self.terminals.held.entry(end).or_default();
                    held.extend_from_slice(bytes);
                }
                Role::Contents { pipe, .. } if piece.role.is_held(&held) => {
                    self.contents.insert(pipe, bytes.to_vec());
                }
                Role::File(file) if piece.kind == fixed::FILE => {
                    self.release_terminal(file);
                    self.out.extend_from_slice(bytes);
                }
                Role::File(_) if piece.kind == layout.version.socket_unix => {
                    let mut bytes = bytes.to_vec();
                    let id = unix_socket(order, &bytes);
                    let socket = self.survey.sockets.get(&id);
                    if let Some(socket) =
                        socket.filter(|_| queues.get(&id) == Some(&Queues::Emptied))
                    {
                        unname(&mut bytes, socket, layout);
                    }
                    self.out.extend_from_slice(&bytes);
                }
                Role::File(file) if piece.kind == fixed::FILE_NAME => {
                    self.out.extend_from_slice(bytes);
                    self.release_contents(file);
                }
                Role::Other | Role::File(_) | Role::Terminal { .. } | Role::Contents { .. } => {
                    self.out.extend_from_slice(bytes);
                }
                Role::Table => {
                    self.out.append(&mut announce);
                    let mut bytes = bytes.to_vec();
                    put(
                        order,
                        &mut bytes,
                        8,
                        i32::try_from(count).unwrap_or(i32::MAX),
                    );
                    self.out.extend_from_slice(&bytes);
                }
                Role::Descriptor => {
                    let Some((desc, fate)) = next.next() else {
                        continue;
                    };
                    while let Some(&&(number, from)) = added.peek() {
                        if number > desc.number {
                            break;
                        }
                        self.add(number, from);
                        added.next();
                    }
                    match fate {
                        Fate::Keep => {
                            self.need(desc.file)?;
                            self.out.extend_from_slice(bytes);
                        }
                        Fate::Drop => {}
                        Fate::Give(from) => {
                            let numbers = self.replaced.entry(desc.file).or_default();
                            numbers.insert(desc.number, *from);
                            let mut bytes = bytes.to_vec();
                            put(
                                order,
                                &mut bytes,
                                8,
                                self.given[&self.planner.description(*from)],
                            );
                            self.out.extend_from_slice(&bytes);
                        }
                    }
                }
            }
        }
        for &(number, from) in added {
            self.add(number, from);
        }
        self.own.read(owner, id, plan);
        Ok(())
    }

    fn plan(&mut self, process: i32, root: bool, descs: &[Desc]) -> Result<TablePlan, Error> {
        let descriptors: Vec<Descriptor<'_>> =
            descs.iter().map(|d| self.survey.descriptor(d)).collect();
        let pids = self.survey.pids_of(process);
        self.planner.table(&pids, root, &descriptors)
    }

    /// Refuses what cannot be carried out.
    fn check(&mut self, task: i32, descs: &[Desc], plan: &TablePlan) -> Result<(), Error> {
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
                // The kernel keeps the result of the seek in an int, takes such a
                // one for an error code and crashes.
                let low = file.position as u32;
                if file.mode & FMODE_LSEEK != 0 && (0x8000_0000..=0xffff_f000).contains(&low) {
                    return Err(Error::unsupported(
                        format!(
                            "task {task} descriptor {}: offset {:#x}",
                            desc.number, file.position
                        ),
                        "a Linux-CR kernel would crash on it (bit 31 is set): ignore the \
                         descriptor",
                    ));
                }
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
                if let Some(leader) = self.terminals.controlling.get(&file.behind) {
                    return Err(Error::unsupported(
                        format!("{}: task {task} descriptor {}", item(), desc.number),
                        format!(
                            "the terminal is the controlling one of task {leader}, which the \
                             restart has made by now and would hang up with it: leave it out"
                        ),
                    ));
                }
                self.terminals.taken.insert(file.behind, item());
            }
        }
        self.check_terminals()
    }

    /// Lets a file go if it was held back, since the next record refers to it.
    fn need(&mut self, file: i32) -> Result<(), Error> {
        if self.removed.contains(&file) {
            return Err(Error::unsupported(
                format!("image: object {file}"),
                "all descriptors of it were dropped that could be known of, and another one comes: \
                 leave it out",
            ));
        }
        let Some(bytes) = self.held.remove(&file) else {
            return Ok(());
        };
        self.refuse_given(file)?;
        self.release_terminal(file);
        self.out.extend_from_slice(&bytes);
        self.release_contents(file);
        Ok(())
    }
}

fn put(order: Order, record: &mut [u8], at: usize, value: i32) {
    if let Some(field) = record.get_mut(at..at + 4) {
        field.copy_from_slice(&order.bytes(value.cast_unsigned()));
    }
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
