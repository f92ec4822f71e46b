//! What travels beside an image: which descriptors a dump left out.

use ckpt_image::criu::record::{read, write};

/// The target.
pub fn run(input: &[u8]) {
    let Ok(record) = read(input) else {
        return;
    };
    let again = read(&write(&record)).expect("what is written can be read");
    assert_eq!(again, record);
}
