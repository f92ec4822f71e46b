//! Terminal pairs: their objects, the files of their ends, and the controlling terminal.

use std::cell::Cell;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use libc::{c_int, c_uint};

use crate::descriptors::{READ, WRITE, ok, owned};
use crate::hash::{Nature, Object, OpenFile, Slave, Terminal};
use crate::layout::{Layout, Record, kind, object};
use crate::restart::{Restart, Step, Stop, invalid};

const DRIVER_PTY: u16 = 4;
const SUBTYPE_MASTER: u16 = 1;
const SUBTYPE_SLAVE: u16 = 2;

/// Flags of a terminal in 2.6.33.
const CLOSING: u64 = 1 << 7;
const LDISC: u64 = 1 << 9;
const LDISC_CHANGING: u64 = 1 << 10;
const LDISC_OPEN: u64 = 1 << 11;
const HUPPED: u64 = 1 << 18;
const FLUSHING: u64 = 1 << 19;

/// Largest amount of input that waits.
const INPUT_MAX: u32 = 4096;

/// What a line discipline holds.
struct Input {
    bytes: Vec<u8>,
    /// How many whole lines, where lines count.
    lines: usize,
}

impl Restart<'_> {
    pub(crate) fn restore_terminal(&mut self) -> Step<Object> {
        let tty = self.record(kind::TTY)?;
        let (link, parked, index, flags) = (tty.i32(12), tty.i32(16), tty.u32(24), tty.u64(32));
        let is_master = match tty.u16(10) {
            SUBTYPE_MASTER => true,
            SUBTYPE_SLAVE => false,
            _ => return invalid(),
        };
        if tty.u16(8) != DRIVER_PTY
            || link < 0
            || is_master != (link == 0)
            || parked < 0
            || is_master != (parked != 0)
            || flags & (CLOSING | FLUSHING) != 0
            || flags & HUPPED != 0 && is_master
        {
            return invalid();
        }
        let terminal = if is_master {
            let master = Rc::new(OpenFile {
                fd: self.allocate_terminal(index)?,
                mode: READ | WRITE,
                nature: Nature::Other,
            });
            self.insert(parked, Object::File(master.clone()))?;
            let slave = Slave {
                fd: Some(open_slave(&master.fd)?),
                opened: Cell::new(false),
            };
            Terminal {
                master,
                slave: Rc::new(slave),
                index,
                is_master,
            }
        } else {
            // The number of a slave is that of its master, whatever its own record says.
            match self.fetch(link, object::TTY)? {
                Object::Terminal(other) => Terminal {
                    master: other.master.clone(),
                    slave: other.slave.clone(),
                    index: other.index,
                    is_master,
                },
                _ => return invalid(),
            }
        };
        if flags & HUPPED != 0 {
            return Err(self.unsupported("a terminal that was hung up"));
        }
        let input = self.restore_line_discipline(&tty)?;
        let master = &terminal.master.fd;
        let loaded = if is_master {
            if output_is_cooked(&tty, self.layout) {
                return Err(self.unsupported("a terminal master that edits what it reads"));
            }
            load_master(master, &input.bytes)?
        } else {
            load_slave(master, &tty, self.layout, &input)?
        };
        if !loaded {
            return Err(self.unsupported("this input of a terminal"));
        }
        Ok(Object::Terminal(terminal))
    }

    /// Reads what waits to be read. Where something is wrong, the kernel goes on as if nothing had been there, and
    /// the bytes are left in its way.
    fn restore_line_discipline(&mut self, tty: &Record) -> Step<Input> {
        let ldisc = self.record(kind::TTY_LDISC)?;
        let (waiting, canonical, lines) = (ldisc.u32(12), ldisc.u32(20), ldisc.u32(24));
        let mut input = Input {
            bytes: Vec::new(),
            lines: 0,
        };
        let open = LDISC | LDISC_OPEN;
        let good = tty.u32(28) == 0 && tty.u64(32) & (open | LDISC_CHANGING) == open;
        if !good || waiting > INPUT_MAX || canonical > INPUT_MAX {
            return Ok(input);
        }
        if waiting > 0 {
            let mut bytes = vec![0; waiting as usize];
            match self.opened(kind::BUFFER, u64::from(waiting)) {
                Ok(()) => self.payload(&mut bytes)?,
                // Its header is gone, and the error is lost.
                Err(_) => return self.fatal().map(|()| input),
            }
            input.bytes = bytes;
        }
        input.lines = lines as usize;
        Ok(input)
    }

    /// A master with this number. The kernel gives the lowest that is free, so those below are taken for a moment.
    fn allocate_terminal(&mut self, index: u32) -> Step<OwnedFd> {
        let mut below = Vec::new();
        loop {
            let master = self.open(b"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
            let mut number: c_uint = 0;
            let locked: c_int = 0;
            // SAFETY: valid places for two integers.
            unsafe {
                ok(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number))?;
                ok(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &locked))?;
            }
            if number == index {
                return Ok(master);
            }
            if number > index || below.len() > 4096 {
                return Err(Stop::Errno(libc::EBUSY));
            }
            below.push(master);
        }
    }

    pub(crate) fn restore_terminal_file(&mut self, record: &Record) -> Step<Rc<OpenFile>> {
        let objref = record.i32(48);
        if objref <= 0 {
            return invalid();
        }
        let Object::Terminal(terminal) = self.fetch(objref, object::TTY)? else {
            return invalid();
        };
        if terminal.is_master {
            return Ok(terminal.master.clone());
        }
        let fd = open_slave(&terminal.master.fd)?;
        terminal.slave.opened.set(true);
        Ok(Rc::new(OpenFile {
            fd,
            mode: READ | WRITE,
            nature: Nature::Other,
        }))
    }

    pub(crate) fn restore_controlling_terminal(&mut self, objref: i32, group: i32) -> Step<()> {
        let Object::Terminal(terminal) = self.fetch(objref, object::TTY)? else {
            return invalid();
        };
        let path = format!("/dev/pts/{}", terminal.index);
        let number = self.open_in_task(path.as_bytes(), libc::O_RDWR | libc::O_NOCTTY)?;
        let claimed = self.inject(libc::SYS_ioctl, &[number, libc::TIOCSCTTY, 0])?;
        let mut result = claimed;
        if claimed == 0 && group != 0 {
            let at = self.tracer.put::<Stop>(self.reader, &group.to_le_bytes())?;
            result = self.inject(libc::SYS_ioctl, &[number, libc::TIOCSPGRP, at])?;
        }
        self.inject(libc::SYS_close, &[number])?;
        if result < 0 {
            Err(Stop::Errno(-result as i32))
        } else {
            Ok(())
        }
    }
}

/// As by its path, but with the flags of an opening inside the kernel.
fn open_slave(master: &OwnedFd) -> Step<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    // SAFETY: no memory is involved.
    Ok(owned(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    })?)
}

/// Whether a master's modes are others than all have today.
fn output_is_cooked(tty: &Record, layout: Layout) -> bool {
    let modes = modes(tty, layout);
    modes[0] != 0 || modes[1] != 0 || modes[3] != 0
}

/// Input, output, control and local modes.
fn modes(tty: &Record, layout: Layout) -> [u32; 4] {
    std::array::from_fn(|i| match layout {
        Layout::V20 => u32::from(tty.u16(40 + 2 * i)),
        Layout::V23 => tty.u32(40 + 4 * i),
    })
}

/// What waits on the side of the master was written by the slave; false if it could not be.
fn load_master(master: &OwnedFd, input: &[u8]) -> Step<bool> {
    if input.is_empty() {
        return Ok(true);
    }
    let slave = open_slave(master)?;
    let before = attributes(master)?;
    set_attributes(master, &raw_attributes(&before, 0))?;
    let written = write_all(&slave, input);
    set_attributes(master, &before)?;
    Ok(written)
}

/// What waits on the side of the slave was written by the master.
fn load_slave(master: &OwnedFd, tty: &Record, layout: Layout, input: &Input) -> Step<bool> {
    let mut wanted = attributes(master)?;
    [
        wanted.c_iflag,
        wanted.c_oflag,
        wanted.c_cflag,
        wanted.c_lflag,
    ] = modes(tty, layout);
    let (characters, size) = match layout {
        Layout::V20 => (&tty.0[49..57], 64),
        Layout::V23 => (&tty.0[65..84], 88),
    };
    wanted.c_cc[..characters.len()].copy_from_slice(characters);
    let newlines = input.bytes.iter().filter(|&&byte| byte == b'\n').count();
    if wanted.c_lflag & libc::ICANON != 0 && newlines != input.lines {
        return Ok(false);
    }
    if !input.bytes.is_empty() {
        set_attributes(
            master,
            &raw_attributes(&wanted, wanted.c_lflag & libc::ICANON),
        )?;
        if !write_all(master, &input.bytes) {
            return Ok(false);
        }
        await_input(master)?;
    }
    set_attributes(master, &wanted)?;
    let size = libc::winsize {
        ws_row: tty.u16(size),
        ws_col: tty.u16(size + 2),
        ws_xpixel: tty.u16(size + 4),
        ws_ypixel: tty.u16(size + 6),
    };
    // SAFETY: reads the struct.
    ok(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
    Ok(true)
}

/// A worker of the kernel carries input to the other side, and must have done so before the modes change. Asking
/// whether there is any waits for it.
fn await_input(master: &OwnedFd) -> Step<()> {
    let slave = open_slave(master)?;
    let mut asked = libc::pollfd {
        fd: slave.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry.
    ok(unsafe { libc::poll(&mut asked, 1, 0) })?;
    Ok(())
}

/// Passes on every byte as it is, with or without lines.
fn raw_attributes(like: &libc::termios, lines: libc::tcflag_t) -> libc::termios {
    let mut raw = *like;
    (raw.c_iflag, raw.c_oflag, raw.c_lflag) = (0, 0, lines);
    raw.c_cc = [0; libc::NCCS];
    raw
}

/// Those of the slave: a master answers for it.
fn attributes(master: &OwnedFd) -> Step<libc::termios> {
    // SAFETY: a valid place for the answer, for which all zeroes is a valid value.
    unsafe {
        let mut attributes = zeroed();
        ok(libc::tcgetattr(master.as_raw_fd(), &mut attributes))?;
        Ok(attributes)
    }
}

fn set_attributes(master: &OwnedFd, attributes: &libc::termios) -> Step<()> {
    // SAFETY: reads the struct.
    ok(unsafe { libc::tcsetattr(master.as_raw_fd(), libc::TCSANOW, attributes) })?;
    Ok(())
}

fn write_all(fd: &OwnedFd, bytes: &[u8]) -> bool {
    // SAFETY: reads the bytes.
    unsafe {
        libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) == bytes.len() as isize
    }
}
