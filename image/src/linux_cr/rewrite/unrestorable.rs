//! What a kernel writes of a file and does not restore: no damage, but the restart would
//! fail when tasks are there.

use super::Editor;
use super::table::of_task;
use crate::Error;
use crate::linux_cr::delivery::PIPE;
use crate::linux_cr::layout::{FMODE_LSEEK, FMODE_READ, FMODE_WRITE, file_type};
use crate::linux_cr::records::Record;
use crate::linux_cr::survey::{File, Socket};

impl Editor {
    /// Refuses a file that goes out and is not restored.
    ///
    /// * `who`: has it.
    pub(super) fn refuse_unrestorable(
        &self,
        file: i32,
        who: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let Some(file) = self.survey.files.get(&file) else {
            return Ok(());
        };
        match self.too_full(file).or_else(|| not_as_it_was(file)) {
            Some((what, why)) => Err(Error::unsupported(format!("{}: {what}", who()), why)),
            None => Ok(()),
        }
    }

    /// Refuses a message that goes out for a socket whose path was removed: a kernel sends it
    /// there again.
    pub(super) fn refuse_unreceivable(&self, record: &Record<'_>) -> Result<(), Error> {
        let survey = &self.survey;
        let id = record.i32(48)?;
        let lost = survey.sockets.get(&id).map(Socket::has_lost_its_name);
        // A pass that only plans does not know yet what nobody receives.
        let is_known = !self.only_plans() || survey.is_last_process();
        if lost != Some(true) || !is_known {
            return Ok(());
        }
        let file = survey.users.get(&id).map_or(0, |users| users.first);
        let holder = survey.tables.values().find_map(|table| {
            let mut descriptors = table.descriptors.iter();
            let desc = descriptors.find(|desc| desc.file == file)?;
            Some(of_task(table.owner, desc))
        });
        let whose = holder.unwrap_or_else(|| format!("image: object {id}"));
        let all = match self.is_told() {
            true => "",
            false => "give the image as a file and ",
        };
        Err(Error::unsupported(
            format!("{whose}: a unix socket whose path was removed, with messages in it"),
            format!(
                "a Linux-CR kernel sends them to that path again, and fails: {all}ignore every \
                 descriptor of it, or receive them before the checkpoint"
            ),
        ))
    }

    /// A pipe that has more in it than a new one holds.
    fn too_full(&self, file: &File) -> Option<(String, String)> {
        let pipe = match file.file_type {
            file_type::PIPE => "pipe",
            file_type::FIFO => "fifo",
            _ => return None,
        };
        let bytes = *self.survey.queued.get(&file.behind)?;
        // Whoever else has it may still come.
        let all = match self.is_told() {
            true => "",
            false => "give the image as a file and ",
        };
        (bytes > PIPE).then(|| {
            (
                format!("a {pipe} with {bytes} bytes in it"),
                format!(
                    "a new pipe holds {PIPE}, and the kernel would not restart it: {all}ignore \
                     both ends of it, or read from it before the checkpoint"
                ),
            )
        })
    }
}

/// What it is, and why no kernel makes it again.
fn not_as_it_was(file: &File) -> Option<(String, String)> {
    let moved = file.mode & FMODE_LSEEK != 0;
    Some(match file.file_type {
        // The kernel keeps the result of the seek in an int, takes such a one for an error
        // code and crashes.
        _ if moved && (0x8000_0000..=0xffff_f000).contains(&(file.position as u32)) => (
            format!("offset {:#x}", file.position),
            format!(
                "a Linux-CR kernel would crash on it (bit 31 is set): {}",
                remedy(file)
            ),
        ),
        _ if moved && file.position.cast_signed() < 0 => (
            format!("offset {}", file.position.cast_signed()),
            format!("no kernel moves a file there: {}", remedy(file)),
        ),
        file_type::TTY if file.mode & (FMODE_READ | FMODE_WRITE) == FMODE_WRITE => (
            "a terminal that is open for writing only".to_owned(),
            "a Linux-CR kernel opens it for both, and fails: ignore the descriptor, or give \
             another terminal in its place"
                .to_owned(),
        ),
        file_type::PIPE if !matches!(file.mode, FMODE_READ | FMODE_WRITE) => (
            "a pipe that was opened by a path in /proc".to_owned(),
            "a Linux-CR kernel cannot open it so again, and fails: ignore both ends of it"
                .to_owned(),
        ),
        _ => return None,
    })
}

/// What to do about an offset.
fn remedy(file: &File) -> &'static str {
    match file.references {
        None => "ignore the descriptor",
        Some(_) => "move it before the checkpoint",
    }
}
