#![no_main]

#[path = "../cases/advice_list.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|input: &[u8]| case::run(input));
