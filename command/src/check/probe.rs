//! Another program, run to its end, but no longer than it may take.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What came of it.
pub struct Ended {
    pub success: bool,
    /// What it said, on standard output and standard error, cut off where it is long.
    pub output: String,
}

/// Of what it says, so much is kept, in bytes.
const MOST: usize = 1 << 20;

/// Runs it with its input and output apart from ours. What it leaves behind when it
/// ends is not waited for.
///
/// * `patience`: after that it is killed, with what it has started.
///
/// # Errors
/// It cannot be started, or does not end (ETIMEDOUT).
pub fn run(command: &mut Command, patience: Duration) -> io::Result<Ended> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: fcntl gets integers only.
    if unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let input = File::open("/dev/null")?;
    command.stdin(input).stdout(writer.try_clone()?);
    command.stderr(writer).process_group(0);
    let mut child = command.spawn()?;
    let deadline = Instant::now() + patience;
    let mut output = Vec::new();
    let status = loop {
        // Once it has ended, all that it said is in the pipe.
        let status = child.try_wait()?;
        take(&reader, &mut output)?;
        if status.is_some() || Instant::now() > deadline {
            break status;
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
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// Takes what is in a pipe now, and keeps the beginning of it.
fn take(mut reader: &PipeReader, output: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    // Whoever writes as fast as this reads must not keep it here.
    for _ in 0..64 {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let kept = length.min(MOST - output.len());
                output.extend_from_slice(&buffer[..kept]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
    fn what_it_leaves_behind_is_not_waited_for() {
        let started = Instant::now();
        let ended = run(
            Command::new("sh").args(["-c", "sleep 15 & echo out"]),
            Duration::from_secs(5),
        );
        assert_eq!(ended.unwrap().output, "out\n");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let ended = run(
            Command::new("sh").args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x"]),
            Duration::from_secs(20),
        );
        assert_eq!(ended.unwrap().output.len(), 1 << 20);
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
