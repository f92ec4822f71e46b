//! Terminals, as tty-info.img tells them.

use super::image::{Directory, optional};
use super::wire::Magic;
use crate::Error;
use std::collections::HashMap;

/// A terminal of tty-info.img.
#[derive(Clone, Copy)]
pub(super) struct Terminal {
    pub device: Device,
    /// The leader of the session that it controls.
    pub leader: Option<i32>,
}

/// What it is.
#[derive(Clone, Copy)]
pub(super) enum Device {
    /// The master of a pseudo-terminal, by its number.
    Master(u32),
    Slave(u32),
    /// The caller gives it: its device, and that of the file system it is on.
    External(u32, u32),
    /// Of the machine.
    Fixed,
}

/// The terminals of an image, by their number in that file.
pub(super) fn terminals(directory: &dyn Directory) -> Result<HashMap<u32, Terminal>, Error> {
    const OF_A_PTY: u32 = 1;
    const EXTERNAL: u32 = 5;
    const MULTIPLEXER: u32 = 5 << 8 | 2;
    let mut terminals = HashMap::new();
    let Some(info) = optional(directory, "tty-info.img")? else {
        return Ok(terminals);
    };
    for entry in info.file().entries(Magic::TTY_INFO)? {
        let message = entry?.message;
        let numbers = message.numbers::<13>()?;
        let [Some(id), kind, _, _, _, leader, _, device, ..] = numbers else {
            continue;
        };
        let device = device.unwrap_or(0);
        let index = match message.message(12)? {
            Some(pty) => pty.numbers::<1>()?[0],
            None => None,
        };
        let device = match (kind, index) {
            (Some(EXTERNAL), _) => Device::External(device, numbers[12].unwrap_or(0)),
            (Some(OF_A_PTY), Some(index)) if device == MULTIPLEXER => Device::Master(index),
            (Some(OF_A_PTY), Some(index)) => Device::Slave(index),
            _ => Device::Fixed,
        };
        let leader = leader.filter(|&pid| pid != 0).map(u32::cast_signed);
        terminals.insert(id, Terminal { device, leader });
    }
    Ok(terminals)
}
