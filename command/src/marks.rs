//! `ckptadv show`: what a running program advises of its own descriptors.

use crate::standard;
use crate::table::{Row, Style, Table, printable};
use ckpt_image::json::{Array, Json, Lines, Object};
use ckpt_image::marks::{IGNORE, Mark, PRESERVE, State};
use ckpt_restart::{Error, marks};
use std::fmt;
use std::io::{self, Write};
use std::iter::once;

/// The version of what [`Shown`] is as JSON. A field that goes or changes its meaning
/// makes it a higher one, a field that comes does not.
const SCHEMA: u32 = 1;

/// A mark, and the file that its number has now.
struct Line {
    mark: Mark,
    file: Option<String>,
}

struct Shown {
    pid: i32,
    lines: Vec<Line>,
}

/// Shows the marks of a process on standard output.
///
/// # Errors
/// There is no such process, or who asks may not look into it.
pub fn show(pid: i32, json: bool) -> Result<(), Error> {
    let marks = marks::of(pid).map_err(|error| Error::system(format!("task {pid}"), error))?;
    let line = |mark: Mark| Line {
        mark,
        file: std::fs::read_link(format!("/proc/{pid}/fd/{}", mark.number))
            .ok()
            .map(|path| path.to_string_lossy().into_owned()),
    };
    let shown = Shown {
        pid,
        lines: marks.into_iter().map(line).collect(),
    };
    standard::show(json, &shown, |out| write(&shown, out))
}

fn write(shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
    if shown.lines.is_empty() {
        return writeln!(out, "No descriptor of task {} is marked.", shown.pid);
    }
    Table::write(out, || {
        let head = Row::heading(&["DESCRIPTOR", "ADVICE", "STATE"], "FILE");
        once(head).chain(shown.lines.iter().map(row))
    })
}

fn row(line: &Line) -> Row {
    Row {
        cells: vec![
            line.mark.number.to_string(),
            line.mark.to_string(),
            line.mark.state.name().to_owned(),
        ],
        name: printable(line.file.as_deref().unwrap_or("-")),
        notes: match line.mark.state {
            State::Stale => vec!["another file than was marked".to_owned()],
            State::NumberOnly => vec!["for what it restarts".to_owned()],
            State::InForce | State::Closed => Vec::new(),
        },
        style: Style::Plain,
    }
}

impl Json for Shown {
    fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("pid", &self.pid)?
            .field("marks", &Lines(self.lines.iter()))?
            .end()
    }
}

impl Json for Line {
    fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let advice = [("preserve", PRESERVE), ("ignore", IGNORE)];
        let advice = advice
            .iter()
            .filter(|(_, bit)| self.mark.advice() & bit != 0)
            .map(|&(name, _)| name);
        Object::new(out)
            .field("number", &self.mark.number)?
            .field("advice", &Array(advice))?
            .field("state", self.mark.state.name())?
            .field("file", &self.file)?
            .end()
    }
}
