//! Carries advice into a restart.
//!
//! The crates around it are thin: `preload` has the hooks, `shim` the call,
//! `command` the options. What they share is here:
//!
//! * [`settings`]: the CKPT_ variables, read once;
//! * [`caller`]: what the caller's descriptors are, and copies of them out of
//!   the way;
//! * [`paths`]: files that advice names by path, and [`below`]: those below a
//!   directory, for advice that is not trusted outside it;
//! * [`request`]: advice bound to the caller, and checked against an image
//!   before anything is restored;
//! * [`relay`]: what stands between the caller's pipes and tasks that can only
//!   open by name;
//! * [`reserved`]: the numbers that a restart program leaves alone;
//! * [`memory`]: files that no directory has;
//! * [`stream`]: the image on its way from one descriptor to another;
//! * [`call`]: the Linux-CR restart system call: how to know one, and how to
//!   make it with a rewritten image;
//! * [`directory`]: a CRIU image on disk;
//! * [`regular`]: files that must be regular ones, opened;
//! * [`tasks`]: tasks that a CRIU is dumping;
//! * [`marks`]: what a running program advises of its own descriptors, and [`file`]: by
//!   which name they know a file;
//! * [`log`]: one line, where the user sees it;
//! * [`report`]: all of it, for a program to read (CKPT_REPORT);
//! * [`handshake`]: what `ckptadv run` hears of it (CKPT_RUN);
//! * [`library`]: where libckptadv.so is, and [`elf`]: who can load it;
//! * [`errno`]: as the program's calls find it.

pub mod below;
pub mod call;
pub mod caller;
pub mod directory;
pub mod elf;
pub mod errno;
pub mod error;
pub mod file;
pub mod handshake;
pub mod library;
pub mod log;
pub mod marks;
pub mod memory;
pub mod paths;
pub mod regular;
pub mod relay;
pub mod report;
pub mod request;
pub mod reserved;
pub mod settings;
pub mod stream;
pub mod tasks;

pub use error::Error;
