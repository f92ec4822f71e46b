//! What an image holds, for people.

use super::details::{Detail, Details};
use super::entry::{Description, Link};
use super::image::{Directory, Image, Reference, optional};
use super::wire::Magic;
use crate::Error;
use crate::listing::{self, Engine, Listing};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Image {
    /// What the image holds.
    ///
    /// * `directory`: the image's, for the names of commands, mappings, queues and
    ///   the like, which advice does not need.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn listing(&self, directory: &dyn Directory) -> Result<Listing, Error> {
        let mut tasks = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let command = command(directory, task.pid)?;
            for pid in std::iter::once(&task.pid).chain(&task.threads) {
                tasks.push(listing::Task {
                    pid: *pid,
                    process: task.pid,
                    parent: task.parent,
                    command: command.clone(),
                    table: task.table.map(u64::from),
                });
            }
        }
        let tables = self.tables_in_order();
        let mut order = Vec::with_capacity(self.descriptions.iter().len());
        let mut holders: HashMap<u32, Vec<(usize, i32)>> = HashMap::new();
        for (place, id) in tables.iter().enumerate() {
            for slot in &self.tables[id].slots {
                let list = holders.entry(slot.description).or_insert_with(|| {
                    order.push(slot.description);
                    Vec::new()
                });
                list.push((place, slot.number));
            }
        }
        let rest = self.descriptions.ids();
        order.extend(rest.filter(|id| !holders.contains_key(id)));

        let (references, others) = (self.references(), self.other_references(directory)?);
        let watches = self.watches();
        let mut watched: HashMap<u32, BTreeSet<u32>> = HashMap::new();
        for (set, watches) in &watches {
            for (_, id) in watches {
                watched.entry(*id).or_default().insert(*set);
            }
        }
        let details = Details::read(self, directory)?;
        let ends = Ends::of(self, &details);
        let none = (Vec::new(), BTreeSet::new());
        let descriptions = order.iter().map(|id| {
            let description = &self.descriptions[*id];
            let detail = details.of(*id);
            let direct = references.get(id).unwrap_or(&none.0);
            let others = others.get(id).unwrap_or(&none.1);
            let mut references: Vec<_> = direct.iter().chain(others).filter_map(named).collect();
            references.dedup();
            let sets = watched.get(id).into_iter().flatten();
            references.extend(sets.map(|set| listing::Reference::Epoll((*set).into())));
            let leader = detail.leader.filter(|pid| self.is_task(*pid));
            references.extend(leader.map(listing::Reference::ControllingTerminal));
            let terminal = detail.terminal.map(|(index, master)| match master {
                true => "/dev/ptmx".to_owned(),
                false => format!("/dev/pts/{index}"),
            });
            listing::Description {
                id: (*id).into(),
                kind: description.kind,
                holders: holders.remove(id).unwrap_or_default(),
                flags: detail.flags.unwrap_or(description.flags),
                position: description.position,
                path: description.path.clone(),
                name: terminal.unwrap_or_else(|| name(description, detail)),
                state: detail.state,
                remote: detail.remote.clone(),
                queued: details.queued(description, detail),
                count: detail.count,
                other_ends: ends.others(description, detail),
                watches: watches.get(id).into_iter().flatten().map(wide).collect(),
                references,
            }
        });
        let descriptions = descriptions.collect();
        let tables = tables.iter().map(|id| {
            let table = &self.tables[id];
            let descriptors = table.slots.iter().map(|slot| listing::Descriptor {
                number: slot.number,
                description: slot.description.into(),
                close_on_exec: slot.flags & libc::FD_CLOEXEC as u32 != 0,
            });
            listing::Table {
                id: (*id).into(),
                tasks: table.tasks.clone(),
                descriptors: descriptors.collect(),
            }
        });
        Ok(Listing {
            engine: Engine::Criu,
            format: super::FORMAT.to_owned(),
            advisable: true,
            tables: tables.collect(),
            descriptions,
            tasks,
        })
    }

    /// What each epoll set watches, by the numbers of a task that has both.
    fn watches(&self) -> HashMap<u32, Vec<(i32, u32)>> {
        let mut watches = HashMap::new();
        for table in self.tables.values() {
            for slot in &table.slots {
                let Link::Epoll(numbers) = &self.descriptions[slot.description].link else {
                    continue;
                };
                watches.entry(slot.description).or_insert_with(|| {
                    let there = numbers.iter().filter_map(|n| table.slot(n.cast_signed()));
                    there.map(|it| (it.number, it.description)).collect()
                });
            }
        }
        watches
    }
}

fn wide(&(number, id): &(i32, u32)) -> (i32, u64) {
    (number, id.into())
}

/// A reference other than a descriptor.
fn named(reference: &Reference) -> Option<listing::Reference> {
    Some(match reference {
        Reference::Descriptor { .. } => return None,
        Reference::Queue { socket } => listing::Reference::Queue((*socket).into()),
        Reference::Opens { description } => listing::Reference::Opens((*description).into()),
        Reference::Mapping { task } => listing::Reference::Mapping(*task),
        Reference::Executable { task } => listing::Reference::Executable(*task),
        Reference::WorkingDirectory { task } => listing::Reference::WorkingDirectory(*task),
        Reference::RootDirectory { task } => listing::Reference::RootDirectory(*task),
    })
}

fn name(description: &Description, detail: &Detail) -> String {
    match (&description.path, &detail.name, &description.link) {
        (Some(path), ..) => String::from_utf8_lossy(path).into_owned(),
        (None, Some(name), _) => name.clone(),
        (None, None, Link::Pipe(pipe)) => format!("pipe:[{pipe}]"),
        (None, None, Link::Unix { inode, .. }) => format!("socket:[{inode}]"),
        _ => String::new(),
    }
}

/// Who is at the other end of whom.
#[derive(Default)]
struct Ends {
    /// The readers and the writers of each pipe.
    pipes: HashMap<u32, [Arc<[u64]>; 2]>,
    /// Likewise of what is behind fifos.
    fifos: HashMap<u32, [Arc<[u64]>; 2]>,
    /// The slaves and the masters of each terminal.
    terminals: HashMap<u32, [Arc<[u64]>; 2]>,
    /// By inode.
    sockets: HashMap<u32, u64>,
    /// By both addresses.
    connections: HashMap<(String, String), u64>,
}

const READERS: usize = 0;
const WRITERS: usize = 1;

impl Ends {
    fn of(image: &Image, details: &Details) -> Self {
        let mut ends = Ends::default();
        let (mut pipes, mut fifos, mut terminals) =
            (HashMap::new(), HashMap::new(), HashMap::new());
        for description in image.descriptions.iter() {
            let detail = details.of(description.id);
            let access = description.access();
            let id = u64::from(description.id);
            match &description.link {
                Link::Pipe(pipe) => add(&mut pipes, *pipe, id, access.read, access.write),
                Link::Unix { inode, .. } => {
                    ends.sockets.insert(*inode, id);
                }
                _ => {}
            }
            if let Some(pipe) = detail.pipe {
                add(&mut fifos, pipe, id, access.read, access.write);
            }
            if let Some((index, master)) = detail.terminal {
                add(&mut terminals, index, id, !master, master);
            }
            if let (Some(here), Some(there)) = (&detail.name, &detail.remote) {
                ends.connections.insert((here.clone(), there.clone()), id);
            }
        }
        ends.pipes = shared(pipes);
        ends.fifos = shared(fifos);
        ends.terminals = shared(terminals);
        ends
    }

    /// The other ends of a description; `None` for a kind that has none.
    fn others(&self, description: &Description, detail: &Detail) -> Option<Arc<[u64]>> {
        let side = match description.access().read {
            true => WRITERS,
            false => READERS,
        };
        let one = |id: Option<&u64>| id.map(|&id| Arc::from([id])).unwrap_or_default();
        let of = |map: &HashMap<u32, [Arc<[u64]>; 2]>, key: &u32, side: usize| {
            map.get(key).map(|ends| ends[side].clone())
        };
        match (
            &description.link,
            detail.pipe,
            detail.terminal,
            &detail.remote,
        ) {
            (Link::Pipe(pipe), ..) => of(&self.pipes, pipe, side),
            (_, Some(pipe), ..) => of(&self.fifos, &pipe, side),
            (_, _, Some((index, true)), _) => of(&self.terminals, &index, READERS),
            (_, _, Some((index, false)), _) => of(&self.terminals, &index, WRITERS),
            (Link::Unix { peer, .. }, ..) if *peer != 0 => Some(one(self.sockets.get(peer))),
            (_, _, _, Some(remote)) => {
                let key = (remote.clone(), detail.name.clone().unwrap_or_default());
                Some(one(self.connections.get(&key)))
            }
            _ => None,
        }
    }
}

fn add(map: &mut HashMap<u32, [Vec<u64>; 2]>, key: u32, id: u64, reads: bool, writes: bool) {
    let ends = map.entry(key).or_default();
    if reads {
        ends[READERS].push(id);
    }
    if writes {
        ends[WRITERS].push(id);
    }
}

fn shared(map: HashMap<u32, [Vec<u64>; 2]>) -> HashMap<u32, [Arc<[u64]>; 2]> {
    let arcs = map
        .into_iter()
        .map(|(key, ends)| (key, ends.map(Arc::from)));
    arcs.collect()
}

/// The command that a task runs; empty where the image does not have it.
fn command(directory: &dyn Directory, task: i32) -> Result<String, Error> {
    let Some(core) = optional(directory, format!("core-{task}.img"))? else {
        return Ok(String::new());
    };
    for field in core.file().entry(Magic::CORE)?.message.fields() {
        let field = field?;
        if field.number != 3 {
            continue;
        }
        for field in field.message()?.fields() {
            let field = field?;
            if field.number == 6 {
                let command = field.message()?;
                return Ok(String::from_utf8_lossy(command.bytes()).into_owned());
            }
        }
    }
    Ok(String::new())
}
