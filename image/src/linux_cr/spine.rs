//! What a task is made of, in the order in which a kernel reads it. Objects that it refers
//! to may stand between.
//!
//! Of a task that has a THREAD record nothing may be missing. One without is no kernel's,
//! and is held to what an editor looks at.

use super::forms::Form;
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
/// Where some of them are.
const CREDS: usize = 4;
const OBJECTS: usize = 6;
const SIGNALS: usize = 8;

/// The records of the task that is read.
#[derive(Default)]
pub struct Spine {
    /// How many of [`ORDER`] are behind.
    behind: usize,
    /// It is a kernel's.
    whole: bool,
}

impl Spine {
    /// Whether the task that is read has all that a kernel's has.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether the task that is read lacks some of that, so that other things may lack parts.
    pub fn is_lean(&self) -> bool {
        self.behind > 1 && !self.whole
    }

    /// A record begins, of that form.
    ///
    /// # Errors
    /// [`Error::Image`] where it is of a task, and out of place.
    pub fn prefix(
        &mut self,
        prefix: Prefix,
        form: &Form,
        version: &'static Version,
    ) -> Result<(), Error> {
        let expected = |place: usize| {
            let why = format!("expected the {} of the task first", ORDER[place]);
            Err(prefix.error(Some(version), why))
        };
        if form.name == ORDER[0] || form.name == "TAIL" {
            match self.behind {
                behind if self.whole && behind < ORDER.len() => return expected(behind),
                2..=OBJECTS => return expected(OBJECTS),
                _ => *self = Spine::default(),
            }
        }
        if !ORDER.contains(&form.name) {
            return Ok(());
        }
        let mut rest = ORDER.iter().skip(self.behind);
        let Some(skipped) = rest.position(|name| *name == form.name) else {
            let why = "of this task it has come, or what follows it has";
            return Err(prefix.error(Some(version), why));
        };
        let place = match self.behind + skipped {
            // Who has no SIGNAL record has one of them, its own.
            SIGNALS if self.behind == OBJECTS + 1 => SIGNALS + 1,
            place => place,
        };
        let of_a_thread = self.behind == OBJECTS + 1 && place == SIGNALS + 1;
        match place {
            _ if self.whole && place != self.behind && !of_a_thread => {
                return expected(self.behind);
            }
            2..CREDS if !self.whole => return expected(1),
            _ if place > OBJECTS && self.behind <= OBJECTS => return expected(OBJECTS),
            _ => {}
        }
        self.whole |= place == 1;
        self.behind = place + 1;
        Ok(())
    }
}
