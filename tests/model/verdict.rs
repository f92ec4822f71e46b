//! What became of a restart, for tests to read.

use std::fmt::Write as _;
use std::path::Path;

use libc::pid_t;

/// The end of one restart.
pub enum Ending {
    /// Every task lives on with its descriptors.
    Restarted,
    /// What the call returned, and the first complaint of the kernel with the bytes read by then.
    Failed {
        /// Positive.
        errno: i32,
        /// Without the bytes that were spliced into pipes.
        offset: u64,
        /// As in the kernel's log.
        complaint: String,
    },
    /// The image holds something that the model does not know: no verdict.
    Unsupported(String),
}

/// A restart, decided.
pub struct Verdict {
    /// How it ended.
    pub ending: Ending,
    /// The number of every task in the image's tree, and in the eyes of this process; zombies have only the first.
    pub tasks: Vec<(i32, Option<pid_t>)>,
    /// Where the model could not do exactly what the kernel did.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Writes the verdict so that whoever finds the file finds all of it.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let beside = path.with_extension("partial");
        std::fs::write(&beside, self.text())?;
        std::fs::rename(beside, path)
    }

    /// The lines described at the top of `main.rs`.
    pub fn text(&self) -> String {
        let mut text = match &self.ending {
            Ending::Restarted => "restarted\n".to_owned(),
            Ending::Failed {
                errno,
                offset,
                complaint,
            } => {
                format!(
                    "failed {} offset {offset} {complaint:?}\n",
                    errno_name(*errno)
                )
            }
            Ending::Unsupported(reason) => format!("unsupported-by-model {reason:?}\n"),
        };
        for (old, new) in &self.tasks {
            let _ = match new {
                Some(new) => writeln!(text, "task {old} {new}"),
                None => writeln!(text, "zombie {old}"),
            };
        }
        for note in &self.notes {
            let _ = writeln!(text, "note {note:?}");
        }
        text
    }
}

/// `ENOENT` for 2; the number itself where it has no common name.
pub fn errno_name(errno: i32) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EINTR, "EINTR"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENFILE, "ENFILE"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::ESPIPE, "ESPIPE"),
        (libc::EROFS, "EROFS"),
        (libc::EPIPE, "EPIPE"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ELOOP, "ELOOP"),
        (libc::ENOMSG, "ENOMSG"),
        (libc::EOVERFLOW, "EOVERFLOW"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EADDRINUSE, "EADDRINUSE"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    ];
    let name = NAMES.iter().find(|(number, _)| *number == errno);
    name.map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}
