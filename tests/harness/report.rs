//! The descriptors of a restored task, looked at from outside and written as the tables of outcomes write them.
//!
//! `N=LINK|FLAGS|POS`, then `x` for close-on-exec, then what reading finds. Reading goes through the task's own
//! open file descriptions: it leaves them empty, and non-blocking.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// How many bytes the program that made the images reads at once.
const READ_SIZE: usize = 512;
/// Of today's kernel, not of its C library, which has 0.
const O_LARGEFILE: i32 = 0x8000;

/// Names for pipes and sockets, in the order in which they are met: a number in the tables stands for one object.
#[derive(Default)]
pub struct Names {
    numbers: BTreeMap<String, usize>,
    /// Sockets that have a peer only because today's kernel cannot have them without.
    alone: Vec<String>,
}

impl Names {
    /// Names for a restart of which the model noted these things.
    pub fn of(notes: &[String]) -> Self {
        let alone = notes
            .iter()
            .filter_map(|note| note.strip_suffix(" has a peer, and had none then"));
        Self {
            numbers: BTreeMap::new(),
            alone: alone.map(str::to_owned).collect(),
        }
    }

    fn rename(&mut self, link: &str) -> String {
        match link.split_once(":[") {
            Some((kind @ ("pipe" | "socket"), _)) => {
                let next = 1 + self
                    .numbers
                    .keys()
                    .filter(|known| known.starts_with(kind))
                    .count();
                let number = *self.numbers.entry(link.to_owned()).or_insert(next);
                format!("{kind}:[{number}]")
            }
            _ => link.to_owned(),
        }
    }
}

/// The descriptors of a process, as `PID: N=…, N=…; epoll N ready […]` with the given number for PID. Call it
/// where paths mean what they mean to the task.
pub fn describe(pid: i32, shown_as: i32, names: &mut Names) -> String {
    let numbers = numbers(pid);
    let mut ready = String::new();
    for &number in &numbers {
        if link(pid, number) == "anon_inode:[eventpoll]" {
            let _ = write!(
                ready,
                "; epoll {number} ready {}",
                ready_events(&take(pid, number))
            );
        }
    }
    let descriptors = numbers.iter().map(|&number| {
        let shown = names.rename(&link(pid, number));
        let close_on_exec = if is_close_on_exec(pid, number) {
            "|x"
        } else {
            ""
        };
        let fd = take(pid, number);
        // SAFETY: no memory is involved.
        let (flags, position) = unsafe {
            (
                libc::fcntl(fd.as_raw_fd(), libc::F_GETFL),
                libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_CUR),
            )
        };
        // Today every descriptor that the kernel calls seekable answers; then these did not.
        let position = if shown.starts_with("anon_inode:") || position < 0 {
            -29
        } else {
            position
        };
        let found = if shown.starts_with("socket:") {
            read_socket(&fd, names.alone.contains(&link(pid, number)))
        } else {
            read(&fd, &shown, flags, (pid, shown_as))
        };
        // The master that a restart makes was opened inside the kernel, which leaves this out. No call does so today.
        let flags = if shown == "/dev/ptmx" {
            flags & !O_LARGEFILE
        } else {
            flags
        };
        format!("{number}={shown}|{flags:#x}|{position}{close_on_exec}{found}")
    });
    let descriptors: Vec<_> = descriptors.collect();
    format!("{shown_as}: {}{ready}", descriptors.join(", "))
}

/// The open descriptors of a process, in order.
pub fn numbers(pid: i32) -> Vec<i32> {
    let directory = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living task");
    let mut numbers: Vec<i32> = directory
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// What /proc/PID/fd/N leads to.
pub fn link(pid: i32, number: i32) -> String {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).expect("an open descriptor");
    link.to_string_lossy().into_owned()
}

/// The task's own open file description.
pub fn take(pid: i32, number: i32) -> OwnedFd {
    // SAFETY: no memory is involved; the descriptors are new, so owned by nobody else.
    unsafe {
        let task = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        assert!(task >= 0, "task {pid}: {}", io::Error::last_os_error());
        let task = OwnedFd::from_raw_fd(task);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, task.as_raw_fd(), number, 0) as i32;
        assert!(
            fd >= 0,
            "descriptor {number} of {pid}: {}",
            io::Error::last_os_error()
        );
        OwnedFd::from_raw_fd(fd)
    }
}

/// Whether a task's descriptor is close-on-exec.
///
/// # Panics
/// It is not open.
pub fn is_close_on_exec(pid: i32, number: i32) -> bool {
    let info =
        fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("an open descriptor");
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .expect("flags");
    i32::from_str_radix(flags.trim(), 8).expect("octal flags") & libc::O_CLOEXEC != 0
}

fn read(fd: &OwnedFd, shown: &str, flags: i32, task: (i32, i32)) -> String {
    if is_terminal(fd) {
        return read_terminal(fd, flags, task);
    }
    let is_eventfd = shown == "anon_inode:[eventfd]";
    if flags & libc::O_ACCMODE == libc::O_WRONLY || !(is_eventfd || is_fifo(fd)) {
        return String::new();
    }
    let (result, bytes) = read_some(fd, flags);
    match <[u8; 8]>::try_from(bytes.as_slice()) {
        Ok(count) if is_eventfd => format!("|read 8 count {}", u64::from_ne_bytes(count)),
        _ => format!("|read {result} \"{}\"", shown_bytes(&bytes)),
    }
}

fn read_socket(fd: &OwnedFd, alone: bool) -> String {
    let option = |name| {
        let (mut value, mut length) = (0i32, 4);
        // SAFETY: room for an integer.
        unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &mut length,
            )
        };
        value
    };
    let listening = option(libc::SO_ACCEPTCONN);
    let mut shown = format!(
        "|type {} listening {listening} name ",
        option(libc::SO_TYPE)
    );
    let name = socket_name(|name, length| {
        // SAFETY: room for a name of this length.
        unsafe { libc::getsockname(fd.as_raw_fd(), name, length) }
    });
    shown.push_str(&name.unwrap_or_else(|error| error.to_string()));
    let peer = socket_name(|name, length| {
        // SAFETY: room for a name of this length.
        unsafe { libc::getpeername(fd.as_raw_fd(), name, length) }
    });
    match peer {
        Ok(_) if alone => shown.push_str(" nopeer -107"),
        Ok(peer) => drop(write!(shown, " peer {peer}")),
        Err(error) => drop(write!(shown, " nopeer {error}")),
    }
    if listening != 0 {
        return shown;
    }
    loop {
        let mut buffer = vec![0u8; READ_SIZE];
        // SAFETY: room for READ_SIZE bytes.
        let n = unsafe {
            libc::recv(
                fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let result = or_error(n as i64);
        let _ = write!(shown, " recv {result}");
        if result <= 0 {
            return shown;
        }
        let _ = write!(shown, " \"{}\"", shown_bytes(&buffer[..n as usize]));
    }
}

fn socket_name(
    ask: impl Fn(*mut libc::sockaddr, &mut libc::socklen_t) -> i32,
) -> Result<String, i64> {
    let mut name = [0u8; 128];
    let mut length = name.len() as libc::socklen_t;
    let result = or_error(ask(name.as_mut_ptr().cast(), &mut length).into());
    if result < 0 {
        return Err(result);
    }
    let name = &name[..(length as usize).min(name.len())];
    Ok(match name {
        [2, 0, high, low, a, b, c, d, ..] => {
            let address = u32::from_ne_bytes([*a, *b, *c, *d]);
            format!("{address:x}:{}", u16::from_be_bytes([*high, *low]))
        }
        _ => shown_bytes(name.get(2..).unwrap_or_default()),
    })
}

fn read_some(fd: &OwnedFd, flags: i32) -> (i64, Vec<u8>) {
    let mut buffer = vec![0u8; READ_SIZE];
    // SAFETY: room for READ_SIZE bytes.
    let n = unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
        libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    let result = or_error(n as i64);
    buffer.truncate(n.max(0) as usize);
    (result, buffer)
}

/// The session of a terminal, as the task would be told, by its saved pid. A slave tells only those whose terminal
/// it is, which this process is not.
fn session(fd: &OwnedFd, told: i64, session: i32, (pid, shown_as): (i32, i32)) -> i64 {
    let session = if told == 0 {
        session
    } else if told == -i64::from(libc::ENOTTY) {
        match controlled_session(pid, fd) {
            Some(session) => session,
            None => return told,
        }
    } else {
        return told;
    };
    if session == pid {
        return i64::from(shown_as);
    }
    // Tasks that have their old pids have them in a namespace of their own.
    let status = fs::read_to_string(format!("/proc/{session}/status")).unwrap_or_default();
    let innermost = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
    innermost
        .and_then(|pid| pid.parse().ok())
        .unwrap_or(i64::from(session))
}

/// The session of a task, if this is its controlling terminal.
fn controlled_session(pid: i32, fd: &OwnedFd) -> Option<i32> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = line.rsplit(") ").next()?.split(' ').skip(3);
    let (session, terminal) = (fields.next()?, fields.next()?);
    let terminal: u64 = terminal.parse().ok()?;
    let device = stat(fd)?.st_rdev;
    let (major, minor) = (
        u64::from(libc::major(device)),
        u64::from(libc::minor(device)),
    );
    let encoded = minor & 0xff | major << 8 | (minor & !0xff) << 12;
    (terminal == encoded).then(|| session.parse().ok())?
}

fn read_terminal(fd: &OwnedFd, flags: i32, task: (i32, i32)) -> String {
    let (mut number, mut leader) = (0, 0);
    // SAFETY: valid places for two integers.
    let (ptn, tsid) = unsafe {
        let ptn = or_error(i64::from(libc::ioctl(
            fd.as_raw_fd(),
            libc::TIOCGPTN,
            &mut number,
        )));
        (
            ptn,
            or_error(i64::from(libc::ioctl(
                fd.as_raw_fd(),
                libc::TIOCGSID,
                &mut leader,
            ))),
        )
    };
    // What a terminal does not know was EINVAL then, and is ENOTTY today.
    let ptn = match -ptn as i32 {
        0 => i64::from(number),
        libc::ENOTTY => -i64::from(libc::EINVAL),
        _ => ptn,
    };
    let tsid = session(fd, tsid, leader, task);
    let (result, bytes) = read_some(fd, flags);
    let data = if bytes.is_empty() {
        String::new()
    } else {
        format!(" \"{}\"", shown_bytes(&bytes))
    };
    format!("|ptn {ptn} tsid {tsid} read {result}{data}")
}

fn or_error(result: i64) -> i64 {
    if result < 0 {
        -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

/// By device, for one that was hung up answers nothing.
fn is_terminal(fd: &OwnedFd) -> bool {
    let device = stat(fd)
        .filter(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFCHR)
        .map(|stat| stat.st_rdev);
    device.is_some_and(|device| {
        matches!(
            (libc::major(device), libc::minor(device)),
            (4 | 136..=143, _) | (5, 0..=2)
        )
    })
}

fn shown_bytes(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut shown, &byte| {
        match byte {
            b' '..=b'~' => shown.push(byte.into()),
            _ => drop(write!(shown, "\\x{byte:02x}")),
        }
        shown
    })
}

fn ready_events(epoll: &OwnedFd) -> String {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    // SAFETY: room for that many events.
    let count = unsafe {
        libc::epoll_wait(
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as i32,
            0,
        )
    };
    let events = &events[..count.max(0) as usize];
    let shown: Vec<_> = events
        .iter()
        .map(|event| format!("({}, {})", { event.events }, { event.u64 }))
        .collect();
    format!("[{}]", shown.join(", "))
}

fn is_fifo(fd: &OwnedFd) -> bool {
    stat(fd).is_some_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

fn stat(fd: &OwnedFd) -> Option<libc::stat> {
    // SAFETY: a valid place for the answer, for which all zeroes is a valid value.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd.as_raw_fd(), &mut stat) == 0).then_some(stat)
    }
}

/// Two reports say the same. Tasks that share a file race for what reading finds in it, so what all of them read
/// is compared together; everything else exactly.
pub fn agree(one: &str, other: &str) -> bool {
    Comparable::of(one) == Comparable::of(other)
}

/// A report taken apart: what is exact, and what was read from each file, in any order.
#[derive(PartialEq)]
struct Comparable {
    exact: Vec<String>,
    read: BTreeMap<String, Vec<String>>,
}

impl Comparable {
    fn of(report: &str) -> Self {
        let mut exact = Vec::new();
        let mut read = BTreeMap::<String, Vec<String>>::new();
        for task in report.split(" // ") {
            let (pid, rest) = task.split_once(": ").unwrap_or((task, ""));
            exact.push(pid.to_owned());
            let mut parts = rest.split("; ");
            for descriptor in parts.next().into_iter().flat_map(|list| list.split(", ")) {
                match descriptor.split_once("|read ") {
                    Some((before, found)) => {
                        let mut fields = before.split('|');
                        let (link, flags) =
                            (fields.next().unwrap_or(""), fields.next().unwrap_or("0x0"));
                        let object = link.split_once('=').map_or(link, |(_, object)| object);
                        read.entry(object.to_owned())
                            .or_default()
                            .push(found.to_owned());
                        // Who reads first makes the file non-blocking for the others.
                        let flags =
                            i32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(-1);
                        let rest: Vec<_> = fields.collect();
                        exact.push(format!(
                            "{link}|{:#x}|{}",
                            flags & !libc::O_NONBLOCK,
                            rest.join("|")
                        ));
                    }
                    None => exact.push(descriptor.to_owned()),
                }
            }
            // Which event was ready first is not kept in an image.
            for epoll in parts {
                let (before, events) = epoll.split_once('[').unwrap_or((epoll, ""));
                let mut events: Vec<_> = events.trim_end_matches(']').split("), ").collect();
                events.sort_unstable_by_key(|event| event.trim_end_matches(')').to_owned());
                exact.push(format!(
                    "{before}{:?}",
                    events
                        .iter()
                        .map(|event| event.trim_end_matches(')'))
                        .collect::<Vec<_>>()
                ));
            }
        }
        read.values_mut().for_each(|found| found.sort_unstable());
        Self { exact, read }
    }
}
