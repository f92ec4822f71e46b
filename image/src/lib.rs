//! What a checkpoint image says of descriptors, and how advice edits it.
//!
//! Pure: bytes in, bytes out. Nothing here opens a file, reads the environment
//! or knows of hooks; the crates that do (`restart`, `preload`, `command`) hand
//! the bytes in and carry the results out.
//!
//! * [`advice`]: the vocabulary: what somebody wants for which descriptors.
//! * [`caller`]: what the caller of a restart has to give.
//! * [`plan`]: advice met with the file tables of an image: what becomes of
//!   every descriptor. One planner for both engines.
//! * [`listing`]: what an image holds, for people and as [`json`];
//! * [`difference`]: what tells two of them apart;
//! * [`needs`]: what a restart of it needs of the machine;
//! * [`report`]: what advice makes of it, the same way.
//! * [`marks`]: what a running program advises of its own descriptors.
//! * [`linux_cr`], [`criu`]: the two kinds of image, and how each carries a
//!   plan out.
#![forbid(unsafe_code)]

pub mod advice;
pub mod caller;
pub mod criu;
pub mod difference;
pub mod error;
mod fnv;
pub mod json;
pub mod linux_cr;
pub mod listing;
pub mod marks;
pub mod needs;
pub mod plan;
pub mod report;

pub use error::Error;
