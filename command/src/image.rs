//! The image that a command is about.

use ckpt_image::criu::Image;
use ckpt_image::linux_cr::survey::Surveyor;
use ckpt_image::listing::Listing;
use ckpt_restart::Error;
use ckpt_restart::directory::Stored;
use ckpt_restart::request::{self, Reader};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

/// Opens a file, or standard input for `-`.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path) -> Result<File, Error> {
    if path == Path::new("-") {
        return std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|e| Error::system("standard input", e));
    }
    File::open(path).map_err(|e| Error::system(path.display().to_string(), e))
}

/// What an image holds: a file, a directory, or what comes from standard input.
///
/// # Errors
/// What is wrong with it, or with reading it.
pub fn listing(path: &Path) -> Result<Listing, Error> {
    match path.is_dir() {
        true => criu(path),
        false => linux_cr(path),
    }
}

fn criu(path: &Path) -> Result<Listing, Error> {
    let read = || Image::read(&Stored(path))?.listing(&Stored(path));
    read().map_err(|error| match error {
        // Of which directory it is a file, nobody knows but us.
        ckpt_image::Error::Image {
            file,
            offset,
            reason,
        } => Error::Advice(ckpt_image::Error::Image {
            file: path.join(file).display().to_string(),
            offset,
            reason,
        }),
        other => other.into(),
    })
}

fn linux_cr(path: &Path) -> Result<Listing, Error> {
    let mut surveyor = Surveyor::default();
    read(&open(path)?, &mut surveyor)?;
    let (survey, layout) = surveyor.finish()?;
    Ok(survey.listing(layout.as_ref()))
}

/// Has a Linux-CR image read, from where the file's offset stands.
///
/// # Errors
/// What is wrong with the image, or with reading it.
pub fn read(mut file: &File, reader: &mut dyn Reader) -> Result<(), Error> {
    if let Some(start) = request::regular_at(file.as_fd()) {
        return request::scan(file, start, reader);
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => reader.feed(&buffer[..n])?,
            Err(error) => return Err(Error::system("cannot read the image", error)),
        }
    }
}
