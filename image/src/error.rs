//! The one error type of this crate.

use std::fmt;

/// Why a request was refused or an image could not be read.
///
/// `Display` gives one line: what, where, why, and what to do instead. The name
/// of the program in front is the printer's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// An item of a LIST, or a variable, is not written as it must be (EINVAL).
    Syntax {
        /// The variable or option in which it stands.
        variable: String,
        /// The item as written.
        item: String,
        /// Column of the mistake in the variable's value, from 1, in characters.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The grammar has it, this version cannot do it (ENOTSUP).
    Unsupported {
        /// What was asked, by item, task and descriptor as far as they are known.
        what: String,
        /// Why not, and what to do instead.
        why: String,
    },
    /// A number to preserve is not open in the caller (EBADF).
    NotOpen {
        /// The item as written, with its variable.
        item: String,
        /// The caller's descriptor.
        number: i32,
    },
    /// A number to preserve is not below RLIMIT_NOFILE (EBADF).
    TooHigh {
        /// The item as written, with its variable.
        item: String,
        /// The caller's descriptor.
        number: i32,
        /// RLIMIT_NOFILE.
        limit: u64,
    },
    /// PRESERVE without IGNORE of a number that the image has (EEXIST).
    Exists {
        /// The item as written.
        item: String,
        /// Pid of the task, as the image has it.
        task: i32,
        /// The descriptor.
        number: i32,
    },
    /// What the caller gives lacks an access that the number needs (EACCES).
    Access {
        /// The item as written.
        item: String,
        /// Pid of the task, as the image has it.
        task: i32,
        /// The descriptor.
        number: i32,
        /// The caller's descriptor.
        from: i32,
        /// The access that is missing: "reading" or "writing".
        lacks: &'static str,
    },
    /// A path to give cannot be opened as the number needs it (the errno of
    /// open(2)).
    Path {
        /// The item as written.
        item: String,
        /// Pid of the task, as the image has it.
        task: i32,
        /// The descriptor.
        number: i32,
        /// The path.
        path: String,
        /// As open(2) gives it.
        errno: i32,
        /// Why, and what to do instead.
        why: String,
    },
    /// Two items give one descriptor two different sources, or other advice
    /// that cannot be meant (EINVAL).
    Contradiction {
        /// The descriptor and the items.
        what: String,
        /// The advice that would be right.
        remedy: String,
    },
    /// Under strict: items that selected nothing (EINVAL).
    Unmatched {
        /// Each item by name with what the image has instead.
        items: String,
    },
    /// The image is not what it says it is (EINVAL).
    Image {
        /// Which file of the image; empty for a stream.
        file: String,
        /// Bytes from the beginning of the file or stream.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

impl Error {
    /// The errno that a call which fails for this reason gives.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Syntax { .. }
            | Error::Contradiction { .. }
            | Error::Unmatched { .. }
            | Error::Image { .. } => libc::EINVAL,
            Error::Unsupported { .. } => libc::ENOTSUP,
            Error::NotOpen { .. } | Error::TooHigh { .. } => libc::EBADF,
            Error::Exists { .. } => libc::EEXIST,
            Error::Access { .. } => libc::EACCES,
            Error::Path { errno, .. } => *errno,
        }
    }

    /// An [`Error::Image`] of a stream.
    pub fn stream(offset: u64, reason: impl Into<String>) -> Self {
        Error::Image {
            file: String::new(),
            offset,
            reason: reason.into(),
        }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Syntax {
                variable,
                item,
                column,
                reason,
            } => write!(f, "{variable}: \"{item}\": column {column}: {reason}"),
            Error::Unsupported { what, why } => write!(f, "{what}: {why}"),
            Error::NotOpen { item, number } => write!(
                f,
                "{item}: descriptor {number} is not open here: open it before the restart \
                 (for example {number}{}FILE), or leave the image's as it is",
                if *number == 0 { "<" } else { ">>" }
            ),
            Error::TooHigh {
                item,
                number,
                limit,
            } => write!(
                f,
                "{item}: descriptor {number} is not below the limit of {limit} descriptors, and \
                 the tasks could not have it: raise the limit (ulimit -n), or leave it out"
            ),
            Error::Exists { item, task, number } => write!(
                f,
                "{item}: task {task} has a descriptor {number} in the image: add IGNORE to put \
                 the caller's in its place"
            ),
            Error::Access {
                item,
                task,
                number,
                from,
                lacks,
            } => write!(
                f,
                "{item}: task {task} needs descriptor {number} for {lacks}, and the caller's \
                 {from} is not open for {lacks}: open it {from}{}FILE",
                match (number, *lacks) {
                    (0, _) => "<",
                    (1 | 2, _) => ">>",
                    _ => "<>",
                }
            ),
            Error::Path {
                item,
                task,
                number,
                path,
                why,
                ..
            } => write!(f, "{item}: task {task} descriptor {number}: {path}: {why}"),
            Error::Contradiction { what, remedy } => write!(f, "{what}: {remedy}"),
            Error::Unmatched { items } => write!(f, "nothing matched: {items}"),
            Error::Image {
                file,
                offset,
                reason,
            } if file.is_empty() => write!(f, "image: offset {offset}: {reason}"),
            Error::Image {
                file,
                offset,
                reason,
            } => write!(f, "image: {file}: offset {offset}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}
