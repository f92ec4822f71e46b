//! What CRIU would make of an image.

use super::build::{Files, entries};
use std::collections::{BTreeMap, BTreeSet};

/// The integers and bytes of a message.
pub fn fields(mut bytes: &[u8]) -> Vec<(u32, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let length = bytes.iter().position(|b| b & 0x80 == 0).expect("a varint") + 1;
        let (number, rest) = bytes.split_at(length);
        *bytes = rest;
        let digits = number.iter().rev();
        digits.fold(0, |value, &byte| value << 7 | u64::from(byte & 0x7f))
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = varint(&mut bytes);
        let length = if key & 7 == 2 { value as usize } else { 0 };
        let (inside, rest) = bytes.split_at(length);
        bytes = rest;
        fields.push(((key >> 3) as u32, value, inside));
    }
    fields
}

pub fn number(message: &[u8], field: u32) -> u64 {
    let mut all = fields(message).into_iter();
    all.rfind(|(f, _, _)| *f == field)
        .map_or(0, |(_, value, _)| value)
}

pub fn inside(message: &[u8], field: u32) -> Vec<&[u8]> {
    let all = fields(message).into_iter();
    all.filter(|(f, _, _)| *f == field)
        .map(|(_, _, inside)| inside)
        .collect()
}

/// What criu makes of an image, as far as it would end with an error or an
/// assertion, or restore another thing.
#[derive(Debug, Default)]
pub struct Restored {
    /// Id, type and entry, in the order of the file.
    pub files: Vec<(u64, u64, Vec<u8>)>,
    /// By pid: number to id.
    pub tables: BTreeMap<i32, BTreeMap<i32, u64>>,
    /// Socket and what waits there.
    pub queues: Vec<(u64, u64)>,
    pub locks: BTreeSet<(u64, i32, i32)>,
    pub ghosts: BTreeSet<u64>,
}

impl Restored {
    pub fn new(files: &Files) -> Self {
        let messages = |name: &str| {
            let bytes = files.get(name).map_or(&[][..], |bytes| &bytes[..]);
            let all = if bytes.is_empty() {
                Vec::new()
            } else {
                entries(bytes)
            };
            all.into_iter()
                .map(|entry| entry[4..].to_vec())
                .collect::<Vec<_>>()
        };
        let mut restored = Restored::default();
        for file in messages("files.img") {
            restored
                .files
                .push((number(&file, 2), number(&file, 1), file));
        }
        for task in messages("pstree.img") {
            let pid = number(&task, 1) as i32;
            let ids = messages(&format!("ids-{pid}.img"));
            let slots = messages(&format!("fdinfo-{}.img", number(&ids[0], 2)));
            let slots = slots.iter().map(|s| (number(s, 4) as i32, number(s, 1)));
            restored.tables.insert(pid, slots.collect());
        }
        for lock in messages("filelocks.img") {
            let number = |field| number(&lock, field);
            restored
                .locks
                .insert((number(1), number(3) as i32, number(4) as i32));
        }
        restored.ghosts = messages("remap-fpath.img")
            .iter()
            .map(|r| number(r, 1))
            .collect();
        let mut queues = files
            .get("sk-queues.img")
            .map_or(&[][..], |bytes| &bytes[8..]);
        while !queues.is_empty() {
            let length = u32::from_le_bytes(queues[..4].try_into().expect("4 bytes")) as usize;
            let packet = &queues[4..4 + length];
            let rights = inside(packet, 4);
            let what = rights.iter().map(|rights| number(rights, 2));
            restored
                .queues
                .extend(what.map(|what| (number(packet, 1), what)));
            queues = &queues[4 + length + number(packet, 2) as usize..];
        }
        restored
    }

    pub fn holders(&self, id: u64) -> BTreeSet<i32> {
        let tables = self.tables.iter();
        tables
            .filter(|(_, t)| t.values().any(|&other| other == id))
            .map(|(pid, _)| *pid)
            .collect()
    }

    pub fn queued(&self, id: u64) -> bool {
        self.queues.iter().any(|&(_, what)| what == id)
    }

    /// What the master of a set watches: numbers and files.
    pub fn watches(&self, id: u64) -> Vec<(u64, Option<u64>)> {
        let (_, _, entry) = self
            .files
            .iter()
            .find(|file| file.0 == id)
            .expect("the set");
        let Some(master) = self.holders(id).first().copied() else {
            return Vec::new();
        };
        let watches = inside(inside(entry, 9)[0], 4);
        let numbers = watches.iter().map(|watch| number(watch, 2));
        numbers
            .map(|n| (n, self.tables[&master].get(&(n as i32)).copied()))
            .collect()
    }

    pub fn faults(&self) -> BTreeSet<String> {
        let mut faults = BTreeSet::new();
        let ids: BTreeSet<u64> = self.files.iter().map(|file| file.0).collect();
        let slots = self.tables.values().flat_map(|t| t.values());
        for id in slots.chain(self.queues.iter().map(|(_, what)| what)) {
            if !ids.contains(id) {
                faults.insert(format!("no file {id}"));
            }
        }
        for id in &self.ghosts {
            if !ids.contains(id) {
                faults.insert(format!("remap for non existing file {id}"));
            }
        }
        let place = |inode: u64| {
            let mut sockets = self.files.iter();
            sockets.position(|(_, t, entry)| *t == 5 && number(inside(entry, 16)[0], 2) == inode)
        };
        for (index, (id, file_type, entry)) in self.files.iter().enumerate() {
            let held = self.holders(*id);
            if matches!(file_type, 2 | 5 | 11) && held.is_empty() && !self.queued(*id) {
                faults.insert(format!("empty list on {id}"));
            }
            if *file_type == 7 {
                let stray = self
                    .watches(*id)
                    .into_iter()
                    .filter(|(_, file)| file.is_none());
                faults.extend(stray.map(|(n, _)| format!("{id} watches {n}")));
            }
            if *file_type != 5 {
                continue;
            }
            let socket = inside(entry, 16)[0];
            let (stream, peer) = (number(socket, 3) != 2, number(socket, 8));
            if peer == 0 {
                if stream && number(socket, 12) != 3 {
                    faults.insert(format!("wrong shutdown of {id}"));
                }
                continue;
            }
            let Some(other) = place(peer) else {
                faults.insert(format!("peer of {id} unresolved"));
                continue;
            };
            // The later entry's first task makes the pair.
            let other_held = self.holders(self.files[other].0);
            if other < index {
                let maker = held.first();
                let there = maker.is_some_and(|maker| other_held.contains(maker));
                if there && other_held.first() != maker {
                    faults.insert(format!("fle->task != fle_peer->task of {id}"));
                }
            }
        }
        for &(socket, _) in &self.queues {
            if !ids.contains(&socket) {
                faults.insert(format!("no sender for {socket}"));
            }
        }
        for (_, task, number) in &self.locks {
            if !self
                .tables
                .get(task)
                .is_some_and(|t| t.contains_key(number))
            {
                faults.insert(format!("lock by {task} {number}"));
            }
        }
        faults
    }
}
