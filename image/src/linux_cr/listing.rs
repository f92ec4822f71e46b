//! What an image holds, for people.

use super::layout::{FMODE_LSEEK, Layout, file_type};
use super::survey::{File, Socket, Survey, Tty};
use crate::advice::Kind;
use crate::listing::{self, Description, Engine, Listing, Reference};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

impl Survey {
    /// What the image holds, for people.
    pub fn listing(&self, layout: Option<&Layout>) -> Listing {
        let tables = self.listed_tables();
        let mut holders: HashMap<i32, Vec<(usize, i32)>> = HashMap::new();
        let mut order = Vec::new();
        for (index, (id, _)) in tables.iter().enumerate() {
            for desc in &self.tables[id].descriptors {
                let list = holders.entry(desc.file).or_insert_with(|| {
                    order.push(desc.file);
                    Vec::new()
                });
                list.push((index, desc.number));
            }
        }
        let mut rest: Vec<i32> = self
            .files
            .keys()
            .copied()
            .filter(|file| !holders.contains_key(file))
            .collect();
        rest.sort_unstable();
        order.extend(rest);
        let ends = Ends::of(self, &order);
        let mut watches = self.watches();
        let descriptions = order.iter().filter_map(|id| {
            let file = self.files.get(id)?;
            let mut description = self.description(*id, file);
            description.holders = holders.remove(id).unwrap_or_default();
            description.watches = watches.remove(id).unwrap_or_default();
            description.other_ends = ends.others(self, file);
            Some(description)
        });
        let tasks = self.tasks.iter().map(|task| listing::Task {
            pid: task.pid,
            process: task.process,
            parent: task.parent,
            command: task.command.clone(),
            table: task.table.map(number),
        });
        Listing {
            engine: Engine::LinuxCr,
            format: layout.map_or_else(|| "Linux-CR".to_owned(), Layout::to_string),
            advisable: layout.is_some_and(Layout::is_editable),
            tasks: tasks.collect(),
            descriptions: descriptions.collect(),
            tables: tables.into_iter().map(|(_, table)| table).collect(),
        }
    }

    /// The tables that tasks have, by objref.
    fn listed_tables(&self) -> Vec<(i32, listing::Table)> {
        let of_process: HashMap<i32, Option<i32>> = self
            .tasks
            .iter()
            .filter(|task| task.pid == task.process)
            .map(|task| (task.pid, task.table))
            .collect();
        let mut tables: Vec<(i32, listing::Table)> = Vec::new();
        let mut places: HashMap<i32, usize> = HashMap::new();
        for task in &self.tasks {
            let with_process =
                task.pid != task.process && of_process.get(&task.process) == Some(&task.table);
            let known = task.table.and_then(|id| Some((id, self.tables.get(&id)?)));
            let Some((id, table)) = known.filter(|_| !with_process) else {
                continue;
            };
            let place = *places.entry(id).or_insert_with(|| {
                let descriptors = table.descriptors.iter().map(|desc| listing::Descriptor {
                    number: desc.number,
                    description: number(desc.file),
                    close_on_exec: desc.close_on_exec,
                });
                let table = listing::Table {
                    id: number(id),
                    tasks: Vec::new(),
                    descriptors: descriptors.collect(),
                };
                tables.push((id, table));
                tables.len() - 1
            });
            tables[place].1.tasks.push(task.pid);
        }
        tables
    }

    /// What each epoll set watches, and by which numbers.
    fn watches(&self) -> HashMap<i32, Vec<(i32, u64)>> {
        let mut watches: HashMap<i32, Vec<(i32, u64)>> = HashMap::new();
        for (id, file) in &self.files {
            let references = file.references.iter();
            for &(epoll, by) in references.flat_map(|to| &to.watched_by) {
                watches.entry(epoll).or_default().push((by, number(*id)));
            }
        }
        for list in watches.values_mut() {
            list.sort_unstable();
        }
        watches
    }

    fn description(&self, id: i32, file: &File) -> Description {
        let references = || file.references.iter();
        let mapped = references().flat_map(|to| &to.mapped_by);
        let mapped = mapped.map(|task| Reference::Mapping(*task));
        let executed = references().flat_map(|to| &to.executed_by);
        let executed = executed.map(|task| Reference::Executable(*task));
        let watched = references().flat_map(|to| &to.watched_by);
        let watched = watched.map(|(epoll, _)| Reference::Epoll(number(*epoll)));
        let mut references: Vec<Reference> = executed.chain(mapped).chain(watched).collect();
        references.dedup();
        if file.file_type == file_type::TTY
            && let Some(tasks) = self.controlling.get(&file.behind)
        {
            references.extend(
                tasks
                    .iter()
                    .map(|task| Reference::ControllingTerminal(*task)),
            );
        }
        let socket = match file.file_type {
            file_type::SOCKET => self.sockets.get(&file.behind),
            _ => None,
        };
        let queued = match file.file_type {
            file_type::PIPE | file_type::FIFO => self.queued.get(&file.behind).copied(),
            _ => socket.map(|socket| socket.queued),
        };
        let path = file
            .path
            .as_deref()
            .map(<[u8]>::to_vec)
            .or_else(|| socket.and_then(Socket::path));
        let name = match (&path, file.file_type) {
            (Some(path), _) => String::from_utf8_lossy(path).into_owned(),
            (_, file_type::PIPE) => format!("pipe:[{}]", file.behind),
            (_, file_type::SOCKET) => socket
                .and_then(name_of)
                .unwrap_or_else(|| format!("socket:[{}]", file.behind)),
            (_, file_type::TTY) => match self.ttys.get(&file.behind) {
                Some(Tty { link: 0, .. }) => "/dev/ptmx".to_owned(),
                Some(Tty { index, .. }) => format!("/dev/pts/{index}"),
                None => String::new(),
            },
            _ => String::new(),
        };
        let eventfd = file.file_type == file_type::EVENTFD;
        Description {
            id: number(id),
            kind: self.kind(file),
            holders: Vec::new(),
            flags: file.flags,
            position: (file.mode & FMODE_LSEEK != 0).then_some(file.position),
            path,
            name,
            state: socket.and_then(state_of),
            remote: socket.and_then(|socket| internet(&socket.remote)),
            queued: queued.map(u64::from),
            count: eventfd.then_some(file.count),
            other_ends: None,
            watches: Vec::new(),
            references,
        }
    }
}

/// Who is at the other end of whom.
struct Ends {
    /// The files of each pipe, terminal's end and socket, by its objref: those
    /// that can be read, and those that can be written.
    of: HashMap<i32, [Arc<[u64]>; 2]>,
    /// Sockets by their own address and their peer's.
    connections: BTreeMap<(Vec<u8>, Vec<u8>), i32>,
    /// The slave of each master.
    slaves: HashMap<i32, i32>,
}

const READERS: usize = 0;
const WRITERS: usize = 1;

impl Ends {
    fn of(survey: &Survey, order: &[i32]) -> Self {
        let mut of: HashMap<i32, [Vec<u64>; 2]> = HashMap::new();
        let mut order = order.to_vec();
        order.sort_unstable();
        for id in &order {
            let Some(file) = survey.files.get(id).filter(|file| file.behind != 0) else {
                continue;
            };
            let ends = of.entry(file.behind).or_default();
            if file.access().read {
                ends[READERS].push(number(*id));
            }
            if file.access().write {
                ends[WRITERS].push(number(*id));
            }
        }
        let connections = survey
            .sockets
            .iter()
            .filter(|(_, socket)| internet(&socket.remote).is_some() && !socket.is_listening());
        let connections =
            connections.map(|(id, socket)| ((socket.local.clone(), socket.remote.clone()), *id));
        let slaves = survey.ttys.iter().filter(|(_, tty)| tty.link != 0);
        Ends {
            of: of
                .into_iter()
                .map(|(id, ends)| (id, ends.map(Arc::from)))
                .collect(),
            connections: connections.collect(),
            slaves: slaves.map(|(slave, tty)| (tty.link, *slave)).collect(),
        }
    }

    /// The other ends of a file; `None` for a kind that has none.
    fn others(&self, survey: &Survey, file: &File) -> Option<Arc<[u64]>> {
        let (behind, side) = match file.file_type {
            file_type::PIPE | file_type::FIFO if !file.access().read => (file.behind, READERS),
            file_type::PIPE | file_type::FIFO => (file.behind, WRITERS),
            file_type::TTY => match survey.ttys.get(&file.behind)?.link {
                0 => (*self.slaves.get(&file.behind).unwrap_or(&0), READERS),
                master => (master, READERS),
            },
            file_type::SOCKET => {
                let socket = survey.sockets.get(&file.behind)?;
                if socket.kind == Kind::Unix && socket.peer != 0 {
                    (socket.peer, READERS)
                } else if socket.kind == Kind::Inet && internet(&socket.remote).is_some() {
                    let key = (socket.remote.clone(), socket.local.clone());
                    (*self.connections.get(&key).unwrap_or(&0), READERS)
                } else {
                    return None;
                }
            }
            _ => return None,
        };
        let ends = self.of.get(&behind).map(|ends| ends[side].clone());
        Some(ends.unwrap_or_default())
    }
}

fn number(objref: i32) -> u64 {
    u64::from(objref.cast_unsigned())
}

/// What a socket without a path is called.
fn name_of(socket: &Socket) -> Option<String> {
    match socket.local.split_first() {
        _ if socket.kind == Kind::Inet => internet(&socket.local),
        Some((0, name)) => Some(format!("@{}", String::from_utf8_lossy(name))),
        _ => None,
    }
}

/// Address and port; `None` where there is no port.
fn internet(address: &[u8]) -> Option<String> {
    let [high, low, a, b, c, d] = *address.first_chunk()?;
    match u16::from_be_bytes([high, low]) {
        0 => None,
        port => Some(format!("{a}.{b}.{c}.{d}:{port}")),
    }
}

fn state_of(socket: &Socket) -> Option<&'static str> {
    match socket.state {
        1 => Some("connected"),
        7 => Some("unconnected"),
        10 => Some("listening"),
        _ => None,
    }
}
