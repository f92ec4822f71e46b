//! What the end-to-end tests share: building the C programs, restarting an image under the model of the restart
//! call, dumping and restoring with a real criu, and looking at the restored tasks from outside.

use std::io::Write;

pub mod build;
pub mod containers;
pub mod criu;
pub mod edit;
pub mod large;
pub mod linux_cr;
pub mod report;
pub mod world;

/// Whether this process may do what the tests need. Without root they are skipped, loudly, and fail in CI.
pub fn is_root() -> bool {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "these tests need root");
    // Past the test runner, which would keep it to itself.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: this test needs root (mounts, tracing, descriptors of other processes)"
    );
    false
}
