//! Messages of which the program had read a part.
//!
//! A v20 kernel writes the first message of a unix socket's queue whole, and counts only what
//! was left of it; when it reads them back it finds more than was counted, and fails. What had
//! been read is cut off, where the counts say that it is this: for that the queue waits from
//! its first message to its last.

use super::put;
use crate::Error;
use crate::advice::Kind;
use crate::linux_cr::layout::{PREFIX, Version, fixed};
use crate::linux_cr::records::{Prefix, Record};
use crate::linux_cr::survey::Survey;

const LINEAR: usize = 20;
const READ: usize = 40;

/// Follows the queues of sockets.
#[derive(Default)]
pub struct HalfRead {
    /// Bytes of the queue, as it counts them, and messages that have not come.
    counted: u64,
    messages: u32,
    /// The next message is its first.
    first: bool,
    /// Of that one, bytes in all and those that had been read.
    linear: u32,
    read: u32,
    /// Bytes of all that have come since.
    bytes: u64,
    waiting: Vec<(Prefix, Vec<u8>)>,
    is_due: bool,
}

impl HalfRead {
    /// Whether records wait, so that whatever comes next has to be whole.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a record waits, or goes with those that waited: [`HalfRead::due`] goes first.
    ///
    /// # Errors
    /// [`Error::Image`] where it is too short.
    pub fn takes(
        &mut self,
        record: &Record<'_>,
        version: &Version,
        survey: &Survey,
    ) -> Result<bool, Error> {
        let kind = record.prefix.kind;
        match kind {
            fixed::SOCKET_QUEUE => {
                self.messages = record.u32(8)?;
                self.counted = u64::from(record.u32(12)?);
                self.first = true;
            }
            fixed::SOCKET_BUFFER => self.message(record, survey)?,
            _ => {}
        }
        let fragment = Some(kind) == version.fragment;
        let is_other = fragment || matches!(kind, fixed::SOCKET_QUEUE | fixed::TAIL);
        let begins = kind == fixed::SOCKET_BUFFER && self.read > 0;
        if is_other || !(self.waits() || begins) {
            self.is_due = self.waits();
            return Ok(false);
        }
        self.waiting.push((record.prefix, record.bytes.to_vec()));
        if kind == fixed::BUFFER && self.messages == 0 {
            self.mend(record);
            self.is_due = true;
        }
        Ok(true)
    }

    /// What waited, if it is known by now how it goes on.
    pub fn due(&mut self) -> Vec<(Prefix, Vec<u8>)> {
        match std::mem::take(&mut self.is_due) {
            true => {
                self.read = 0;
                std::mem::take(&mut self.waiting)
            }
            false => Vec::new(),
        }
    }

    fn message(&mut self, record: &Record<'_>, survey: &Survey) -> Result<(), Error> {
        let (linear, read) = (record.u32(LINEAR)?, record.u32(READ)?);
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_add(linear.into());
        if std::mem::take(&mut self.first) {
            self.bytes = u64::from(linear);
            let from = survey.sockets.get(&record.i32(44)?);
            let is_unix = from.is_some_and(|socket| socket.kind == Kind::Unix);
            self.linear = linear;
            self.read = if is_unix && read < linear { read } else { 0 };
        }
        Ok(())
    }

    /// * `last`: of the queue, or any other record of the image.
    fn mend(&mut self, last: &Record<'_>) {
        let [(_, message), (body, bytes), ..] = &mut self.waiting[..] else {
            return;
        };
        let is_body = body.kind == fixed::BUFFER && bytes.len() == PREFIX + self.linear as usize;
        if !is_body || self.bytes - u64::from(self.read) != self.counted {
            return;
        }
        let left = self.linear - self.read;
        bytes.drain(PREFIX..PREFIX + self.read as usize);
        body.len = left + PREFIX as u32;
        put(last.order, bytes, 4, body.len.cast_signed());
        put(last.order, message, LINEAR, left.cast_signed());
        put(last.order, message, READ, 0);
    }
}
