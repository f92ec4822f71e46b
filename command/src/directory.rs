//! An image directory on disk.

use ckpt_image::criu::Directory;
use ckpt_restart::Error;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A directory that criu wrote.
pub struct OnDisk<'a>(pub &'a Path);

impl Directory for OnDisk<'_> {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, ckpt_image::Error> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ckpt_image::Error::Image {
                file: name.to_owned(),
                offset: 0,
                reason: format!("cannot be read: {e}"),
            }),
        }
    }
}

/// Makes a directory that has `changed` in place of the files of those names, and
/// hard links (or, on another file system, copies) of all others. It appears
/// whole or not at all, and nothing of the old one is written to.
///
/// # Errors
/// EEXIST where `to` is there already; what the system said.
pub fn derive(from: &Path, to: &Path, changed: &BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e| Error::system(path, e)
    };
    if to.symlink_metadata().is_ok() {
        let exists = io::Error::from_raw_os_error(libc::EEXIST);
        return Err(failed(to)(exists));
    }
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    fs::create_dir(&new).map_err(failed(&new))?;
    let filled = fill(from, &new, changed).and_then(|()| fs::rename(&new, to));
    filled.map_err(|e| {
        let _ = fs::remove_dir_all(&new);
        failed(to)(e)
    })
}

fn fill(from: &Path, new: &Path, changed: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let to = new.join(&name);
        if name.to_str().is_some_and(|name| changed.contains_key(name)) || kind.is_dir() {
            continue;
        }
        if kind.is_symlink() {
            // The image before this one, in a chain of pre-dumps.
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &to)?;
        } else if fs::hard_link(entry.path(), &to).is_err() {
            fs::copy(entry.path(), &to)?;
        }
    }
    for (name, bytes) in changed {
        fs::write(new.join(name), bytes)?;
    }
    Ok(())
}
