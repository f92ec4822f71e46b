//! The same as a picture, for dot(1): tasks, their file tables, what those lead to, and
//! what belongs together.

use super::runs;
use crate::table::printable;
use ckpt_image::listing::{Description, Listing, Reference, flags};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Of the ends of one thing, so many are drawn.
const ENDS: usize = 16;

/// Writes an image as a graph.
pub fn draw(listing: &Listing, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "digraph image {{")?;
    writeln!(out, "  label={};", quoted(&listing.format))?;
    writeln!(out, "  rankdir=LR;")?;
    writeln!(out, "  node [fontname=\"monospace\"];")?;
    for task in &listing.tasks {
        let label = format!("{} {}", task.pid, task.command);
        writeln!(
            out,
            "  task{} [shape=box, label={}];",
            task.pid,
            quoted(&label)
        )?;
        match task.table {
            Some(table) if task.pid == task.process => {
                writeln!(out, "  task{} -> table{table};", task.pid)?;
            }
            _ if task.pid != task.process => {
                let thread = "style=dotted, label=\"thread\"";
                writeln!(
                    out,
                    "  task{} -> task{} [{thread}];",
                    task.process, task.pid
                )?;
            }
            _ => {}
        }
    }
    for table in &listing.tables {
        writeln!(
            out,
            "  table{} [shape=cylinder, label=\"file table\"];",
            table.id
        )?;
        let mut numbers: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
        for descriptor in &table.descriptors {
            numbers
                .entry(descriptor.description)
                .or_default()
                .push(descriptor.number);
        }
        for (file, numbers) in numbers {
            let runs = runs(numbers.into_iter().map(|number| (0, number)));
            let runs: Vec<String> = runs.iter().map(|(_, run)| run.clone()).collect();
            let label = quoted(&runs.join(","));
            writeln!(out, "  table{} -> file{file} [label={label}];", table.id)?;
        }
    }
    for it in &listing.descriptions {
        description(out, it)?;
    }
    writeln!(out, "}}")
}

fn description(out: &mut dyn Write, it: &Description) -> io::Result<()> {
    let label = format!("id={} {} {}\n{}", it.id, it.kind, flags(it.flags), it.name);
    writeln!(out, "  file{} [label={}];", it.id, quoted(&label))?;
    // Each pair once.
    let ends = it.others().into_iter().flatten().filter(|&end| end > it.id);
    for end in ends.take(ENDS) {
        writeln!(out, "  file{} -> file{end} [dir=none, style=bold];", it.id)?;
    }
    for (number, watched) in &it.watches {
        writeln!(
            out,
            "  file{} -> file{watched} [style=dashed, label=\"watches {number}\"];",
            it.id
        )?;
    }
    let here = format!("file{}", it.id);
    for reference in &it.references {
        let by_task = |pid: &i32, what| (format!("task{pid}"), here.clone(), what);
        let (from, to, what) = match reference {
            // Drawn from the other side.
            Reference::Epoll(_) => continue,
            Reference::Queue(id) => (format!("file{id}"), here.clone(), "queued"),
            Reference::Opens(id) => (here.clone(), format!("file{id}"), "opens"),
            Reference::Mapping(pid) => by_task(pid, "mapped"),
            Reference::Executable(pid) => by_task(pid, "executable"),
            Reference::WorkingDirectory(pid) => by_task(pid, "working directory"),
            Reference::RootDirectory(pid) => by_task(pid, "root directory"),
            Reference::ControllingTerminal(pid) => by_task(pid, "controlling terminal"),
        };
        writeln!(out, "  {from} -> {to} [style=dotted, label=\"{what}\"];")?;
    }
    Ok(())
}

/// A string of dot's: a line's end is centred.
fn quoted(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = printable(line);
        line.replace('\\', "\\\\").replace('"', "\\\"")
    });
    format!("\"{}\"", lines.collect::<Vec<_>>().join("\\n"))
}
