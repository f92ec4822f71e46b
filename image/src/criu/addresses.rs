//! The addresses of sockets, as images have them.

use super::wire::Message;
use crate::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of the internet, which images have in words of network order.
pub(super) fn address(words: &[u32]) -> Option<IpAddr> {
    let bytes: Vec<u8> = words.iter().take(4).flat_map(|w| w.to_le_bytes()).collect();
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

/// The name of a unix socket that is no path, without the zero byte in front.
///
/// * `socket`: the part of its entry that is particular to unix sockets.
pub(super) fn abstract_name<'a>(socket: &Message<'a>) -> Result<Option<&'a [u8]>, Error> {
    let name = socket.message(11)?.map(|name| name.bytes());
    Ok(match name.and_then(<[u8]>::split_first) {
        Some((0, name)) => Some(name),
        _ => None,
    })
}
