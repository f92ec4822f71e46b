//! What becomes of a file, by its kind, when advice takes its descriptors.
//!
//! | kind | it | why |
//! |---|---|---|
//! | opened by path, eventfd | is held back | nobody needs it opened again |
//! | fifo | is held back; its contents go to the next fifo of its pipe | its path may be gone |
//! | pipe | stays | its contents must not come later, and it leaves nothing behind |
//! | epoll set | stays | it leaves work for the end of the table, whose order must not change |
//! | listening socket | is held back with its socket | it would take its name or port |
//! | other unix socket | stays | it leaves work, too; without its file it is never freed, and its peer never hears of it |
//! | other internet socket | is refused | it would take its port, and leaves work |
//! | terminal, both ends in the image | is held back, its terminal stays | the other end stays as it is |
//! | terminal, master outside | is held back with its terminal | it would come back dead, and hang up |
//!
//! A file that *stays* is an orphan: the kernel restores it where it stood, nobody takes it, and it is closed when the
//! restart ends, as if the program had closed it: a reader gets what is left and the end of file, an epoll set
//! forgets it. One that is *held back* goes out in front of the first record that refers to it, or never: then it is
//! not restored at all.

use super::Editor;
use crate::advice::Kind;
use crate::linux_cr::layout::{PREFIX, file_type};
use crate::linux_cr::survey::{Socket, Survey};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It goes out when somebody needs it.
    HeldBack,
    /// It goes out where it stood.
    Stays,
    /// It is held back with the terminal that it is on.
    WithItsTerminal,
    /// It cannot be dropped: this is what can be done instead.
    Refused(&'static str),
}

impl Left {
    /// Whether the file does not go out for now.
    pub fn is_held(self) -> bool {
        matches!(self, Left::HeldBack | Left::WithItsTerminal)
    }
}

/// What becomes of a file that no descriptor of a table has any more.
pub fn left(survey: &Survey, id: i32) -> Left {
    let Some(file) = survey.files.get(&id) else {
        return Left::Stays;
    };
    match file.file_type {
        file_type::GENERIC | file_type::EVENTFD | file_type::FIFO => Left::HeldBack,
        file_type::PIPE | file_type::EPOLL => Left::Stays,
        file_type::SOCKET => match survey.sockets.get(&file.behind) {
            Some(socket) if socket.is_listening() && socket.inside == Some(id) => Left::HeldBack,
            Some(socket) if socket.kind == Kind::Unix => Left::Stays,
            _ => Left::Refused(
                "in Linux-CR images, connections of the internet cannot be dropped or replaced so \
                 far: leave it out",
            ),
        },
        file_type::TTY if survey.is_outside(file.behind) => Left::WithItsTerminal,
        file_type::TTY => Left::HeldBack,
        _ => Left::Refused("leave it out"),
    }
}

impl Editor {
    /// Of the files that no descriptor of a table has any more, those that do not go out with it.
    ///
    /// * `here`: the files that are announced in it.
    pub(super) fn hold_back(
        &self,
        gone: &BTreeSet<i32>,
        here: &BTreeSet<i32>,
    ) -> BTreeMap<i32, Left> {
        // The contents of a pipe come no later than they did, if they come: with one fifo of it, all go out.
        let open: BTreeSet<i32> = here
            .difference(gone)
            .filter_map(|file| self.fifo(*file))
            .collect();
        gone.iter()
            .map(|file| (*file, left(&self.survey, *file)))
            .filter(|(_, left)| left.is_held())
            .filter(|(file, _)| self.fifo(*file).is_none_or(|pipe| !open.contains(&pipe)))
            .collect()
    }

    /// Says what a file does to the system although nobody has it: a socket that stays makes its name anew, in place
    /// of whatever bears it.
    pub(super) fn warn_of_name(&mut self, number: i32, file: i32) {
        let socket = self.survey.files.get(&file);
        let socket = socket.filter(|file| file.file_type == file_type::SOCKET);
        let socket = socket.and_then(|file| self.survey.sockets.get(&file.behind));
        if socket.is_some_and(Socket::takes_a_name) {
            self.warnings.push(format!(
                "descriptor {number} is a socket with a name, which the restart makes anew before it is closed: \
                 a file of that name is lost"
            ));
        }
    }

    /// Whether nothing that can still come needs a file that was held back: no other table comes, and it cannot be
    /// mapped.
    pub(super) fn is_needed_no_more(&self, file: i32) -> bool {
        let file = self.survey.files.get(&file);
        let mappable = file.is_none_or(|file| file.file_type == file_type::GENERIC);
        self.survey.is_one_process() && !mappable
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
            self.holds_pipe_data |= contents.len() > PREFIX;
            self.out.extend_from_slice(&contents);
        }
    }
}
