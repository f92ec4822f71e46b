//! What becomes of a file, by its kind, when advice takes its descriptors.
//!
//! | kind | it | why |
//! |---|---|---|
//! | opened by path, eventfd | is held back (an eventfd: or gone) | nobody needs it opened again |
//! | fifo | is held back; its contents go to the next fifo of its pipe | its path may be gone |
//! | terminal | is held back with its two ends | its number may be taken, or its master outside |
//! | listening socket; one of the internet that is not connected (v20) | is held back with its socket | it would take its name or port |
//! | other socket of the internet | is gone with its socket and queues, if nobody else can have it or its other end | it would take its port |
//! | both ends of a pipe; epoll set | is gone, if nobody else can have it | a filled pipe may not fit through the image pipe; a set would need what it watches |
//! | one end of a pipe | stays | its contents must not come later |
//! | other unix socket | stays, without its name and messages if nobody else can have it | without its file it is never freed, and its peer never hears of it |
//! | anything else that leaves work for the end of the table | stays | the order of that work must not change |
//!
//! A file that *stays* is an orphan: the kernel restores it where it stood, nobody takes it, and it is closed when the
//! restart ends, as if the program had closed it: a reader gets what is left and the end of file, an epoll set
//! forgets it. One that is *held back* goes out in front of the first record that refers to it, or never: then it is
//! not restored at all. One that is *gone* never is.

use super::deferred::Queues;
use super::{Editor, put};
use crate::advice::Kind;
use crate::linux_cr::layout::{Layout, UNIX_LINKED, file_type};
use crate::linux_cr::survey::{Desc, Kept, Name, Planned, Socket, Work};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a unix socket's address that has no name.
const NO_NAME: i32 = 2;

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It goes out when somebody needs it.
    HeldBack,
    /// It goes out where it stood.
    Stays,
    /// It never goes out.
    Gone,
}

impl Editor {
    /// Of the files that no descriptor of a table has any more, those that do not go out with it.
    ///
    /// * `here`: the files that are announced in it.
    pub(super) fn hold_back(
        &self,
        dropped: &BTreeSet<i32>,
        here: &BTreeSet<i32>,
    ) -> BTreeMap<i32, Left> {
        // The contents of a pipe come no later than they did, if they come: with one fifo of it, all go out.
        let open: BTreeSet<i32> = here
            .difference(dropped)
            .filter_map(|file| self.fifo(*file))
            .collect();
        let mut ends: BTreeMap<i32, usize> = BTreeMap::new();
        for file in dropped.iter().filter(|file| self.is_sole(**file, here)) {
            let behind = self.survey.files.get(file).map_or(0, |file| file.behind);
            *ends.entry(behind).or_default() += 1;
        }
        let complete = |file: i32, behind: i32| match self.known_files() {
            Some(known) => here.contains(&file) && !known.needed.contains(&file),
            None => {
                let users = self
                    .survey
                    .users
                    .get(&behind)
                    .map_or(0, |users| users.count);
                ends.get(&behind) == Some(&users)
            }
        };
        dropped
            .iter()
            .map(|file| (*file, self.left(*file, here, &complete)))
            .filter(|(_, left)| *left != Left::Stays)
            .filter(|(file, _)| self.fifo(*file).is_none_or(|pipe| !open.contains(&pipe)))
            .collect()
    }

    /// * `complete`: whether all files are dropped behind which the same is as behind a file.
    fn left(&self, id: i32, here: &BTreeSet<i32>, complete: &dyn Fn(i32, i32) -> bool) -> Left {
        let Some(file) = self.survey.files.get(&id) else {
            return Left::Stays;
        };
        let otherwise = |gone: bool| if gone { Left::Gone } else { Left::Stays };
        match file.file_type {
            file_type::GENERIC | file_type::FIFO | file_type::TTY => Left::HeldBack,
            file_type::EVENTFD if self.is_sole(id, here) => Left::Gone,
            file_type::EVENTFD => Left::HeldBack,
            file_type::PIPE => otherwise(complete(id, file.behind)),
            file_type::EPOLL => otherwise(self.is_sole(id, here)),
            file_type::SOCKET => match self.survey.sockets.get(&file.behind) {
                Some(socket) if socket.inside != Some(id) => Left::Stays,
                Some(socket) if socket.is_listening() || socket.unread => Left::HeldBack,
                Some(socket) if socket.kind == Kind::Inet => {
                    let other = self.survey.other_end(socket);
                    let other = other.is_none_or(|other| complete(id, other));
                    otherwise(complete(id, file.behind) && other)
                }
                _ => Left::Stays,
            },
            _ => Left::Stays,
        }
    }

    /// Whether nobody but this table can have a file that is announced in it.
    ///
    /// * `here`: the files that are.
    fn is_sole(&self, file: i32, here: &BTreeSet<i32>) -> bool {
        here.contains(&file) && self.is_only_here(file)
    }

    fn is_only_here(&self, file: i32) -> bool {
        match self.known_files() {
            Some(known) => !known.needed.contains(&file),
            None => self.survey.is_last_process() && !self.kept.contains(&file),
        }
    }

    /// What advice makes of the whole image, where a pass before this one has planned it.
    pub(super) fn planned(&self) -> Option<&Planned> {
        self.foreknowledge.as_ref()?.planned.as_ref()
    }

    fn known_files(&self) -> Option<&Kept> {
        self.planned().map(|planned| &planned.files)
    }

    /// Whether some descriptor is known to keep a file.
    pub(super) fn is_kept(&self, file: i32) -> bool {
        let known = self.known_files();
        self.kept.contains(&file) || known.is_some_and(|known| known.kept.contains(&file))
    }

    /// What of a table's sockets is not restored: the queues of those that are not, and the name of those that nobody
    /// has but their peers, with what they were still to receive.
    ///
    /// * `held`: files that do not go out.
    pub(super) fn sockets_left(
        &self,
        dropped: &BTreeSet<i32>,
        here: &BTreeSet<i32>,
        held: &BTreeMap<i32, Left>,
    ) -> BTreeMap<i32, Queues> {
        let mut queues = BTreeMap::new();
        for work in &self.survey.work {
            let Work::Queues(id) = *work else {
                continue;
            };
            let Some(socket) = self.survey.sockets.get(&id) else {
                continue;
            };
            // A socket with two files was never written.
            let users = self.survey.users.get(&id);
            let file = users
                .filter(|users| users.count == 1)
                .map(|users| users.first);
            let nobodys = match self.known_files() {
                Some(known) => known.unnamed.contains(&id),
                None => {
                    file.is_some_and(|file| dropped.contains(&file) && self.is_sole(file, here))
                }
            };
            let without_file = file.is_some_and(|file| held.contains_key(&file));
            let announced_here = socket.inside.is_some_and(|file| here.contains(&file));
            if socket.unread || (without_file && socket.kind == Kind::Inet) {
                queues.insert(id, Queues::Gone);
            } else if announced_here && nobodys {
                let named = socket.takes_a_name() || socket.has_lost_its_name();
                queues.extend(named.then_some((id, Queues::Emptied)));
            }
        }
        queues
    }

    /// Says what sockets do to the system although nobody has them, and which ones no kernel can restore.
    ///
    /// * `queues`: what is taken off them.
    pub(super) fn warn_of_sockets(
        &mut self,
        task: i32,
        descs: &[Desc],
        dropped: &BTreeSet<i32>,
        held: &BTreeMap<i32, Left>,
        queues: &BTreeMap<i32, Queues>,
    ) {
        for desc in descs {
            let Some(file) = self.survey.files.get(&desc.file) else {
                continue;
            };
            let socket = self.survey.sockets.get(&file.behind);
            let socket = socket.filter(|_| file.file_type == file_type::SOCKET);
            let known = self.known_files();
            let unnamed = known.is_some_and(|known| known.unnamed.contains(&file.behind));
            let mended = self.mended.contains(&file.behind);
            let silent = unnamed || mended || queues.contains_key(&file.behind);
            let Some(socket) = socket.filter(|_| !silent) else {
                continue;
            };
            let number = desc.number;
            let stays = dropped.contains(&desc.file) && !held.contains_key(&desc.file);
            // In a file it is known whether somebody else needs the socket.
            let remedy = if self.is_told() {
                ""
            } else {
                " (give the image as a file)"
            };
            let warning = if stays && socket.takes_a_name() {
                "is a socket with a name, which the restart makes anew before it is closed: a file of that name is lost"
            } else if stays && socket.kind == Kind::Inet {
                "is a socket of the internet, which the restart makes anew before it is closed: its port is taken meanwhile"
            } else if socket.unread && !held.contains_key(&desc.file) {
                "is a socket of the internet that is not connected: this kernel cannot read what it wrote of it, and \
                 fails with EINVAL (ignore it)"
            } else {
                continue;
            };
            let remedy = if stays { remedy } else { "" };
            self.warnings
                .push(format!("task {task} descriptor {number} {warning}{remedy}"));
        }
    }

    /// Says what a file does to the system which only a watch needs, for all that is known.
    pub(super) fn warn_of_watched(&mut self, number: i32, file: i32) {
        let Some(file) = self.survey.files.get(&file) else {
            return;
        };
        let (what, does) = match file.file_type {
            file_type::EVENTFD => return,
            file_type::SOCKET => ("socket", "its name or port is taken until the restart ends"),
            file_type::TTY => ("terminal", "its number is taken until the restart ends"),
            _ => ("file", "its path is opened, and has to be there"),
        };
        self.warnings.push(format!(
            "descriptor {number} was a {what} which an epoll set watches, and a task that comes later may have both: \
             {does} (give the image as a file)"
        ));
    }

    /// Whether nothing that can still come needs a file that was held back: no other table comes, and it cannot be
    /// mapped.
    pub(super) fn is_needed_no_more(&self, file: i32) -> bool {
        let known = self.survey.files.get(&file);
        let mappable = known.is_none_or(|file| file.file_type == file_type::GENERIC);
        !mappable && self.is_only_here(file)
    }

    /// The pipe of a file that is a fifo.
    pub(super) fn fifo(&self, file: i32) -> Option<i32> {
        let file = self.survey.files.get(&file)?;
        (file.file_type == file_type::FIFO).then_some(file.behind)
    }

    /// A fifo has gone out up to its name: if the one that came with the contents of its pipe was held back, they are
    /// due.
    pub(super) fn release_contents(&mut self, file: i32) {
        let Some(pipe) = self.fifo(file) else {
            return;
        };
        if let Some(contents) = self.contents.remove(&pipe) {
            self.out.extend_from_slice(&contents);
        }
    }
}

/// Takes the name of a unix socket off its record.
///
/// A path stays, as one that is lost: the kernel makes a file of one only that is not.
pub fn unname(record: &mut [u8], socket: &Socket, layout: &Layout) {
    let (order, version) = (layout.order, layout.version);
    match socket.name {
        Name::Abstract => put(order, record, version.unix_name_len, NO_NAME),
        _ => {
            let at = version.unix_flags;
            let flags = record.get(at..).and_then(|rest| rest.first_chunk());
            let flags = flags.map_or(0, |bytes| order.u32(*bytes)) & !UNIX_LINKED;
            put(order, record, at, flags.cast_signed());
        }
    }
}
