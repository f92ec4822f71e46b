//! `ckptadv check`: what works on this machine, and what a restore would fail on, or
//! lose.

mod advised;
mod finding;
mod here;
mod judge;
mod machine;
mod probe;
mod restore;
mod selector;

use crate::advice::{Options, REFUSED};
use crate::standard;
use crate::table::{printable, room, wrap};
use ckpt_image::listing::Engine;
use ckpt_restart::{Error, report};
use finding::{Finding, Findings, Verdict};
use here::Here;
use machine::Machine;
use restore::Restore;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Something was found.
const FOUND: u8 = 3;

/// Judges an image.
///
/// * `criu`: the options that criu restore will have.
///
/// # Errors
/// What is wrong with the command line, or with reading the image.
pub fn image(
    options: &Options,
    json: bool,
    path: &Path,
    criu: &[OsString],
) -> Result<ExitCode, Error> {
    let (engine, advised) = match path.is_dir() {
        true => (Engine::Criu, advised::criu(options, path)),
        false => (Engine::LinuxCr, advised::linux_cr(options, path)),
    };
    let advised = match advised {
        Ok(advised) => advised,
        Err(refusal @ Error::Advice(_)) => {
            if json {
                let failure = Some(report::failure(&refusal));
                print(true, &Findings::none(engine, failure))?;
            }
            ckpt_restart::log::refused(&refusal);
            return Ok(ExitCode::from(REFUSED));
        }
        Err(error) => return Err(error),
    };
    let restore = Restore::of(criu);
    let machine = Machine::new(restore.root.as_deref());
    let given = |description: &_| advised.is_given(description);
    let (listing, needs) = (&advised.listing, &advised.needs);
    let mut findings = judge::judge(listing, needs, &machine, &restore, given);
    findings.extend(advised.unrestorable.clone().map(Finding::of_image));
    let status = match findings.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FOUND),
    };
    for warning in &advised.warnings {
        ckpt_restart::warn!("{}", printable(warning));
    }
    let found = Findings {
        format: Some(listing.format.clone()),
        findings,
        unjudged: judge::unjudged(needs, &restore),
        ..Findings::none(engine, None)
    };
    print(json, &found)?;
    Ok(status)
}

/// Judges the machine.
///
/// # Errors
/// Standard output cannot be written.
pub fn machine(json: bool) -> Result<ExitCode, Error> {
    let here = Here::look();
    standard::show(json, &here, |out| tell(&here, room(), out))?;
    Ok(match here.is_ready() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FOUND),
    })
}

fn tell(here: &Here, room: usize, out: &mut dyn Write) -> io::Result<()> {
    const INDENT: usize = 16;
    for item in &here.0 {
        let lines = wrap(&item.text, room.saturating_sub(INDENT));
        for (index, line) in lines.iter().enumerate() {
            match index {
                0 => writeln!(out, "{:<2}  {:<10}  {line}", item.state.name(), item.name)?,
                _ => writeln!(out, "{:INDENT$}{line}", "")?,
            }
        }
        if let Some(remedy) = &item.remedy {
            for line in wrap(remedy, room.saturating_sub(INDENT)) {
                writeln!(out, "{:INDENT$}{line}", "")?;
            }
        }
    }
    writeln!(out)?;
    // They are pasted: nothing cuts them.
    for (index, line) in here.next().iter().enumerate() {
        let word = if index == 0 { "next:" } else { "then:" };
        writeln!(out, "{word} {line}")?;
    }
    Ok(())
}

fn print(json: bool, found: &Findings) -> Result<(), Error> {
    standard::show(json, found, |out| write(found, room(), out))
}

fn write(found: &Findings, room: usize, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", found.format.as_deref().unwrap_or_default())?;
    for finding in &found.findings {
        writeln!(out)?;
        for (index, line) in wrap(&finding.to_string(), room.saturating_sub(4))
            .iter()
            .enumerate()
        {
            let indent = if index == 0 { "" } else { "    " };
            writeln!(out, "{indent}{line}")?;
        }
        for (index, cure) in finding.cures.iter().enumerate() {
            let word = if index == 0 { "cure:" } else { "or:" };
            // It is pasted: nothing cuts it.
            writeln!(out, "    {word:<5} {}", printable(&cure.to_string()))?;
        }
    }
    writeln!(out)?;
    for line in &found.unjudged {
        writeln!(out, "not judged: {line}")?;
    }
    let count = |verdict| {
        found
            .findings
            .iter()
            .filter(|it| it.verdict == verdict)
            .count()
    };
    let counts = [Verdict::Fails, Verdict::MayFail, Verdict::Lost]
        .map(|verdict| (count(verdict), verdict.name().replace("fails", "fail")));
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    match counts.is_empty() {
        true => writeln!(out, "Nothing is seen that a restore here would fail on."),
        false => writeln!(out, "In all: {}.", counts.join(", ")),
    }
}
