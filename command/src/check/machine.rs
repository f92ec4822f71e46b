//! What this machine has: files, tasks, ports, names and locks. Looked at, and
//! never opened, bound or made.

use ckpt_image::caller::Access;
use ckpt_image::needs::Protocol;
use ckpt_restart::caller;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// This machine. Each of its tables is read when something is first asked of it.
#[derive(Default)]
pub struct Machine {
    /// Where paths lead from; empty for the root directory.
    root: PathBuf,
    /// Sockets of the internet, by their local port.
    sockets: OnceCell<HashMap<u16, Vec<Socket>>>,
    names: OnceCell<HashSet<Vec<u8>>>,
    locks: OnceCell<Vec<Lock>>,
    /// The addresses that it has, as networks; `None` where they are not known.
    addresses: OnceCell<Option<Vec<(IpAddr, u32)>>>,
}

/// A socket of the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub protocol: Protocol,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: State,
}

/// What a socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Listens,
    /// Its connection is over, and its port free for whoever insists.
    Waits,
    Other,
}

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub whole: bool,
    pub exclusive: bool,
    /// Of the file: device, inode.
    pub file: (u64, u64),
}

/// What is at a path.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    pub mode: u32,
    pub size: u64,
    pub file: (u64, u64),
}

impl Machine {
    /// This one.
    ///
    /// * `root`: where paths lead from.
    pub fn new(root: Option<&Path>) -> Self {
        Machine {
            root: root.map(Path::to_owned).unwrap_or_default(),
            ..Machine::default()
        }
    }

    /// The internet's sockets of a protocol that have a port here.
    pub fn sockets(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = &Socket> {
        let all = self.sockets.get_or_init(Self::all_sockets);
        let of_port = all.get(&port).into_iter().flatten();
        of_port.filter(move |socket| socket.protocol == protocol)
    }

    fn all_sockets() -> HashMap<u16, Vec<Socket>> {
        let mut sockets: HashMap<u16, Vec<Socket>> = HashMap::new();
        for (file, protocol) in [
            ("tcp", Protocol::Tcp),
            ("tcp6", Protocol::Tcp),
            ("udp", Protocol::Udp),
            ("udp6", Protocol::Udp),
        ] {
            let text = read(&format!("/proc/net/{file}"));
            for socket in internet(&String::from_utf8_lossy(&text), protocol) {
                sockets.entry(socket.local.port()).or_default().push(socket);
            }
        }
        sockets
    }

    /// Whether a unix socket that others can reach has a name; abstract ones begin with
    /// a `@`.
    pub fn has_name(&self, name: &[u8]) -> bool {
        let all = self.names.get_or_init(|| names(&read("/proc/net/unix")));
        all.contains(name)
    }

    /// Locks that are held.
    pub fn locks(&self) -> &[Lock] {
        self.locks
            .get_or_init(|| locks(&String::from_utf8_lossy(&read("/proc/locks"))))
    }

    /// Whether descriptor 0 is a terminal.
    pub fn has_terminal() -> bool {
        io::stdin().is_terminal()
    }

    /// A path of the image as one of this machine.
    pub fn path(&self, path: &[u8]) -> PathBuf {
        if self.root.as_os_str().is_empty() {
            return Path::new(OsStr::from_bytes(path)).to_owned();
        }
        let mut whole = self.root.clone().into_os_string().into_vec();
        whole.extend_from_slice(path);
        PathBuf::from(std::ffi::OsString::from_vec(whole))
    }

    /// What is at a path.
    ///
    /// * `follows`: symbolic links.
    ///
    /// # Errors
    /// As stat(2).
    pub fn status(&self, path: &[u8], follows: bool) -> io::Result<Status> {
        let path = self.path(path);
        let found = match follows {
            true => fs::metadata(path)?,
            false => fs::symlink_metadata(path)?,
        };
        Ok(Status {
            mode: found.mode(),
            size: found.size(),
            file: (found.dev(), found.ino()),
        })
    }

    /// Whether the user of this process may open a file.
    ///
    /// # Errors
    /// As access(2).
    pub fn may_open(&self, path: &[u8], access: Access) -> io::Result<()> {
        let path = CString::new(self.path(path).into_os_string().into_vec())?;
        caller::may(&path, access)
    }

    /// The session that this process is in.
    pub fn session() -> i32 {
        // SAFETY: an integer only.
        unsafe { libc::getsid(0) }
    }

    /// Whether there is a task or thread of this number.
    pub fn has_task(pid: i32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    /// Whether an address is one of this machine's.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let Some(addresses) = self.addresses.get_or_init(Self::all_addresses) else {
            return true;
        };
        let address = address.to_canonical();
        address.is_unspecified()
            || address.is_multicast()
            || addresses
                .iter()
                .any(|(network, bits)| is_in(address, *network, *bits))
    }

    fn all_addresses() -> Option<Vec<(IpAddr, u32)>> {
        let v4 = fs::read_to_string("/proc/net/fib_trie").ok()?;
        let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        Some(networks(&v4).chain(addresses(&v6)).collect())
    }
}

/// A file; nothing where it cannot be read.
fn read(path: &str) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            (address.to_bits() ^ network.to_bits()) & mask == 0
        }
        (address, network) => address == network,
    }
}

/// The sockets of /proc/net/tcp and its like.
fn internet(text: &str, protocol: Protocol) -> impl Iterator<Item = Socket> {
    text.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        Some(Socket {
            protocol,
            local: address(local)?,
            remote: address(remote)?,
            state: match (state, protocol) {
                ("0A", Protocol::Tcp) => State::Listens,
                ("06", Protocol::Tcp) => State::Waits,
                _ => State::Other,
            },
        })
    })
}

/// Words of an address as this machine has them in memory, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some(SocketAddr::new(address, port))
}

/// The names in /proc/net/unix of sockets that listen, or receive from anybody.
fn names(text: &[u8]) -> HashSet<Vec<u8>> {
    const LISTENS: u32 = 1 << 16;
    let lines = text.split(|&byte| byte == b'\n').skip(1);
    let named = lines.filter_map(|line| {
        // Number, references, protocol, flags, type, state, inode, name.
        let mut rest = line;
        let mut columns = [""; 7];
        for column in &mut columns {
            let start = rest.iter().position(|byte| *byte != b' ')?;
            let end = rest[start..].iter().position(|byte| *byte == b' ')? + start;
            *column = std::str::from_utf8(&rest[start..end]).ok()?;
            rest = &rest[end..];
        }
        let flags = u32::from_str_radix(columns[3], 16).ok()?;
        let receives = flags & LISTENS != 0 || columns[4] == "0002";
        receives.then(|| rest[1..].to_vec())
    });
    named.collect()
}

/// The locks of /proc/locks.
fn locks(text: &str) -> Vec<Lock> {
    let held = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Who waits for a lock has an arrow.
        let [_, class, _, access, _, file, ..] = words[..] else {
            return None;
        };
        let whole = match class {
            "FLOCK" => true,
            "POSIX" | "OFDLCK" => false,
            _ => return None,
        };
        let mut file = file.split(':');
        let (major, minor) = (file.next()?, file.next()?);
        let number = |text| u32::from_str_radix(text, 16).ok();
        Some(Lock {
            whole,
            exclusive: access == "WRITE",
            file: (
                libc::makedev(number(major)?, number(minor)?),
                file.next()?.parse().ok()?,
            ),
        })
    });
    held.collect()
}

/// The networks whose addresses are this machine's, of /proc/net/fib_trie.
fn networks(text: &str) -> impl Iterator<Item = (IpAddr, u32)> {
    let mut leaf = None;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
            return None;
        }
        let bits = line.strip_prefix('/')?.strip_suffix(" host LOCAL")?;
        Some((leaf?.into(), bits.parse().ok()?))
    })
}

/// The addresses of /proc/net/if_inet6.
fn addresses(text: &str) -> impl Iterator<Item = (IpAddr, u32)> {
    text.lines().filter_map(|line| {
        let address = u128::from_str_radix(line.split(' ').next()?, 16).ok()?;
        Some((Ipv6Addr::from_bits(address).into(), 128))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_as_the_kernel_writes_them() {
        let v4 = u32::from_ne_bytes([127, 0, 0, 1]);
        let text = format!(
            "  sl  local_address rem_address   st\n   0: {v4:08X}:1F90 00000000:0000 0A 0:0\n   \
             1: {v4:08X}:1F90 {v4:08X}:0050 06 0:0\n"
        );
        let found: Vec<Socket> = internet(&text, Protocol::Tcp).collect();
        assert_eq!(found[0].local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(found[0].state, State::Listens);
        assert_eq!(found[1].remote, "127.0.0.1:80".parse().unwrap());
        assert_eq!(found[1].state, State::Waits);
        let one = u32::from_ne_bytes([0, 0, 0, 1]);
        let text = format!("00000000000000000000000{:09X}:0050", one);
        assert_eq!(
            address(&text[text.len() - 37..]),
            Some("[::1]:80".parse().unwrap())
        );
    }

    #[test]
    fn names_are_of_sockets_that_can_be_reached() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/a b\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 12 /run/accepted\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 13 @abstract\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14\n";
        let expected: [&[u8]; 2] = [b"/run/a b", b"@abstract"];
        assert_eq!(names(text), expected.iter().map(|n| n.to_vec()).collect());
    }

    #[test]
    fn locks_that_are_waited_for_are_none() {
        let text = "1: FLOCK  ADVISORY  WRITE 412 08:01:77 0 EOF\n\
                    1: -> FLOCK  ADVISORY  WRITE 413 08:01:77 0 EOF\n\
                    2: POSIX  ADVISORY  READ  99 00:1f:5 0 9\n\
                    3: LEASE  ACTIVE    READ  99 00:1f:5 0 EOF\n";
        let [flock, posix] = &locks(text)[..] else {
            panic!("{:?}", locks(text));
        };
        assert!(flock.whole && flock.exclusive && flock.file == (libc::makedev(8, 1), 77));
        assert!(!posix.whole && !posix.exclusive && posix.file == (libc::makedev(0, 0x1f), 5));
    }

    #[test]
    fn addresses_of_local_networks_are_this_machines() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.0\n        /24 link UNICAST\n     \
                    |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 127.0.0.0\n        /8 host LOCAL\n";
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let machine = Machine {
            addresses: Some(networks(text).chain(addresses(v6)).collect()).into(),
            ..Machine::default()
        };
        for (address, expected) in [
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::ffff:10.1.2.3", true),
            ("fe80::1", false),
        ] {
            assert_eq!(
                machine.has_address(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }
}
