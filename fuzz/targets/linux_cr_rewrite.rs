#![no_main]

#[path = "../cases/advised.rs"]
mod advised;
#[path = "../cases/linux_cr_rewrite.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|input: &[u8]| case::run(input));
