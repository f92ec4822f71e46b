//! Carries advice into a restart.
//!
//! The crates around it are thin: `preload` has the hooks, `shim` the call,
//! `command` the options. What they share is here:
//!
//! * [`settings`]: the CKPT_ variables, read once;
//! * [`caller`]: what the caller's descriptors are, and copies of them out of
//!   the way;
//! * [`call`]: the Linux-CR restart system call, and how to know one;
//! * [`stream`]: the image on its way from one descriptor to another;
//! * [`log`]: one line, where the user sees it.

pub mod call;
pub mod caller;
pub mod log;
pub mod settings;
pub mod stream;
