//! The one error type of this crate.

use std::fmt;
use std::io;

/// Why a restart was refused or an image did not arrive.
#[derive(Debug)]
pub enum Error {
    /// The advice, or the image.
    Advice(ckpt_image::Error),
    /// The system said no.
    System {
        /// What was tried, and what to do about it.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// A path that advice names cannot be opened.
    Path {
        /// Which, why, and what to do instead.
        what: String,
        /// As open(2) gives it.
        errno: i32,
    },
    /// Tasks that are given files of the caller's find no /proc (ENOENT).
    Rootless {
        /// The directory that will be their root.
        root: String,
    },
    /// CKPT_DRY_RUN: nothing is wrong, and nothing is restored.
    DryRun,
}

impl Error {
    /// An [`Error::System`] out of errno.
    pub fn system(what: impl Into<String>, source: io::Error) -> Self {
        Error::System {
            what: what.into(),
            source,
        }
    }

    /// The same where descriptors may be lacking, with the limit to raise.
    pub(crate) fn without_descriptor(what: &str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EMFILE) => Error::system(format!("{what} (raise ulimit -n)"), source),
            _ => Error::system(what, source),
        }
    }

    /// The errno that a refused call gives.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Advice(error) => error.errno(),
            Error::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Error::Path { errno, .. } => *errno,
            Error::Rootless { .. } => libc::ENOENT,
            Error::DryRun => libc::ECANCELED,
        }
    }
}

impl From<ckpt_image::Error> for Error {
    fn from(error: ckpt_image::Error) -> Self {
        Error::Advice(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Advice(error) => error.fmt(f),
            Error::System { what, source } => write!(f, "{what}: {source}"),
            Error::Path { what, .. } => write!(f, "{what}"),
            Error::Rootless { root } => write!(
                f,
                "{root} has no proc/self/fd, by which tasks are given the caller's descriptors: \
                 mount proc(5) there, or only ignore descriptors"
            ),
            Error::DryRun => write!(f, "dry run: nothing is restored"),
        }
    }
}

impl std::error::Error for Error {}
