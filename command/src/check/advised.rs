//! The image that is judged: as advice leaves it.

use crate::advice::Options;
use crate::image;
use ckpt_image::advice::{Action, Advice, parse_list};
use ckpt_image::criu::{Directory, Image};
use ckpt_image::linux_cr::survey::Surveyor;
use ckpt_image::listing::{Description, Listing};
use ckpt_image::needs::Needs;
use ckpt_image::plan::{Change, Fate};
use ckpt_image::report::Outcome;
use ckpt_restart::Error;
use ckpt_restart::directory::{self, Stored};
use ckpt_restart::request::{self, Naming, Request, Sources, Through};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// An image after advice.
pub struct Advised {
    pub listing: Listing,
    pub needs: Needs,
    /// The descriptors that advice gives.
    given: HashSet<(i32, i32)>,
    /// What advice has to say.
    pub warnings: Vec<String>,
    /// What a kernel would not restore of it, where no advice was asked for.
    pub unrestorable: Option<String>,
}

impl Advised {
    /// Whether nothing of the image is left of a description.
    pub fn is_given(&self, description: &Description) -> bool {
        let mut all = self.listing.descriptors(description).peekable();
        all.peek().is_some() && {
            let tables = description.holders.iter();
            tables.into_iter().all(|&(table, number)| {
                let tasks = &self.listing.tables[table].tasks;
                tasks
                    .iter()
                    .any(|task| self.given.contains(&(*task, number)))
            })
        }
    }
}

fn given(changes: &[Change]) -> HashSet<(i32, i32)> {
    let given = changes.iter();
    let given = given.filter(|change| matches!(change.fate, Fate::Give(_)));
    given.map(|change| (change.task, change.number)).collect()
}

/// Some files of a directory as they would be.
struct Overlay<'a> {
    below: Stored<'a>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Directory for Overlay<'_> {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, ckpt_image::Error> {
        match self.files.get(name) {
            Some(bytes) => Ok(Some(bytes.clone())),
            None => self.below.file(name),
        }
    }
}

/// An image directory of criu.
///
/// # Errors
/// What is wrong with the image or refused of the advice.
pub fn criu(options: &Options, path: &Path) -> Result<Advised, Error> {
    let (image, rewrite) = directory::planned(&options.advice()?, path)?;
    let given = given(&rewrite.changes);
    let warnings = [rewrite.unmatched, rewrite.warnings].concat();
    let overlay = Overlay {
        below: Stored(path),
        files: rewrite.files,
    };
    let image = match overlay.files.is_empty() {
        true => image,
        false => Image::read(&overlay)?,
    };
    Ok(Advised {
        listing: image.listing(&overlay)?,
        needs: image.needs(&overlay)?,
        given,
        warnings,
        unrestorable: None,
    })
}

/// What advice that selects nothing is refused for: it is no fault of the advice.
fn unrestorable(input: &File, start: u64) -> Result<Option<String>, Error> {
    // No object has that number.
    let nothing = Advice {
        items: parse_list("", b"id=0", &Action::Ignore, 0)?,
        ..Advice::default()
    };
    let mut request = Request::new(
        &nothing,
        Sources::new(),
        Naming::Inherited,
        Some(input.as_raw_fd()),
    )?;
    match request.check(input.as_fd(), start) {
        Ok(_) => Ok(None),
        Err(refusal @ Error::Advice(_)) => Ok(Some(refusal.to_string())),
        Err(error) => Err(error),
    }
}

/// A Linux-CR image.
///
/// # Errors
/// As [`criu`].
pub fn linux_cr(options: &Options, path: &Path) -> Result<Advised, Error> {
    let input = image::open(path)?;
    let mut surveyor = Surveyor::default();
    let (mut gifts, mut warnings) = (HashSet::new(), Vec::new());
    let start = request::regular_at(input.as_fd());
    let is_advised = !options.advice()?.is_empty();
    if !is_advised {
        image::read(&input, &mut surveyor)?;
    } else {
        let mut request = options.request(&input, Naming::Inherited)?;
        if let Some(start) = start {
            request.check(input.as_fd(), start)?;
        }
        let mut through = Through {
            rewriter: request.rewriter(false)?,
            reader: surveyor,
        };
        image::read(&input, &mut through)?;
        through.rewriter.finish()?;
        let report = through.rewriter.report(Outcome::Planned);
        gifts = given(report.changes);
        warnings = [report.unmatched, report.warnings].concat();
        surveyor = through.reader;
    }
    let (survey, layout) = surveyor.finish()?;
    let unrestorable = match (start, &layout) {
        (Some(start), Some(layout)) if !is_advised && layout.is_editable() => {
            unrestorable(&input, start)?
        }
        _ => None,
    };
    Ok(Advised {
        listing: survey.listing(layout.as_ref()),
        needs: survey.needs(),
        given: gifts,
        warnings,
        unrestorable,
    })
}
