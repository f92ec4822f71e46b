//! A CRIU image on disk.

use crate::error::Error;
use crate::paths::Looking;
use crate::{caller, errno, log, regular, warn};
use ckpt_image::advice::Advice;
use ckpt_image::caller::{Caller, Opening};
use ckpt_image::criu::{Directory, Image, Naming, Rewrite, What, inherited, record, rewrite};
use ckpt_image::report::Outcome;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory of an image.
pub struct Stored<'a>(pub &'a Path);

impl Directory for Stored<'_> {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, ckpt_image::Error> {
        contents(regular::open(&self.0.join(name)), name)
    }
}

/// Bytes that are made room for before a file is read: nearly all files of an image are
/// shorter, and read in one call.
const SHORT: usize = 8 << 10;

/// What is in a file of an image; `None` where there is no such file.
///
/// * `opened`: what opening it as a regular file ([`regular`]) gave.
/// * `name`: how it is called.
///
/// # Errors
/// [`ckpt_image::Error::Image`] where it cannot be read.
pub fn contents(
    opened: io::Result<fs::File>,
    name: &str,
) -> Result<Option<Vec<u8>>, ckpt_image::Error> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(SHORT);
        let file = opened?;
        file.take(record::at_most(name)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ckpt_image::Error::Image {
            file: name.to_owned(),
            offset: 0,
            reason: format!("cannot be read: {error}"),
        }),
    }
}

/// An image, and what advice would make of it where it is restarted from here.
///
/// # Errors
/// Every refusal that the image and the advice call for, and what the file
/// system says.
pub fn planned(advice: &Advice, from: &Path) -> Result<(Image, Rewrite), Error> {
    let caller = given(advice)?;
    met(advice, caller, from, Naming::Inherited)
}

fn given(advice: &Advice) -> Result<Caller, Error> {
    caller::given(advice).map_err(|e| Error::system("/proc/self/fd", e))
}

fn met(
    advice: &Advice,
    caller: Caller,
    from: &Path,
    naming: Naming,
) -> Result<(Image, Rewrite), Error> {
    let stored = Stored(from);
    let image = Image::read(&stored)?;
    let rewrite = rewrite(&image, &stored, advice, caller, Box::new(Looking), naming)?;
    Ok((image, rewrite))
}

/// Writes an image anew as advice wants it, into a directory that is not there
/// yet and appears whole or not at all. What does not change is linked, or copied
/// where it cannot be.
///
/// # Errors
/// Every refusal that the image and the advice call for, and what the file
/// system says.
pub fn rewrite_to(advice: &Advice, from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |e| Error::system(to.display().to_string(), e);
    let caller = given(advice)?;
    let options = inherited(advice, &caller);
    let (_, rewrite) = met(advice, caller, from, Naming::ByPath)?;
    if to.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let result = fill(&new, from, &rewrite.files).and_then(|()| fs::rename(&new, to));
    if let Err(error) = result {
        let _ = fs::remove_dir_all(&new);
        return Err(failed(error));
    }
    log::report(&rewrite.report(Outcome::Restarting));
    let openings: Vec<Opening> = rewrite.openings.into_iter().map(|(_, o)| o).collect();
    warn_of_missing(&openings);
    let options = options.iter().filter_map(|inherited| match inherited.what {
        What::Descriptor(number) => Some(format!("--inherit-fd fd[{number}]:{}", inherited.name)),
        What::Path(..) => None,
    });
    let options: Vec<String> = options.collect();
    if !options.is_empty() {
        warn!("to be restored with {}", options.join(" "));
    }
    Ok(())
}

/// Says which files are not there that a rewritten image opens by path.
pub fn warn_of_missing(openings: &[Opening]) {
    for opening in openings {
        let path = Path::new(OsStr::from_bytes(&opening.path));
        if !path.exists() {
            warn!(
                "{} is not there yet, and must be when the image is restarted",
                path.display()
            );
        }
    }
}

fn fill(new: &Path, from: &Path, changed: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    fs::create_dir(new)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if name.to_str().is_some_and(|name| changed.contains_key(name)) {
            continue;
        }
        let place = new.join(&name);
        if kind.is_symlink() {
            // Of an image that builds on another: "parent".
            std::os::unix::fs::symlink(target_from(new, from, &entry.path())?, place)?;
        } else if kind.is_file() {
            // What criu writes when it restores, logs and statistics, it writes into
            // the directory that it restores from: that must not be the old one's.
            let image = place
                .extension()
                .is_some_and(|extension| extension == "img");
            if !image || fs::hard_link(entry.path(), &place).is_err() {
                errno::uninterrupted(|| fs::copy(entry.path(), &place))?;
            }
        }
    }
    for (name, bytes) in changed {
        fs::write(new.join(name), bytes)?;
    }
    Ok(())
}

/// What a link of one directory has to say in another, to lead to the same.
fn target_from(new: &Path, old: &Path, link: &Path) -> io::Result<PathBuf> {
    let target = fs::read_link(link)?;
    if target.is_absolute() || beside(new)? == beside(old)? {
        return Ok(target);
    }
    fs::canonicalize(old.join(&target)).or(Ok(target))
}

/// The directory that a directory is in.
fn beside(directory: &Path) -> io::Result<Option<PathBuf>> {
    Ok(fs::canonicalize(directory)?.parent().map(Path::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_holds_up_nobody() {
        let here = std::env::temp_dir().join(format!("ckptadv-directory-{}", std::process::id()));
        fs::create_dir(&here).expect("a directory");
        let path = here.join("files.img");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()));
        fs::create_dir(here.join("inventory.img")).expect("a directory");
        let stored = Stored(&here);
        let (fifo, directory) = (stored.file("files.img"), stored.file("inventory.img"));
        let missing = stored.file("pstree.img");
        fs::remove_dir_all(&here).expect("it is there");
        assert_eq!(missing.expect("read"), None);
        for refused in [fifo, directory] {
            let error = refused.expect_err("refused").to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }
}
