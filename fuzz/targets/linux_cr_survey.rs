#![no_main]

#[path = "../cases/linux_cr_survey.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|input: &[u8]| case::run(input));
