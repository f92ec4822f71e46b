//! The caller's files, and those that are opened by their paths: what is
//! announced for them, and under which objrefs.

use super::Editor;
use crate::Error;
use crate::advice::Kind;
use crate::linux_cr::layout::{FMODE_LSEEK, Order, file_type, fixed};
use crate::linux_cr::survey::Survey;
use crate::plan::Origin;
use std::collections::BTreeSet;

const O_LARGEFILE: i32 = 0x8000;
/// The flags of the caller's description that a new one gets. Those that would
/// create, truncate or refuse a magic link stay behind.
const KEPT_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOATIME;

impl Editor {
    /// An object that was given a caller's file in a rewriting before this one
    /// is needed, and its number has been given away again.
    pub(super) fn refuse_given(&self, object: i32) -> Result<(), Error> {
        // A fifo's pipe has the next one.
        let given = self.taken.contains(&object) || self.taken.contains(&object.saturating_sub(1));
        if !given && !self.own.is_ours(object) {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("image: object {object}"),
            "it was rewritten before, and both advices would give a file this number: rewrite \
             the image as it was in the beginning, with all the advice at once",
        ))
    }

    /// Announces the description behind a new descriptor, if that was not done.
    ///
    /// * `cred`: what the kernel knows before the table; files in it may bring
    ///   credentials of their own.
    pub(super) fn give(
        &mut self,
        from: Origin,
        unused: &BTreeSet<i32>,
        cred: i32,
        announce: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let description = self.planner.description(from);
        if self.given.contains_key(&description) {
            return Ok(());
        }
        if let Origin::Path(index) = from {
            self.planner.open(index)?;
        }
        let Some(file) = self.planner.file(from).cloned() else {
            return Ok(());
        };
        let object = self.fresh(from, unused)?;
        self.given.insert(description, object);
        self.taken.insert(object);
        let position = self.position(from)?;
        if let Origin::Descriptor(from) = from
            && file.kind == Kind::Reg
            && file.access.write
            && file.flags & libc::O_APPEND == 0
        {
            self.warnings.push(format!(
                "descriptor {from} ({}) is re-opened for writing without O_APPEND: the restart \
                 program and the restarted one have an offset each and can overwrite each other \
                 (open it with >>)",
                file.link
            ));
        }
        let Some(layout) = self.layout else {
            return Ok(());
        };
        let mut block = Block(announce, layout.order);
        block.start(fixed::OBJREF, 16);
        block.u32(layout.version.file_object);
        block.i32(object);
        // Of this type it is opened for both directions. A pipe that has a name is
        // relayed: its other side is open, and must be seen to end.
        let fifo = file.kind == Kind::Fifo;
        let file_type = if fifo {
            file_type::FIFO
        } else {
            file_type::GENERIC
        };
        block.start(fixed::FILE, if fifo { 56 } else { 48 });
        block.u32(file_type);
        block.u32(file.f_mode);
        block.i32(file.flags & KEPT_FLAGS | O_LARGEFILE);
        block.i32(cred);
        block.u64(position);
        block.u64(0);
        block.u64(0);
        if fifo {
            // Opened as a fifo it never waits for a peer. Its pipe is an object
            // of its own, without anything in it.
            block.i32(object + 1);
            block.i32(0);
        }
        let name_len = u32::try_from(file.name.len()).unwrap_or(u32::MAX);
        block.start(fixed::FILE_NAME, name_len.saturating_add(9));
        block.0.extend_from_slice(&file.name);
        block.0.push(0);
        if fifo {
            block.start(fixed::PIPE_BUF, 8);
        }
        Ok(())
    }

    /// The offset to write for a new description, in bytes.
    pub(super) fn position(&self, from: Origin) -> Result<u64, Error> {
        let Some(file) = self.planner.file(from) else {
            return Ok(0);
        };
        let appends = file.flags & libc::O_APPEND != 0;
        if file.f_mode & FMODE_LSEEK == 0 {
            return Ok(0);
        }
        let (position, what) = match from {
            Origin::Descriptor(_) if appends => return Ok(0),
            Origin::Descriptor(from) => {
                let offset = (self.offsets)(from).unwrap_or(0);
                let position = u64::try_from(offset).unwrap_or(0);
                (position, format!("descriptor {from} ({})", file.link))
            }
            Origin::Path(index) => (self.planner.position(index), file.link.clone()),
        };
        match position & 0x8000_0000 {
            0 => Ok(position),
            // What is written goes to the end all the same.
            _ if appends => Ok(0),
            _ => Err(Error::unsupported(
                format!("{what}: offset {position:#x}"),
                "a Linux-CR kernel would crash on it (bit 31 is set): give a file at another \
                 offset, or one that is opened for appending (with >>)",
            )),
        }
    }

    /// An objref for a new description: always the same for the same number of the
    /// caller, or path, where the image lets us, so that rewriting twice is
    /// rewriting once.
    pub(super) fn fresh(&self, from: Origin, unused: &BTreeSet<i32>) -> Result<i32, Error> {
        const ROUND: i32 = 1 << 21;
        const PLACES: i32 = ROUND / 2;
        let place = match from {
            Origin::Descriptor(number) => number,
            Origin::Path(index) => !i32::try_from(index).unwrap_or(i32::MAX),
        };
        let first = Survey::HIGH + (place & (PLACES - 1)) * 2;
        (0..7)
            .map(|round| first + round * ROUND)
            .find(|id| {
                let ours = unused.contains(id) || !self.survey.high.contains(id);
                ours && !self.survey.high.contains(&(id + 1)) && !self.taken.contains(id)
            })
            .ok_or_else(|| {
                Error::unsupported(
                    "a new file",
                    "the image uses every object number that could be given to it",
                )
            })
    }

    pub(super) fn add(&mut self, number: i32, from: i32) {
        let origin = self.planner.description(Origin::Descriptor(from));
        let object = self.given[&origin];
        let given = self.planner.caller().files.get(&from);
        let close_on_exec = given.is_some_and(|file| file.close_on_exec);
        self.descriptor(object, number, close_on_exec);
    }

    pub(super) fn descriptor(&mut self, object: i32, number: i32, close_on_exec: bool) {
        let order = self.order();
        let mut block = Block(&mut self.out, order);
        block.start(fixed::FILE_DESC, 24);
        block.i32(object);
        block.i32(number);
        block.u32(close_on_exec.into());
        block.u32(0);
    }
}

/// Writes records.
pub struct Block<'a>(pub &'a mut Vec<u8>, pub Order);

impl Block<'_> {
    pub fn start(&mut self, kind: u32, len: u32) {
        self.u32(kind);
        self.u32(len);
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&self.1.bytes(value));
    }

    pub fn i32(&mut self, value: i32) {
        self.u32(value.cast_unsigned());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&self.1.long_bytes(value));
    }
}
