//! How much of a restore's time the library takes for itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// In nanoseconds.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Does something that criu waits for.
pub fn counted<T>(act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = act();
    let taken = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    TAKEN.fetch_add(taken, Ordering::Relaxed);
    done
}

/// What all of that took so far, in microseconds.
pub fn microseconds() -> u64 {
    TAKEN.load(Ordering::Relaxed) / 1000
}
