//! What an image says of descriptions and advice does not need: addresses, what
//! waits in pipes and sockets, terminals.

use super::addresses::{abstract_name, address};
use super::entry::{Description, FileType, Link};
use super::image::{Directory, Image, optional};
use super::terminals::{Device, Terminal, terminals};
use super::wire::{File, Magic, Message};
use crate::Error;
use std::collections::HashMap;
use std::net::IpAddr;

/// What advice does not need of a description.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    pub flags: Option<u32>,
    pub name: Option<String>,
    pub remote: Option<String>,
    pub state: Option<&'static str>,
    pub count: Option<u64>,
    /// Of a fifo: the pipe behind it.
    pub pipe: Option<u32>,
    /// Of a connected internet socket: its inode, which names its queues.
    pub inode: Option<u32>,
    /// Of a pseudo-terminal: its number, and whether this is the master.
    pub terminal: Option<(u32, bool)>,
    /// Of a terminal: the leader of the session that it controls.
    pub leader: Option<i32>,
}

/// The details of every description, and what waits in pipes and sockets.
pub(super) struct Details {
    none: Detail,
    by_id: HashMap<u32, Detail>,
    /// By the pipe's number, of pipes and of fifos.
    in_pipes: HashMap<u32, u64>,
    in_fifos: HashMap<u32, u64>,
    /// By the socket's description.
    in_sockets: HashMap<u32, u64>,
    /// By the socket's inode.
    in_streams: HashMap<u32, u64>,
}

impl Details {
    /// Reads them.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn read(image: &Image, directory: &dyn Directory) -> Result<Self, Error> {
        let terminals = terminals(directory)?;
        let mut details = Details {
            none: Detail::default(),
            by_id: HashMap::new(),
            in_pipes: waiting(directory, "pipes-data.img", Magic::PIPES_DATA)?,
            in_fifos: waiting(directory, "fifo-data.img", Magic::FIFO_DATA)?,
            in_sockets: waiting(directory, "sk-queues.img", Magic::SK_QUEUES)?,
            in_streams: HashMap::new(),
        };
        let files = File {
            name: "files.img",
            bytes: &image.files,
        };
        for entry in files.entries(Magic::FILES)? {
            let message = entry?.message;
            let [_, Some(id)] = message.numbers::<2>()? else {
                continue;
            };
            let Some(description) = image.descriptions.get(id) else {
                continue;
            };
            let Some(wanted) = Detail::body(description.file_type) else {
                continue;
            };
            for field in message.fields() {
                let field = field?;
                if field.number == wanted {
                    let detail =
                        Detail::read(description.file_type, &field.message()?, &terminals)?;
                    if let Some(inode) = detail.inode {
                        let bytes = in_stream(directory, inode)?;
                        details.in_streams.extend(bytes.map(|bytes| (inode, bytes)));
                    }
                    details.by_id.insert(id, detail);
                }
            }
        }
        Ok(details)
    }

    /// Those of one; none, where the image has none.
    pub fn of(&self, id: u32) -> &Detail {
        self.by_id.get(&id).unwrap_or(&self.none)
    }

    /// Bytes that wait in it; `None` where nothing could.
    pub fn queued(&self, description: &Description, detail: &Detail) -> Option<u64> {
        let bytes = match (description.file_type, &description.link) {
            (FileType::PIPE, Link::Pipe(pipe)) => self.in_pipes.get(pipe),
            (FileType::FIFO, _) => detail.pipe.and_then(|pipe| self.in_fifos.get(&pipe)),
            (FileType::UNIXSK, _) => self.in_sockets.get(&description.id),
            (FileType::INETSK, _) => detail.inode.and_then(|it| self.in_streams.get(&it)),
            _ => return None,
        };
        Some(bytes.copied().unwrap_or(0))
    }
}

impl Detail {
    /// The field of a file entry in which they are.
    fn body(file_type: FileType) -> Option<u32> {
        Some(match file_type {
            FileType::INETSK => 4,
            FileType::EVENTFD => 8,
            FileType::UNIXSK => 16,
            FileType::FIFO => 17,
            FileType::TTY => 19,
            _ => return None,
        })
    }

    fn read(
        file_type: FileType,
        body: &Message<'_>,
        terminals: &HashMap<u32, Terminal>,
    ) -> Result<Self, Error> {
        let numbers = body.numbers::<9>()?;
        let number = |field: usize| numbers[field - 1];
        Ok(match file_type {
            FileType::INETSK => {
                let mut ends = [Vec::new(), Vec::new()];
                for field in body.fields() {
                    let field = field?;
                    match field.number {
                        11 => field.append_to(&mut ends[0])?,
                        12 => field.append_to(&mut ends[1])?,
                        _ => {}
                    }
                }
                let state = number(6);
                Detail {
                    flags: number(9).map(with_access),
                    name: internet(&ends[0], number(7)),
                    remote: internet(&ends[1], number(8)),
                    state: state.and_then(state_of),
                    inode: number(2).filter(|_| state == Some(1)),
                    ..Detail::default()
                }
            }
            FileType::UNIXSK => Detail {
                flags: number(5).map(with_access),
                name: abstract_name(body)?
                    .map(|name| format!("@{}", String::from_utf8_lossy(name))),
                state: number(4).and_then(state_of),
                ..Detail::default()
            },
            FileType::EVENTFD => Detail {
                flags: number(2).map(with_access),
                count: number(4).map(u64::from),
                ..Detail::default()
            },
            FileType::FIFO => Detail {
                pipe: number(2),
                ..Detail::default()
            },
            _ => number(2)
                .and_then(|info| terminals.get(&info))
                .map(Detail::of_terminal)
                .unwrap_or_default(),
        })
    }

    fn of_terminal(terminal: &Terminal) -> Self {
        Detail {
            terminal: match terminal.device {
                Device::Master(index) => Some((index, true)),
                Device::Slave(index) => Some((index, false)),
                Device::External(..) | Device::Fixed => None,
            },
            leader: terminal.leader,
            ..Detail::default()
        }
    }
}

/// CRIU keeps no access of what is always open for both.
fn with_access(flags: u32) -> u32 {
    flags | libc::O_RDWR as u32
}

fn state_of(state: u32) -> Option<&'static str> {
    match state {
        1 => Some("connected"),
        7 => Some("unconnected"),
        10 => Some("listening"),
        _ => None,
    }
}

/// Address and port; `None` where there is no port.
fn internet(words: &[u32], port: Option<u32>) -> Option<String> {
    let port = port.filter(|&port| port != 0)?;
    Some(match address(words)? {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    })
}

/// A file of entries that tell whose they are and how many bytes follow them.
fn waiting(
    directory: &dyn Directory,
    name: &str,
    magic: Magic,
) -> Result<HashMap<u32, u64>, Error> {
    let mut waiting = HashMap::new();
    let Some(data) = optional(directory, name)? else {
        return Ok(waiting);
    };
    let mut entries = data.file().entries(magic)?;
    while let Some(entry) = entries.next() {
        let [owner, count] = entry?.message.numbers::<2>()?;
        let count = u64::from(count.unwrap_or(0));
        entries.skip_data(count)?;
        if let Some(owner) = owner {
            *waiting.entry(owner).or_default() += count;
        }
    }
    Ok(waiting)
}

/// Bytes in the receive queue of a connection.
fn in_stream(directory: &dyn Directory, inode: u32) -> Result<Option<u64>, Error> {
    let Some(stream) = optional(directory, format!("tcp-stream-{inode:x}.img"))? else {
        return Ok(None);
    };
    let mut entries = stream.file().entries(Magic::TCP_STREAM)?;
    let Some(entry) = entries.next() else {
        return Ok(None);
    };
    let [bytes] = entry?.message.numbers::<1>()?;
    Ok(bytes.map(u64::from))
}
