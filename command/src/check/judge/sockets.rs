//! Sockets: who else has their names, ports and connections here.

use super::super::finding::{Cure, Finding, Verdict, quoted};
use super::super::machine::State;
use super::files::{kind_name, parent, said};
use super::{Judge, finding};
use crate::table::printable;
use ckpt_image::needs::{InTheWay, Port, Protocol};
use std::net::{IpAddr, SocketAddr};

impl Judge<'_> {
    pub(super) fn unix_path(&self, path: &[u8], way: InTheWay) -> Option<Finding> {
        let shown = String::from_utf8_lossy(path);
        let or_remove = || {
            let mut cures = self.drop();
            cures.push(Cure::Action(format!("rm {}", quoted(&shown))));
            cures
        };
        let parent = parent(path);
        let there = match self.machine.status(path, false) {
            Ok(status) => status.mode & libc::S_IFMT,
            Err(_) => {
                if let Some(missing) = self.lacks(path) {
                    let mut cures = vec![Cure::Action(format!("mkdir -p {}", quoted(&parent)))];
                    cures.extend(self.drop());
                    let why = format!(
                        "it is bound there, but there is no {} here",
                        printable(&missing)
                    );
                    return Some(finding(Verdict::Fails, "directory", why, cures));
                }
                let error = self.may_be_changed(parent.as_bytes()).err()?;
                let why = format!("it cannot be bound there: {}", said(&error));
                return Some(finding(Verdict::Fails, "access", why, self.drop()));
            }
        };
        match (there, way) {
            (libc::S_IFSOCK, _) if self.machine.has_name(path) => Some(finding(
                Verdict::Lost,
                "name",
                "a program listens there now, and would be cut off from its name",
                self.drop(),
            )),
            (libc::S_IFSOCK, _) => None,
            (libc::S_IFDIR, _) | (_, InTheWay::SocketIsRemoved) => {
                let why = format!("{} is in its way here", kind_name(there));
                Some(finding(Verdict::Fails, "name", why, or_remove()))
            }
            (_, InTheWay::IsRemoved) => {
                let why = format!("{} is there now, and would be removed", kind_name(there));
                Some(finding(Verdict::Lost, "name", why, self.drop()))
            }
        }
    }

    pub(super) fn unix_name(&self, name: &[u8]) -> Option<Finding> {
        // The kernel shows every zero byte so.
        let shown = name.iter().map(|&byte| if byte == 0 { b'@' } else { byte });
        let name: Vec<u8> = std::iter::once(b'@').chain(shown).collect();
        self.machine.has_name(&name).then(|| {
            let mut cures = self.drop();
            cures.push(Cure::Action("end the program that has it".to_owned()));
            finding(
                Verdict::Fails,
                "name",
                "another program has this name here",
                cures,
            )
        })
    }

    pub(super) fn unix_peer(&self, path: &[u8]) -> Option<Finding> {
        let name = printable(&String::from_utf8_lossy(path));
        let status = self.machine.status(path, true);
        let is_socket = |mode: u32| mode & libc::S_IFMT == libc::S_IFSOCK;
        let why = match status {
            Err(_) => format!("it is connected to {name}, which is not here"),
            Ok(status) if !is_socket(status.mode) => {
                format!("it is connected to {name}, which is no socket here")
            }
            Ok(_) if !self.machine.has_name(path) => {
                format!("it is connected to {name}, where nobody listens")
            }
            Ok(_) => return None,
        };
        let mut cures = self.drop();
        cures.push(Cure::Action(
            "start the program that listens there".to_owned(),
        ));
        Some(finding(Verdict::Fails, "peer", why, cures))
    }

    pub(super) fn port(&self, port: Port) -> Option<Finding> {
        let name = match port.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        if !port.foreign && !self.machine.has_address(port.address) {
            let why = format!("this machine does not have the address {}", port.address);
            return Some(finding(Verdict::Fails, "address", why, self.drop()));
        }
        let sockets = self.machine.sockets(port.protocol, port.port);
        let sockets = sockets.filter(|other| other.state != State::Waits);
        let mut worst: Option<(Verdict, SocketAddr)> = None;
        for other in sockets {
            let Some(surely) = overlap(port.address, other.local.ip()) else {
                continue;
            };
            let holds = port.protocol == Protocol::Udp || other.state == State::Listens;
            let verdict = match surely && holds {
                true => Verdict::Fails,
                false => Verdict::MayFail,
            };
            if worst.is_none_or(|(other, _)| other != Verdict::Fails) {
                worst = Some((verdict, other.local));
            }
        }
        let (verdict, taken) = worst?;
        let why = format!("another program has {name} {taken} here");
        let mut cures = self.drop();
        cures.push(Cure::Action(format!(
            "end it: ss -{}np sport = {}",
            if port.protocol == Protocol::Tcp {
                "ta"
            } else {
                "ua"
            },
            port.port
        )));
        Some(finding(verdict, "port", why, cures))
    }

    pub(super) fn connection(&self, here: SocketAddr, there: SocketAddr) -> Option<Finding> {
        if !self.criu || self.restore.tcp_close {
            return None;
        }
        if !self.restore.tcp_established {
            let mut cures = vec![
                Cure::Criu("--tcp-established".to_owned()),
                Cure::Criu("--tcp-close".to_owned()),
            ];
            cures.extend(self.drop());
            let why = format!("it is connected to {there}, and criu must be told what to do");
            return Some(finding(Verdict::Fails, "connection", why, cures));
        }
        if self.apart.network {
            return None;
        }
        let cures = || {
            let mut cures = vec![Cure::Criu("--tcp-close".to_owned())];
            cures.extend(self.drop());
            cures
        };
        if !self.machine.has_address(here.ip()) {
            let why = format!("this machine does not have the address {}", here.ip());
            return Some(finding(Verdict::Fails, "address", why, cures()));
        }
        let mut others = self.machine.sockets(Protocol::Tcp, here.port());
        let taken = others.any(|other| {
            (other.local, other.remote) == (here, there) && other.state != State::Waits
        });
        taken.then(|| {
            let why = format!("there is a connection from {here} to {there} here");
            finding(Verdict::Fails, "connection", why, cures())
        })
    }
}

/// Whether two sockets of one port are in each other's way, and whether surely so.
fn overlap(one: IpAddr, other: IpAddr) -> Option<bool> {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    if one == other {
        return Some(true);
    }
    match (one.is_unspecified(), other.is_unspecified()) {
        (false, false) => None,
        // One of them may be of version 6 only.
        _ => match one.is_ipv4() == other.is_ipv4() {
            true => Some(true),
            false if one.is_ipv4() && !other.is_unspecified() => None,
            false if other.is_ipv4() && !one.is_unspecified() => None,
            false => Some(false),
        },
    }
}
