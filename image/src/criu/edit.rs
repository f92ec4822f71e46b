//! Carries a plan out: which bytes of which files change.

use super::entry::{
    Description, FileType, inherited_description, inherited_slot, opened_description, rewatched,
};
use super::holders::Holders;
use super::image::{Directory, Image, Table};
use super::record::LeftOut;
use super::sockets::{self, Sockets};
use super::split::split;
use super::wire::{File, Splices, Writer};
use super::{check, ghosts, locks, watches};
use crate::Error;
use crate::advice::Advice;
use crate::caller::{Access, Caller, Opening, Paths};
use crate::listing::Engine;
use crate::plan::{self, Change, Fate, Origin, Planner, TablePlan};
use crate::report::{Outcome, Report};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A descriptor that CRIU is to be started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The name for `--inherit-fd fd[N]:name`.
    pub name: String,
    /// What it is.
    pub what: What,
}

/// What CRIU inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The caller's descriptor of this number.
    Descriptor(i32),
    /// A file that is opened by this path, for appending or not, when the image
    /// is known: until then anything, and if the image turns out not to need it.
    Path(Arc<[u8]>, bool),
}

/// What becomes of an image.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// The files that change, by name, as they are to be.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What is to be opened by path before CRIU is given the files, with the
    /// names by which it inherits them.
    pub openings: Vec<(String, Opening)>,
    /// What is changed, for people.
    pub changes: Vec<Change>,
    /// The items that selected nothing, for people.
    pub unmatched: Vec<String>,
    /// What else may not be as meant, for people.
    pub warnings: Vec<String>,
    /// What the dump left out and the advice does not speak of.
    pub missing: Vec<LeftOut>,
}

impl Rewrite {
    /// What advice made of the image.
    pub fn report(&self, outcome: Outcome) -> Report<'_> {
        Report {
            format: Some(super::FORMAT.to_owned()),
            changes: &self.changes,
            unmatched: &self.unmatched,
            warnings: &self.warnings,
            ..Report::new(Engine::Criu, outcome)
        }
    }
}

/// How CRIU finds files that are opened by path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It inherits them.
    Inherited,
    /// It opens them itself, as it does files of the image.
    ByPath,
}

/// What CRIU must inherit for a [`rewrite`] with the same advice and caller: one
/// for each open file description, whatever the image turns out to have. So CRIU
/// can be given them before it says where the image is.
pub fn inherited(advice: &Advice, caller: &Caller) -> Vec<Inherited> {
    let mut descriptions = BTreeMap::new();
    for (&number, file) in &caller.files {
        if advice.wants(number) {
            descriptions.entry(file.description).or_insert(number);
        }
    }
    let own = descriptions
        .into_iter()
        .map(|(description, number)| Inherited {
            name: name_of(description),
            what: What::Descriptor(number),
        });
    let paths = advice.paths();
    let paths = paths.iter().enumerate().flat_map(|(index, path)| {
        [false, true].map(|append| Inherited {
            name: name_of_path(index, append),
            what: What::Path(path.clone(), append),
        })
    });
    own.chain(paths).collect()
}

/// CRIU compares names without the slash that a path begins with.
fn name_of(description: i32) -> String {
    format!("ckptadv-preserve-{description}")
}

/// * `index`: of the path among those of the advice.
fn name_of_path(index: usize, append: bool) -> String {
    let how = if append { "append" } else { "write" };
    format!("ckptadv-open-{index}-{how}")
}

/// Meets advice with an image.
///
/// * `directory`: the image's, for what depends on the advice.
/// * `paths`: who knows the paths of the system; nothing is opened.
///
/// # Errors
/// Those of the [`Planner`] and of the directory; [`Error::Unsupported`] where
/// CRIU could not restore what is left.
pub fn rewrite(
    image: &Image,
    directory: &dyn Directory,
    advice: &Advice,
    caller: Caller,
    paths: Box<dyn Paths>,
    naming: Naming,
) -> Result<Rewrite, Error> {
    let split = split(image, advice)?;
    let image: &Image = &split.image;
    let order = image.tables_in_order();
    let is_roots = |id: &u32| split.of_root.contains(id);
    let elsewhere = image
        .tables
        .iter()
        .filter(|(id, _)| !is_roots(id))
        .flat_map(|(id, table)| {
            let missing = image.missing(*id).iter().map(|left_out| left_out.number);
            table.slots.iter().map(|slot| slot.number).chain(missing)
        })
        .collect();
    // An image that is written anew goes on asking.
    let asks = match naming {
        Naming::Inherited => image.asks.as_slice(),
        Naming::ByPath => &[],
    };
    let tables_of = image.tasks.iter();
    let tables_of = tables_of.filter_map(|task| Some((task.pid, task.table?)));
    let tables_of: BTreeMap<i32, u32> = tables_of.collect();
    let mut planner = Planner::new(advice, caller, true)?
        .with_paths(paths)
        .with_asked(asks.iter().map(|ask| {
            // What a table lacks and is asked for was left out.
            let table = tables_of.get(&ask.task).map(|id| &image.tables[id]);
            ask.asked(table.is_some_and(|table| table.slot(ask.number).is_none()))
        }));
    planner.foresee(elsewhere);
    let mut plans = BTreeMap::new();
    let mut missing = Missing::default();
    for &id in &order {
        let table = &image.tables[&id];
        let mut lookup = image.descriptions.lookup();
        let left_out = image.missing(id);
        let descriptors: Vec<plan::Descriptor<'_>> = table
            .slots
            .iter()
            .filter_map(|slot| {
                let description = lookup(slot.description)?;
                Some(plan::Descriptor {
                    number: slot.number,
                    description: description.id.into(),
                    kind: description.kind,
                    kind_by_path: false,
                    path: description.path.as_deref().map(Cow::Borrowed),
                    access: description.access(),
                    flags: description.flags.cast_signed(),
                    position: description.position,
                    is_missing: false,
                })
            })
            .chain(left_out.iter().map(LeftOut::descriptor))
            .collect();
        let pids = image.pids(table);
        let mut plan = planner.table(&pids, is_roots(&id), &descriptors)?;
        missing.plan(left_out, pids[0], &mut plan);
        plans.insert(id, plan);
    }
    let unmatched = planner.finish()?;
    let mut edit = Edit {
        image,
        holders: Holders::new(image, &plans, planner.changes()),
        directory,
        warnings: Vec::new(),
    };
    let mut given = Given::new(image, &planner, advice.paths(), naming);
    let mut files = edit.files(&mut given)?;
    if !files.is_empty() {
        files.extend(split.files(directory)?);
    }
    let named = |opening: Opening| (given.name_of_opening(&opening), opening);
    Ok(Rewrite {
        files,
        openings: planner.openings().into_iter().map(named).collect(),
        warnings: edit.warnings,
        changes: missing.told(planner.changes()),
        unmatched,
        missing: missing.still,
    })
}

impl LeftOut {
    /// As advice sees it: as if the image had it.
    fn descriptor(&self) -> plan::Descriptor<'_> {
        let path = Some(self.file.as_bytes()).filter(|path| path.starts_with(b"/"));
        plan::Descriptor {
            number: self.number,
            // Above all that the image has.
            description: u64::from(self.id) + (1 << 32),
            kind: self.kind,
            kind_by_path: false,
            path: path.map(Cow::Borrowed),
            access: Access::of_flags(self.flags),
            flags: self.flags,
            position: None,
            is_missing: true,
        }
    }
}

/// What the dump left out, met with advice.
#[derive(Default)]
struct Missing {
    still: Vec<LeftOut>,
    /// Task and number of what is dropped though the image lacks it.
    dropped: BTreeSet<(i32, i32)>,
}

impl Missing {
    /// Of the plan of a table, the last fates are those of what the image lacks:
    /// there is nothing to drop, and what is given is added.
    fn plan(&mut self, left_out: &[LeftOut], task: i32, plan: &mut TablePlan) {
        let own = plan.fates.len() - left_out.len();
        for (left_out, fate) in left_out.iter().zip(&mut plan.fates[own..]) {
            match *fate {
                Fate::Keep => self.still.push(left_out.clone()),
                Fate::Drop => {
                    self.dropped.insert((task, left_out.number));
                    *fate = Fate::Keep;
                }
                Fate::Give(_) => {}
            }
        }
    }

    fn told(&self, changes: &[Change]) -> Vec<Change> {
        let mut changes = changes.to_vec();
        for change in &mut changes {
            if self.dropped.contains(&(change.task, change.number))
                && let Some(was) = &mut change.was
            {
                was.to_mut().push_str(", left out at the dump");
            }
        }
        changes
    }
}

impl Image {
    fn missing(&self, table: u32) -> &[LeftOut] {
        self.left_out.get(&table).map_or(&[], Vec::as_slice)
    }

    /// The tasks that have a table, each followed by its threads.
    fn pids(&self, table: &Table) -> Vec<i32> {
        self.tasks
            .iter()
            .filter(|task| table.tasks.contains(&task.pid))
            .flat_map(|task| std::iter::once(task.pid).chain(task.threads.iter().copied()))
            .collect()
    }
}

/// A plan on its way into an image.
struct Edit<'a> {
    image: &'a Image,
    holders: Holders<'a>,
    directory: &'a dyn Directory,
    warnings: Vec<String>,
}

impl Edit<'_> {
    fn check_types(&self) -> Result<(), Error> {
        let mut lookup = self.image.descriptions.lookup();
        for released in self.holders.released() {
            if let Some(Description { file_type, .. }) = lookup(released.description)
                && !file_type.is_known()
            {
                return Err(self.holders.refusal(
                    released,
                    format!(
                        "descriptors of CRIU's type {} are unknown here: leave it as it is",
                        file_type.0
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The files that change.
    fn files(&mut self, given: &mut Given<'_>) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        self.check_types()?;
        let mut files = BTreeMap::new();
        if self.holders.plans.values().all(TablePlan::is_untouched) {
            return Ok(files);
        }
        for (id, plan) in self.holders.plans {
            let table = &self.image.tables[id];
            // What is left of an image has a file for each table, so that one that
            // is missing is noticed.
            if !plan.is_untouched() || table.is_new {
                files.insert(
                    table.file.clone(),
                    given.table(table, self.image.missing(*id), plan)?,
                );
            }
        }
        if !self.holders.released().is_empty() {
            let locks = locks::edited(&self.holders, self.directory, &mut self.warnings)?;
            files.extend(locks.map(|bytes| (locks::NAME.to_owned(), bytes)));
            files.extend(
                self.queues()
                    .map(|bytes| ("sk-queues.img".to_owned(), bytes)),
            );
        }
        let watches = watches::edited(&self.holders, given.planner, &mut self.warnings)?;
        let sockets = sockets::edited(&self.holders, self.directory)?;
        self.warnings.extend(sockets.warnings.iter().cloned());
        let ghosts = ghosts::gone(&self.holders, self.directory)?;
        let mut splices = self.without_gone(&ghosts.descriptions);
        self.put_in(&mut splices, &watches, &sockets)?;
        files.extend(sockets.files);
        files.extend(ghosts.remaps.map(|bytes| (ghosts::NAME.to_owned(), bytes)));
        if !splices.is_empty() || !given.descriptions.is_empty() {
            let mut bytes = splices.apply(&self.image.files, 64 * given.descriptions.len());
            for (description, id) in &given.descriptions {
                given.write(description, *id).entry(&mut bytes);
            }
            files.insert("files.img".to_owned(), bytes);
        }
        check::check(self.image, &files)?;
        Ok(files)
    }

    /// sk-queues.img without the descriptors in queues of sockets that go: CRIU
    /// looks for who sends them.
    fn queues(&self) -> Option<Vec<u8>> {
        let mut splices = Splices::default();
        for flight in &self.image.flights {
            if self.holders.is_gone(flight.socket) {
                splices.remove(flight.span.clone());
            }
        }
        (!splices.is_empty()).then(|| splices.apply(&self.image.queues, 0))
    }

    /// files.img without what nothing refers to any more.
    ///
    /// * `ghosts`: regular files that nothing at all refers to.
    fn without_gone(&self, ghosts: &[u32]) -> Splices {
        // Mappings, executables and directories refer to these two, and CRIU
        // opens neither without need. The others it would open, bind, or trip on.
        let stays = |it: &&Description| matches!(it.file_type, FileType::REG | FileType::MEMFD);
        let gone = self.holders.gone().iter().copied();
        let gone = gone.filter_map(self.image.descriptions.lookup());
        let ghosts = ghosts.iter().map(|id| &self.image.descriptions[*id]);
        let mut splices = Splices::default();
        for description in gone.filter(|it| !stays(it)).chain(ghosts) {
            splices.remove(description.span.clone());
        }
        splices
    }

    /// Puts in what becomes of those that stay.
    fn put_in(
        &self,
        splices: &mut Splices,
        watches: &BTreeMap<u32, Vec<Option<u32>>>,
        sockets: &Sockets,
    ) -> Result<(), Error> {
        let span = |id: &u32| self.image.descriptions[*id].span.clone();
        let file = File {
            name: "files.img",
            bytes: &self.image.files,
        };
        for (id, watches) in watches {
            let set = rewatched(&file.message(&span(id)), watches)?;
            splices.replace(span(id), set.into_entry());
        }
        for (id, entry) in &sockets.entries {
            splices.replace(span(id), entry.clone());
        }
        for (id, next) in &sockets.before {
            splices.remove(span(id));
            splices.insert(span(next).start, self.image.files[span(id)].to_vec());
        }
        Ok(())
    }
}

/// What one new description is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum New {
    /// The caller's, by its lowest number.
    Descriptor(i32),
    /// Opened by a path: which of the advice, and whether for appending.
    Path(usize, bool),
}

/// The descriptions that the caller gives, each with its new id.
struct Given<'a> {
    planner: &'a Planner,
    /// The paths of the advice.
    paths: Vec<Arc<[u8]>>,
    naming: Naming,
    descriptions: BTreeMap<New, u32>,
    next: u64,
    taken: BTreeSet<&'a [u8]>,
}

impl<'a> Given<'a> {
    fn new(image: &'a Image, planner: &'a Planner, paths: Vec<Arc<[u8]>>, naming: Naming) -> Self {
        let highest = image.descriptions.ids().next_back();
        let ours = |path: &&[u8]| path.starts_with(b"/ckptadv-");
        Given {
            planner,
            paths,
            naming,
            descriptions: BTreeMap::new(),
            next: highest.map_or(1, |id| u64::from(id) + 1),
            taken: image
                .descriptions
                .iter()
                .filter_map(|d| d.path.as_deref())
                .filter(ours)
                .collect(),
        }
    }

    /// Which of the paths of the advice is opened.
    fn path(&self, opening: &Opening) -> usize {
        let index = self.paths.iter().position(|path| *path == opening.path);
        index.unwrap_or(0)
    }

    fn name_of_opening(&self, opening: &Opening) -> String {
        name_of_path(self.path(opening), opening.appends())
    }

    fn name(&self, new: &New) -> String {
        match *new {
            New::Descriptor(description) => name_of(description),
            New::Path(index, append) => name_of_path(index, append),
        }
    }

    fn new_of(&self, from: Origin) -> New {
        match self.planner.description(from) {
            Origin::Descriptor(description) => New::Descriptor(description),
            Origin::Path(index) => match self.planner.opening(index) {
                Some(opening) => New::Path(self.path(opening), opening.appends()),
                None => New::Path(0, false),
            },
        }
    }

    fn id(&mut self, from: Origin) -> Result<u32, Error> {
        let new = self.new_of(from);
        if let Some(&id) = self.descriptions.get(&new) {
            return Ok(id);
        }
        let path = format!("/{}", self.name(&new));
        if self.taken.contains(path.as_bytes()) {
            return Err(Error::unsupported(
                "a new file",
                format!(
                    "the image has an open file {path}, the name by which CRIU is handed this \
                     one: start the restart with it on another number"
                ),
            ));
        }
        let id = u32::try_from(self.next).map_err(|_| Error::Image {
            file: "files.img".to_owned(),
            offset: 0,
            reason: "no id is left for another file".to_owned(),
        })?;
        self.next += 1;
        self.descriptions.insert(new, id);
        Ok(id)
    }

    /// The entry of a new description in files.img.
    fn write(&self, new: &New, id: u32) -> Writer {
        if let (Naming::ByPath, New::Path(path, append)) = (self.naming, new) {
            let openings = self.planner.openings();
            let of = |o: &&Opening| (self.path(o), o.appends()) == (*path, *append);
            if let Some(opening) = openings.iter().find(of) {
                let position = self.planner.seek(opening);
                return opened_description(id, opening, position);
            }
        }
        inherited_description(id, &format!("/{}", self.name(new)))
    }

    fn table(
        &mut self,
        table: &Table,
        left_out: &[LeftOut],
        plan: &TablePlan,
    ) -> Result<Vec<u8>, Error> {
        let first = table.slots.first().map(|slot| slot.span.start);
        let mut new = table.bytes[..first.unwrap_or(table.bytes.len())].to_vec();
        for (slot, fate) in table.slots.iter().zip(&plan.fates) {
            match *fate {
                Fate::Keep => new.extend_from_slice(&table.bytes[slot.span.clone()]),
                Fate::Drop => {}
                Fate::Give(from) => {
                    let id = self.id(from)?;
                    inherited_slot(slot.number, id, slot.flags).entry(&mut new);
                }
            }
        }
        let of_left_out = plan.fates.iter().skip(table.slots.len());
        for (left_out, fate) in left_out.iter().zip(of_left_out) {
            if let Fate::Give(from) = *fate {
                let id = self.id(from)?;
                inherited_slot(left_out.number, id, left_out.fd_flags()).entry(&mut new);
            }
        }
        for &(number, from) in &plan.added {
            let id = self.id(Origin::Descriptor(from))?;
            let flags = match self.planner.caller().files[&from].close_on_exec {
                true => libc::FD_CLOEXEC as u32,
                false => 0,
            };
            inherited_slot(number, id, flags).entry(&mut new);
        }
        Ok(new)
    }
}
