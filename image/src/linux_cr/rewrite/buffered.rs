//! A file table that is held back until its last descriptor has come.

use super::dropping::Left;
use crate::plan::{Fate, TablePlan};
use std::collections::{BTreeMap, BTreeSet};

/// A record in a buffered table, and whose it is.
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub kind: u32,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Goes out whatever becomes of the descriptors.
    Other,
    /// The announcement, body and tail of a file.
    File(i32),
    /// One end of a terminal, in front of the body of a file.
    Terminal { end: i32, file: i32 },
    /// What was in a pipe, behind the fifo that came first.
    Contents { pipe: i32, file: i32 },
    /// The table's own record.
    Table,
    /// A descriptor.
    Descriptor,
}

impl Role {
    /// Whether it does not go out with the table.
    ///
    /// * `held`: files that do not.
    pub fn is_held(self, held: &BTreeMap<i32, Left>) -> bool {
        match self {
            Role::File(file) | Role::Contents { file, .. } | Role::Terminal { file, .. } => {
                held.contains_key(&file)
            }
            Role::Other | Role::Table | Role::Descriptor => false,
        }
    }
}

#[derive(Default)]
pub struct Buffered {
    pub bytes: Vec<u8>,
    pub pieces: Vec<Piece>,
    /// A terminal whose records come in front of a file's body.
    pub terminal: Option<Role>,
    /// The credentials that are announced before it.
    pub cred: i32,
}

impl Buffered {
    /// The files that are announced in it.
    pub fn files(&self) -> BTreeSet<i32> {
        let files = self.pieces.iter().filter_map(|piece| match piece.role {
            Role::File(file) => Some(file),
            _ => None,
        });
        files.collect()
    }

    /// Puts the announcements that stand behind the last descriptor that is left
    /// in front of it (or of the table): behind it nobody reads them before what
    /// the table defers, which would fail.
    pub fn draw_forward(&mut self, plan: &TablePlan) {
        let mut fates = plan.fates.iter();
        let mut last = None;
        for (index, piece) in self.pieces.iter().enumerate() {
            let stays = match piece.role {
                Role::Table => true,
                Role::Descriptor => fates.next().is_some_and(|fate| *fate != Fate::Drop),
                _ => false,
            };
            if stays {
                last = Some(index);
            }
        }
        let Some(last) = last else {
            return;
        };
        let behind = self.pieces.split_off(last);
        let (forward, stay) = behind
            .into_iter()
            .partition(|piece| !matches!(piece.role, Role::Table | Role::Descriptor));
        let (forward, stay): (Vec<_>, Vec<_>) = (forward, stay);
        self.pieces.extend(forward);
        self.pieces.extend(stay);
    }

    pub fn push(&mut self, kind: u32, bytes: &[u8], role: Role) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.pieces.push(Piece {
            start,
            end: self.bytes.len(),
            kind,
            role,
        });
    }
}
