//! How far something has come that takes longer than a moment, on a terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Seek, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Nothing is shown before.
const MOMENT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(200);

/// A line on standard error while it lives, where that is a terminal.
pub struct Progress(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Of a file that is read or written from its offset on, which has so many bytes if
    /// that is known.
    pub fn of(file: &File, total: Option<u64>) -> Self {
        match file.try_clone() {
            Ok(mut file) => Self::show(move |_| {
                let done = file.stream_position().ok()?;
                Some(match total {
                    Some(total) if total > 0 => {
                        format!(
                            "{} of {}, {}%",
                            size(done),
                            size(total),
                            percent(done, total)
                        )
                    }
                    _ => size(done),
                })
            }),
            Err(_) => Progress(None),
        }
    }

    /// Of what nothing is known but that it is not done.
    pub fn of_time() -> Self {
        Self::show(|since: Instant| Some(format!("{} s", since.elapsed().as_secs())))
    }

    fn show(mut far: impl FnMut(Instant) -> Option<String> + Send + 'static) -> Self {
        if !io::stderr().is_terminal() {
            return Progress(None);
        }
        let (done, is_done) = mpsc::channel::<()>();
        let since = Instant::now();
        let work = move || {
            let mut wait = MOMENT;
            let mut shown = false;
            while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = INTERVAL;
                if let Some(far) = far(since) {
                    shown = true;
                    // What is said meanwhile is written over it.
                    let _ = write!(io::stderr(), "ckptadv: {far}\x1b[K\r");
                }
            }
            if shown {
                let _ = write!(io::stderr(), "\x1b[K");
            }
        };
        match thread::Builder::new().spawn(work) {
            Ok(thread) => Progress(Some((done, thread))),
            Err(_) => Progress(None),
        }
    }
}

impl Drop for Progress {
    /// The line is gone before anything else is said.
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done) * 100 / u128::from(total)).min(100) as u64
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib < 1024.0 {
        true => format!("{mib:.0} MiB"),
        false => format!("{:.1} GiB", mib / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(5 << 20), "5 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(percent(1, 3), 33);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }
}
