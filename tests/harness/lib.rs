//! What the end-to-end tests share: building the C programs, restarting an image under the model of the restart
//! call, dumping and restoring with a real criu, and looking at the restored tasks from outside.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

pub mod build;
pub mod containers;
pub mod criu;
pub mod edit;
pub mod large;
pub mod linux_cr;
pub mod processes;
pub mod report;
pub mod scratch;
pub mod terminal;
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

/// Waits for what comes soon.
///
/// # Panics
/// It has not come after half a minute.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What /proc/locks has of a file.
///
/// # Panics
/// There is no such file, or no /proc.
pub fn locks(path: &str) -> Vec<String> {
    let inode = std::fs::metadata(path).expect("the file").ino();
    let locks = std::fs::read_to_string("/proc/locks").expect("/proc/locks");
    let name = format!(":{inode} ");
    let of_file = locks.lines().filter(|line| line.contains(&name));
    of_file.map(str::to_owned).collect()
}
