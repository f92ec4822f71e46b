//! CRIU images: a directory of files, each a list of protobuf messages.
//!
//! [`Image`] reads what the files say of tasks, file tables and open file
//! descriptions; [`rewrite`] gives the bytes of those files that advice changes.
//! What advice does not concern is copied byte for byte, and a file that it does
//! not change is not touched.
//!
//! Advice is for the descriptors of one task, so it is the file tables
//! (`fdinfo-N.img`) that change, never the open file description: others may
//! share it. A number that the caller gives gets a new description, a regular
//! file of a name for which `--inherit-fd` has the caller's descriptor.
//!
//! What nobody holds any more goes, and what it leaves behind is put right, as
//! close(2) would have done: [`watches`] of epoll sets, the other ends of
//! [`sockets`], [`locks`], deleted files ([`ghosts`]). [`check`] judges the result.

mod addresses;
mod check;
mod descriptions;
mod details;
pub mod dump;
mod edit;
mod entry;
mod ghosts;
mod holders;
mod image;
mod listing;
mod locks;
mod needs;
pub mod record;
mod sockets;
mod split;
mod terminals;
mod watches;
mod wire;

/// What its images are called.
const FORMAT: &str = "CRIU";

pub use descriptions::Descriptions;
pub use edit::{Inherited, Naming, Rewrite, What, inherited, rewrite};
pub use entry::{Description, Slot, Task};
pub use image::{Directory, Image, Reference, Table, moment, recorded};
