//! Memory is bounded by descriptors, never by pages.

use std::process::Command;

use harness::build::product;
use harness::large::{Large, MOST_PAGES};

const MIB: u64 = 1 << 20;

fn rewriting(image: &Large, most: u64) {
    for advice in [&[][..], &["--ignore", "3"], &["--ignore", "0-"]] {
        let peak = image.peak(Command::new(product("ckptadv")).arg("rewrite").args(advice));
        assert!(peak <= most << 10, "{advice:?}: {peak} KiB");
    }
}

#[test]
fn a_thousand_descriptors_fit_into_8_mib_however_much_memory_the_image_has() {
    for (pages, bytes) in [(MOST_PAGES, 1024 * MIB), (1, 64 * MIB)] {
        rewriting(&Large::new(1000, pages, bytes), 8);
    }
}

#[test]
fn a_hundred_thousand_descriptors_fit_into_64_mib() {
    rewriting(&Large::new(100_000, 1, 0), 64);
}
