//! CRIU images: a directory of files, each a list of protobuf messages.
//!
//! [`Image`] reads what the files say of tasks, file tables and open file
//! descriptions; [`rewrite`] gives the bytes of those files that advice changes.
//! What advice does not concern is copied byte for byte, and a file that it does
//! not change is not touched.
//!
//! Advice is for the descriptors of one task, so it is the file tables
//! (`fdinfo-N.img`) that change, never the entry of an open file description:
//! others may share it. A number that the caller gives gets a new description, a
//! regular file of a name for which `--inherit-fd` has the caller's descriptor.

mod details;
pub mod dump;
mod edit;
mod entry;
mod image;
mod listing;
pub mod record;
mod shared_table;
mod wire;

/// What its images are called.
const FORMAT: &str = "CRIU";

pub use edit::{Inherited, Naming, Rewrite, What, inherited, rewrite};
pub use entry::{Description, Slot, Task};
pub use image::{Directory, Image, Reference, Table};
