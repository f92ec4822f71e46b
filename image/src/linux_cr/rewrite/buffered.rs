//! A file table that is held back until its last descriptor has come.

use super::dropping::Left;
use crate::plan::{Fate, TablePlan};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes in a block; a longer record has one of its own.
const BLOCK: usize = 256 << 10;

/// Records one behind the other, in memory that goes as soon as they have.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// Those that have not gone.
    left: u32,
}

/// A record in a buffered table, or all those of one file, and whose they are.
pub struct Piece {
    block: u32,
    start: u32,
    len: u32,
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
    blocks: Vec<Block>,
    pub pieces: Vec<Piece>,
    /// What the record pushed last is.
    pub last: u32,
    /// A terminal whose records come in front of a file's body.
    pub terminal: Option<Role>,
    /// The credentials that are announced before it.
    pub cred: i32,
}

impl Buffered {
    /// * `cred`: the credentials that are announced before it.
    pub fn new(cred: i32) -> Self {
        Buffered {
            cred,
            ..Buffered::default()
        }
    }

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
        // Those behind it are all dropped. They are among what may go out block by block.
        let blocks = &mut self.blocks;
        let descriptor = |piece: &mut Piece| piece.role == Role::Descriptor;
        for piece in self.pieces.extract_if(last + 1.., descriptor) {
            gone(blocks, &piece);
        }
        self.pieces[last..].rotate_left(1);
    }

    pub fn push(&mut self, kind: u32, bytes: &[u8], role: Role) {
        let room = |block: &Block| block.bytes.len() + bytes.len() <= BLOCK;
        if !self.blocks.last().is_some_and(room) {
            // The first may stay small; behind a full one comes a full one.
            let room = if self.blocks.is_empty() { 0 } else { BLOCK };
            self.blocks.push(Block {
                bytes: Vec::with_capacity(room.max(bytes.len())),
                left: 0,
            });
        }
        self.last = kind;
        let index = self.blocks.len() - 1;
        let block = &mut self.blocks[index];
        // Records are far shorter than 4 GiB, and so are blocks.
        let (start, len) = (block.bytes.len() as u32, bytes.len() as u32);
        block.bytes.extend_from_slice(bytes);
        let ends = |piece: &Piece| piece.block == index as u32 && piece.start + piece.len == start;
        let before = self.pieces.last_mut();
        match before.filter(|piece| piece.role == role && ends(piece)) {
            Some(piece) if matches!(role, Role::File(_)) => piece.len += len,
            _ => {
                block.left += 1;
                self.pieces.push(Piece {
                    block: index as u32,
                    start,
                    len,
                    role,
                });
            }
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes.len()).sum()
    }

    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        let block = self.blocks.get(piece.block as usize);
        let from = piece.start as usize;
        block
            .and_then(|block| block.bytes.get(from..from + piece.len as usize))
            .unwrap_or_default()
    }

    /// A piece has gone where it belongs, and is not asked for any more.
    pub fn gone(&mut self, piece: &Piece) {
        gone(&mut self.blocks, piece);
    }
}

fn gone(blocks: &mut [Block], piece: &Piece) {
    let Some(block) = blocks.get_mut(piece.block as usize) else {
        return;
    };
    block.left = block.left.saturating_sub(1);
    if block.left == 0 {
        block.bytes = Vec::new();
    }
}
