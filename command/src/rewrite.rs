//! `ckptadv rewrite`: the image as advice wants it.

use crate::advice::Options;
use crate::progress::Progress;
use crate::standard;
use ckpt_image::report::Outcome;
use ckpt_restart::request::{self, Naming};
use ckpt_restart::stream::Until;
use ckpt_restart::{Error, directory, errno, log, stream};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Rewrites an image.
///
/// # Errors
/// The refusal of the advice or the image, before anything is written where the
/// image is a regular file.
pub fn rewrite(
    options: &Options,
    input: Option<&Path>,
    output: Option<&Path>,
) -> Result<(), Error> {
    if let Some(image) = input.filter(|path| path.is_dir()) {
        let Some(output) = output else {
            return Err(Error::system(
                "a directory is not for standard output: give -o OUTPUT",
                io::Error::from_raw_os_error(libc::EINVAL),
            ));
        };
        let _progress = Progress::of_time();
        return directory::rewrite_to(&options.advice()?, image, output);
    }
    let input = crate::image::open(input.unwrap_or(Path::new("-")))?;
    if options.is_empty() {
        return copy(&input, output);
    }
    let mut request = options.request(&input, Naming::Numbered)?;
    if let Some(start) = request::regular_at(input.as_fd()) {
        let rewriter = request.check(input.as_fd(), start)?;
        log::report(&rewriter.report(Outcome::Restarting));
    }
    let mut output = Output::open(output, &input)?;
    let mut rewriter = request.rewriter(false)?;
    let progress = output.progress(&input);
    stream::copy(&input, output.file(), &mut rewriter, Until::EndOfInput)?;
    drop(progress);
    if !request.is_checked() {
        log::report(&rewriter.report(Outcome::Restarting));
    }
    directory::warn_of_missing(&rewriter.openings());
    output.keep()
}

/// Without advice nothing is looked at: an image of a version that cannot be advised, and
/// what is no image, is copied as well.
fn copy(mut input: &File, output: Option<&Path>) -> Result<(), Error> {
    let mut output = Output::open(output, input)?;
    let progress = output.progress(input);
    // What was copied before a signal is behind both offsets.
    errno::uninterrupted(|| io::copy(&mut input, &mut output.file()))
        .map_err(|e| Error::system("cannot copy the image", e))?;
    drop(progress);
    output.keep()
}

/// Where the image goes: a regular file appears whole or not at all.
struct Output {
    file: File,
    /// The file's name while it is written, and in the end.
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// * `input`: nobody may read the new file who may not read this one.
    fn open(path: Option<&Path>, input: &File) -> Result<Self, Error> {
        let output = Self::opened(path, input)?;
        match output.is(input) {
            false => Ok(output),
            true => Err(Error::system(
                "the image would be read from where it is written: give -o OUTPUT",
                io::Error::from_raw_os_error(libc::EINVAL),
            )),
        }
    }

    fn opened(path: Option<&Path>, input: &File) -> Result<Self, Error> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            let stdout = standard::output()?;
            if stdout.is_terminal() {
                return Err(Error::system(
                    "an image is not for a terminal: give -o OUTPUT",
                    io::Error::from_raw_os_error(libc::EINVAL),
                ));
            }
            let file = stdout
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| Error::system("standard output", e))?;
            return Ok(Output {
                file: file.into(),
                names: None,
            });
        };
        let failed = |e| Error::system(path.display().to_string(), e);
        if path.exists() && !path.is_file() {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Output { file, names: None });
        }
        // Not a link to it.
        let path = &path.canonicalize().unwrap_or(path.to_owned());
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(name);
        let of_input = input.metadata().map_err(failed)?;
        let mode = match of_input.is_file() {
            true => of_input.mode() & 0o777,
            false => 0o666,
        };
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)
            .map_err(failed)?;
        Ok(Output {
            file,
            names: Some((new, path.to_owned())),
        })
    }

    /// Whether it is a file on disk, and the same as another.
    fn is(&self, other: &File) -> bool {
        let same = || {
            let (here, there) = (self.file.metadata().ok()?, other.metadata().ok()?);
            Some(here.is_file() && here.dev() == there.dev() && here.ino() == there.ino())
        };
        same().unwrap_or(false)
    }

    /// Tells how far it has come: by the input, where that has an end.
    fn progress(&self, input: &File) -> Progress {
        match request::regular_at(input.as_fd()) {
            Some(_) => Progress::of(input, input.metadata().ok().map(|file| file.len())),
            None => Progress::of(&self.file, None),
        }
    }

    fn file(&self) -> &File {
        &self.file
    }

    fn keep(&mut self) -> Result<(), Error> {
        match self.names.take() {
            Some((new, path)) => std::fs::rename(&new, &path).map_err(|e| {
                let _ = std::fs::remove_file(&new);
                Error::system(path.display().to_string(), e)
            }),
            None => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((new, _)) = self.names.take() {
            let _ = std::fs::remove_file(new);
        }
    }
}
