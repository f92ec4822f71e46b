//! Processes that belong to a test: its directory stands in their arguments.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The processes that name a directory, or something in it.
pub fn naming(directory: &Path) -> Vec<i32> {
    let directory = directory.as_os_str().as_encoded_bytes();
    let names = |arguments: &[u8]| {
        let ends = |after: Option<&u8>| matches!(after, None | Some(b'/' | 0));
        let places = arguments.windows(directory.len()).enumerate();
        places
            .filter(|(_, part)| *part == directory)
            .any(|(at, _)| ends(arguments.get(at + directory.len())))
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| names(&it)))
        .collect()
}

/// Ends the processes that name a directory, whoever started them, and waits for those that are this process's to
/// wait for.
pub fn end_naming(directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let pids = naming(directory);
        if pids.is_empty() || Instant::now() > deadline {
            return;
        }
        for &pid in &pids {
            // SAFETY: takes integers. A process that names the directory of this test is of this test.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        for &pid in &pids {
            // SAFETY: takes integers and no memory; what is no child is an error.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
