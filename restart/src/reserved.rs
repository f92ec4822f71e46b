//! Numbers of this process that are the library's: copies of the caller's
//! descriptors, which restarting tasks open by name. A restart program that closes
//! what its tasks inherit must leave them open, so its closing passes over them.
//!
//! Read from tasks on small stacks with memory that others share: nothing here
//! allocates or waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const WORDS: usize = 1024;
const BITS: usize = 64;

static ANY: AtomicBool = AtomicBool::new(false);
static NUMBERS: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

fn place(fd: i32) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    let word = NUMBERS.get(fd / BITS)?;
    Some((word, 1 << (fd % BITS)))
}

/// Makes a number the library's. Above 65535 this does nothing.
pub fn reserve(fd: i32) {
    if let Some((word, bit)) = place(fd) {
        word.fetch_or(bit, Ordering::Relaxed);
        ANY.store(true, Ordering::Release);
    }
}

/// Gives a number up.
pub fn release(fd: i32) {
    if let Some((word, bit)) = place(fd) {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// Gives all of them up.
pub fn release_all() {
    for word in &NUMBERS {
        word.store(0, Ordering::Relaxed);
    }
    ANY.store(false, Ordering::Release);
}

/// Whether there are any.
pub fn any() -> bool {
    ANY.load(Ordering::Acquire)
}

/// Whether a number is the library's.
pub fn is_reserved(fd: i32) -> bool {
    any() && place(fd).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

/// Calls back for each stretch of `first..=last` that has no number of the
/// library's, ascending, until a call is not 0; gives that, or 0.
pub fn around(first: u32, last: u32, mut stretch: impl FnMut(u32, u32) -> i32) -> i32 {
    let mut from = first;
    if any() && first <= last {
        for fd in first..=last.min((WORDS * BITS - 1) as u32) {
            if !is_reserved(fd.cast_signed()) {
                continue;
            }
            if from < fd {
                let result = stretch(from, fd - 1);
                if result != 0 {
                    return result;
                }
            }
            from = fd + 1;
        }
        if from > last {
            return 0;
        }
    }
    stretch(from, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_leave_out_what_is_reserved() {
        let stretches = |first, last| {
            let mut found = Vec::new();
            around(first, last, |from, to| {
                found.push((from, to));
                0
            });
            found
        };
        assert_eq!(stretches(3, u32::MAX), [(3, u32::MAX)]);
        for fd in [600, 601, 65535, 70000, -1] {
            reserve(fd);
        }
        assert!(is_reserved(600) && !is_reserved(602) && !is_reserved(70000));
        assert_eq!(
            stretches(3, u32::MAX),
            [(3, 599), (602, 65534), (65536, u32::MAX)]
        );
        assert_eq!(stretches(600, 601), []);
        assert_eq!(stretches(601, 700), [(602, 700)]);
        assert_eq!(stretches(700, 601), [(700, 601)], "the kernel's to refuse");
        release(601);
        assert_eq!(stretches(600, 601), [(601, 601)]);
        assert_eq!(around(3, 700, |_, _| -1), -1);
        release_all();
        assert!(!is_reserved(600));
        assert_eq!(stretches(600, 601), [(600, 601)]);
    }
}
