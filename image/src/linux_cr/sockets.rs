//! Sockets and their queues, as a restarting kernel reads them: the address behind each
//! socket, and two queues for each that has some, at the end of a file table.

use super::layout::state::{TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN};
use super::layout::{SOCKADDR_UN, SOCKET_DEAD, SUN_FAMILY, Version, fixed};
use super::records::{Prefix, Record};
use crate::Error;
use std::collections::HashSet;

const AF_UNIX: u16 = 1;
const SOCK_DGRAM: u16 = 2;
/// States of the file of a socket.
const SS_UNCONNECTED: u8 = 1;
const SS_CONNECTED: u8 = 3;
/// Where SOCKET has its state in v20.
const STATE: usize = 97;

/// A socket whose address has not come.
struct Half {
    /// Objects that were open where it stands: a peer comes in between.
    depth: usize,
    is_unix: bool,
    kind: u16,
    outer: u8,
    state: u8,
    dead: bool,
    /// It says that its queues follow.
    buffers: bool,
}

/// How many queues there are.
#[derive(Clone, Copy, Default)]
struct Queues {
    /// They must come.
    due: u64,
    /// They may: a rewriting may have taken them out.
    possible: u64,
}

/// The sockets of an image so far, and the queue that is read.
#[derive(Default)]
pub struct Sockets {
    /// The innermost last.
    halves: Vec<Half>,
    unix: HashSet<i32>,
    /// The queues of the sockets whose table has not ended.
    later: Queues,
    /// Those that follow, and how many have come.
    now: Queues,
    queues: u64,
    /// Messages of the queue that have not come, and fragments of the message.
    messages: u32,
    fragments: u16,
    /// Bytes of the queue that no message has had.
    bytes: u64,
}

impl Sockets {
    /// How many wait for their address.
    pub fn unfinished(&self) -> usize {
        self.halves.len()
    }

    /// A record begins that nothing before it has asked for.
    ///
    /// * `depth`: objects that are open.
    ///
    /// # Errors
    /// [`Error::Image`] where the address of a socket is due, or that of none comes.
    pub fn prefix(
        &self,
        prefix: Prefix,
        version: &'static Version,
        depth: usize,
    ) -> Result<(), Error> {
        let error = |why: &str| Err(prefix.error(Some(version), why));
        let address = [version.socket_unix, version.socket_unix + 1].contains(&prefix.kind);
        match self.halves.last().filter(|half| half.depth == depth) {
            // Of a peer.
            Some(_) if prefix.kind == fixed::OBJREF => Ok(()),
            Some(half) if half.is_unix && prefix.kind != version.socket_unix => {
                error("expected the SOCKET_UNIX of the socket before it")
            }
            Some(half) if !half.is_unix && prefix.kind != version.socket_unix + 1 => {
                error("expected the SOCKET_INET of the socket before it")
            }
            Some(_) => Ok(()),
            None if address => error("it belongs to no socket before it"),
            None => Ok(()),
        }
    }

    /// A whole record.
    ///
    /// * `id`: the object whose body it is.
    /// * `depth`: objects that are open.
    ///
    /// # Errors
    /// [`Error::Image`] where it contradicts what came before.
    pub fn record(
        &mut self,
        record: &Record<'_>,
        version: &Version,
        id: i32,
        depth: usize,
    ) -> Result<(), Error> {
        match record.prefix.kind {
            fixed::SOCKET => self.half(record, version, id, depth),
            kind if kind == version.socket_unix => {
                let half = self.halves.pop();
                half.map_or(Ok(()), |half| self.unix(record, version, &half))
            }
            kind if kind == version.socket_unix + 1 => {
                if let Some(half) = self.halves.pop() {
                    let bound = record.u32(288)? > 0;
                    let unread = version.closed_queues_unread && bound;
                    self.count(&half, version, unread && half.state == TCP_CLOSE);
                }
                Ok(())
            }
            fixed::SOCKET_QUEUE => {
                self.queues += 1;
                if self.queues > self.now.due + self.now.possible {
                    return Err(record.error("a queue more than the sockets before it have"));
                }
                self.messages = record.u32(8)?;
                self.bytes = u64::from(record.u32(12)?);
                Ok(())
            }
            fixed::SOCKET_BUFFER => self.message(record),
            kind if Some(kind) == version.fragment => {
                self.fragments = self.fragments.checked_sub(1).ok_or_else(|| {
                    record.error("a fragment more than the SOCKET_BUFFER record before it counts")
                })?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn half(
        &mut self,
        record: &Record<'_>,
        version: &Version,
        id: i32,
        depth: usize,
    ) -> Result<(), Error> {
        // Later versions have eight bytes in front of them.
        let shift = version.socket_state - STATE;
        let is_unix = record.u16(32 + shift)? == AF_UNIX;
        if is_unix {
            self.unix.insert(id);
        }
        self.halves.push(Half {
            depth,
            is_unix,
            kind: record.u16(92 + shift)?,
            outer: record.u8(16 + shift)?,
            state: record.u8(version.socket_state)?,
            dead: record.u64(version.socket_flags)? & SOCKET_DEAD != 0,
            buffers: match version.socket_buffers {
                Some(at) => record.u8(at)? != 0,
                None => true,
            },
        });
        Ok(())
    }

    fn unix(&mut self, record: &Record<'_>, version: &Version, half: &Half) -> Result<(), Error> {
        self.count(half, version, false);
        let &Half {
            state, outer, kind, ..
        } = half;
        let name = record.u32(version.unix_name_len)?;
        let family = record.u16(version.unix_name_len + 8)?;
        let why = match state {
            _ if !matches!(outer, SS_UNCONNECTED | SS_CONNECTED) => {
                format!("a unix socket whose file is in state {outer}")
            }
            TCP_ESTABLISHED => return Ok(()),
            _ if outer == SS_CONNECTED => format!("a connected unix socket in state {state}"),
            TCP_CLOSE | TCP_LISTEN if name > SOCKADDR_UN => {
                format!("an address of {name} bytes: a kernel takes {SOCKADDR_UN}")
            }
            TCP_CLOSE | TCP_LISTEN if name > SUN_FAMILY && family != AF_UNIX => {
                format!("a unix socket with an address of family {family}")
            }
            TCP_LISTEN if kind == SOCK_DGRAM => "datagrams are not listened for".to_owned(),
            TCP_LISTEN if name <= SUN_FAMILY => "a listening unix socket without a name".to_owned(),
            TCP_CLOSE | TCP_LISTEN => return Ok(()),
            _ => format!("a unix socket in state {state}"),
        };
        Err(record.error(why))
    }

    /// Two queues of a socket.
    ///
    /// * `unread`: no kernel reads those that one wrote.
    fn count(&mut self, half: &Half, version: &Version, unread: bool) {
        let is_due = match version.socket_buffers {
            Some(_) => half.buffers,
            None => !unread,
        };
        match half.state == TCP_LISTEN || half.dead {
            true => {}
            false if is_due => self.later.due += 2,
            false => self.later.possible += 2,
        }
    }

    fn message(&mut self, record: &Record<'_>) -> Result<(), Error> {
        self.messages = self.messages.checked_sub(1).ok_or_else(|| {
            record.error("a message more than the SOCKET_QUEUE record before it counts")
        })?;
        let (linear, begin) = (record.u32(20)?, record.u32(40)?);
        self.fragments = record.u16(54)?;
        if self.unix.contains(&record.i32(48)?) {
            if self.fragments > 0 {
                let fragments = self.fragments;
                return Err(record.error(format!("{fragments} fragments for a unix socket")));
            }
            if record.i32(44)? == 0 {
                return Err(record.error("a message for a unix socket that nobody sent"));
            }
        }
        // What the program has read of a message is written, and not counted; whether pages
        // are, no image has told yet.
        let bytes = u64::from(linear.saturating_sub(begin));
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| {
            record.error("its queue has more bytes than its SOCKET_QUEUE record says")
        })?;
        Ok(())
    }

    /// What was counted has come by the time that something else does.
    ///
    /// * `ends_a_table`: that is no part of a queue.
    ///
    /// # Errors
    /// [`Error::Image`] where it has not.
    pub fn nothing_is_missing(&self, record: &Record<'_>, ends_a_table: bool) -> Result<(), Error> {
        let kind = record.prefix.kind;
        let ends_a_queue = ends_a_table || matches!(kind, fixed::SOCKET_QUEUE | fixed::EPOLL_ITEMS);
        let ends_a_message = ends_a_queue || kind == fixed::SOCKET_BUFFER;
        if ends_a_message && self.fragments > 0 {
            return Err(record.error(format!(
                "the message before it has {} fragments less than its SOCKET_BUFFER record says",
                self.fragments
            )));
        }
        if ends_a_queue && self.messages > 0 {
            return Err(record.error(format!(
                "the queue before it has {} messages less than its SOCKET_QUEUE record says",
                self.messages
            )));
        }
        Ok(())
    }

    /// Of the sockets so far, all queues have come.
    ///
    /// # Errors
    /// [`Error::Image`] where they have not.
    pub fn queues_have_come(&mut self, record: &Record<'_>) -> Result<(), Error> {
        if self.queues < self.now.due || !self.queues.is_multiple_of(2) {
            return Err(record.error(format!(
                "the sockets before it have {} queues, of which {} have come",
                self.now.due, self.queues
            )));
        }
        (self.now, self.queues) = (Queues::default(), 0);
        Ok(())
    }

    /// The queues of the sockets so far come next.
    pub fn table_ends(&mut self) {
        let Queues { due, possible } = std::mem::take(&mut self.later);
        self.now.due += due;
        self.now.possible += possible;
    }
}

/// Whether a unix socket is bound to a relative path, whose directory follows.
///
/// # Errors
/// [`Error::Image`] where the record is too short.
pub fn is_relative(record: &Record<'_>, version: &Version) -> Result<bool, Error> {
    let at = version.unix_name_len;
    let first = record.u8(at + 8 + SUN_FAMILY as usize)?;
    Ok(record.u32(at)? > SUN_FAMILY && !matches!(first, 0 | b'/'))
}
