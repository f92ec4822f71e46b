//! Sockets that are connected with each other: what the loss of one end means for
//! the other, and which task CRIU makes a pair in.

use super::entry::{
    CLOSE_WAIT, Connection, Description, End, FileType, Link, hung_up, in_state, with_fin,
};
use super::holders::{Holder, Holders};
use super::image::{Directory, optional};
use super::wire::{File, Magic, Message, Splices};
use crate::Error;
use std::collections::{BTreeMap, BTreeSet};

const ESTABLISHED: u32 = 1;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const TCP: u32 = libc::IPPROTO_TCP as u32;

/// What becomes of sockets that stay.
#[derive(Default)]
pub(super) struct Sockets {
    /// Entries as they are to be, by description.
    pub entries: BTreeMap<u32, Vec<u8>>,
    /// Descriptions whose entries must stand before those of others.
    pub before: BTreeMap<u32, u32>,
    /// Other files that change, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What is left of sockets that go, outside the image.
    pub warnings: Vec<String>,
}

/// Hangs up what is connected to sockets that go, and sees to it that CRIU can make
/// the pairs of which ends stay in fewer tasks.
pub(super) fn edited(holders: &Holders<'_>, directory: &dyn Directory) -> Result<Sockets, Error> {
    let mut sockets = Sockets::default();
    let all = holders.image.descriptions.iter();
    let concerned: Vec<&Description> = all
        .filter(|it| matches!(it.file_type, FileType::UNIXSK | FileType::INETSK))
        .filter(|it| holders.is_gone(it.id) || holders.is_released(it.id))
        .collect();
    if concerned.is_empty() {
        return Ok(sockets);
    }
    let ends = Ends::new(holders);
    for &Description { id, ref link, .. } in concerned {
        match link {
            Link::Unix { inode, .. } if holders.is_gone(id) => {
                for other in ends.towards.get(inode).into_iter().flatten() {
                    if let Link::Unix { datagram, .. } = other.link
                        && !holders.is_gone(other.id)
                    {
                        let entry = hung_up(&entry(holders, other), datagram)?;
                        sockets.entries.insert(other.id, entry.into_entry());
                    }
                }
            }
            Link::Unix { inode, peer, .. } => ends.arrange(id, *inode, *peer, &mut sockets)?,
            Link::Inet(one) if one.here.protocol == TCP && holders.is_gone(id) => {
                let locked = optional(directory, stream_of(one))?.is_some();
                if let (true, Some(released)) = (locked, holders.of(id).first()) {
                    sockets.warnings.push(format!(
                        "{}: criu dump locked the connection by rules of the firewall (iptables \
                         or nft, with the mark 0xc114), and restore takes off those of sockets \
                         that it makes: where they are, remove them",
                        holders.name(released)
                    ));
                }
                if let Some(other) = ends.connections.get(&(&one.there, &one.here))
                    && !holders.is_gone(other.id)
                {
                    close_other_end(holders, id, other, directory, &mut sockets)?;
                }
            }
            _ => {}
        }
    }
    Ok(sockets)
}

fn entry<'a>(holders: &Holders<'a>, description: &Description) -> Message<'a> {
    let file = File {
        name: "files.img",
        bytes: &holders.image.files,
    };
    file.message(&description.span)
}

/// The file of a connection that was dumped as one: --tcp-close makes none.
fn stream_of(connection: &Connection) -> String {
    format!("tcp-stream-{:x}.img", connection.inode)
}

/// As if the FIN of the end that goes had just arrived at the other.
fn close_other_end(
    holders: &Holders<'_>,
    id: u32,
    other: &Description,
    directory: &dyn Directory,
    sockets: &mut Sockets,
) -> Result<(), Error> {
    let Link::Inet(connection) = &other.link else {
        return Ok(());
    };
    match connection.state {
        ESTABLISHED => {}
        FIN_WAIT1 | FIN_WAIT2 => {
            return Err(holders.refusal_of(
                id,
                format!(
                    "its other end ({}) is shut down and waits for it to be closed, which CRIU \
                     cannot restore as done: leave it as it is, or advise both ends",
                    holders.who_keeps(other.id)
                ),
            ));
        }
        _ => return Ok(()),
    }
    let name = stream_of(connection);
    // A dump that cuts connections (--tcp-close) has none.
    let Some(file) = optional(directory, &name)? else {
        return Ok(());
    };
    let stream = file.file().entry(Magic::TCP_STREAM)?;
    let mut splices = Splices::default();
    splices.replace(stream.span, with_fin(&stream.message)?.into_entry());
    let bytes = splices.apply(&file.bytes, 0);
    sockets.files.insert(name, bytes);
    let entry = in_state(&entry(holders, other), CLOSE_WAIT)?;
    sockets.entries.insert(other.id, entry.into_entry());
    Ok(())
}

/// Sockets by what leads to them.
struct Ends<'a> {
    holders: &'a Holders<'a>,
    /// Unix sockets by inode.
    sockets: BTreeMap<u32, &'a Description>,
    /// Unix sockets by the inode of their peer.
    towards: BTreeMap<u32, Vec<&'a Description>>,
    /// Internet sockets by their own and their other end.
    connections: BTreeMap<(&'a End, &'a End), &'a Description>,
}

impl<'a> Ends<'a> {
    fn new(holders: &'a Holders<'a>) -> Self {
        let mut ends = Ends {
            holders,
            sockets: BTreeMap::new(),
            towards: BTreeMap::new(),
            connections: BTreeMap::new(),
        };
        for description in holders.image.descriptions.iter() {
            match &description.link {
                Link::Unix { inode, peer, .. } => {
                    ends.sockets.insert(*inode, description);
                    if *peer != 0 {
                        ends.towards.entry(*peer).or_default().push(description);
                    }
                }
                Link::Inet(one) => {
                    ends.connections
                        .insert((&one.here, &one.there), description);
                }
                _ => {}
            }
        }
        ends
    }

    /// CRIU makes a pair in the first task that has the end of the later entry,
    /// and ends with an assertion where that task has the earlier one too but is
    /// not the first that does. So the end that lower pids have must come later.
    fn arrange(&self, id: u32, inode: u32, peer: u32, sockets: &mut Sockets) -> Result<(), Error> {
        let Some(other) = self.sockets.get(&peer) else {
            return Ok(());
        };
        let paired = matches!(other.link, Link::Unix { peer, .. } if peer == inode);
        if !paired || other.id == id || self.holders.is_gone(other.id) {
            return Ok(());
        }
        let one = &self.holders.image.descriptions[id];
        let (earlier, later) = match one.span.start < other.span.start {
            true => (one, *other),
            false => (*other, one),
        };
        let (Some(first), Some(second)) = (self.pids(earlier.id), self.pids(later.id)) else {
            return Err(self.in_flight(id, other.id));
        };
        let maker = second.first();
        if first.first() == maker || maker.is_none_or(|pid| !first.contains(pid)) {
            // Descriptors in flight must be where their sender is made.
            if first.first() != maker && self.is_queue(&[earlier.id, later.id]) {
                return Err(self.in_flight(id, other.id));
            }
            return Ok(());
        }
        if self.is_queue(&[earlier.id, later.id]) {
            return Err(self.in_flight(id, other.id));
        }
        sockets.before.insert(later.id, earlier.id);
        Ok(())
    }

    /// The tasks that have a socket; `None` where a queue has it.
    fn pids(&self, id: u32) -> Option<BTreeSet<i32>> {
        let holders = self.holders;
        let task = |holder: &Holder| holders.task(holder.table);
        (!holders.is_flying(id)).then(|| holders.kept(id).map(task).collect())
    }

    fn is_queue(&self, ids: &[u32]) -> bool {
        let mut flights = self.holders.image.flights.iter();
        flights.any(|flight| ids.contains(&flight.socket))
    }

    fn in_flight(&self, id: u32, other: u32) -> Error {
        self.holders.refusal_of(
            id,
            format!(
                "{} keeps it apart from its other end ({}), and CRIU cannot restore that where \
                 descriptors wait in a socket's queue: advise it in every task (\"*:N\"), or both \
                 ends",
                self.holders.who_keeps(id),
                self.holders.who_keeps(other)
            ),
        )
    }
}
