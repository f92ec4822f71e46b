//! `ckptadv inspect`: what an image holds.

mod dot;

use crate::table::{Row, Table, printable};
use crate::{image, standard};
use ckpt_image::advice::Kind;
use ckpt_image::listing::{Description, Listing, Reference, Task, access, status_flags};
use ckpt_restart::Error;
use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::iter::once;
use std::path::Path;

/// Of the things in one note, the rest is only counted.
const MOST: usize = 8;

/// How to show it.
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For dot(1).
    Dot,
}

/// Shows an image on standard output.
///
/// # Errors
/// What is wrong with the image, or with reading it.
pub fn inspect(path: &Path, form: Form) -> Result<(), Error> {
    let listing = image::listing(path)?;
    match form {
        Form::Json => standard::json(&listing),
        Form::Dot => standard::text(|out| dot::draw(&listing, out)),
        Form::Text => standard::text(|out| write(&listing, out)),
    }
}

fn write(listing: &Listing, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", listing.format)?;
    if !listing.advisable {
        writeln!(
            out,
            "Such images are shown, but advice for them is refused."
        )?;
    }
    let tables = listing.tables.iter();
    let first_tasks: HashMap<u64, i32> = tables
        .filter_map(|table| Some((table.id, *table.tasks.first()?)))
        .collect();
    writeln!(out)?;
    Table::write(out, || {
        let rows = listing.tasks.iter();
        let rows = rows.map(|task| task_row(&first_tasks, task));
        once(Row::heading(&["TASK", "PARENT"], "COMMAND")).chain(rows)
    })?;
    writeln!(out)?;
    Table::write(out, || {
        let head = Row::heading(&["ID", "KIND", "FLAGS", "OFFSET", "DESCRIPTORS"], "FILE");
        let rows = listing.descriptions.iter();
        once(head).chain(rows.map(|it| description_row(listing, it)))
    })
}

/// * `first_tasks`: the first task of each file table.
fn task_row(first_tasks: &HashMap<u64, i32>, task: &Task) -> Row {
    let thread = task.pid != task.process;
    let first = |id| {
        first_tasks
            .get(&id)
            .copied()
            .filter(|&first| first != task.pid)
    };
    let note = match task.table.and_then(first) {
        _ if thread => Some(format!("thread of {}", task.process)),
        Some(first) => Some(format!("shares the file table of {first}")),
        None if task.table.is_none() => Some("zombie".to_owned()),
        None => None,
    };
    Row {
        cells: vec![task.pid.to_string(), task.parent.to_string()],
        name: printable(&task.command),
        notes: note.into_iter().collect(),
        ..Row::default()
    }
}

fn description_row(listing: &Listing, it: &Description) -> Row {
    let flags: Vec<&str> = once(access(it.flags))
        .chain(status_flags(it.flags))
        .collect();
    let position = it.position.map(|position| position.to_string());
    let descriptors = descriptors(listing, it);
    Row {
        cells: vec![
            it.id.to_string(),
            it.kind.to_string(),
            flags.join(","),
            position.unwrap_or_else(|| "-".to_owned()),
            if descriptors.is_empty() {
                "-".to_owned()
            } else {
                descriptors
            },
        ],
        name: printable(&it.name),
        notes: notes(it),
        ..Row::default()
    }
}

/// "12:0-2 13:7": as items of advice name them.
pub fn descriptors(listing: &Listing, it: &Description) -> String {
    let runs = runs(listing.descriptors(it));
    let texts = runs.iter().map(|(task, run)| format!("{task}:{run}"));
    texts.collect::<Vec<_>>().join(" ")
}

/// The numbers of each task, those that follow each other as "0-2".
fn runs(all: impl Iterator<Item = (i32, i32)>) -> Vec<(i32, String)> {
    let mut all: Vec<(i32, i32)> = all.collect();
    all.sort_unstable();
    let mut runs: Vec<(i32, i32, i32)> = Vec::new();
    for (task, number) in all {
        match runs.last_mut() {
            Some((of, _, to)) if *of == task && to.checked_add(1) == Some(number) => *to = number,
            _ => runs.push((task, number, number)),
        }
    }
    let texts = runs.into_iter().map(|(task, from, to)| match from == to {
        true => (task, from.to_string()),
        false => (task, format!("{from}-{to}")),
    });
    texts.collect()
}

fn notes(it: &Description) -> Vec<String> {
    let mut notes = Vec::new();
    match (it.state, &it.remote) {
        (_, Some(remote)) => notes.push(format!("connected to {remote}")),
        (Some(state), None) if it.other_ends.is_none() => notes.push(state.to_owned()),
        _ => {}
    }
    let alone = it.other_ends.is_some() && it.other_count() == 0;
    if let Some(others) = it.others().filter(|_| !alone) {
        notes.push(match it.other_count() {
            1 => some("other end", others, 1),
            count => some("other ends", others, count),
        });
    } else if alone {
        notes.extend(match (it.kind, it.name.as_str()) {
            (Kind::Tty, "/dev/ptmx") => Some("no slave open".to_owned()),
            (Kind::Tty, _) => Some("master not in the image".to_owned()),
            (Kind::Inet, _) => Some("other end not in the image".to_owned()),
            // It is both.
            (Kind::Fifo, _) if access(it.flags) == "rw" => None,
            _ => Some("other end closed".to_owned()),
        });
    }
    match it.queued {
        // Who reads says so.
        None | Some(0) => {}
        Some(_) if !alone && access(it.flags) == "w" => {}
        Some(1) => notes.push("1 byte queued".to_owned()),
        Some(bytes) => notes.push(format!("{bytes} bytes queued")),
    }
    notes.extend(it.count.map(|count| format!("count {count}")));
    if !it.watches.is_empty() {
        let watched = it.watches.iter().map(|(_, id)| id);
        notes.push(some("watches", watched, it.watches.len()));
    }
    notes.extend(references(&it.references));
    notes
}

/// One note for all that refer in the same way.
pub fn references(references: &[Reference]) -> Vec<String> {
    let parts = |reference: &Reference| {
        let text = reference.to_string();
        match text.rsplit_once(' ') {
            Some((how, who)) => (how.to_owned(), who.to_owned()),
            None => (text, String::new()),
        }
    };
    let mut grouped: Vec<(String, Vec<String>)> = Vec::new();
    for (how, who) in references.iter().map(parts) {
        match grouped.iter_mut().find(|(other, _)| *other == how) {
            Some((_, whose)) => whose.push(who),
            None => grouped.push((how, vec![who])),
        }
    }
    // An executable is mapped.
    let (mapped, executed) = (grouped.iter(), grouped.iter());
    let mut mapped = mapped
        .filter(|(how, _)| how == "mapped by")
        .map(|(_, who)| who);
    let mut executed = executed.filter(|(how, _)| how == "executable of");
    let known = mapped
        .next()
        .is_some_and(|tasks| executed.any(|(_, who)| who == tasks));
    let shown = grouped
        .iter()
        .filter(|(how, _)| !known || how != "mapped by");
    shown
        .map(|(how, who)| some(how, who.iter(), who.len()))
        .collect()
}

/// "watched by 7, 8, ... and 40 more".
fn some(what: &str, which: impl Iterator<Item: Display>, count: usize) -> String {
    let first: Vec<String> = which.take(MOST).map(|it| it.to_string()).collect();
    let more = match count.saturating_sub(MOST) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("{what} {}{more}", first.join(", "))
}
