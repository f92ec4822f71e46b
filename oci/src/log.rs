//! Where the library says what it does at a checkpoint: runtimes give criu no standard error then.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Beside criu's dump.log.
const NAME: &str = "ckptadv.log";

/// CKPT_LOG_FILE, as a new file where criu puts its log; `None` where none can be made.
///
/// The directory may have come out of an archive, and have a link of this name that leads anywhere: what is there is
/// removed, and the file made here. A directory that is not there yet the runtime makes, and then nothing is in it.
pub fn beside_that_of_criu(directory: &Path) -> Option<(&'static str, OsString)> {
    let path = std::path::absolute(directory).ok()?.join(NAME);
    if directory.exists() {
        let _ = fs::remove_file(&path);
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .ok()?;
    }
    Some(("CKPT_LOG_FILE", path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_lies_in_wait_is_not_written_to() {
        let place = std::env::temp_dir().join(format!("ckptadv-oci-log-{}", std::process::id()));
        fs::create_dir(&place).expect("a directory");
        let log = place.join(NAME);
        let expected = Some(("CKPT_LOG_FILE", log.clone().into()));
        symlink(place.join("victim"), &log).expect("a link");
        assert_eq!(beside_that_of_criu(&place), expected);
        assert!(log.symlink_metadata().expect("a file").is_file());
        assert!(!place.join("victim").exists());
        fs::write(&log, "of last time").expect("a file");
        assert_eq!(beside_that_of_criu(&place), expected);
        assert_eq!(fs::read(&log).expect("a file"), b"");
        fs::remove_file(&log).expect("it goes");
        fs::create_dir(&log).expect("a directory");
        assert_eq!(beside_that_of_criu(&place), None);
        fs::remove_dir_all(&place).expect("it goes");
        assert_eq!(beside_that_of_criu(&place), expected);
        assert!(!place.exists());
    }
}
