//! Another program, run to its end, but no longer than it may take.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What came of it.
pub struct Ended {
    pub success: bool,
    /// What it said, on standard output and standard error, cut off where it is long.
    pub output: String,
}

/// Runs it with its input and output apart from ours.
///
/// * `patience`: after that it is killed, with what it has started.
///
/// # Errors
/// It cannot be started, or does not end (ETIMEDOUT).
pub fn run(command: &mut Command, patience: Duration) -> io::Result<Ended> {
    const MOST: u64 = 1 << 20;
    let (reader, writer) = io::pipe()?;
    let input = File::open("/dev/null")?;
    command.stdin(input).stdout(writer.try_clone()?);
    command.stderr(writer).process_group(0);
    let mut child = command.spawn()?;
    // They hold the other end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let output = thread::spawn(move || {
        let mut output = Vec::new();
        let mut reader = reader;
        let _ = reader.by_ref().take(MOST).read_to_end(&mut output);
        let _ = io::copy(&mut reader, &mut io::sink());
        String::from_utf8_lossy(&output).into_owned()
    });
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let Some(status) = status else {
        // SAFETY: integers only; the group is that of a child that nobody waits for.
        unsafe { libc::kill(-child.id().cast_signed(), libc::SIGKILL) };
        let _ = child.wait();
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no end after {} s", patience.as_secs()),
        ));
    };
    Ok(Ended {
        success: status.success(),
        output: output.join().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_are_seen() {
        let ended = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(20),
        );
        let ended = ended.unwrap();
        assert!(!ended.success);
        assert_eq!(ended.output, "out\nerr\n");
    }

    #[test]
    fn what_does_not_end_is_killed() {
        let started = Instant::now();
        let ended = run(
            Command::new("sh").args(["-c", "sleep 60; :"]),
            Duration::from_millis(50),
        );
        let error = ended.err().map(|error| error.kind());
        assert_eq!(error, Some(io::ErrorKind::TimedOut));
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
