//! What a program says of its own descriptors: its memory, or its /proc/PID/maps.

use ckpt_image::marks::{self, Marks};

/// The target.
pub fn run(input: &[u8]) {
    let places = marks::places(input);
    assert!(places.len() <= input.len());
    let mut found = Marks::default();
    for (number, word, at) in marks::words(input) {
        let first = marks::first_number(input).expect("a header");
        assert!(number >= first && number - first < marks::WORDS as i32);
        assert_eq!(input[at..at + 8], word.to_ne_bytes());
        let other = marks::identity_of(word).map(|made_for| made_for ^ 1);
        found.add(number, word, || other);
    }
    for mark in found.into_vec() {
        assert!(!mark.asks() && !mark.leaves_out());
        assert!(!mark.to_string().is_empty());
    }
}
