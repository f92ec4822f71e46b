//! advise, in Rust, with the library that is installed: as advise.cc.

use std::ffi::{CStr, c_char, c_int};
use std::io::Error;

#[repr(C)]
struct Status {
    backend: u32,
    reason: u32,
    error: i32,
    number: i32,
    text: [c_char; 240],
}

#[link(name = "cradvise")]
unsafe extern "C" {
    safe fn cradvise(fd: c_int, advice: c_int) -> c_int;
    safe fn cradvise_query(fd: c_int) -> c_int;
    safe fn cradvise_reset() -> c_int;
    fn cradvise_status(status: *mut Status, size: usize) -> c_int;
}

fn main() {
    let mut numbers = Vec::new();
    for word in std::env::args().skip(1) {
        let (number, advice) = word.split_once('=').expect("NUMBER=ADVICE");
        let (number, advice) = (number.parse().unwrap(), advice.parse().unwrap());
        match cradvise(number, advice) {
            0 => numbers.push(number),
            _ => {
                let error = Error::last_os_error().to_string();
                println!("{number}: {}", error.split(" (os").next().unwrap());
            }
        }
    }
    for &number in &numbers {
        println!("{number}: {}", cradvise_query(number));
    }
    assert_eq!(cradvise_reset(), 0);
    assert!(numbers.iter().all(|&number| cradvise_query(number) == 0));
    let mut status = Status { backend: 0, reason: 0, error: 0, number: 0, text: [0; 240] };
    // SAFETY: the structure is that of the header, and the size its own.
    assert_eq!(unsafe { cradvise_status(&mut status, size_of::<Status>()) }, 0);
    // SAFETY: the text ends in a zero byte.
    println!("{}", unsafe { CStr::from_ptr(status.text.as_ptr()) }.to_str().unwrap());
}
