//! CRIU images for tests: made, and judged as CRIU would.

pub mod build;
pub mod model;
