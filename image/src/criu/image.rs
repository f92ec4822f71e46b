//! An image directory as a graph: tasks, their file tables, and the open file
//! descriptions that descriptors and others refer to.

use super::entry::{Description, FileType, Flight, Link, Lock, Slot, Task};
use super::record::{self, LeftOut, RECORD};
use super::wire::{Entry, File, Magic, Message};
use crate::Error;
use std::collections::{BTreeMap, BTreeSet};

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
    by_number: BTreeMap<i32, usize>,
    pub(super) bytes: Vec<u8>,
}

impl Table {
    /// A descriptor of it.
    pub fn slot(&self, number: i32) -> Option<&Slot> {
        self.by_number.get(&number).map(|&index| &self.slots[index])
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
    pub descriptions: BTreeMap<u32, Description>,
    /// What the dump left out, by the table that lacks it.
    pub left_out: BTreeMap<u32, Vec<LeftOut>>,
    pub(super) locks: Vec<Lock>,
    pub(super) flights: Vec<Flight>,
    /// The bytes of files.img.
    pub(super) files: Vec<u8>,
}

impl Image {
    /// Reads an image.
    ///
    /// # Errors
    /// What the directory gives; [`Error::Image`] for a file that is missing or is not
    /// what it must be, [`Error::Unsupported`] for the layouts of old versions.
    pub fn read(directory: &dyn Directory) -> Result<Self, Error> {
        check_inventory(&need(directory, "inventory.img")?)?;
        let mut tasks = read_tasks(&need(directory, "pstree.img")?)?;
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
                empty = Some(table.file.clone());
            }
            tables.insert(id, table);
        }
        let left_out = read_record(directory, &tasks, &tables)?;
        let image = Image {
            tasks,
            tables,
            left_out,
            descriptions,
            locks: read_locks(directory)?,
            flights: read_flights(directory)?,
            files,
        };
        match empty {
            Some(file) if image.has_stray_descriptions(directory)? => Err(absent(&file)),
            _ => Ok(image),
        }
    }

    /// Whether nothing refers to some description, as when a file table is lost.
    fn has_stray_descriptions(&self, directory: &dyn Directory) -> Result<bool, Error> {
        let (references, others) = (self.references(), self.other_references(directory)?);
        let mut ids = self.descriptions.keys();
        Ok(ids.any(|id| !references.contains_key(id) && !others.contains_key(id)))
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
        for description in self.descriptions.values() {
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
                if self.descriptions.contains_key(&id) {
                    references.entry(id).or_default().insert(reference);
                }
            };
            let name = format!("mm-{task}.img");
            if let Some(bytes) = directory.file(&name)? {
                let file = File {
                    name: &name,
                    bytes: &bytes,
                };
                for field in file.entry(Magic::MM)?.message.fields() {
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
            let name = format!("fs-{task}.img");
            if let Some(bytes) = directory.file(&name)? {
                let file = File {
                    name: &name,
                    bytes: &bytes,
                };
                let [cwd, root] = file.entry(Magic::FS)?.message.numbers::<2>()?;
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

/// What is recorded as left out of the tables. Where the image has the descriptor,
/// or no such task, the record is of another image that was here before.
fn read_record(
    directory: &dyn Directory,
    tasks: &[Task],
    tables: &BTreeMap<u32, Table>,
) -> Result<BTreeMap<u32, Vec<LeftOut>>, Error> {
    let mut left_out: BTreeMap<u32, Vec<LeftOut>> = BTreeMap::new();
    let Some(bytes) = directory.file(RECORD)? else {
        return Ok(left_out);
    };
    for entry in record::read(&bytes)? {
        let task = tasks.iter().find(|task| task.pid == entry.task);
        let Some(id) = task.and_then(|task| task.table) else {
            continue;
        };
        let entries = left_out.entry(id).or_default();
        let twice = |other: &LeftOut| other.number == entry.number;
        if tables[&id].slot(entry.number).is_none() && !entries.iter().any(twice) {
            entries.push(entry);
        }
    }
    Ok(left_out)
}

fn absent(name: &str) -> Error {
    Error::Image {
        file: name.to_owned(),
        offset: 0,
        reason: "the file is missing".to_owned(),
    }
}

struct Owned {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Owned {
    fn file(&self) -> File<'_> {
        File {
            name: self.name,
            bytes: &self.bytes,
        }
    }
}

fn need(directory: &dyn Directory, name: &'static str) -> Result<Owned, Error> {
    match directory.file(name)? {
        Some(bytes) => Ok(Owned { name, bytes }),
        None => Err(absent(name)),
    }
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

fn read_tasks(pstree: &Owned) -> Result<Vec<Task>, Error> {
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
    Ok(tasks)
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
    let name = format!("ids-{task}.img");
    if let Some(bytes) = directory.file(&name)? {
        let file = File {
            name: &name,
            bytes: &bytes,
        };
        return table(&file.entry(Magic::IDS)?.message);
    }
    let name = format!("core-{task}.img");
    let Some(bytes) = directory.file(&name)? else {
        return Err(absent(&name));
    };
    let file = File {
        name: &name,
        bytes: &bytes,
    };
    let core = file.entry(Magic::CORE)?.message;
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

fn read_descriptions(files: &[u8]) -> Result<BTreeMap<u32, Description>, Error> {
    let file = File {
        name: "files.img",
        bytes: files,
    };
    let mut descriptions = BTreeMap::new();
    for entry in file.entries(Magic::FILES)? {
        let entry = entry?;
        let description = Description::read(&entry)?;
        let id = description.id;
        if descriptions.insert(id, description).is_some() {
            return Err(entry.message.error(format!("id {id:#x} stands twice")));
        }
    }
    let opened_by: Vec<(u32, u32)> = descriptions
        .values()
        .filter_map(|description| match description.link {
            Link::By(id) => Some((description.id, id)),
            _ => None,
        })
        .collect();
    for (id, by) in opened_by {
        let Some(file) = descriptions.get(&by) else {
            continue;
        };
        let (path, flags) = (file.path.clone(), file.flags);
        if let Some(description) = descriptions.get_mut(&id) {
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

fn read_table(
    directory: &dyn Directory,
    id: u32,
    descriptions: &BTreeMap<u32, Description>,
) -> Result<Table, Error> {
    let name = format!("fdinfo-{id}.img");
    // CRIU makes no file where a task has no descriptor.
    let found = directory.file(&name)?;
    let bytes = found.as_deref().unwrap_or_default();
    let file = File { name: &name, bytes };
    let mut slots = Vec::new();
    let mut by_number = BTreeMap::new();
    let entries = match found {
        Some(_) => Some(file.entries(Magic::FDINFO)?),
        None => None,
    };
    for entry in entries.into_iter().flatten() {
        let entry = entry?;
        let slot = Slot::read(&entry)?;
        if by_number.insert(slot.number, slots.len()).is_some() {
            return Err(entry
                .message
                .error(format!("descriptor {} stands twice", slot.number)));
        }
        if !descriptions.contains_key(&slot.description) {
            return Err(entry.message.error(format!(
                "descriptor {} is file {:#x}, which files.img does not have",
                slot.number, slot.description
            )));
        }
        slots.push(slot);
    }
    Ok(Table {
        file: name,
        tasks: Vec::new(),
        slots,
        by_number,
        bytes: found.unwrap_or_default(),
    })
}

fn read_locks(directory: &dyn Directory) -> Result<Vec<Lock>, Error> {
    let name = "filelocks.img";
    let Some(bytes) = directory.file(name)? else {
        return Ok(Vec::new());
    };
    let file = File {
        name,
        bytes: &bytes,
    };
    file.entries(Magic::FILE_LOCKS)?
        .map(|entry| Lock::read(&entry?.message))
        .collect()
}

fn read_flights(directory: &dyn Directory) -> Result<Vec<Flight>, Error> {
    let name = "sk-queues.img";
    let Some(bytes) = directory.file(name)? else {
        return Ok(Vec::new());
    };
    let file = File {
        name,
        bytes: &bytes,
    };
    let mut flights = Vec::new();
    let mut entries = file.entries(Magic::SK_QUEUES)?;
    while let Some(entry) = entries.next() {
        let Entry { message, .. } = entry?;
        let (flight, data) = Flight::read(&message)?;
        entries.skip_data(data)?;
        if !flight.descriptions.is_empty() {
            flights.push(flight);
        }
    }
    Ok(flights)
}
