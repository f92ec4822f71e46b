#![no_main]

#[path = "../cases/advised.rs"]
mod advised;
#[path = "../cases/criu_rewrite.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|input: &[u8]| case::run(input));
