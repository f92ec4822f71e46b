//! `ckptadv diff`: what tells the descriptors of two images apart.

use crate::table::{Row, Style, Table, printable};
use crate::{image, standard};
use ckpt_image::difference::{Change, Descriptor, Difference, Field, Side, difference};
use ckpt_restart::Error;
use std::io::{self, Write};
use std::iter::once;
use std::path::Path;
use std::process::ExitCode;

/// As diff(1): the images differ; something went wrong.
const DIFFERENT: u8 = 1;
/// Of every failure.
pub const TROUBLE: u8 = 2;

/// Shows on standard output what differs; nothing where nothing does.
///
/// # Errors
/// What is wrong with an image, or with reading it.
pub fn diff(paths: [&Path; 2], json: bool) -> Result<ExitCode, Error> {
    let [a, b] = paths.map(image::listing);
    let (a, b) = (a?, b?);
    let found = difference([&a, &b]);
    standard::show(json, &found, |out| write(paths, &found, out))?;
    Ok(match found.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENT),
    })
}

fn write(paths: [&Path; 2], found: &Difference<'_>, out: &mut dyn Write) -> io::Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    for (mark, (path, image)) in ["---", "+++"].iter().zip(paths.iter().zip(found.images)) {
        let path = printable(&path.to_string_lossy());
        writeln!(out, "{mark} {path} ({})", image.format)?;
    }
    let head = || once(Row::heading(&["TASK", "CHANGE"], "COMMAND"));
    let tasks = || {
        found.tasks.iter().map(|task| Row {
            cells: vec![task.pid.to_string(), task.change.name().to_owned()],
            name: printable(task.command),
            style: style(task.change),
            ..Row::default()
        })
    };
    if !found.tasks.is_empty() {
        writeln!(out)?;
        Table::write(out, || head().chain(tasks()))?;
    }
    let head = || once(Row::heading(&["DESCRIPTOR", "CHANGE"], "FILE"));
    if !found.descriptors.is_empty() {
        writeln!(out)?;
        Table::write(out, || head().chain(found.descriptors.iter().map(row)))?;
    }
    Ok(())
}

fn style(change: Change) -> Style {
    match change {
        Change::Added => Style::Added,
        Change::Removed => Style::Removed,
        Change::Changed => Style::Changed,
    }
}

fn row(it: &Descriptor<'_>) -> Row {
    let [before, after] = &it.sides;
    let change = it.change();
    let mut notes = Vec::new();
    if let (Some(before), Some(after)) = (before, after) {
        let renamed = it
            .fields
            .iter()
            .any(|f| matches!(f, Field::Kind | Field::Name));
        notes.extend(renamed.then(|| format!("was {}", file(before))));
        notes.extend(
            it.fields
                .iter()
                .filter_map(|&field| note(field, before, after)),
        );
    }
    Row {
        cells: vec![
            format!("{}:{}", it.task, it.number),
            change.name().to_owned(),
        ],
        name: after
            .as_ref()
            .or(before.as_ref())
            .map(file)
            .unwrap_or_default(),
        notes: notes.iter().map(|note| printable(note)).collect(),
        style: style(change),
    }
}

fn file(side: &Side<'_>) -> String {
    let it = side.description;
    let text = format!("{} {}", it.kind, it.name);
    printable(text.trim_end())
}

fn note(field: Field, before: &Side<'_>, after: &Side<'_>) -> Option<String> {
    let what = match field {
        Field::Kind | Field::Name => return None,
        Field::CloseOnExec => {
            return Some(match after.close_on_exec {
                true => "close-on-exec now".to_owned(),
                false => "no longer close-on-exec".to_owned(),
            });
        }
        Field::Sharing => return Some("shared with other descriptors than before".to_owned()),
        Field::Flags => "flags",
        Field::Offset => "offset",
        Field::State => "state",
        Field::Remote => "connected to",
        Field::OtherEnd => "other end",
        Field::Queued => "bytes queued",
        Field::Count => "count",
        Field::Watches => "watches",
    };
    Some(format!(
        "{what} {} -> {}",
        before.text(field),
        after.text(field)
    ))
}
