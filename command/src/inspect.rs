//! `ckptadv inspect`: one line for each open file description.

use ckpt_image::criu::Image;
use ckpt_image::linux_cr::survey::Surveyor;
use ckpt_image::listing::{Listing, flags};
use ckpt_restart::directory::Stored;
use ckpt_restart::{Error, request};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Shows an image on standard output.
///
/// # Errors
/// What is wrong with the image, or with reading it.
pub fn inspect(path: &Path) -> Result<(), Error> {
    let listing = match path.is_dir() {
        true => Image::read(&Stored(path))?.listing(&Stored(path))?,
        false => linux_cr(path)?,
    };
    std::io::stdout()
        .write_all(table(&listing).as_bytes())
        .map_err(|e| Error::system("standard output", e))
}

fn linux_cr(path: &Path) -> Result<Listing, Error> {
    let mut file = crate::open(path)?;
    let mut surveyor = Surveyor::default();
    if let Some(start) = request::regular_at(file.as_fd()) {
        request::scan(&file, start, &mut surveyor)?;
    } else {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = file
                .read(&mut buffer)
                .map_err(|e| Error::system("cannot read the image", e))?;
            if n == 0 {
                break;
            }
            surveyor.feed(&buffer[..n])?;
        }
    }
    let (survey, layout) = surveyor.finish()?;
    Ok(survey.listing(layout.as_ref()))
}

/// Columns as wide as their widest entry; the last runs free.
fn table(listing: &Listing) -> String {
    let mut text = format!("{}\n", listing.format);
    for task in &listing.tasks {
        let thread = if task.pid == task.process {
            String::new()
        } else {
            format!(", a thread of {}", task.process)
        };
        let _ = writeln!(text, "task {} {}{thread}", task.pid, task.command);
    }
    let mut rows = vec![["ID", "KIND", "FLAGS", "OFFSET", "DESCRIPTORS", "FILE"].map(String::from)];
    for description in &listing.descriptions {
        let holders: Vec<String> = description
            .holders
            .iter()
            .map(|(task, number)| format!("{task}:{number}"))
            .collect();
        let mut what = vec![printable(&description.what)];
        what.extend(description.also.iter().map(|also| format!("({also})")));
        what.retain(|text| !text.is_empty());
        rows.push([
            description.id.to_string(),
            description.kind.to_string(),
            flags(description.flags),
            description
                .position
                .map_or("-".to_owned(), |p| p.to_string()),
            if holders.is_empty() {
                "-".to_owned()
            } else {
                holders.join(" ")
            },
            what.join(" "),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5)
        .map(|column| width(column).unwrap_or(0).min(40))
        .collect();
    text.push('\n');
    for row in &rows {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            let _ = write!(line, "{:<width$}  ", row[column]);
        }
        line.push_str(&row[5]);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A path of the image, without what a terminal would act on.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
