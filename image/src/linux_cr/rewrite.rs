//! Carries a plan out on a stream, in one pass.
//!
//! Only file tables are held back, from their announcement to their last
//! descriptor: their count stands before them. A file whose known descriptors
//! were all dropped stays as an orphan, or is held back until somebody needs it
//! (a later table, a mapping, an epoll set) and goes out where the kernel will
//! read it, before the record that refers to it: [`dropping`] says which.
//! Everything else is passed on as it is, in order, but for what no kernel reads back: some
//! queues ([`dropping`]) and what had been read of a message ([`half_read`]).
//!
//! Where the caller's file is given, the kernel opens it by name: a FILE block
//! for it goes before the FILE_TABLE record, where the task that reads it still
//! has the descriptors that it inherited from the restart program.

mod buffered;
mod deferred;
mod dropping;
mod giving;
mod half_read;
mod sharing;
mod table;
mod terminals;
mod unrestorable;
mod watches;

use super::layout::{Layout, Order, SIGNAL_TTY, fixed};
use super::records::{Prefix, Record, Sink, Splitter};
use super::soundness::Soundness;
use super::survey::{Foreknowledge, Interest, Planned, Survey};
use crate::Error;
use crate::caller::Opening;
use crate::listing::Engine;
use crate::plan::{Change, Origin, Planner};
use crate::report::{Outcome, Report};
use buffered::{Buffered, Role};
use deferred::Deferred;
use half_read::HalfRead;
use sharing::Own;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use terminals::Terminals;

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
        let is_advised = !planner.is_idle();
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
                removed_behind: BTreeSet::new(),
                given: BTreeMap::new(),
                taken: BTreeSet::new(),
                mended: BTreeSet::new(),
                own: Own::default(),
                deferred: Deferred::default(),
                soundness: is_advised.then(Soundness::default),
                half_read: is_advised.then(HalfRead::default),
                foreknowledge: None,
                terminals: Terminals::default(),
                replaced: BTreeMap::new(),
                watches: None,
                warnings: Vec::new(),
                unmatched: Vec::new(),
                disturbed: false,
                unchanged: 0..0,
            },
        }
    }

    /// Tells what an earlier pass over the same image found.
    pub fn foresee(&mut self, known: Foreknowledge) {
        self.editor.planner.foresee(known.numbers.clone());
        self.editor.survey.foresee(&known);
        self.editor.foreknowledge = Some(known);
    }

    /// What a pass over the whole image found, for the next one over the same.
    pub fn foreknowledge(&self) -> Foreknowledge {
        let Editor { survey, kept, .. } = &self.editor;
        Foreknowledge {
            planned: Some(Planned {
                changes: !self.changes().is_empty(),
                taken: self.editor.ends_taken(),
                files: survey.keeping(kept),
            }),
            ..survey.foreknowledge()
        }
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

    /// Where a pass that knew all that this one does went over the whole image: the bytes
    /// behind the last that it changed, up to the last record.
    pub fn unchanged_since(&self) -> Range<u64> {
        self.editor.unchanged.clone()
    }

    /// Of the bytes that pass now and all behind them up to the last record, how many
    /// there are, if it is known that nothing of them changes.
    pub fn unchanged(&self) -> u64 {
        let known = self.editor.foreknowledge.as_ref();
        let known = known.map_or(0..0, |known| known.unchanged.clone());
        let here = self.splitter.offset();
        match known.contains(&here) && !self.editor.deferred.swallows() {
            true => known.end - here,
            false => 0,
        }
    }

    /// Lets [`Rewriter::unchanged`] pass without a look.
    pub fn settle(&mut self) {
        let bytes = self.unchanged();
        if bytes > 0 && self.splitter.pass_on(bytes) {
            // It was checked before, and misses the records that pass.
            self.editor.soundness = None;
        }
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
    /// What was behind them.
    removed_behind: BTreeSet<i32>,
    /// Objrefs given to what comes in place of the image's files.
    given: BTreeMap<Origin, i32>,
    /// The same objrefs.
    taken: BTreeSet<i32>,
    /// Sockets that went out without the queues which no kernel reads.
    mended: BTreeSet<i32>,
    own: Own,
    deferred: Deferred,
    /// Where there is advice: what asks for nothing changes nothing.
    soundness: Option<Soundness>,
    /// Likewise.
    half_read: Option<HalfRead>,
    foreknowledge: Option<Foreknowledge>,
    terminals: Terminals,
    /// What took the place of a file's numbers, by its objref and the number.
    replaced: BTreeMap<i32, BTreeMap<i32, Origin>>,
    /// EPOLL_ITEMS, until its items have come.
    watches: Option<Vec<u8>>,
    warnings: Vec<String>,
    unmatched: Vec<String>,
    /// Bytes that pass, since the last record, did not go out as they came.
    disturbed: bool,
    /// From behind the last record that did not go out as it came, and to which advice said
    /// nothing, to the last of all.
    unchanged: Range<u64>,
}

impl Sink for Editor {
    fn wants(&mut self, prefix: Prefix, layout: Option<&Layout>) -> Result<bool, Error> {
        if let Some(soundness) = &mut self.soundness {
            soundness.prefix(prefix, layout)?;
        }
        let waits = self.half_read.as_ref().is_some_and(HalfRead::waits);
        let wanted = self.interest.wants(prefix, self.layout.as_ref());
        let wanted = wanted || waits || self.buffered.is_some();
        if !wanted {
            self.deferred.passes(prefix);
        }
        Ok(wanted)
    }

    fn record(&mut self, record: Record<'_>, layout: Option<&Layout>) -> Result<(), Error> {
        let (out, plans) = (self.out.len(), self.own.plans());
        self.edit(&record, layout)?;
        let Prefix { offset, len, .. } = record.prefix;
        let as_it_came = self.out.get(out..) == Some(record.bytes) && self.own.plans() == plans;
        if std::mem::take(&mut self.disturbed) || !as_it_came {
            self.unchanged.start = offset + u64::from(len);
        }
        self.unchanged.end = offset;
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8]) {
        let out = self.out.len();
        self.let_pass(bytes);
        self.disturbed |= self.out.len() != out + bytes.len();
    }
}

impl Editor {
    fn edit(&mut self, record: &Record<'_>, layout: Option<&Layout>) -> Result<(), Error> {
        let Some(layout) = layout else {
            self.out.extend_from_slice(record.bytes);
            return Ok(());
        };
        if self.layout.is_none() {
            // The record that settled the layout was wanted without asking.
            self.interest.wants(record.prefix, Some(layout));
        }
        if !layout.is_editable() {
            let why = match layout.is_in_its_order() {
                true => {
                    "advice is carried out on v20 and v23-rc2 images of x86_64, x86_32 and s390x \
                     only: restart it without advice"
                }
                false => {
                    "its numbers are in another byte order than that machine's: the header at \
                     offset 0 is damaged"
                }
            };
            return Err(Error::unsupported(format!("image: {layout}"), why));
        }
        self.layout = Some(*layout);
        if let Some(soundness) = &mut self.soundness {
            soundness.record(record, layout)?;
        }
        if let Some(half_read) = &mut self.half_read {
            let taken = half_read.takes(record, layout.version, &self.survey)?;
            for (prefix, bytes) in half_read.due() {
                let waited = Record {
                    prefix,
                    bytes: &bytes,
                    ..*record
                };
                self.follow(&waited, layout)?;
            }
            if taken {
                return Ok(());
            }
        }
        self.follow(record, layout)
    }

    /// A record that is what it says it is.
    fn follow(&mut self, record: &Record<'_>, layout: &Layout) -> Result<(), Error> {
        if record.prefix.kind == fixed::OBJREF {
            self.refuse_given(record.i32(12)?)?;
        }
        if self.buffered.is_some() {
            return self.buffer(record, layout);
        }
        let file = self.survey.open_file.or(self.survey.named);
        self.survey.record(record, layout)?;
        self.refuse_master(record)?;
        self.pass_on(record, layout, file)
    }

    fn let_pass(&mut self, bytes: &[u8]) {
        // Never in front of what is held back.
        match (&mut self.buffered, self.watches.take()) {
            (Some(buffered), _) => buffered.push(0, bytes, Role::Other),
            (None, watches) => {
                self.out.extend(watches.unwrap_or_default());
                self.deferred.flush(&mut self.out);
                let bytes = self.deferred.pass(bytes);
                self.out.extend_from_slice(bytes);
            }
        }
    }

    fn order(&self) -> Order {
        self.layout.map_or(Order::Little, |layout| layout.order)
    }

    /// Whether it is known what other processes of the image have: all of it was read
    /// before, or no process comes any more.
    fn is_told(&self) -> bool {
        self.foreknowledge.is_some() || self.survey.is_last_process()
    }

    /// Whether this pass only finds out what becomes of the whole image, and another one
    /// that knows comes after it.
    fn only_plans(&self) -> bool {
        self.foreknowledge.is_some() && self.planned().is_none()
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
            let taken = self.deferred.record(record, layout, &mut self.out)?;
            if taken {
                return Ok(());
            }
        }
        if let Some(watches) = self.watches.take() {
            if record.prefix.kind == fixed::BUFFER {
                return self.watches(watches, record);
            }
            self.out.extend_from_slice(&watches);
        }
        if self.withhold_end(record, layout)? {
            return Ok(());
        }
        match record.prefix.kind {
            fixed::OBJREF if record.u32(8)? == version.file_table_object => {
                let mut buffered = Buffered::new(self.survey.cred);
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
                    self.refuse_half(file)?;
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
            fixed::MM | fixed::VMA => {
                let (file, task) = (record.i32(12)?, self.survey.task());
                let task = task.map_or(0, |task| task.pid);
                self.refuse_unrestorable(file, || format!("image: what task {task} has mapped"))?;
                self.need(file)?;
            }
            fixed::TTY => self.release_end(record.i32(12)?),
            fixed::SOCKET_BUFFER => self.refuse_unreceivable(record)?,
            kind if kind == version.task_objs => {
                if !self.deferred.is_idle() {
                    self.deferred.finish(record, layout, &mut self.out)?;
                }
                self.deferred = Deferred::default();
                if let Some(bytes) = self.join(record)? {
                    self.out.extend_from_slice(&bytes);
                    return Ok(());
                }
            }
            fixed::SIGNAL => {
                let tty = record.i32(SIGNAL_TTY)?;
                if self.is_taken(tty) {
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

    /// A pipe, set or connection that was removed turns out to have another file.
    fn refuse_half(&self, file: i32) -> Result<(), Error> {
        let behind = self.survey.files.get(&file).map_or(0, |file| file.behind);
        if behind == 0 || !self.removed_behind.contains(&behind) {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("image: object {file}"),
            "all of the pipe or socket behind it was dropped that could be known of, and more \
             comes: give the image as a file",
        ))
    }

    /// Lets a file go if it was held back, since the next record refers to it.
    fn need(&mut self, file: i32) -> Result<(), Error> {
        if self.removed.contains(&file) {
            return Err(Error::unsupported(
                format!("image: object {file}"),
                "all descriptors of it were dropped that could be known of, and another one comes: \
                 give the image as a file",
            ));
        }
        let Some(bytes) = self.held.remove(&file) else {
            return Ok(());
        };
        self.refuse_given(file)?;
        self.refuse_unrestorable(file, || format!("image: object {file}"))?;
        // A terminal stands inside the announcement, as a kernel writes it.
        let announcement = table::records(self.order(), &bytes).next();
        let announced = announcement.map_or(0, |(_, record)| record.len());
        let (announcement, rest) = bytes.split_at(announced);
        self.out.extend_from_slice(announcement);
        self.release_terminal(file);
        self.out.extend_from_slice(rest);
        self.release_contents(file);
        Ok(())
    }
}

fn put(order: Order, record: &mut [u8], at: usize, value: i32) {
    if let Some(field) = record.get_mut(at..at + 4) {
        field.copy_from_slice(&order.bytes(value.cast_unsigned()));
    }
}
