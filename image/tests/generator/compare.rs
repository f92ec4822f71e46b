//! Holds a rewritten image against what the advice means for the one before.

use super::check::{FileBody, Sock, View};
use super::meaning::{Becomes, Given, Outcome};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::collections::{BTreeMap, BTreeSet};

type Result<T = ()> = std::result::Result<T, TestCaseError>;

/// Two images, and what should have become of the first.
pub struct Comparison<'a> {
    /// What was rewritten.
    pub image: &'a [u8],
    /// What it says.
    pub before: &'a View,
    /// The rewritten image.
    pub out: &'a [u8],
    /// What it says.
    pub after: &'a View,
    /// What the advice means.
    pub expected: &'a Outcome,
    /// What the caller gives.
    pub caller: &'a BTreeMap<i32, Given>,
    /// The engine knew the image in advance, and who needs what.
    pub knows: bool,
    /// What the user was told.
    pub warnings: &'a [String],
}

/// Objects of the caller's files, by description.
type Objects = BTreeMap<i32, i32>;

impl Comparison<'_> {
    /// Everything.
    pub fn hold(&self) -> Result {
        prop_assert_eq!(&self.after.zombies, &self.before.zombies);
        let objects = self.descriptors()?;
        self.sharing()?;
        self.files(&objects)?;
        self.contents(&objects)?;
        self.watches(&objects)?;
        self.sockets()?;
        self.unreadable()?;
        self.terminals()?;
        self.order(&objects)?;
        if self.knows {
            self.nothing_for_nobody(&objects)?;
        }
        self.told(&objects)?;
        prop_assert_eq!(&self.after.mapped, &self.before.mapped);
        let same = skeleton(self.before, self.image) == skeleton(self.after, self.out);
        prop_assert!(same, "other records changed, or moved among themselves");
        Ok(())
    }

    /// Every task has what it should have.
    fn descriptors(&self) -> Result<Objects> {
        let tasks = |view: &View| -> Vec<_> {
            view.tasks
                .iter()
                .map(|task| (task.pid, task.process))
                .collect()
        };
        prop_assert_eq!(tasks(self.after), tasks(self.before));
        let mut objects = Objects::new();
        for task in &self.after.tasks {
            let numbers = &self.expected.tables[&task.process];
            let is = &self.after.tables[&task.table];
            prop_assert!(
                is.keys().eq(numbers.keys()),
                "numbers of {}: {:?}, not {:?}",
                task.pid,
                is,
                numbers
            );
            for (number, (becomes, close_on_exec)) in numbers {
                let held = is[number];
                prop_assert_eq!(held.close_on_exec, *close_on_exec);
                match becomes {
                    Becomes::Kept(file) => prop_assert_eq!(held.file, *file),
                    Becomes::Given(from) => {
                        let own = &self.caller[from];
                        let object = *objects.entry(own.description).or_insert(held.file);
                        prop_assert_eq!(held.file, object, "one description, one object");
                        let body = &self.after.files[&object];
                        prop_assert_eq!(&body.name, &own.name);
                        prop_assert_eq!(body.mode, own.mode);
                        prop_assert_eq!(body.flags, own.flags);
                    }
                }
            }
        }
        let distinct: BTreeSet<i32> = objects.values().copied().collect();
        prop_assert_eq!(
            distinct.len(),
            objects.len(),
            "one object for two descriptions"
        );
        Ok(objects)
    }

    /// Tasks share a table where they shared one and nothing tells them apart.
    fn sharing(&self) -> Result {
        let table = |view: &View, process: i32| {
            let of = view.processes().into_iter().find(|(p, _)| *p == process);
            of.map(|(_, table)| table)
        };
        let processes: Vec<i32> = self.before.processes().iter().map(|(p, _)| *p).collect();
        for &a in &processes {
            for &b in &processes {
                let shared = table(self.before, a) == table(self.before, b);
                let alike = self.expected.tables[&a] == self.expected.tables[&b];
                let shares = table(self.after, a) == table(self.after, b);
                prop_assert_eq!(shares, shared && alike, "tables of {} and {}", a, b);
            }
        }
        let used: BTreeSet<i32> = self.after.tasks.iter().map(|task| task.table).collect();
        prop_assert!(
            used.iter().eq(self.after.tables.keys()),
            "a table of nobody"
        );
        Ok(())
    }

    fn replaced(objects: &Objects, id: i32) -> bool {
        objects.values().any(|&object| object == id)
    }

    /// Files stay as they are, or are gone for good reason.
    fn files(&self, objects: &Objects) -> Result {
        let (before, after) = (self.before, self.after);
        for id in after.files.keys() {
            let known = before.files.contains_key(id) || Self::replaced(objects, *id);
            prop_assert!(known, "file {} comes from nowhere", id);
        }
        let without_data = |body: &FileBody| FileBody {
            data: None,
            ..body.clone()
        };
        for (id, body) in &before.files {
            let needed = self.expected.keeps(*id) || before.mapped.contains(id);
            if Self::replaced(objects, *id) {
                prop_assert!(!needed, "file {} is replaced", id);
            } else if let Some(same) = after.files.get(id) {
                prop_assert_eq!(without_data(same), without_data(body));
            } else {
                let touched = self.expected.touched.contains(id);
                prop_assert!(!needed && touched, "file {} is lost", id);
            }
        }
        let blocks = |view: &View, image: &[u8]| -> BTreeMap<i32, Vec<u8>> {
            blocks(view, &view.blocks, image).into_iter().collect()
        };
        let had = blocks(before, self.image);
        for (id, records) in blocks(after, self.out) {
            let same = Self::replaced(objects, id) || had.get(&id) == Some(&records);
            prop_assert!(same, "records of file {}", id);
        }
        // What would be opened or made anew for nobody is not, where that can be
        // known when its table ends.
        let watched: BTreeSet<i32> = before
            .watches
            .values()
            .flatten()
            .map(|item| before.watch(item).1)
            .collect();
        for (id, body) in &before.files {
            let needed = self.expected.keeps(*id) || before.mapped.contains(id);
            let table = before.announced_in.get(id).map(|t| &before.tables[t]);
            let in_table = table.is_some_and(|t| t.values().any(|held| held.file == *id));
            let anew = match body.kind {
                1 | 7 => true,
                4 => before.socks[&body.behind].state == 10,
                _ => false,
            };
            let touched = self.expected.touched.contains(id);
            if anew && touched && !needed && in_table && !watched.contains(id) {
                prop_assert!(!self.is_made(objects, *id), "file {} is for nobody", id);
            }
        }
        Ok(())
    }

    /// A file is opened, made or bound.
    fn is_made(&self, objects: &Objects, id: i32) -> bool {
        match self.after.files.get(&id) {
            Some(body) if body.kind == 4 => self.after.socks[&body.behind].takes_its_name(),
            Some(_) => !Self::replaced(objects, id),
            None => false,
        }
    }

    /// Whichever end comes with them, the contents of pipes are the same.
    fn contents(&self, objects: &Objects) -> Result {
        let contents = |view: &View| -> BTreeMap<i32, Vec<u8>> {
            let files = view.files.iter();
            files
                .filter(|(id, _)| !Self::replaced(objects, **id))
                .filter_map(|(_, file)| Some((file.behind, file.data.clone()?)))
                .collect()
        };
        let had = contents(self.before);
        for (pipe, data) in contents(self.after) {
            prop_assert_eq!(Some(&data), had.get(&pipe));
        }
        Ok(())
    }

    /// The caller's number that took the place of the one by which a watch was
    /// made, in some process.
    fn taken_over(&self, (number, file): (i32, i32)) -> Option<i32> {
        self.before.processes().iter().find_map(|(process, table)| {
            let held = self.before.tables[table].get(&number)?;
            let (becomes, _) = self.expected.tables[process].get(&number)?;
            match becomes {
                Becomes::Given(from) if held.file == file => Some(*from),
                _ => None,
            }
        })
    }

    /// Watches stay with what is kept; those of a substituted number pass to
    /// what takes its place; those of what is dropped may go.
    fn watches(&self, objects: &Objects) -> Result {
        for (set, had) in &self.before.watches {
            let Some(left) = self.after.watches.get(set) else {
                prop_assert!(!self.after.files.contains_key(set));
                continue;
            };
            let mut left = left.iter().peekable();
            for item in had {
                let (number, file) = self.before.watch(item);
                let is = left.peek().copied();
                let same = is == Some(item);
                let kept = self.expected.keeps(file);
                // What a later process keeps comes to be known too late.
                let moves = self.taken_over((number, file));
                let moves = moves.filter(|_| !(kept && self.before.is_alone()));
                let moved = is.is_some_and(|is| {
                    let to = moves.and_then(|from| objects.get(&self.caller[&from].description));
                    to == Some(&self.after.watch(is).1)
                        && is[..12] == item[..12]
                        && is[16..] == item[16..]
                });
                if moved {
                    let from = &self.caller[&moves.expect("it moved")];
                    prop_assert!(from.pollable, "a watch of {} cannot be", set);
                }
                // The same of what it substitutes.
                let late = !self.before.is_alone();
                let stays = same && (kept || moves.is_none() || late);
                if moved || stays {
                    left.next();
                    continue;
                }
                let cannot = moves.is_some_and(|from| !self.caller[&from].pollable);
                let gone = !kept && (moves.is_none() || cannot);
                // A set that nobody has is of no consequence.
                let harmless = !self.expected.keeps(*set) && !kept;
                let may_go = gone || harmless || cannot;
                prop_assert!(may_go, "a watch of {}: {:?}, was {:?}", set, is, item);
                if same && harmless {
                    left.next();
                }
            }
            prop_assert_eq!(left.next(), None);
        }
        for set in self.after.watches.keys() {
            prop_assert!(self.before.watches.contains_key(set));
        }
        Ok(())
    }

    /// A socket is there with its file or not at all; nothing of it changes, but
    /// for the name of one that nobody has any more; its queues are the same.
    fn sockets(&self) -> Result {
        let (before, after) = (self.before, self.after);
        for (id, sock) in &after.socks {
            let Some(had) = before.socks.get(id) else {
                prop_assert!(false, "socket {} comes from nowhere", id);
                continue;
            };
            let kept = had.file.is_some_and(|file| self.expected.keeps(file));
            let same = if kept || sock.family == 2 {
                sock.block == had.block
            } else {
                nameless(after, sock) == nameless(before, had)
            };
            prop_assert!(same, "socket {} is another", id);
            prop_assert_eq!(sock.file, had.file, "socket {} and its file", id);
            // Nobody will receive datagrams; of a stream the other end would hear that it
            // was not read to its end.
            let empty = sock.queues.is_empty() || sock.senders.is_empty();
            let unread = empty && !kept && sock.kind == 2;
            let unreadable = sock.queues.is_empty() && sock.family == 2 && sock.state == 7;
            let right = unread || unreadable || sock.queues == had.queues;
            prop_assert!(right, "queues of {}", id);
        }
        let order: Vec<i32> = after.sock_order.clone();
        let mut had = before.sock_order.iter();
        for id in &order {
            prop_assert!(had.any(|other| other == id), "socket {} moved", id);
        }
        Ok(())
    }

    /// Queues that no kernel reads are where they were, or gone where advice
    /// changed the table. What had been read of a message is gone.
    fn unreadable(&self) -> Result {
        prop_assert!(
            self.after.half_read.is_empty(),
            "{:?}",
            self.after.half_read
        );
        for table in &self.after.unreadable {
            prop_assert!(self.before.unreadable.contains(table));
            let (had, has) = (&self.before.tables[table], &self.after.tables[table]);
            prop_assert_eq!(had, has, "a table that was changed cannot be read");
        }
        let mended = self.knows && !self.expected.touched.is_empty();
        prop_assert!(
            !mended || self.after.unreadable.is_empty(),
            "what no kernel reads is left in an image that was changed"
        );
        Ok(())
    }

    fn terminals(&self) -> Result {
        let ends = |view: &View, image: &[u8]| -> BTreeMap<_, _> {
            blocks(view, &view.terminals, image).into_iter().collect()
        };
        let mut controlling = self.before.controlling.clone();
        controlling.retain(|_, slave| !self.expected.taken.contains(slave));
        prop_assert_eq!(&self.after.controlling, &controlling);
        let (had, left) = (ends(self.before, self.image), ends(self.after, self.out));
        for (end, records) in &left {
            prop_assert_eq!(had.get(end), Some(records));
        }
        for end in had.keys().filter(|end| !left.contains_key(end)) {
            let of_pair = |id: &i32| *id == *end || self.before.is_pair(*id, *end);
            let taken = self.expected.taken.iter().any(of_pair);
            let used = |(id, file): (&i32, &FileBody)| {
                let dropped = self.expected.touched.contains(id) && !self.expected.keeps(*id);
                file.kind == 5 && of_pair(&file.behind) && !dropped
            };
            let used = self.before.files.iter().any(used);
            prop_assert!(taken || !used, "terminal {} is lost", end);
        }
        Ok(())
    }

    /// Files that lost nothing stand in the order in which they stood.
    fn order(&self, objects: &Objects) -> Result {
        let untouched = |view: &View| -> Vec<i32> {
            let ids = view.blocks.iter().map(|(id, _)| *id);
            ids.filter(|id| !self.expected.touched.contains(id))
                .filter(|id| !Self::replaced(objects, *id))
                .collect()
        };
        prop_assert_eq!(untouched(self.before), untouched(self.after));
        Ok(())
    }

    /// What only dropped descriptors had leaves no trace: no path opened, no name
    /// taken, no terminal allocated.
    fn nothing_for_nobody(&self, objects: &Objects) -> Result {
        let needed = |id: &i32| self.expected.keeps(*id) || self.before.mapped.contains(id);
        // A file that nobody had is nobody's to drop.
        let stays = |id: &i32| needed(id) || !self.expected.touched.contains(id);
        let dropped = self.expected.touched.iter().filter(|id| !needed(id));
        // What several processes had is given up by one after the other.
        for id in dropped.filter(|id| self.in_place(**id) && self.holders(&[**id].into()) == 1) {
            let body = &self.before.files[id];
            let other_end = |(other, file): (&i32, &FileBody)| {
                file.kind == body.kind && file.behind == body.behind && stays(other)
            };
            match body.kind {
                1 => prop_assert!(!self.is_made(objects, *id), "file {} is opened", id),
                3 if !self.before.files.iter().any(other_end) => {
                    prop_assert!(!self.is_made(objects, *id), "fifo {} is opened", id);
                }
                // A socket may come with the one that it is connected to.
                4 if !self.are_sockets_in_place() => {}
                4 if self.before.socks[&body.behind].family == 1 || !self.is_tied(body.behind) => {
                    prop_assert!(!self.is_made(objects, *id), "socket {} is bound", id);
                }
                5 if !self.is_used(body.behind) && self.is_pair_in_place(body.behind) => {
                    let leads =
                        |tty: &i32| *tty == body.behind || self.before.is_pair(*tty, body.behind);
                    let led = self.after.controlling.values().any(leads);
                    let there = self
                        .after
                        .terminals
                        .iter()
                        .any(|(tty, _)| *tty == body.behind);
                    prop_assert!(led || !there, "terminal {} is made", body.behind);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A file is announced where a kernel announces it: in a table that has it.
    /// Elsewhere it may have gone out before anybody could know of it.
    fn in_place(&self, id: i32) -> bool {
        let table = self.before.announced_in.get(&id);
        let table = table.map(|table| &self.before.tables[table]);
        table.is_some_and(|table| table.values().any(|held| held.file == id))
    }

    /// The same of all sockets.
    fn are_sockets_in_place(&self) -> bool {
        let mut files = self.before.files.iter().filter(|(_, file)| file.kind == 4);
        files.all(|(id, _)| self.in_place(*id))
    }

    /// The same of all files on a terminal: its ends come with the first.
    fn is_pair_in_place(&self, end: i32) -> bool {
        let on_it = |(_, file): &(&i32, &FileBody)| {
            file.kind == 5 && (file.behind == end || self.before.is_pair(file.behind, end))
        };
        let mut files = self.before.files.iter().filter(on_it);
        files.all(|(id, _)| self.in_place(*id))
    }

    /// How many processes have one of these files.
    fn holders(&self, files: &BTreeSet<i32>) -> usize {
        let processes = self.before.processes();
        let holds = |(_, table): &&(i32, i32)| {
            let mut numbers = self.before.tables[table].values();
            numbers.any(|held| files.contains(&held.file))
        };
        processes.iter().filter(holds).count()
    }

    /// Where a name is taken for nobody all the same, the user hears of it.
    fn told(&self, objects: &Objects) -> Result {
        for &id in &self.expected.touched {
            let body = &self.before.files[&id];
            let taken = body.kind == 4 && !self.expected.keeps(id) && self.is_made(objects, id);
            if taken && self.in_place(id) && !self.is_tied(body.behind) {
                let told = !self.warnings.is_empty();
                prop_assert!(told, "the name of socket {} is taken silently", body.behind);
            }
        }
        Ok(())
    }

    /// Something kept, or of another process, has to do with a socket: its peer,
    /// who sent it messages, to whom it sent some, and so on.
    fn is_tied(&self, sock: i32) -> bool {
        let socks = &self.before.socks;
        let mut tied = BTreeSet::from([sock]);
        loop {
            let more: Vec<i32> = socks
                .iter()
                .filter(|(id, other)| {
                    !other.dead && !tied.contains(id) && tied.iter().any(|t| ties(socks, **id, *t))
                })
                .map(|(id, _)| *id)
                .collect();
            if more.is_empty() {
                break;
            }
            tied.extend(more);
        }
        self.are_needed(&tied.iter().filter_map(|id| socks[id].file).collect())
    }

    /// A file on either end of a terminal is kept, or of another process.
    fn is_used(&self, tty: i32) -> bool {
        let on_it = |file: &FileBody| {
            file.kind == 5 && (file.behind == tty || self.before.is_pair(file.behind, tty))
        };
        let files = self.before.files.iter().filter(|(_, file)| on_it(file));
        self.are_needed(&files.map(|(id, _)| *id).collect())
    }

    /// One of these files is kept, or they are of several processes, which give
    /// them up one after the other. One that nobody had is nobody's to drop.
    fn are_needed(&self, files: &BTreeSet<i32>) -> bool {
        let kept = |file: &i32| self.expected.keeps(*file) || !self.expected.touched.contains(file);
        self.holders(files) > 1 || files.iter().any(kept)
    }
}

fn ties(socks: &BTreeMap<i32, Sock>, a: i32, b: i32) -> bool {
    let one_way = |a: i32, b: i32| {
        let (of, other) = (&socks[&a], &socks[&b]);
        let connected = of.family == 2
            && (of.family, of.kind, of.state) == (other.family, other.kind, other.state)
            && of.state == 1
            && of.peer_name == other.name;
        of.peer == b || of.senders.contains(&b) || connected
    };
    one_way(a, b) || one_way(b, a)
}

/// A unix socket's records without its name.
fn nameless(view: &View, sock: &Sock) -> Vec<u8> {
    let mut block = sock.block.clone();
    let unix = view.number(&block, 4) as usize + if view.late { 120 } else { 112 };
    let shift = if view.late { 0 } else { 4 };
    for (at, len) in [(20, 4), (24, 4), (32, 110)] {
        block[unix + at + shift..][..len].fill(0);
    }
    block.truncate(unix + 256);
    block
}

/// The records, without those that are compared by what they say.
fn skeleton(view: &View, image: &[u8]) -> Vec<Vec<u8>> {
    let of_files: BTreeSet<usize> = view
        .blocks
        .iter()
        .chain(&view.terminals)
        .flat_map(|(_, of)| of)
        .chain(&view.apart)
        .copied()
        .collect();
    let records = view.records.iter().enumerate();
    records
        .filter(|(index, _)| !of_files.contains(index))
        .map(|(_, &(at, len))| {
            let mut record = image[at..at + len].to_vec();
            match view.number(&record, 0) {
                // The table.
                104 if !view.late => record[8..12].fill(0),
                105 if view.late => record[8..12].fill(0),
                // The controlling terminal.
                602 => record[312..316].fill(0),
                _ => {}
            }
            record
        })
        .collect()
}

/// Each object's records in one piece, but for the contents of pipes, in the
/// order of the image.
fn blocks(view: &View, of: &[(i32, Vec<usize>)], image: &[u8]) -> Vec<(i32, Vec<u8>)> {
    let bytes = |of: &[usize]| {
        of.iter()
            .map(|&index| {
                let (at, len) = view.records[index];
                &image[at..at + len]
            })
            // Contents can come with another end.
            .filter(|record| view.number(record, 0) != 305)
            .flatten()
            .copied()
            .collect()
    };
    of.iter().map(|(id, of)| (*id, bytes(of))).collect()
}
