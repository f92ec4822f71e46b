#![no_main]

use ckpt_image::criu::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match record::read(input) {
        Ok(read) => assert_eq!(record::read(&record::write(&read)), Ok(read)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
