//! What /proc/PID/fdinfo says of an epoll set.

use std::collections::BTreeMap;

/// One watch of an epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The number by which the file was added.
    pub number: i32,
    /// How many watches by the same number come before: others may have been
    /// closed, and live on as a copy.
    pub nth: u32,
}

/// The watches of a set, in the order of the text.
///
/// * `fdinfo`: what the kernel shows of the set.
pub fn watches(fdinfo: &[u8]) -> Vec<Watch> {
    let mut before: BTreeMap<i32, u32> = BTreeMap::new();
    let mut watches = Vec::new();
    for number in fdinfo.split(|&b| b == b'\n').filter_map(number) {
        let nth = before.entry(number).or_insert(0);
        watches.push(Watch { number, nth: *nth });
        *nth += 1;
    }
    watches
}

/// The same text without some of the watches.
pub fn without(fdinfo: &[u8], gone: &[Watch]) -> Vec<u8> {
    let mut all = watches(fdinfo).into_iter();
    let mut text = Vec::with_capacity(fdinfo.len());
    for line in fdinfo.split_inclusive(|&b| b == b'\n') {
        let watch = number(line).and_then(|_| all.next());
        if watch.is_none_or(|watch| !gone.contains(&watch)) {
            text.extend_from_slice(line);
        }
    }
    text
}

/// One that stays and has another before it that goes, by the same number: it
/// would be taken for that.
pub(super) fn stays_after(watches: &[Watch], gone: &[Watch]) -> Option<Watch> {
    let before = |a: &Watch, b: &Watch| a.number == b.number && a.nth < b.nth;
    let stays = watches.iter().filter(|watch| !gone.contains(watch));
    stays
        .filter(|watch| gone.iter().any(|gone| before(gone, watch)))
        .copied()
        .next()
}

/// Of a line "tfd: 7 events: 19 data: 7 pos:0 ino:9 sdev:9".
fn number(line: &[u8]) -> Option<i32> {
    let rest = line.strip_prefix(b"tfd:")?.trim_ascii_start();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "pos:\t0\nflags:\t02\n\
        tfd:        7 events:       19 data: 7  pos:0 ino:15 sdev:d\n\
        tfd:        8 events:       19 data: 8  pos:0 ino:16 sdev:d\n\
        tfd:        7 events:       19 data: 7  pos:0 ino:17 sdev:d\n";

    fn watch(number: i32, nth: u32) -> Watch {
        Watch { number, nth }
    }

    #[test]
    fn a_watch_is_a_line() {
        let all = watches(TEXT.as_bytes());
        assert_eq!(all, [watch(7, 0), watch(8, 0), watch(7, 1)]);
        let text = without(TEXT.as_bytes(), &[watch(7, 1), watch(8, 0)]);
        assert_eq!(watches(&text), [watch(7, 0)]);
        assert!(text.starts_with(b"pos:\t0\nflags:\t02\n") && text.ends_with(b"ino:15 sdev:d\n"));
        assert_eq!(without(TEXT.as_bytes(), &[]), TEXT.as_bytes());
    }

    #[test]
    fn what_would_be_taken_for_another_is_found() {
        let all = watches(TEXT.as_bytes());
        assert_eq!(stays_after(&all, &[watch(7, 0)]), Some(watch(7, 1)));
        assert_eq!(stays_after(&all, &[watch(7, 1)]), None);
        assert_eq!(stays_after(&all, &[watch(7, 0), watch(7, 1)]), None);
    }
}
