//! Why nothing was done: one line, where people and daemons look for it.

use crate::invocation::{Invocation, Verb};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;

/// Why nothing was done, and what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    /// * `what`: what was tried.
    /// * `why`: what came of it.
    pub fn new(what: impl Display, why: impl Display) -> Self {
        Refusal(format!("{what}: {why}"))
    }

    /// An option of the runtime that nobody here knows stands before the command.
    pub fn doubtful(option: &str) -> Self {
        Refusal::new(
            option,
            "an option that ckptadv-oci does not know: it may have a value, and then it is not \
             clear what the command is: give it after the command, or call the runtime itself",
        )
    }

    /// Says it on standard error, and in the runtime's log.
    pub fn say(&self, invocation: &Invocation) {
        let what = match invocation.verb {
            Verb::Checkpoint { .. } => "checkpoint refused: ",
            Verb::Restore { .. } => "restore refused: ",
            Verb::Doubtful(_) => "refused: ",
            Verb::Other => "",
        };
        // Annotations may hold what a terminal acts on.
        let line = format!("ckptadv-oci: {what}{}", self.0).replace(char::is_control, "?");
        // Nobody is left to tell where this fails.
        let _ = writeln!(std::io::stderr(), "{line}");
        if let Some(path) = &invocation.log
            && let Ok(mut log) = File::options().append(true).create(true).open(path)
        {
            let entry = match invocation.log_is_json {
                true => serde_json::json!({"level": "error", "msg": line}).to_string(),
                false => format!("level=error msg={}", serde_json::Value::from(line)),
            };
            let _ = writeln!(log, "{entry}");
        }
    }
}
