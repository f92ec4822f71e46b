//! What advice made of an image, or would: the same for a plan and for a restart
//! that is over.

use crate::json::{Json, Lines, Object};
use crate::listing::Engine;
use crate::plan::{Change, Fate, Origin};
use std::fmt::{self, Write};

/// The version of what [`Report`] is as JSON. A field that goes or changes its
/// meaning makes it a higher one, a field that comes does not.
pub const SCHEMA: u32 = 1;

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be restarted: this is what would be done.
    Planned,
    /// The engine has been told; whether it succeeded is not known yet.
    Restarting,
    /// The program was restarted.
    Restarted,
    /// The program was dumped.
    Dumped,
    /// Advice or image were refused.
    Refused,
    /// The engine gave up for reasons of its own.
    Failed,
}

impl Outcome {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Planned => "planned",
            Outcome::Restarting => "restarting",
            Outcome::Restarted => "restarted",
            Outcome::Dumped => "dumped",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

/// Why nothing was restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The errno of it, where there is one.
    pub errno: Option<i32>,
    /// As it was said, in one line.
    pub message: String,
}

/// What advice made of an image.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Who restarts it.
    pub engine: Engine,
    /// The format of the image, where it was seen.
    pub format: Option<String>,
    /// How far it came.
    pub outcome: Outcome,
    /// Why it came no further.
    pub failure: Option<Failure>,
    /// What was changed.
    pub changes: &'a [Change],
    /// The items that selected nothing, each with what the image has instead.
    pub unmatched: &'a [String],
    /// What else may not be as meant.
    pub warnings: &'a [String],
    /// What a restore waited for the library, in microseconds, where that was measured.
    pub microseconds: Option<u64>,
}

impl Report<'_> {
    /// One of a restart of which no more is known.
    pub fn new(engine: Engine, outcome: Outcome) -> Self {
        Report {
            engine,
            format: None,
            outcome,
            failure: None,
            changes: &[],
            unmatched: &[],
            warnings: &[],
            microseconds: None,
        }
    }
}

impl Json for Report<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("engine", self.engine.name())?
            .field("format", &self.format)?
            .field("outcome", self.outcome.name())?
            .field("error", &self.failure)?
            .field("changes", &Lines(self.changes.iter()))?
            .field("unmatched", &Lines(self.unmatched.iter()))?
            .field("warnings", &Lines(self.warnings.iter()))?
            .field("microseconds", &self.microseconds)?
            .end()
    }
}

impl Json for Failure {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("errno", &self.errno)?
            .field("message", &self.message)?
            .end()
    }
}

impl Json for Change {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let (fate, from) = match (self.fate, &self.was) {
            (Fate::Keep, _) => ("kept", None),
            (Fate::Drop, _) => ("dropped", None),
            (Fate::Give(from), Some(_)) => ("replaced", Some(from)),
            (Fate::Give(from), None) => ("added", Some(from)),
        };
        let from = match from {
            Some(Origin::Descriptor(number)) => Some(number),
            _ => None,
        };
        Object::new(out)
            .field("task", &self.task)?
            .field("number", &self.number)?
            .field("was", &self.was.as_deref())?
            .field("fate", fate)?
            .field("from", &from)?
            .field("gives", &self.gives)?
            .field("item", &&*self.item)?
            .end()
    }
}
