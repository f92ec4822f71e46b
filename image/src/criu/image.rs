//! An image directory as a graph: tasks, their file tables, and the open file
//! descriptions that descriptors and others refer to.

use super::descriptions::Descriptions;
use super::entry::{Description, FileType, Flight, Link, Slot, Task};
use super::record::{self, Ask, LeftOut, RECORD, Record};
use super::wire::{File, Magic, Message};
use crate::Error;
use crate::advice::Kind;
use crate::fnv::Fnv;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The layout of images that this module knows (`CRTOOLS_IMAGES_V1_1`).
const VERSION: u32 = 2;

/// One file table, with every task that has it.
#[derive(Clone, Debug)]
pub struct Table {
    /// The file that it is in.
    pub file: String,
    /// The tasks that share it, in the order of the image.
    pub tasks: Vec<i32>,
    /// Its descriptors, in the order of the file.
    pub slots: Vec<Slot>,
    pub(super) by_number: Vec<(i32, usize)>,
    pub(super) bytes: Vec<u8>,
    /// CRIU made no file for it.
    pub(super) is_new: bool,
}

impl Table {
    /// A descriptor of it.
    pub fn slot(&self, number: i32) -> Option<&Slot> {
        let found = self
            .by_number
            .binary_search_by_key(&number, |(number, _)| *number);
        found.ok().map(|place| &self.slots[self.by_number[place].1])
    }
}

/// Who refers to an open file description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A descriptor.
    Descriptor {
        /// The first of the tasks that have the table.
        task: i32,
        /// Its number.
        number: i32,
    },
    /// It waits in the queue of a socket.
    Queue {
        /// The socket's description.
        socket: u32,
    },
    /// Another description is opened by it.
    Opens {
        /// That description.
        description: u32,
    },
    /// A mapping.
    Mapping {
        /// The task that has it.
        task: i32,
    },
    /// The executable.
    Executable {
        /// The task that runs it.
        task: i32,
    },
    /// The working directory.
    WorkingDirectory {
        /// The task in it.
        task: i32,
    },
    /// The root directory.
    RootDirectory {
        /// The task that has it.
        task: i32,
    },
}

/// The files of an image.
pub trait Directory {
    /// The bytes of a file; `None` where there is none of that name. Files of
    /// memory pages are not asked for.
    ///
    /// # Errors
    /// It cannot be read.
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
}

impl Directory for BTreeMap<String, Vec<u8>> {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.get(name).cloned())
    }
}

/// What an image says of tasks, file tables and open file descriptions.
#[derive(Clone, Debug)]
pub struct Image {
    /// The processes, the root task first.
    pub tasks: Vec<Task>,
    /// The file tables, by the id that tasks name them by.
    pub tables: BTreeMap<u32, Table>,
    /// The open file descriptions, by id.
    pub descriptions: Descriptions,
    /// What the dump left out, by the table that lacks it.
    pub left_out: LeftOutOf,
    /// What the program asks for itself.
    pub asks: Vec<Ask>,
    /// Those of the tasks.
    pids: BTreeSet<i32>,
    pub(super) flights: Vec<Flight>,
    /// The bytes of files.img.
    pub(super) files: Vec<u8>,
    /// The bytes of sk-queues.img.
    pub(super) queues: Vec<u8>,
}

impl Image {
    /// Reads an image.
    ///
    /// # Errors
    /// What the directory gives; [`Error::Image`] for a file that is missing or is not
    /// what it must be, [`Error::Unsupported`] for the layouts of old versions.
    pub fn read(directory: &dyn Directory) -> Result<Self, Error> {
        check_inventory(&need(directory, "inventory.img")?)?;
        let (mut tasks, pids) = read_tasks(&need(directory, "pstree.img")?)?;
        let files = match directory.file("files.img")? {
            Some(files) => files,
            None if directory.file("reg-files.img")?.is_some() => {
                return Err(Error::unsupported(
                    "reg-files.img",
                    "an image with a file for each kind of descriptor, as CRIU before 3.4 wrote \
                     them, cannot be advised: restore it without advice and dump it anew",
                ));
            }
            None => return Err(absent("files.img")),
        };
        let descriptions = read_descriptions(&files)?;
        let mut tables: BTreeMap<u32, Table> = BTreeMap::new();
        let mut empty = None;
        for task in &mut tasks {
            task.table = table_of(directory, task.pid)?;
            let Some(id) = task.table else {
                task.threads.clear();
                continue;
            };
            if let Some(table) = tables.get_mut(&id) {
                table.tasks.push(task.pid);
                continue;
            }
            let mut table = read_table(directory, id, &descriptions)?;
            table.tasks.push(task.pid);
            if table.bytes.is_empty() {
                table.bytes = Magic::FDINFO.head();
                table.is_new = true;
                empty = Some(table.file.clone());
            }
            tables.insert(id, table);
        }
        let queues = directory.file("sk-queues.img")?.unwrap_or_default();
        let flights = read_flights(&queues)?;
        for flight in &flights {
            if let Some(id) = flight
                .descriptions
                .iter()
                .find(|&id| !descriptions.contains(*id))
            {
                let file = File {
                    name: "sk-queues.img",
                    bytes: &queues,
                };
                let message = file.message(&flight.span);
                return Err(
                    message.error(format!("file {id:#x} waits, which files.img does not have"))
                );
            }
        }
        let (left_out, asks) = read_record(directory, &tasks, &tables, &descriptions)?;
        let image = Image {
            tasks,
            tables,
            left_out,
            asks,
            pids,
            descriptions,
            flights,
            files,
            queues,
        };
        match empty {
            Some(file) if image.has_stray_descriptions(directory)? => Err(absent(&file)),
            _ => Ok(image),
        }
    }

    /// Whether nothing refers to some description, as when a file table is lost.
    fn has_stray_descriptions(&self, directory: &dyn Directory) -> Result<bool, Error> {
        let (references, others) = (self.references(), self.other_references(directory)?);
        let mut ids = self.descriptions.ids();
        Ok(ids.any(|id| !references.contains_key(&id) && !others.contains_key(&id)))
    }

    pub(super) fn is_task(&self, pid: i32) -> bool {
        self.pids.contains(&pid)
    }

    /// The root task's file table.
    pub fn root_table(&self) -> Option<u32> {
        self.tasks.first().and_then(|root| root.table)
    }

    /// The file tables in the order of the image, the root task's first.
    pub fn tables_in_order(&self) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        self.tasks
            .iter()
            .filter_map(|task| task.table)
            .filter(|&id| seen.insert(id))
            .collect()
    }

    /// What descriptors, queues and other descriptions refer to, by description.
    pub fn references(&self) -> BTreeMap<u32, Vec<Reference>> {
        let mut references: BTreeMap<u32, Vec<Reference>> = BTreeMap::new();
        let mut add = |id: u32, reference| references.entry(id).or_default().push(reference);
        for id in self.tables_in_order() {
            let table = &self.tables[&id];
            for slot in &table.slots {
                let (task, number) = (table.tasks[0], slot.number);
                add(slot.description, Reference::Descriptor { task, number });
            }
        }
        for flight in &self.flights {
            for &id in &flight.descriptions {
                let socket = flight.socket;
                add(id, Reference::Queue { socket });
            }
        }
        for description in self.descriptions.iter() {
            if let Link::By(id) = description.link {
                let description = description.id;
                add(id, Reference::Opens { description });
            }
        }
        references
    }

    /// What memory, executables and directories refer to, by description. It
    /// needs more files than advice does, so it is read for itself.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn other_references(
        &self,
        directory: &dyn Directory,
    ) -> Result<BTreeMap<u32, BTreeSet<Reference>>, Error> {
        let mut references: BTreeMap<u32, BTreeSet<Reference>> = BTreeMap::new();
        for task in &self.tasks {
            let task = task.pid;
            let mut add = |id: u32, reference| {
                if self.descriptions.contains(id) {
                    references.entry(id).or_default().insert(reference);
                }
            };
            if let Some(memory) = optional(directory, format!("mm-{task}.img"))? {
                for field in memory.file().entry(Magic::MM)?.message.fields() {
                    let field = field?;
                    match field.number {
                        12 => add(field.u32()?, Reference::Executable { task }),
                        14 => {
                            if let Some(id) = mapped(&field.message()?)? {
                                add(id, Reference::Mapping { task });
                            }
                        }
                        _ => {}
                    }
                }
            }
            if let Some(directories) = optional(directory, format!("fs-{task}.img"))? {
                let entry = directories.file().entry(Magic::FS)?;
                let [cwd, root] = entry.message.numbers::<2>()?;
                if let Some(id) = cwd {
                    add(id, Reference::WorkingDirectory { task });
                }
                if let Some(id) = root {
                    add(id, Reference::RootDirectory { task });
                }
            }
        }
        Ok(references)
    }
}

/// The description that a mapping is of.
fn mapped(mapping: &Message<'_>) -> Result<Option<u32>, Error> {
    /// VMA_FILE_PRIVATE, VMA_FILE_SHARED, VMA_AREA_SOCKET, VMA_AREA_MEMFD.
    const OF_FILES: u32 = 1 << 6 | 1 << 7 | 1 << 11 | 1 << 14;
    let [_, _, _, id, _, _, status] = mapping.numbers::<7>()?;
    Ok(id.filter(|_| status.is_some_and(|status| status & OF_FILES != 0)))
}

/// What a dump left out, by the table that lacks it.
type LeftOutOf = BTreeMap<u32, Vec<LeftOut>>;

/// What is recorded as left out of the tables, and as asked for. Where the image has the
/// descriptor that was left out, no such task, or another kind of file where one is asked
/// for, the record is of another image that was here before.
fn read_record(
    directory: &dyn Directory,
    tasks: &[Task],
    tables: &BTreeMap<u32, Table>,
    descriptions: &Descriptions,
) -> Result<(LeftOutOf, Vec<Ask>), Error> {
    let mut left_out = LeftOutOf::new();
    let mut record = recorded(directory)?;
    let of_tasks = tasks
        .iter()
        .filter_map(|task| Some((task.pid, task.table?)));
    let of_tasks: HashMap<i32, u32> = of_tasks.collect();
    // By table and number.
    let mut missing: HashMap<(u32, i32), Kind> = HashMap::new();
    for entry in record.left_out {
        let Some(&id) = of_tasks.get(&entry.task) else {
            continue;
        };
        let entries = left_out.entry(id).or_default();
        if tables[&id].slot(entry.number).is_none()
            && let Entry::Vacant(place) = missing.entry((id, entry.number))
        {
            place.insert(entry.kind);
            entries.push(entry);
        }
    }
    record.asks.retain(|ask| {
        let Some(&id) = of_tasks.get(&ask.task) else {
            return false;
        };
        let kind = match tables[&id].slot(ask.number) {
            Some(slot) => descriptions.get(slot.description).map(|it| it.kind),
            None => missing.get(&(id, ask.number)).copied(),
        };
        kind == Some(ask.kind)
    });
    Ok((left_out, record.asks))
}

/// What the record beside an image says. One of another dump, which wrote into this
/// directory before, says nothing.
///
/// # Errors
/// What the directory gives; [`Error::Image`] for a damaged one.
pub fn recorded(directory: &dyn Directory) -> Result<Record, Error> {
    let Some(bytes) = directory.file(RECORD)? else {
        return Ok(Record::default());
    };
    let record = record::read(&bytes)?;
    match record.dump {
        Some(_) if record.dump != moment(directory)? => Ok(Record::default()),
        _ => Ok(record),
    }
}

/// What tells a dump from every other: a hash of the clocks' file, which CRIU writes before
/// inventory.img; `None` where it writes none (before 3.14).
///
/// # Errors
/// What the directory gives; [`Error::Image`] for files that are not what they must be.
pub fn moment(directory: &dyn Directory) -> Result<Option<u64>, Error> {
    let (tasks, _) = read_tasks(&need(directory, "pstree.img")?)?;
    let clocks = |namespace| optional(directory, format!("timens-{namespace}.img"));
    let mut own = None;
    if let Some(ids) = optional(directory, format!("ids-{}.img", tasks[0].pid))? {
        let entry = ids.file().entry(Magic::IDS)?;
        let [.., namespace] = entry.message.numbers::<12>()?;
        own = namespace.map(clocks).transpose()?.flatten();
    }
    // Those of CRIU's own time namespace are 0; what is left here of a dump in that one
    // must not stand for one in another.
    let file = match own {
        None => clocks(0)?,
        own => own,
    };
    Ok(file.map(|file| {
        let mut hash = Fnv::new();
        hash.write(&file.bytes);
        hash.value()
    }))
}

fn absent(name: &str) -> Error {
    Error::Image {
        file: name.to_owned(),
        offset: 0,
        reason: "the file is missing".to_owned(),
    }
}

/// A file of an image, with its bytes.
pub(super) struct Owned {
    name: String,
    pub bytes: Vec<u8>,
}

impl Owned {
    pub fn file(&self) -> File<'_> {
        File {
            name: &self.name,
            bytes: &self.bytes,
        }
    }
}

/// A file that an image need not have.
pub(super) fn optional(
    directory: &dyn Directory,
    name: impl Into<String>,
) -> Result<Option<Owned>, Error> {
    let name = name.into();
    let bytes = directory.file(&name)?;
    Ok(bytes.map(|bytes| Owned { name, bytes }))
}

fn need(directory: &dyn Directory, name: &str) -> Result<Owned, Error> {
    optional(directory, name)?.ok_or_else(|| absent(name))
}

fn check_inventory(inventory: &Owned) -> Result<(), Error> {
    let entry = inventory.file().entry(Magic::INVENTORY)?;
    let [version, per_id] = entry.message.numbers::<2>()?;
    if version != Some(VERSION) || per_id != Some(1) {
        return Err(Error::unsupported(
            "inventory.img",
            format!(
                "images of layout {} cannot be advised, only those of layout {VERSION} with a \
                 file table for each id: restore it without advice and dump it anew",
                version.unwrap_or(0)
            ),
        ));
    }
    Ok(())
}

/// The tasks in the order of the image, and their pids.
fn read_tasks(pstree: &Owned) -> Result<(Vec<Task>, BTreeSet<i32>), Error> {
    let mut tasks = Vec::new();
    let mut pids = BTreeSet::new();
    for entry in pstree.file().entries(Magic::PSTREE)? {
        let message = entry?.message;
        let task = Task::read(&message)?;
        let parent_known = match tasks.is_empty() {
            true => task.parent == 0,
            false => pids.contains(&task.parent),
        };
        if !parent_known {
            return Err(message.error(format!(
                "task {} has a parent {} that does not stand before it",
                task.pid, task.parent
            )));
        }
        if !pids.insert(task.pid) {
            return Err(message.error(format!("task {} stands twice", task.pid)));
        }
        tasks.push(task);
    }
    if tasks.is_empty() {
        return Err(pstree.file().error(pstree.bytes.len(), "no task"));
    }
    Ok((tasks, pids))
}

/// Which file table a task has. CRIU has it in a file of its own, older versions
/// with the rest of the task; a zombie has none.
fn table_of(directory: &dyn Directory, task: i32) -> Result<Option<u32>, Error> {
    const ALIVE: u32 = 1;
    const STOPPED: u32 = 3;
    let table = |ids: &Message<'_>| -> Result<Option<u32>, Error> {
        let [_, table] = ids.numbers::<2>()?;
        match table {
            Some(table) => Ok(Some(table)),
            None => Err(ids.error("the entry has no id of a file table")),
        }
    };
    if let Some(ids) = optional(directory, format!("ids-{task}.img"))? {
        return table(&ids.file().entry(Magic::IDS)?.message);
    }
    let core = need(directory, &format!("core-{task}.img"))?;
    let core = core.file().entry(Magic::CORE)?.message;
    let mut runs = false;
    for field in core.fields() {
        let field = field?;
        match field.number {
            3 => {
                let [state] = field.message()?.numbers::<1>()?;
                runs = matches!(state, Some(ALIVE | STOPPED));
            }
            4 => return table(&field.message()?),
            _ => {}
        }
    }
    if runs {
        return Err(absent(&format!("ids-{task}.img")));
    }
    Ok(None)
}

/// Bytes of an entry in files.img, about.
const DESCRIPTION: usize = 64;
/// Bytes of an entry in a file table, about.
const SLOT: usize = 12;

fn read_descriptions(files: &[u8]) -> Result<Descriptions, Error> {
    let file = File {
        name: "files.img",
        bytes: files,
    };
    let mut list = Vec::with_capacity(files.len() / DESCRIPTION);
    let mut opened_by = Vec::new();
    for entry in file.entries(Magic::FILES)? {
        let description = Description::read(&entry?)?;
        if let Link::By(id) = description.link {
            opened_by.push((description.id, id));
        }
        list.push(description);
    }
    let mut descriptions = Descriptions::new(list).map_err(|twice| {
        let entry = file.message(&twice.span);
        entry.error(format!("id {:#x} stands twice", twice.id))
    })?;
    for (id, by) in opened_by {
        let Some(file) = descriptions.get(by) else {
            continue;
        };
        let (path, flags) = (file.path.clone(), file.flags);
        if let Some(description) = descriptions.get_mut(id) {
            if description.file_type == FileType::FIFO {
                description.flags = flags;
            }
            description.path = match description.file_type {
                FileType::TTY => path.map(name_of_terminal),
                _ => path,
            };
        }
    }
    Ok(descriptions)
}

/// A master has one name, through whichever directory it was opened.
fn name_of_terminal(path: Vec<u8>) -> Vec<u8> {
    match path.ends_with(b"/ptmx") {
        true => b"/dev/ptmx".to_vec(),
        false => path,
    }
}

/// The same, as far as [`super::check`] needs it: all ids, and the descriptions that must fit.
pub(super) fn read_outlines(files: &[u8]) -> Result<(Vec<u32>, Vec<Description>), Error> {
    let file = File {
        name: "files.img",
        bytes: files,
    };
    let mut ids = Vec::with_capacity(files.len() / DESCRIPTION);
    let mut concerned = Vec::new();
    for entry in file.entries(Magic::FILES)? {
        let entry = entry?;
        let (id, file_type) = Description::outline(&entry.message)?;
        ids.push(id);
        if file_type.must_fit() {
            concerned.push(Description::read(&entry)?);
        }
    }
    Ok((ids, concerned))
}

/// The descriptors of a file table (fdinfo-N.img).
pub(super) fn read_slots(name: &str, bytes: &[u8]) -> Result<Vec<Slot>, Error> {
    let file = File { name, bytes };
    let mut slots = Vec::with_capacity(bytes.len() / SLOT);
    for entry in file.entries(Magic::FDINFO)? {
        slots.push(Slot::read(&entry?)?);
    }
    Ok(slots)
}

fn read_table(
    directory: &dyn Directory,
    id: u32,
    descriptions: &Descriptions,
) -> Result<Table, Error> {
    let name = format!("fdinfo-{id}.img");
    // CRIU makes no file where a task has no descriptor.
    let found = directory.file(&name)?;
    let slots = match &found {
        Some(bytes) => read_slots(&name, bytes)?,
        None => Vec::new(),
    };
    let bytes = found.unwrap_or_default();
    let mistake = |slot: &Slot, reason| {
        let file = File {
            name: &name,
            bytes: &bytes,
        };
        file.message(&slot.span).error(reason)
    };
    let mut by_number: Vec<(i32, usize)> = slots.iter().map(|s| s.number).zip(0..).collect();
    by_number.sort_unstable();
    if let Some(pair) = by_number.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let (number, index) = pair[1];
        let reason = format!("descriptor {number} stands twice");
        return Err(mistake(&slots[index], reason));
    }
    let mut lookup = descriptions.lookup();
    let mut missing = slots.iter();
    if let Some(slot) = missing.find(|slot| lookup(slot.description).is_none()) {
        let reason = format!(
            "descriptor {} is file {:#x}, which files.img does not have",
            slot.number, slot.description
        );
        return Err(mistake(slot, reason));
    }
    Ok(Table {
        file: name,
        tasks: Vec::new(),
        slots,
        by_number,
        bytes,
        is_new: false,
    })
}

pub(super) fn read_flights(queues: &[u8]) -> Result<Vec<Flight>, Error> {
    let mut flights = Vec::new();
    if queues.is_empty() {
        return Ok(flights);
    }
    let file = File {
        name: "sk-queues.img",
        bytes: queues,
    };
    let mut entries = file.entries(Magic::SK_QUEUES)?;
    while let Some(entry) = entries.next() {
        let (mut flight, data) = Flight::read(&entry?)?;
        flight.span.end = entries.skip_data(data)?;
        if !flight.descriptions.is_empty() {
            flights.push(flight);
        }
    }
    Ok(flights)
}
