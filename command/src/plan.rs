//! `ckptadv plan`: what advice would do at the restart, and why.

use crate::advice::{Options, REFUSED};
use crate::table::{Row, Style, Table, printable};
use crate::{image, standard};
use ckpt_image::listing::Engine;
use ckpt_image::plan::{Change, Fate, Origin};
use ckpt_image::report::{Outcome, Report};
use ckpt_restart::request::{self, Naming};
use ckpt_restart::stream::{self, Until};
use ckpt_restart::{Error, directory, report};
use std::fs::File;
use std::io::{self, Write};
use std::iter::once;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

/// Shows on standard output what advice would do to an image.
///
/// # Errors
/// What is wrong with the command line, or with reading the image.
pub fn plan(options: &Options, json: bool, path: &Path) -> Result<ExitCode, Error> {
    let (engine, planned) = match path.is_dir() {
        true => (Engine::Criu, criu(options, json, path)),
        false => (Engine::LinuxCr, linux_cr(options, json, path)),
    };
    let Err(refusal) = planned else {
        return Ok(ExitCode::SUCCESS);
    };
    if !matches!(refusal, Error::Advice(_)) {
        return Err(refusal);
    }
    if json {
        show(
            true,
            &Report {
                failure: Some(report::failure(&refusal)),
                ..Report::new(engine, Outcome::Refused)
            },
        )?;
    }
    ckpt_restart::log::refused(&refusal);
    Ok(ExitCode::from(REFUSED))
}

fn criu(options: &Options, json: bool, path: &Path) -> Result<(), Error> {
    let (_, rewrite) = directory::planned(&options.advice()?, path)?;
    show(json, &rewrite.report(Outcome::Planned))
}

fn linux_cr(options: &Options, json: bool, path: &Path) -> Result<(), Error> {
    let input = image::open(path)?;
    let mut request = options.request(&input, Naming::Inherited)?;
    let rewriter = match request::regular_at(input.as_fd()) {
        Some(start) => request.check(input.as_fd(), start)?,
        None => {
            let mut rewriter = request.rewriter(false)?;
            let nowhere = File::options().write(true).open("/dev/null");
            let nowhere = nowhere.map_err(|e| Error::system("/dev/null", e))?;
            stream::copy(&input, &nowhere, &mut rewriter, Until::EndOfInput)?;
            rewriter
        }
    };
    show(json, &rewriter.report(Outcome::Planned))
}

fn show(json: bool, planned: &Report<'_>) -> Result<(), Error> {
    standard::show(json, planned, |out| write(planned, out))
}

fn write(planned: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", planned.format.as_deref().unwrap_or_default())?;
    if planned.changes.is_empty() {
        writeln!(out, "Every descriptor comes back as it was.")?;
    } else {
        writeln!(out)?;
        Table::write(out, || {
            let head = Row::heading(&["DESCRIPTOR", "BECOMES", "ADVICE"], "FILE");
            once(head).chain(planned.changes.iter().map(row))
        })?;
    }
    for (what, lines) in [
        ("unmatched", planned.unmatched),
        ("warning", planned.warnings),
    ] {
        for (index, line) in lines.iter().enumerate() {
            if index == 0 {
                writeln!(out)?;
            }
            writeln!(out, "{what}: {}", printable(line))?;
        }
    }
    Ok(())
}

fn row(change: &Change) -> Row {
    let (becomes, style) = match (change.fate, &change.was) {
        (Fate::Keep, _) => ("kept", Style::Plain),
        (Fate::Drop, _) => ("dropped", Style::Removed),
        (Fate::Give(_), Some(_)) => ("replaced", Style::Changed),
        (Fate::Give(_), None) => ("added", Style::Added),
    };
    let gives = match (change.fate, &change.gives) {
        (Fate::Give(Origin::Descriptor(from)), Some(gives)) => {
            Some(format!("the caller's {from}: {gives}"))
        }
        (Fate::Give(Origin::Descriptor(from)), None) => Some(format!("the caller's {from}")),
        (Fate::Give(Origin::Path(_)), gives) => gives.clone(),
        _ => None,
    };
    let (name, note) = match (&change.was, gives) {
        (Some(was), Some(gives)) => (was.to_string(), Some(format!("by {gives}"))),
        (Some(was), None) => (was.to_string(), None),
        (None, Some(gives)) => (gives, None),
        (None, None) => (String::new(), None),
    };
    Row {
        cells: vec![
            format!("{}:{}", change.task, change.number),
            becomes.to_owned(),
            printable(&change.item),
        ],
        name: printable(&name),
        notes: note.iter().map(|note| printable(note)).collect(),
        style,
    }
}
