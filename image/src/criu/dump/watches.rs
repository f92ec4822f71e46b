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
    let numbers = fdinfo.split(|&b| b == b'\n').filter_map(number);
    let watch = |number| {
        let nth = before.entry(number).or_insert(0);
        let watch = Watch { number, nth: *nth };
        *nth += 1;
        watch
    };
    numbers.map(watch).collect()
}

/// What CRIU is shown of a set: watches as the kernel has them, and the number by which
/// each is shown. It then asks about them as it has seen them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub(super) watches: Vec<(Watch, Option<i32>)>,
}

impl Shown {
    /// * `watches`: in the kernel's order; `None` for what is not shown.
    pub fn new(watches: Vec<(Watch, Option<i32>)>) -> Self {
        Shown { watches }
    }

    /// Whether anything is not as the kernel has it.
    pub fn differs(&self) -> bool {
        let same = |(watch, shown): &(Watch, Option<i32>)| *shown == Some(watch.number);
        !self.watches.iter().all(same)
    }

    /// The kernel's text, as it is shown.
    pub fn text(&self, fdinfo: &[u8]) -> Vec<u8> {
        let mut watches = self.watches.iter();
        let mut text = Vec::with_capacity(fdinfo.len());
        for line in fdinfo.split_inclusive(|&b| b == b'\n') {
            let watch = number(line).and_then(|_| watches.next());
            match watch {
                Some((_, None)) => {}
                Some((watch, Some(shown))) if watch.number != *shown => {
                    text.extend_from_slice(format!("{NAME} {shown:8} ").as_bytes());
                    let rest = line.windows(EVENTS.len()).position(|part| part == EVENTS);
                    text.extend_from_slice(&line[rest.unwrap_or(line.len())..]);
                }
                _ => text.extend_from_slice(line),
            }
        }
        text
    }

    /// The watch that is asked for by what is shown of it.
    pub fn real(&self, asked: Watch) -> Option<Watch> {
        let shown = self
            .watches
            .iter()
            .filter(|(_, s)| *s == Some(asked.number));
        let nth = usize::try_from(asked.nth).ok()?;
        shown.map(|(watch, _)| *watch).nth(nth)
    }
}

const NAME: &str = "tfd:";
const EVENTS: &[u8] = b"events:";

/// Of a line "tfd: 7 events: 19 data: 7 pos:0 ino:9 sdev:9".
fn number(line: &[u8]) -> Option<i32> {
    let rest = line.strip_prefix(NAME.as_bytes())?.trim_ascii_start();
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

    fn shown(numbers: [Option<i32>; 3]) -> Shown {
        Shown::new(watches(TEXT.as_bytes()).into_iter().zip(numbers).collect())
    }

    #[test]
    fn a_watch_is_a_line() {
        let all = watches(TEXT.as_bytes());
        assert_eq!(all, [watch(7, 0), watch(8, 0), watch(7, 1)]);
        let as_it_is = shown([Some(7), Some(8), Some(7)]);
        assert!(!as_it_is.differs());
        assert_eq!(as_it_is.text(TEXT.as_bytes()), TEXT.as_bytes());
        let one = shown([Some(7), None, None]);
        let text = one.text(TEXT.as_bytes());
        assert!(one.differs());
        assert_eq!(watches(&text), [watch(7, 0)]);
        assert!(text.starts_with(b"pos:\t0\nflags:\t02\n") && text.ends_with(b"ino:15 sdev:d\n"));
    }

    #[test]
    fn it_is_shown_and_asked_for_by_another_number() {
        let moved = shown([Some(12), Some(8), Some(7)]);
        let text = String::from_utf8(moved.text(TEXT.as_bytes())).expect("text");
        assert!(text.contains("\ntfd:       12 events:       19 data: 7  pos:0 ino:15 sdev:d\n"));
        assert_eq!(moved.real(watch(12, 0)), Some(watch(7, 0)));
        assert_eq!(moved.real(watch(7, 0)), Some(watch(7, 1)));
        assert_eq!(moved.real(watch(7, 1)), None);
        assert_eq!(moved.real(watch(8, 0)), Some(watch(8, 0)));
    }
}
