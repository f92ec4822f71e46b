//! Directories for tests.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes a directory that was not there.
///
/// * `kind`: how its name begins.
///
/// # Panics
/// It cannot be made.
pub fn make(kind: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        match fs::create_dir(&path) {
            Ok(()) => return path,
            // Left by a process that had this pid.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("a directory for a test: {error}"),
        }
    }
}

/// Removes a directory of a test. After a failure it stays, if there is anything in it.
pub fn remove(directory: &Path) {
    if !std::thread::panicking() {
        let _ = fs::remove_dir_all(directory);
    } else if fs::remove_dir(directory).is_err() {
        eprintln!("left for you to look at: {}", directory.display());
    }
}

/// A directory of its own, gone with it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// As [`make`].
    pub fn new(kind: &str) -> Self {
        Self(make(kind))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in it to which is appended, made if need be.
    ///
    /// # Panics
    /// It cannot be opened.
    pub fn log(&self, name: &str) -> File {
        let options = File::options().append(true).create(true).clone();
        options.open(self.file(name)).expect("a file of the test")
    }

    /// What a file in it has; nothing where it is not there.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.file(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
