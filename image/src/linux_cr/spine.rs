//! What a task is made of, in the order in which a kernel reads it. Objects that it refers
//! to may stand between. What is left out of a task is not missed, but for its objects.

use super::forms;
use super::layout::Version;
use super::records::Prefix;
use crate::Error;

/// In their order; SIGPENDING is that of the process, where this is its first thread, and
/// that of the thread.
const ORDER: [&str; 11] = [
    "TASK",
    "THREAD",
    "RESTART_BLOCK",
    "CPU",
    "TASK_CREDS",
    "TASK_NS",
    "TASK_OBJS",
    "SIGNAL",
    "SIGPENDING",
    "SIGPENDING",
    "SIGNAL_TASK",
];
/// Where the objects are in that.
const OBJECTS: usize = 6;

/// The records of the task that is read.
#[derive(Default)]
pub struct Spine {
    /// How many of [`ORDER`] are behind.
    behind: usize,
    /// The objects are due.
    due: bool,
}

impl Spine {
    /// A record begins.
    ///
    /// # Errors
    /// [`Error::Image`] where it is of a task, and out of place.
    pub fn prefix(&mut self, prefix: Prefix, version: &'static Version) -> Result<(), Error> {
        let Some(form) = forms::find(prefix.kind, version) else {
            return Ok(());
        };
        let wrong = |why: String| Err(prefix.error(Some(version), why));
        let place = ORDER.iter().position(|name| *name == form.name);
        let ends = place == Some(0) || form.name == "TAIL";
        if self.due && (ends || place > Some(OBJECTS)) {
            return wrong(format!("expected the {} of the task first", ORDER[OBJECTS]));
        }
        if ends {
            *self = Spine::default();
        }
        let Some(place) = place else {
            return Ok(());
        };
        let mut rest = ORDER[self.behind..].iter();
        match rest.position(|name| *name == form.name) {
            Some(skipped) => self.behind += skipped + 1,
            None => return wrong("of this task it has come, or what follows it has".to_owned()),
        }
        // A task that has ended is nothing but its first record.
        self.due = (1..OBJECTS).contains(&place);
        Ok(())
    }
}
