//! Locks of fcntl(2), which a task loses with any descriptor of their file that it closes.

use std::collections::{BTreeMap, BTreeSet};

/// Of each process the inodes of which it has such a lock, on whatever device.
///
/// * `locks`: what /proc/locks shows.
pub fn of_processes(locks: &[u8]) -> BTreeMap<i32, BTreeSet<u64>> {
    let mut of: BTreeMap<i32, BTreeSet<u64>> = BTreeMap::new();
    for (process, inode) in locks.split(|&b| b == b'\n').filter_map(lock) {
        of.entry(process).or_default().insert(inode);
    }
    of
}

/// What /proc/PID/fdinfo shows of a descriptor, without such locks.
pub fn without_locks(fdinfo: &[u8]) -> Vec<u8> {
    let lines = fdinfo.split_inclusive(|&b| b == b'\n');
    let stays = lines.filter(|line| line.strip_prefix(b"lock:").and_then(lock).is_none());
    stays.flatten().copied().collect()
}

/// Of a line "1: POSIX  ADVISORY  WRITE 17 fe:02:1234 0 EOF". One who waits for a lock
/// ("1: -> POSIX") has none.
fn lock(line: &[u8]) -> Option<(i32, u64)> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace().skip(1);
    if words.next() != Some("POSIX") {
        return None;
    }
    let process = words.nth(2)?.parse().ok()?;
    let inode = words.next()?.rsplit(':').next()?.parse().ok()?;
    Some((process, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_one_is_told() {
        let text = b"1: POSIX  ADVISORY  WRITE 17 fe:02:1234 0 EOF\n\
            1: -> POSIX  ADVISORY  WRITE 18 fe:02:1234 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 17 fe:02:1235 0 EOF\n\
            3: POSIX  MANDATORY READ 17 00:1f:99 128 1073742335\n";
        assert_eq!(of_processes(text), [(17, [99, 1234].into())].into());
        assert_eq!(of_processes(b"1: POSIX  ADVISORY\n\xff: POSIX"), [].into());
    }

    #[test]
    fn only_they_are_taken_away() {
        let text = b"pos:\t0\nlock:\t1: POSIX  ADVISORY  WRITE 17 fe:02:1234 0 EOF\n\
            lock:\t2: FLOCK  ADVISORY  WRITE 17 fe:02:1234 0 EOF\n";
        let rest = without_locks(text);
        assert_eq!(rest, [&text[..7], &text[59..]].concat());
        assert_eq!(without_locks(&rest), rest);
    }
}
