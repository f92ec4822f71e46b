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
pub enum Becomes {
    /// It goes out as it is.
    Itself,
    /// It goes out changed.
    Changed(Vec<u8>),
    /// It does not go out.
    Nothing,
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
}

impl Deferred {
    /// What a table that was read last leaves for its end.
    ///
    /// * `queues`: the sockets of which something is taken out.
    /// * `sets`: epoll sets that are not restored.
    pub fn new(survey: &mut Survey, queues: BTreeMap<i32, Queues>, sets: BTreeSet<i32>) -> Self {
        let mut work = std::mem::take(&mut survey.work);
        // Where sockets say whether they have queues, those that do not have none.
        let says = |work: &Work| match work {
            Work::Queues(id) => survey.sockets.get(id).is_some_and(|s| s.buffers),
            Work::Watches(_) => false,
        };
        if work.iter().any(says) {
            work.retain(|work| matches!(work, Work::Watches(_)) || says(work));
        }
        Deferred {
            work: work.into(),
            queues,
            sets,
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

    /// Of bytes that pass, those that go on.
    pub fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let gone = usize::try_from(self.swallow).map_or(bytes.len(), |n| n.min(bytes.len()));
        self.swallow -= gone as u64;
        &bytes[gone..]
    }

    /// What becomes of a record.
    ///
    /// # Errors
    /// [`Error::Image`] where the queues are not those of the table's sockets.
    pub fn record(&mut self, record: &Record<'_>, layout: &Layout) -> Result<Becomes, Error> {
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
    pub fn finish(&self, next: &Record<'_>) -> Result<(), Error> {
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
