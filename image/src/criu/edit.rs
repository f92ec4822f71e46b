//! Carries a plan out: which bytes of which files change.

use super::entry::{
    Description, End, FileType, Link, inherited_description, inherited_slot, opened_description,
};
use super::image::{Image, Table};
use super::record::LeftOut;
use super::shared_table;
use super::wire::Writer;
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
/// * `paths`: who knows the paths of the system; nothing is opened.
///
/// # Errors
/// Those of the [`Planner`]; [`Error::Unsupported`] where what is dropped or
/// replaced cannot be taken out without a change to something else of the image.
pub fn rewrite(
    image: &Image,
    advice: &Advice,
    caller: Caller,
    paths: Box<dyn Paths>,
    naming: Naming,
) -> Result<Rewrite, Error> {
    let order = image.tables_in_order();
    let root = image.root_table();
    let elsewhere = image
        .tables
        .iter()
        .filter(|(id, _)| Some(**id) != root)
        .flat_map(|(id, table)| {
            let missing = image.missing(*id).iter().map(|left_out| left_out.number);
            table.slots.iter().map(|slot| slot.number).chain(missing)
        })
        .collect();
    let mut planner = Planner::new(advice, caller, true)?
        .with_census(elsewhere)
        .with_paths(paths);
    for table in image.tables.values() {
        shared_table::refuse_part(advice, image.tasks[0].pid, &table.tasks, &image.pids(table))?;
    }
    let mut plans = BTreeMap::new();
    let mut missing = Missing::default();
    for &id in &order {
        let table = &image.tables[&id];
        let left_out = image.missing(id);
        let descriptors: Vec<plan::Descriptor<'_>> = table
            .slots
            .iter()
            .map(|slot| {
                let description = &image.descriptions[&slot.description];
                plan::Descriptor {
                    number: slot.number,
                    description: description.id.into(),
                    kind: description.kind,
                    kind_by_path: false,
                    path: description.path.as_deref().map(Cow::Borrowed),
                    access: description.access(),
                    append: description.flags & libc::O_APPEND.cast_unsigned() != 0,
                    position: description.position,
                }
            })
            .chain(left_out.iter().map(LeftOut::descriptor))
            .collect();
        let pids = image.pids(table);
        let mut plan = planner.table(&pids, Some(id) == root, &descriptors)?;
        missing.plan(left_out, pids[0], &mut plan);
        plans.insert(id, plan);
    }
    let unmatched = planner.finish()?;
    let edit = Edit::new(image, &plans, planner.changes());
    edit.check()?;
    let mut given = Given::new(image, &planner, advice.paths(), naming);
    let files = edit.files(&mut given)?;
    let named = |opening: Opening| (given.name_of_opening(&opening), opening);
    Ok(Rewrite {
        files,
        openings: planner.openings().into_iter().map(named).collect(),
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
            append: self.flags & libc::O_APPEND != 0,
            position: None,
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
    plans: &'a BTreeMap<u32, TablePlan>,
    changes: &'a [Change],
    /// The tables that hold each description, before and after.
    before: BTreeMap<u32, BTreeSet<u32>>,
    after: BTreeMap<u32, BTreeSet<u32>>,
    /// Descriptions that wait in queues.
    in_flight: BTreeSet<u32>,
}

/// A descriptor that is dropped or replaced.
struct Released<'a> {
    table: u32,
    number: i32,
    description: &'a Description,
}

impl<'a> Edit<'a> {
    fn new(image: &'a Image, plans: &'a BTreeMap<u32, TablePlan>, changes: &'a [Change]) -> Self {
        let mut before: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut after = before.clone();
        for (&id, plan) in plans {
            for (slot, fate) in image.tables[&id].slots.iter().zip(&plan.fates) {
                before.entry(slot.description).or_default().insert(id);
                if *fate == Fate::Keep {
                    after.entry(slot.description).or_default().insert(id);
                }
            }
        }
        let in_flight = image.flights.iter().flat_map(|f| &f.descriptions).copied();
        Edit {
            image,
            plans,
            changes,
            before,
            after,
            in_flight: in_flight.collect(),
        }
    }

    fn released(&self) -> Vec<Released<'a>> {
        let mut released = Vec::new();
        for (&id, plan) in self.plans {
            for (slot, fate) in self.image.tables[&id].slots.iter().zip(&plan.fates) {
                if *fate != Fate::Keep {
                    released.push(Released {
                        table: id,
                        number: slot.number,
                        description: &self.image.descriptions[&slot.description],
                    });
                }
            }
        }
        released
    }

    /// Whether no descriptor and no queue refers to a description afterwards.
    fn is_gone(&self, id: u32) -> bool {
        !self.after.contains_key(&id) && !self.in_flight.contains(&id)
    }

    /// Whether some of the tables that held a description still do, but not all.
    fn is_moved(&self, id: u32) -> bool {
        self.before.get(&id) != self.after.get(&id) && !self.is_gone(id)
    }

    fn refusal(&self, released: &Released<'_>, why: impl Into<String>) -> Error {
        let task = self.image.tables[&released.table].tasks[0];
        let item = self
            .changes
            .iter()
            .find(|change| (change.task, change.number) == (task, released.number))
            .map_or("advice", |change| &change.item);
        Error::unsupported(
            format!(
                "{item}: task {task} descriptor {} ({})",
                released.number, released.description.kind
            ),
            why,
        )
    }

    /// "task T descriptor N", of a descriptor that stays, for messages.
    fn who_keeps(&self, id: u32) -> String {
        for (&table, plan) in self.plans {
            let table = &self.image.tables[&table];
            for (slot, fate) in table.slots.iter().zip(&plan.fates) {
                if slot.description == id && *fate == Fate::Keep {
                    return format!("task {} descriptor {}", table.tasks[0], slot.number);
                }
            }
        }
        "a socket's queue".to_owned()
    }

    /// Refuses what cannot be right without a change to something else.
    fn check(&self) -> Result<(), Error> {
        let released = self.released();
        if released.is_empty() {
            return Ok(());
        }
        let ends = Ends::new(self.image);
        let watches = self.watches();
        for released in &released {
            self.check_type(released)?;
            self.check_locks(released)?;
            if let Some(set) = watches.get(&(released.table, released.number)) {
                return Err(self.refusal(
                    released,
                    format!(
                        "the epoll set of {} watches it, and what a set watches cannot be changed \
                         yet: leave it as it is, or advise the set as well",
                        self.who_keeps(*set)
                    ),
                ));
            }
            match &released.description.link {
                Link::Epoll(watched) => self.check_set(released, watched)?,
                Link::Unix { inode, peer } => self.check_socket(released, *inode, *peer, &ends)?,
                Link::Inet { here, there } => {
                    let other = ends.connections.get(&(there, here));
                    self.check_other_end(released, other.copied())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_type(&self, released: &Released<'_>) -> Result<(), Error> {
        match released.description.file_type {
            FileType::REG
            | FileType::PIPE
            | FileType::FIFO
            | FileType::INETSK
            | FileType::UNIXSK
            | FileType::EVENTFD
            | FileType::EVENTPOLL
            | FileType::INOTIFY
            | FileType::SIGNALFD
            | FileType::TTY
            | FileType::TIMERFD
            | FileType::MEMFD => Ok(()),
            FileType(number) => Err(self.refusal(
                released,
                format!(
                    "descriptors of this kind (CRIU's type {number}) cannot be taken out of an \
                     image yet: leave it as it is"
                ),
            )),
        }
    }

    fn check_locks(&self, released: &Released<'_>) -> Result<(), Error> {
        if self.image.locks.is_empty() {
            return Ok(());
        }
        let tasks = self.image.pids(&self.image.tables[&released.table]);
        let locked = self
            .image
            .locks
            .iter()
            .find(|lock| lock.number == released.number && tasks.contains(&lock.task));
        match locked {
            None => Ok(()),
            Some(lock) => Err(self.refusal(
                released,
                format!(
                    "task {} holds a lock by it, and locks cannot be taken out of an image yet: \
                     leave it as it is",
                    lock.task
                ),
            )),
        }
    }

    /// The table and number of everything that the sets which stay watch, each with
    /// its set: a set names what it watches by numbers of the task that restores
    /// it.
    fn watches(&self) -> BTreeMap<(u32, i32), u32> {
        let mut watches = BTreeMap::new();
        for (&set, tables) in &self.after {
            let Link::Epoll(watched) = &self.image.descriptions[&set].link else {
                continue;
            };
            for &table in tables {
                watches.extend(watched.iter().map(|&n| ((table, n as i32), set)));
            }
        }
        watches
    }

    /// A set that goes in one table and stays in others is restored by another
    /// task, whose numbers must mean the same files.
    fn check_set(&self, released: &Released<'_>, watched: &[u32]) -> Result<(), Error> {
        let id = released.description.id;
        if !self.is_moved(id) {
            return Ok(());
        }
        let same = watched.iter().all(|&number| {
            let mut means = self.before[&id].iter().map(|table| {
                let number = i32::try_from(number).ok()?;
                let slot = self.image.tables[table].slot(number)?;
                Some(slot.description)
            });
            let first = means.next().flatten();
            first.is_some() && means.all(|other| other == first)
        });
        if same && self.after.contains_key(&id) {
            return Ok(());
        }
        Err(self.refusal(
            released,
            format!(
                "{} keeps this epoll set, and its own numbers are not those that the set watches: \
                 advise it in every task (\"*:{}\")",
                self.who_keeps(id),
                released.number
            ),
        ))
    }

    fn check_socket(
        &self,
        released: &Released<'_>,
        inode: u32,
        peer: u32,
        ends: &Ends<'_>,
    ) -> Result<(), Error> {
        let id = released.description.id;
        let mut towards = ends.towards.get(&inode).into_iter().flatten().copied();
        if self.is_gone(id) {
            let bereft = towards.find(|other| !self.is_gone(other.id));
            self.check_other_end(released, bereft)?;
            if self.image.flights.iter().any(|flight| flight.socket == id) {
                return Err(self.refusal(
                    released,
                    "descriptors wait in its queue, and they cannot be taken out of an image yet: \
                     leave it as it is",
                ));
            }
        } else if self.is_moved(id) {
            // CRIU makes a pair in one task, and takes it for granted that the
            // first task that has the one end has the other.
            let mut peers = towards.chain(ends.sockets.get(&peer).copied());
            let apart = peers.find(|other| {
                !self.is_gone(other.id) && self.after.get(&other.id) != self.after.get(&id)
            });
            if let Some(other) = apart {
                return Err(self.refusal(
                    released,
                    format!(
                        "{} keeps it, and CRIU cannot restore it there apart from its other end \
                         ({}): advise it in every task (\"*:{}\"), or both ends",
                        self.who_keeps(id),
                        self.who_keeps(other.id),
                        released.number
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_other_end(
        &self,
        released: &Released<'_>,
        other: Option<&Description>,
    ) -> Result<(), Error> {
        match other {
            Some(other) if self.is_gone(released.description.id) && !self.is_gone(other.id) => {
                Err(self.refusal(
                    released,
                    format!(
                        "its other end stays ({}) and cannot be hung up yet: leave it as it is, \
                         or advise both ends",
                        self.who_keeps(other.id)
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// The files that change.
    fn files(&self, given: &mut Given<'_>) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut files = BTreeMap::new();
        for (id, plan) in self.plans {
            if plan.is_untouched() {
                continue;
            }
            let table = &self.image.tables[id];
            files.insert(
                table.file.clone(),
                given.table(table, self.image.missing(*id), plan)?,
            );
        }
        if let Some(bytes) = self.descriptions(given) {
            files.insert("files.img".to_owned(), bytes);
        }
        Ok(files)
    }

    /// files.img without what nothing refers to any more, with what the caller
    /// gives; `None` where that changes nothing.
    fn descriptions(&self, given: &Given<'_>) -> Option<Vec<u8>> {
        // Mappings, executables and directories refer to these two, and CRIU
        // opens neither without need. The others it would open, bind, or trip on.
        let stays = |d: &Description| matches!(d.file_type, FileType::REG | FileType::MEMFD);
        let mut gone: Vec<_> = self
            .image
            .descriptions
            .values()
            .filter(|d| self.before.contains_key(&d.id) && self.is_gone(d.id) && !stays(d))
            .map(|d| d.span.clone())
            .collect();
        if gone.is_empty() && given.descriptions.is_empty() {
            return None;
        }
        gone.sort_by_key(|span| span.start);
        let old = &self.image.files;
        let mut new = Vec::with_capacity(old.len() + 64 * given.descriptions.len());
        let mut copied = 0;
        for span in gone {
            new.extend_from_slice(&old[copied..span.start]);
            copied = span.end;
        }
        new.extend_from_slice(&old[copied..]);
        for (description, id) in &given.descriptions {
            given.write(description, *id).entry(&mut new);
        }
        Some(new)
    }
}

/// Descriptions that are an end of something, by what leads to them.
#[derive(Default)]
struct Ends<'a> {
    /// Unix sockets by inode.
    sockets: BTreeMap<u32, &'a Description>,
    /// Unix sockets by the inode of their peer.
    towards: BTreeMap<u32, Vec<&'a Description>>,
    /// Internet sockets by their own and their other end.
    connections: BTreeMap<(&'a End, &'a End), &'a Description>,
}

impl<'a> Ends<'a> {
    fn new(image: &'a Image) -> Self {
        let mut ends = Ends::default();
        for description in image.descriptions.values() {
            match &description.link {
                Link::Unix { inode, peer } => {
                    ends.sockets.insert(*inode, description);
                    if *peer != 0 {
                        ends.towards.entry(*peer).or_default().push(description);
                    }
                }
                Link::Inet { here, there } => {
                    ends.connections.insert((here, there), description);
                }
                _ => {}
            }
        }
        ends
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
        let highest = image.descriptions.keys().next_back();
        let ours = |path: &&[u8]| path.starts_with(b"/ckptadv-");
        Given {
            planner,
            paths,
            naming,
            descriptions: BTreeMap::new(),
            next: highest.map_or(1, |&id| u64::from(id) + 1),
            taken: image
                .descriptions
                .values()
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
        name_of_path(self.path(opening), opening.append)
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
                Some(opening) => New::Path(self.path(opening), opening.append),
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
            let of = |o: &&Opening| (self.path(o), o.append) == (*path, *append);
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
