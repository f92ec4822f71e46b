//! What a restore needs of the machine, as CRIU goes about it.

use super::addresses::{abstract_name, address};
use super::entry::{Description, FileType, Link, Lock, Remapped};
use super::image::{Directory, Image, Reference, optional};
use super::terminals::{Device, Terminal, terminals};
use super::wire::{File, Magic, Message};
use super::{ghosts, locks};
use crate::Error;
use crate::needs::{self, Apart, InTheWay, Need, Needs, Port, Protocol};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

impl Image {
    /// What a restore needs.
    ///
    /// * `directory`: the image's.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn needs(&self, directory: &dyn Directory) -> Result<Needs, Error> {
        let made = self.made(directory)?;
        let mut needs = Needs::default();
        let bodies = self.bodies()?;
        let reader = Reader {
            image: self,
            remaps: remaps(directory)?,
            terminals: terminals(directory)?,
            pipes: self.pipes(),
            sockets: self.sockets(),
            masters: BTreeSet::new(),
            bodies,
        }
        .with_masters();
        for id in made {
            let description = &self.descriptions[id];
            let found = reader.of(description)?;
            if !found.is_empty() {
                needs.descriptions.insert(id.into(), found);
            }
        }
        for (id, lock) in self.locks(directory)? {
            let list = needs.descriptions.entry(id.into()).or_default();
            list.push(Need::Lock(lock));
        }
        let ids = self.namespaces(directory)?;
        needs.apart = ids.apart;
        if ids.tcp_close {
            for list in needs.descriptions.values_mut() {
                list.retain(|need| !matches!(need, Need::Connection(..)));
            }
            needs.image.push(Need::TcpClose);
        }
        let all = |task: &super::Task| std::iter::once(task.pid).chain(task.threads.clone());
        needs
            .image
            .push(Need::Pids(self.tasks.iter().flat_map(all).collect()));
        needs.image.extend(self.session().map(Need::Session));
        Ok(needs)
    }

    /// The descriptions that a restore makes: those that something refers to.
    fn made(&self, directory: &dyn Directory) -> Result<BTreeSet<u32>, Error> {
        let (references, others) = (self.references(), self.other_references(directory)?);
        let direct = references
            .iter()
            .filter(|(_, by)| by.iter().any(|by| !matches!(by, Reference::Opens { .. })));
        let made = direct.map(|(id, _)| *id).chain(others.into_keys());
        Ok(made.filter(|id| self.descriptions.contains(*id)).collect())
    }

    /// Where in files.img the part for its type lies, for each description.
    fn bodies(&self) -> Result<HashMap<u32, Message<'_>>, Error> {
        let files = File {
            name: "files.img",
            bytes: &self.files,
        };
        let mut bodies = HashMap::new();
        for entry in files.entries(Magic::FILES)? {
            let message = entry?.message;
            let [Some(kind), Some(id)] = message.numbers::<2>()? else {
                continue;
            };
            let Some(body) = FileType(kind).body() else {
                continue;
            };
            bodies.extend(message.message(body)?.map(|body| (id, body)));
        }
        Ok(bodies)
    }

    /// The accesses of each pipe's ends together: reading, writing.
    fn pipes(&self) -> HashMap<u32, [bool; 2]> {
        let mut pipes: HashMap<u32, [bool; 2]> = HashMap::new();
        for description in self.descriptions.iter() {
            if let Link::Pipe(pipe) = description.link {
                let access = description.access();
                let ends = pipes.entry(pipe).or_default();
                ends[0] |= access.read;
                ends[1] |= access.write;
            }
        }
        pipes
    }

    /// Unix sockets, by inode.
    fn sockets(&self) -> HashMap<u32, u32> {
        let sockets = self.descriptions.iter();
        let sockets = sockets.filter_map(|description| match description.link {
            Link::Unix { inode, .. } => Some((inode, description.id)),
            _ => None,
        });
        sockets.collect()
    }

    fn locks(&self, directory: &dyn Directory) -> Result<Vec<(u32, needs::Lock)>, Error> {
        let Some(list) = optional(directory, locks::NAME)? else {
            return Ok(Vec::new());
        };
        let tables: HashMap<i32, u32> = self
            .tasks
            .iter()
            .filter_map(|task| Some((task.pid, task.table?)))
            .collect();
        let mut found = Vec::new();
        for entry in list.file().entries(Magic::FILE_LOCKS)? {
            let lock = Lock::read(&entry?)?;
            let table = tables.get(&lock.task).and_then(|id| self.tables.get(id));
            let Some(slot) = table.and_then(|table| table.slot(lock.number)) else {
                continue;
            };
            let lock = needs::Lock {
                path: self.descriptions[slot.description].path.clone(),
                whole: lock.whole,
                exclusive: lock.exclusive,
            };
            found.push((slot.description, lock));
        }
        Ok(found)
    }

    fn namespaces(&self, directory: &dyn Directory) -> Result<Namespaces, Error> {
        const PID: usize = 5;
        const NET: usize = 6;
        const MOUNT: usize = 9;
        const TCP_CLOSE: u32 = 10;
        let mut found = Namespaces::default();
        let Some(inventory) = optional(directory, "inventory.img")? else {
            return Ok(found);
        };
        let inventory = inventory.file().entry(Magic::INVENTORY)?.message;
        for field in inventory.fields() {
            let field = field?;
            if field.number == TCP_CLOSE {
                found.tcp_close = field.integer() == Some(1);
            }
        }
        let Some(host) = inventory.message(3)? else {
            return Ok(found);
        };
        let host = host.numbers::<9>()?;
        let Some(root) = self.tasks.first() else {
            return Ok(found);
        };
        let Some(ids) = optional(directory, format!("ids-{}.img", root.pid))? else {
            return Ok(found);
        };
        let own = ids.file().entry(Magic::IDS)?.message.numbers::<9>()?;
        let differs = |field: usize| match (host[field - 1], own[field - 1]) {
            (Some(host), Some(own)) => host != own,
            _ => false,
        };
        found.apart = Apart {
            files: differs(MOUNT),
            network: differs(NET),
            pids: differs(PID),
        };
        Ok(found)
    }

    /// The session of the root task, where its leader is no task of the image.
    fn session(&self) -> Option<i32> {
        let leader = self.tasks.first()?.session;
        leader.filter(|leader| !self.is_task(*leader))
    }
}

#[derive(Default)]
struct Namespaces {
    apart: Apart,
    tcp_close: bool,
}

fn remaps(directory: &dyn Directory) -> Result<HashMap<u32, Remapped>, Error> {
    let mut remaps = HashMap::new();
    let Some(list) = optional(directory, ghosts::NAME)? else {
        return Ok(remaps);
    };
    for entry in list.file().entries(Magic::REMAPS)? {
        let (description, how) = Remapped::read(&entry?.message)?;
        remaps.extend(description.map(|description| (description, how)));
    }
    Ok(remaps)
}

struct Reader<'a> {
    image: &'a Image,
    bodies: HashMap<u32, Message<'a>>,
    remaps: HashMap<u32, Remapped>,
    terminals: HashMap<u32, Terminal>,
    pipes: HashMap<u32, [bool; 2]>,
    sockets: HashMap<u32, u32>,
    /// The terminals of which the image has the master.
    masters: BTreeSet<u32>,
}

impl Reader<'_> {
    fn with_masters(mut self) -> Self {
        let descriptions = self.image.descriptions.iter();
        let terminals = descriptions.filter_map(|it| self.terminal(it));
        let masters = terminals.filter_map(|terminal| match terminal {
            Device::Master(index) => Some(index),
            _ => None,
        });
        self.masters = masters.collect();
        self
    }

    fn numbers<const N: usize>(&self, id: u32) -> Result<[Option<u32>; N], Error> {
        self.bodies.get(&id).map_or(Ok([None; N]), Message::numbers)
    }

    fn terminal(&self, description: &Description) -> Option<Device> {
        if description.file_type != FileType::TTY {
            return None;
        }
        let [_, info] = self.numbers::<2>(description.id).ok()?;
        Some(self.terminals.get(&info?)?.device)
    }

    fn of(&self, description: &Description) -> Result<Vec<Need>, Error> {
        const EXTERNAL: FileType = FileType(16);
        Ok(match description.file_type {
            FileType::REG => self.file(description)?,
            FileType::FIFO => match description.link {
                Link::By(id) => match self.image.descriptions.get(id) {
                    Some(file) => self.file(file)?,
                    None => Vec::new(),
                },
                _ => Vec::new(),
            },
            FileType::PIPE => match description.link {
                Link::Pipe(pipe) if self.pipes[&pipe] != [true, true] => vec![Need::OtherEnd],
                _ => Vec::new(),
            },
            FileType::TTY => self.of_terminal(description)?,
            FileType::UNIXSK => self.unix(description)?,
            FileType::INETSK => self.inet(description)?,
            EXTERNAL => vec![Need::Plugin],
            _ => Vec::new(),
        })
    }

    fn of_terminal(&self, description: &Description) -> Result<Vec<Need>, Error> {
        Ok(match self.terminal(description) {
            Some(Device::Master(index)) => vec![Need::Pty(index)],
            Some(Device::Slave(index)) if self.masters.contains(&index) => Vec::new(),
            Some(Device::Slave(_)) => vec![Need::Terminal],
            Some(Device::External(device, on)) => {
                vec![Need::Given(format!("tty[{device:x}:{on:x}]"))]
            }
            Some(Device::Fixed) | None => {
                let path = description.path.clone();
                let file = path.map(|path| needs::File {
                    kind: Some(libc::S_IFCHR),
                    ..needs::File::new(path, description.access())
                });
                file.map(Need::File).into_iter().collect()
            }
        })
    }

    fn file(&self, description: &Description) -> Result<Vec<Need>, Error> {
        let Some(path) = description.path.clone() else {
            return Ok(Vec::new());
        };
        let (mut size, mut external, mut mode) = (None, false, None);
        if let Some(body) = self.bodies.get(&description.id) {
            for field in body.fields() {
                let field = field?;
                match field.number {
                    8 => size = field.integer(),
                    9 => external = field.integer() == Some(1),
                    10 => mode = field.integer().map(|mode| mode as u32),
                    _ => {}
                }
            }
        }
        if external {
            let name = path.strip_prefix(b"/").unwrap_or(&path);
            return Ok(vec![Need::Given(
                String::from_utf8_lossy(name).into_owned(),
            )]);
        }
        match self.remaps.get(&description.id) {
            Some(Remapped::Ghost) => return Ok(vec![Need::Way(path)]),
            Some(Remapped::Otherwise) => return Ok(Vec::new()),
            Some(Remapped::Linked(other)) => {
                let other = self.image.descriptions.get(*other);
                let path = other.and_then(|other| other.path.clone());
                let file = path.map(|path| needs::File::new(path, description.access()));
                return Ok(file.map(Need::File).into_iter().collect());
            }
            None => {}
        }
        if self.is_of_own_task(&path) {
            return Ok(Vec::new());
        }
        Ok(vec![Need::File(needs::File {
            kind: mode.map(|mode| mode & libc::S_IFMT),
            mode,
            size,
            ..needs::File::new(path, description.access())
        })])
    }

    /// Whether it lies below /proc/PID of a task that is restored.
    fn is_of_own_task(&self, path: &[u8]) -> bool {
        let task = || {
            let rest = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
            rest.split('/').next()?.parse::<i32>().ok()
        };
        task().is_some_and(|pid| self.image.is_task(pid))
    }

    fn unix(&self, description: &Description) -> Result<Vec<Need>, Error> {
        const EXTERNAL: u32 = 1;
        const INHERITED: u32 = 8;
        const LISTENING: u32 = 10;
        let numbers = self.numbers::<15>(description.id)?;
        let (state, flags, deleted) = (numbers[3], numbers[5].unwrap_or(0), numbers[14]);
        let Link::Unix {
            inode,
            peer,
            datagram,
        } = description.link
        else {
            return Ok(Vec::new());
        };
        if flags & INHERITED != 0 {
            return Ok(vec![Need::Given(format!("socket:[{inode}]"))]);
        }
        let mut found = Vec::new();
        // A connected one gets no name.
        let takes_a_name = state == Some(LISTENING) || datagram;
        if takes_a_name && deleted.unwrap_or(0) == 0 && flags & EXTERNAL == 0 {
            if let Some(path) = &description.path {
                found.push(Need::UnixPath(path.clone(), InTheWay::SocketIsRemoved));
            } else if let Some(name) = self.abstract_name(description.id)? {
                found.push(Need::UnixName(name));
            }
        }
        let peer = self.sockets.get(&peer).filter(|_| peer != 0);
        if let Some(peer) = peer {
            let flags = self.numbers::<6>(*peer)?[5].unwrap_or(0);
            if flags & EXTERNAL != 0 {
                let path = self.image.descriptions[*peer].path.clone();
                found.extend(path.map(Need::UnixPeer));
            }
        }
        Ok(found)
    }

    fn abstract_name(&self, id: u32) -> Result<Option<Vec<u8>>, Error> {
        let Some(body) = self.bodies.get(&id) else {
            return Ok(None);
        };
        let name = abstract_name(body)?.filter(|name| !name.is_empty());
        Ok(name.map(<[u8]>::to_vec))
    }

    fn inet(&self, description: &Description) -> Result<Vec<Need>, Error> {
        const TCP: u32 = 6;
        const UDP: u32 = 17;
        const CLOSE: u32 = 7;
        const LISTEN: u32 = 10;
        let Some(body) = self.bodies.get(&description.id) else {
            return Ok(Vec::new());
        };
        let mut ends = [Vec::new(), Vec::new()];
        let mut foreign = false;
        for field in body.fields() {
            let field = field?;
            match field.number {
                11 => field.append_to(&mut ends[0])?,
                12 => field.append_to(&mut ends[1])?,
                16 => foreign = field.message()?.numbers::<1>()? == [Some(1)],
                _ => {}
            }
        }
        let [_, _, _, _, protocol, state, here, there] = body.numbers::<8>()?;
        let port = |port: Option<u32>| port.and_then(|port| u16::try_from(port).ok());
        let (Some(local), Some(here)) = (address(&ends[0]), port(here)) else {
            return Ok(Vec::new());
        };
        let protocol = match protocol {
            Some(TCP) => Protocol::Tcp,
            Some(UDP) => Protocol::Udp,
            _ => return Ok(Vec::new()),
        };
        let is_connected = !matches!(state, Some(CLOSE | LISTEN) | None);
        if protocol == Protocol::Tcp && is_connected {
            let local = SocketAddr::new(local, here);
            let remote = address(&ends[1]).zip(port(there));
            let remote = remote.map(|(address, port)| SocketAddr::new(address, port));
            return Ok(remote
                .map(|remote| Need::Connection(local, remote))
                .into_iter()
                .collect());
        }
        let port = Port {
            protocol,
            address: local,
            port: here,
            foreign,
        };
        Ok(match here {
            0 => Vec::new(),
            _ => vec![Need::Port(port)],
        })
    }
}
