//! What a file table leaves for its end: the watches of epoll sets and the
//! queues of sockets. Of what is restored no more they are taken out.
//!
//! Queues do not say whose they are: they come in the order in which the
//! sockets do.

use super::put;
use crate::Error;
use crate::linux_cr::layout::{Layout, Order, fixed};
use crate::linux_cr::records::{Prefix, Record};
use crate::linux_cr::survey::{Survey, Work};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The raw page of a fragment.
const PAGE: u64 = 4096;

/// What becomes of a socket's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// Both go with their socket.
    Gone,
    /// Nobody will receive what is in the first one.
    Emptied,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Becomes {
    /// It goes out as it is.
    Itself,
    /// It goes out changed.
    Changed(Vec<u8>),
    /// It does not go out.
    Nothing,
}

/// Sockets of which an image may or may not have queues: a checkpoint wrote
/// them, and a rewriting before this one took them out; or nothing says. Empty
/// ones look all alike, so they wait until something tells where in the order
/// of the sockets it stands.
#[derive(Default)]
struct Uncertain {
    sockets: BTreeSet<i32>,
    waiting: Vec<(Prefix, Vec<u8>)>,
    queues: usize,
}

/// Follows the end of one file table.
#[derive(Default)]
pub struct Deferred {
    work: VecDeque<Work>,
    queues: BTreeMap<i32, Queues>,
    /// Epoll sets that are not restored.
    sets: BTreeSet<i32>,
    /// The socket whose queues are read, and how many of them were begun.
    socket: Option<(i32, u8)>,
    /// Messages of a queue that is taken out, and what of the last one comes.
    messages: u32,
    buffer: bool,
    fragments: u16,
    items: bool,
    /// Bytes of records not put together that go nowhere.
    swallow: u64,
    uncertain: Uncertain,
}

impl Deferred {
    /// What a table that was read last leaves for its end.
    ///
    /// * `queues`: the sockets of which something is taken out.
    /// * `sets`: epoll sets that are not restored.
    pub fn new(
        survey: &mut Survey,
        layout: &Layout,
        mut queues: BTreeMap<i32, Queues>,
        sets: BTreeSet<i32>,
    ) -> Self {
        let mut work = std::mem::take(&mut survey.work);
        let socket = |work: &Work| match work {
            Work::Queues(id) => survey.sockets.get(id).map(|socket| (*id, socket)),
            Work::Watches(_) => None,
        };
        let mut uncertain = Uncertain::default();
        if layout.version.socket_buffers.is_none() {
            let unread = work.iter().filter_map(socket).filter(|(_, s)| s.unread);
            uncertain.sockets = unread.map(|(id, _)| id).collect();
        } else if work.iter().filter_map(socket).any(|(_, s)| s.buffers) {
            work.retain(|work| socket(work).is_none_or(|(_, s)| s.buffers));
            queues.retain(|id, _| survey.sockets.get(id).is_some_and(|s| s.buffers));
        } else {
            uncertain.sockets = work.iter().filter_map(socket).map(|(id, _)| id).collect();
        }
        Deferred {
            work: work.into(),
            queues,
            sets,
            uncertain,
            ..Deferred::default()
        }
    }

    /// Whether there is nothing to take out.
    pub fn is_idle(&self) -> bool {
        self.queues.is_empty() && self.sets.is_empty() && !self.is_inside()
    }

    /// Whether more of what is taken out comes.
    fn is_inside(&self) -> bool {
        self.messages > 0 || self.buffer || self.fragments > 0 || self.items
    }

    /// Whether bytes that pass go nowhere.
    pub fn swallows(&self) -> bool {
        self.swallow > 0
    }

    /// A record that is not put together begins: whether it goes nowhere.
    pub fn passes(&mut self, prefix: Prefix) {
        if prefix.kind == fixed::BUFFER && std::mem::take(&mut self.buffer) {
            self.swallow = u64::from(prefix.len);
        }
    }

    /// Lets go what waits, in front of bytes that pass.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        for (_, bytes) in std::mem::take(&mut self.uncertain.waiting) {
            out.extend_from_slice(&bytes);
        }
    }

    /// Of bytes that pass, those that go on.
    pub fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let gone = usize::try_from(self.swallow).map_or(bytes.len(), |n| n.min(bytes.len()));
        self.swallow -= gone as u64;
        &bytes[gone..]
    }

    /// Takes a record of the end of the table out, changes it or keeps it waiting;
    /// false where it is none, or goes out as it is.
    ///
    /// * `out`: what goes out.
    ///
    /// # Errors
    /// [`Error::Image`] where the queues are not those of the table's sockets.
    pub fn record(
        &mut self,
        record: &Record<'_>,
        layout: &Layout,
        out: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        if !self.uncertain.sockets.is_empty() && self.waits(record, layout, out)? {
            return Ok(true);
        }
        Ok(match self.fate(record, layout)? {
            Becomes::Itself => false,
            Becomes::Nothing => true,
            Becomes::Changed(bytes) => {
                out.extend_from_slice(&bytes);
                true
            }
        })
    }

    /// Whether a record waits until it is known whose queues are there.
    fn waits(
        &mut self,
        record: &Record<'_>,
        layout: &Layout,
        out: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let version = layout.version;
        let kind = record.prefix.kind;
        let inside = self.is_inside();
        let place = |wanted: Work| self.work.iter().position(|work| *work == wanted);
        let place = match kind {
            _ if inside => return Ok(false),
            fixed::SOCKET_BUFFER => place(Work::Queues(record.i32(48)?)),
            fixed::EPOLL_ITEMS => place(Work::Watches(record.i32(8)?)),
            fixed::OBJREF if record.u32(8)? != version.socket_object => None,
            fixed::OBJREF | fixed::STRING | fixed::SOCKET_QUEUE => {
                return Ok(self.wait(record));
            }
            _ if version.is_socket(kind) => return Ok(self.wait(record)),
            // Of a message or of watches that stay.
            fixed::BUFFER => return Ok(false),
            _ if Some(kind) == version.fragment => return Ok(false),
            _ => None,
        };
        self.settle(place.unwrap_or(self.work.len()), kind, record, layout, out)?;
        Ok(false)
    }

    fn wait(&mut self, record: &Record<'_>) -> bool {
        self.uncertain.queues += usize::from(record.prefix.kind == fixed::SOCKET_QUEUE);
        self.uncertain
            .waiting
            .push((record.prefix, record.bytes.to_vec()));
        true
    }

    /// Something tells where in the order of the work it stands.
    ///
    /// * `place`: there.
    /// * `next`: the record that tells, of that kind.
    fn settle(
        &mut self,
        place: usize,
        kind: u32,
        next: &Record<'_>,
        layout: &Layout,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let queues = self.work.iter().take(place).filter_map(|work| match work {
            Work::Queues(socket) => Some(!self.uncertain.sockets.contains(socket)),
            Work::Watches(_) => None,
        });
        let (with, without) = queues.fold((0, 0), |(all, certain), is_certain| {
            (all + 1, certain + usize::from(is_certain))
        });
        // The second queue of the socket before them is among those that wait, and
        // the first of the message's own.
        let half = matches!(self.socket, Some((_, 1)));
        let seen = self.uncertain.queues.checked_sub(usize::from(half));
        let own = usize::from(kind == fixed::SOCKET_BUFFER);
        if own == 1 && place == self.work.len() && seen.is_some_and(|seen| seen > 0) {
            // Nobody knew to whom it goes: the queues are as they were written.
            self.uncertain.sockets.clear();
        }
        if let Some(seen) = seen.and_then(|seen| seen.checked_sub(own))
            && with != without
        {
            if seen / 2 == without {
                let gone = std::mem::take(&mut self.uncertain.sockets);
                self.work.retain(|work| match work {
                    Work::Queues(socket) => !gone.contains(socket),
                    Work::Watches(_) => true,
                });
                self.queues.retain(|socket, _| !gone.contains(socket));
            } else if seen / 2 == with {
                self.uncertain.sockets.clear();
            } else {
                return Err(next.error("the queues before it are not those of the sockets"));
            }
        }
        self.uncertain.queues = 0;
        for (prefix, bytes) in std::mem::take(&mut self.uncertain.waiting) {
            let record = Record {
                prefix,
                bytes: &bytes,
                order: layout.order,
                version: Some(layout.version),
            };
            match self.fate(&record, layout)? {
                Becomes::Itself => out.extend_from_slice(&bytes),
                Becomes::Changed(bytes) => out.extend_from_slice(&bytes),
                Becomes::Nothing => {}
            }
        }
        Ok(())
    }

    /// What becomes of a record.
    fn fate(&mut self, record: &Record<'_>, layout: &Layout) -> Result<Becomes, Error> {
        let items = std::mem::take(&mut self.items);
        match record.prefix.kind {
            fixed::EPOLL_ITEMS => {
                let set = record.i32(8)?;
                if !self.sets.remove(&set) {
                    return Ok(Becomes::Itself);
                }
                self.items = record.u32(12)? > 0;
                Ok(Becomes::Nothing)
            }
            fixed::BUFFER if items || std::mem::take(&mut self.buffer) => Ok(Becomes::Nothing),
            fixed::SOCKET_QUEUE => self.queue(record, layout.order),
            fixed::SOCKET_BUFFER if self.messages > 0 => {
                let to = record.i32(48)?;
                let (socket, _) = self.socket.unwrap_or_default();
                if to != 0 && to != socket {
                    return Err(record.error(format!(
                        "a message for socket {to} in what is taken for a queue of socket {socket}"
                    )));
                }
                self.messages -= 1;
                self.buffer = true;
                self.fragments = record.u16(54)?;
                Ok(Becomes::Nothing)
            }
            kind if Some(kind) == layout.version.fragment && self.fragments > 0 => {
                self.fragments -= 1;
                self.swallow = PAGE;
                Ok(Becomes::Nothing)
            }
            _ => Ok(Becomes::Itself),
        }
    }

    fn queue(&mut self, record: &Record<'_>, order: Order) -> Result<Becomes, Error> {
        if self.is_inside() {
            return Err(record.error("the queue before it has too few messages"));
        }
        let (socket, begun) = match self.socket {
            Some((socket, 1)) => (socket, 2),
            _ => (self.next_socket(record)?, 1),
        };
        self.socket = Some((socket, begun));
        let fate = self.queues.get(&socket).copied();
        if begun == 2 {
            self.queues.remove(&socket);
        }
        let messages = record.u32(8)?;
        match fate {
            Some(Queues::Gone) => {
                self.messages = messages;
                Ok(Becomes::Nothing)
            }
            Some(Queues::Emptied) if begun == 1 => {
                self.messages = messages;
                let mut bytes = record.bytes.to_vec();
                put(order, &mut bytes, 8, 0);
                put(order, &mut bytes, 12, 0);
                Ok(Becomes::Changed(bytes))
            }
            _ => Ok(Becomes::Itself),
        }
    }

    fn next_socket(&mut self, record: &Record<'_>) -> Result<i32, Error> {
        while let Some(work) = self.work.pop_front() {
            if let Work::Queues(socket) = work {
                return Ok(socket);
            }
        }
        Err(record.error("a queue more than the sockets before it have"))
    }

    /// The table is over.
    ///
    /// * `next`: the record after it.
    ///
    /// # Errors
    /// [`Error::Image`] where something to be taken out has not come.
    pub fn finish(
        &mut self,
        next: &Record<'_>,
        layout: &Layout,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if !self.uncertain.sockets.is_empty() {
            self.settle(self.work.len(), next.prefix.kind, next, layout, out)?;
        }
        match (self.queues.keys().next(), self.sets.first()) {
            (Some(socket), _) => Err(next.error(format!(
                "the queues of socket {socket} should come before it"
            ))),
            (_, Some(set)) => {
                Err(next.error(format!("the watches of {set} should come before it")))
            }
            _ if self.is_inside() => Err(next.error("a queue before it has too few messages")),
            _ => Ok(()),
        }
    }
}
