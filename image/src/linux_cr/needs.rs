//! What a restart needs of the machine, as the kernel goes about it.

use super::layout::{FMODE_LSEEK, file_type};
use super::survey::{File, Name, O_APPEND, Socket, Survey};
use crate::advice::Kind;
use crate::needs::{self, InTheWay, Need, Needs, Port, Protocol};
use std::collections::HashMap;
use std::net::Ipv4Addr;

impl Survey {
    /// What a restart needs. Every file is opened, whoever refers to it.
    pub fn needs(&self) -> Needs {
        let mut pipes: HashMap<i32, u32> = HashMap::new();
        for file in self.files.values() {
            if file.file_type == file_type::PIPE {
                *pipes.entry(file.behind).or_default() |= file.mode & 3;
            }
        }
        let mut needs = Needs::default();
        for (id, file) in &self.files {
            let found = match file.file_type {
                file_type::GENERIC => opened(file, None),
                file_type::FIFO => opened(file, Some(libc::S_IFIFO)),
                file_type::PIPE if pipes[&file.behind] != 3 => Some(Need::OtherEnd),
                file_type::SOCKET => self.sockets.get(&file.behind).and_then(named),
                file_type::TTY => self.ttys.get(&file.behind).and_then(|end| match end.link {
                    0 => Some(Need::Pty(end.index)),
                    _ if self.is_outside(file.behind) => Some(Need::Terminal),
                    _ => None,
                }),
                _ => None,
            };
            if let Some(need) = found {
                let id = u64::from(id.cast_unsigned());
                needs.descriptions.insert(id, vec![need]);
            }
        }
        needs
    }
}

/// * `kind`: what must be there; `None` where the image does not tell.
fn opened(file: &File, kind: Option<u32>) -> Option<Need> {
    let directory = file.kind(None) == Kind::Dir;
    let appends = file.flags & O_APPEND != 0;
    let seeks = file.mode & FMODE_LSEEK != 0 && !appends && !directory;
    Some(Need::File(needs::File {
        kind: kind.or(directory.then_some(libc::S_IFDIR)),
        least: if seeks { file.position } else { 0 },
        ..needs::File::new(file.path.as_deref()?.to_vec(), file.access())
    }))
}

/// The name that a socket takes.
fn named(socket: &Socket) -> Option<Need> {
    match socket.kind {
        Kind::Unix if !socket.takes_a_name() => None,
        Kind::Unix if socket.name == Name::Path => {
            Some(Need::UnixPath(socket.path()?, InTheWay::IsRemoved))
        }
        Kind::Unix => Some(Need::UnixName(socket.local.get(1..)?.to_vec())),
        _ if socket.is_listening() => {
            let [high, low, a, b, c, d] = *socket.local.first_chunk()?;
            Some(Need::Port(Port {
                protocol: Protocol::Tcp,
                address: Ipv4Addr::new(a, b, c, d).into(),
                port: u16::from_be_bytes([high, low]),
                foreign: true,
            }))
        }
        _ => None,
    }
}
