//! What the kernel says of unix sockets (sock_diag(7)), as if those that are left
//! out had been closed.
//!
//! CRIU learns from it who is connected to whom. The messages are changed where they
//! lie: none gets longer or shorter.

use std::collections::BTreeSet;
use std::ops::Range;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
/// `struct unix_diag_msg`.
const BODY: usize = 16;
const NAME: u16 = 0;
const PEER: u16 = 2;
const ICONS: u16 = 3;
const SHUTDOWN: u16 = 6;
/// No attribute has this number, and CRIU passes over what it does not know.
const NONE: u16 = 0x3fff;
const BOTH: u8 = 3;

/// Unix sockets that are left out, by inode.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// Those that no descriptor holds any more.
    gone: BTreeSet<u32>,
    /// Clients that wait to be accepted by one that is gone.
    waiting: BTreeSet<u32>,
}

/// One message about a unix socket.
struct Message {
    inode: u32,
    datagrams: bool,
    attributes: Vec<Attribute>,
}

struct Attribute {
    kind: u16,
    /// Where its header is, and its value.
    at: usize,
    value: Range<usize>,
}

impl Attribute {
    fn hide(&self, datagram: &mut [u8]) {
        datagram[self.at + 2..self.at + 4].copy_from_slice(&NONE.to_ne_bytes());
    }
}

impl Sockets {
    pub(super) fn new(gone: BTreeSet<u32>) -> Self {
        Sockets {
            gone,
            waiting: BTreeSet::new(),
        }
    }

    /// Whether anything is to be changed.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty()
    }

    /// Takes note of what waits at a listener, before the first message is changed:
    /// the client may come before it.
    pub fn note(&mut self, datagram: &[u8]) {
        for message in messages(datagram) {
            if !self.gone.contains(&message.inode) {
                continue;
            }
            for icons in message.attributes.iter().filter(|a| a.kind == ICONS) {
                let inodes = datagram[icons.value.clone()].chunks_exact(4);
                self.waiting
                    .extend(inodes.map(|inode| word(inode, 0).unwrap_or(0)));
            }
        }
    }

    /// Changes the messages of a datagram.
    pub fn close(&self, datagram: &mut [u8]) {
        for message in messages(datagram) {
            let of = |kind| message.attributes.iter().find(|a| a.kind == kind);
            if self.gone.contains(&message.inode) {
                if let Some(icons) = of(ICONS) {
                    icons.hide(datagram);
                }
                continue;
            }
            let mut cut = self.waiting.contains(&message.inode);
            if let Some(peer) = of(PEER)
                && word(datagram, peer.value.start).is_some_and(|peer| self.gone.contains(&peer))
            {
                datagram[peer.value.start..][..4].fill(0);
                cut = true;
            }
            if !cut || message.datagrams {
                continue;
            }
            if let Some(shutdown) = of(SHUTDOWN)
                && let Some(byte) = datagram.get_mut(shutdown.value.start)
            {
                *byte = BOTH;
            }
            // CRIU gives no connection its name again, but waits for one that is
            // deleted, without end, where the other end is not there.
            if let Some(name) = of(NAME) {
                name.hide(datagram);
            }
        }
    }
}

/// Whether a datagram is about unix sockets.
pub fn is_about_unix_sockets(datagram: &[u8]) -> bool {
    half(datagram, 4) == Some(SOCK_DIAG_BY_FAMILY)
        && datagram.get(HEADER).copied() == u8::try_from(libc::AF_UNIX).ok()
}

/// Whether a datagram ends an answer.
pub fn ends(datagram: &[u8]) -> bool {
    let kind = |message: Range<usize>| half(datagram, message.start + 4);
    parts(datagram, 0..datagram.len(), HEADER, |at| {
        word(datagram, at).map(|length| length as usize)
    })
    .into_iter()
    .any(|message| matches!(kind(message), Some(NLMSG_DONE | NLMSG_ERROR)))
}

fn messages(datagram: &[u8]) -> Vec<Message> {
    let length = |at| word(datagram, at).map(|length| length as usize);
    let short = |at| half(datagram, at).map(usize::from);
    parts(datagram, 0..datagram.len(), HEADER, length)
        .into_iter()
        .filter(|message| {
            is_about_unix_sockets(&datagram[message.clone()]) && message.len() >= HEADER + BODY
        })
        .filter_map(|message| {
            let body = message.start + HEADER;
            let attributes = parts(datagram, body + BODY..message.end, 4, short);
            Some(Message {
                inode: word(datagram, body + 4)?,
                datagrams: i32::from(*datagram.get(body + 1)?) == libc::SOCK_DGRAM,
                attributes: attributes
                    .into_iter()
                    .filter_map(|part| {
                        Some(Attribute {
                            kind: half(datagram, part.start + 2)?,
                            at: part.start,
                            value: part.start + 4..part.end,
                        })
                    })
                    .filter(|a| a.kind != PEER || a.value.len() >= 4)
                    .collect(),
            })
        })
        .collect()
}

/// What a stretch is made of: parts that begin with their length, each beginning
/// at a multiple of four. What does not fit ends it.
fn parts(
    bytes: &[u8],
    within: Range<usize>,
    least: usize,
    length: impl Fn(usize) -> Option<usize>,
) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut at = within.start;
    let end = within.end.min(bytes.len());
    while at < end {
        let Some(part) = length(at)
            .and_then(|length| (length >= least && length <= end - at).then_some(at..at + length))
        else {
            break;
        };
        at += part.len().next_multiple_of(4);
        parts.push(part);
    }
    parts
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: u8 = libc::SOCK_STREAM as u8;
    const DATAGRAMS: u8 = libc::SOCK_DGRAM as u8;

    /// A message as the kernel makes it.
    fn message(kind: u8, inode: u32, peer: u32, icons: &[u32]) -> Vec<u8> {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut body = vec![libc::AF_UNIX as u8, kind, 1, 0];
        body.extend(inode.to_ne_bytes());
        body.extend([0; 8]);
        body.extend(attribute(NAME, b"/name"));
        if peer != 0 {
            body.extend(attribute(PEER, &peer.to_ne_bytes()));
        }
        if !icons.is_empty() {
            let icons: Vec<u8> = icons.iter().flat_map(|i| i.to_ne_bytes()).collect();
            body.extend(attribute(ICONS, &icons));
        }
        body.extend(attribute(SHUTDOWN, &[0]));
        let mut bytes = (HEADER as u32 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    /// Inode, peer, whether it has a name, whether clients wait, and shutdown.
    fn seen(datagram: &[u8]) -> Vec<(u32, u32, bool, bool, u8)> {
        let value = |m: &Message, kind| {
            let attribute = m.attributes.iter().find(|a| a.kind == kind);
            attribute.map(|a| a.value.start)
        };
        messages(datagram)
            .iter()
            .map(|m| {
                let peer = value(m, PEER).and_then(|at| word(datagram, at));
                let shutdown = value(m, SHUTDOWN).map_or(0, |at| datagram[at]);
                (
                    m.inode,
                    peer.unwrap_or(0),
                    value(m, NAME).is_some(),
                    value(m, ICONS).is_some(),
                    shutdown,
                )
            })
            .collect()
    }

    #[test]
    fn the_peers_of_what_is_gone_have_lost_it() {
        let sockets = Sockets::new([10, 12].into());
        let mut datagram = [
            message(STREAM, 10, 11, &[]),
            message(STREAM, 11, 10, &[]),
            message(DATAGRAMS, 13, 12, &[]),
            message(STREAM, 16, 17, &[]),
        ]
        .concat();
        sockets.close(&mut datagram);
        assert_eq!(
            seen(&datagram),
            [
                (10, 11, true, false, 0),
                (11, 0, false, false, 3),
                (13, 0, true, false, 0),
                (16, 17, true, false, 0),
            ]
        );
    }

    #[test]
    fn who_waits_at_a_listener_that_is_gone_is_hung_up() {
        let mut sockets = Sockets::new([10].into());
        let mut datagram = [
            message(STREAM, 11, 0, &[]),
            message(STREAM, 10, 0, &[11, 99]),
            message(STREAM, 20, 0, &[21]),
            message(STREAM, 21, 0, &[]),
        ]
        .concat();
        sockets.note(&datagram);
        sockets.close(&mut datagram);
        assert_eq!(
            seen(&datagram),
            [
                (11, 0, false, false, 3),
                (10, 0, true, false, 0),
                (20, 0, true, true, 0),
                (21, 0, true, false, 0),
            ]
        );
    }

    #[test]
    fn what_lies_about_its_length_is_left_alone() {
        let sockets = Sockets::new([10].into());
        let whole = message(STREAM, 11, 10, &[]);
        for at in [0, HEADER + BODY, HEADER + BODY + 12] {
            for byte in [0, 1, 3, 5, 200, 255] {
                let mut datagram = whole.clone();
                datagram[at] = byte;
                sockets.close(&mut datagram);
                assert_eq!(datagram.len(), whole.len());
            }
        }
        for length in 0..whole.len() {
            sockets.close(&mut whole[..length].to_vec());
        }
        assert!(!ends(&whole));
        let mut done = whole.clone();
        done.extend([20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(ends(&done) && is_about_unix_sockets(&done));
    }
}
