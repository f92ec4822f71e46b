//! The image that a command is about.

use ckpt_restart::Error;
use std::fs::File;
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
