//! The caller's descriptors: what they are, and copies of them out of the way.

use ckpt_image::advice::{Advice, Kind};
use ckpt_image::caller::{Access, Caller, CallerFile};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Where a process finds its descriptors by name.
pub(crate) const INHERITED: &str = "/proc/self/fd/";

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const FMODE_LSEEK: u32 = 4;
const FMODE_PREAD: u32 = 8;
const FMODE_PWRITE: u32 = 0x10;

/// Device and inode of an open descriptor.
///
/// # Errors
/// EBADF where it is not open.
pub fn identity(fd: i32) -> io::Result<(u64, u64)> {
    status(fd).map(|st| (st.st_dev, st.st_ino))
}

fn status(fd: i32) -> io::Result<libc::stat> {
    // SAFETY: stat is plain data, and all zeroes is a value of it.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: st is writable and of the type that fstat fills.
    check(unsafe { libc::fstat(fd, &mut st) }.into())?;
    Ok(st)
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn fcntl(fd: i32, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: the commands used here take an int and touch no memory.
    check(unsafe { libc::fcntl(fd, command, argument) }.into()).map(|n| n as i32)
}

/// Whether a number is open.
pub fn is_open(fd: i32) -> bool {
    fcntl(fd, libc::F_GETFD, 0).is_ok()
}

/// Whether a number is an end of a pipe.
pub fn is_pipe(fd: i32) -> bool {
    status(fd).is_ok_and(|st| st.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

/// RLIMIT_NOFILE, soft.
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: limit is writable and of the type that getrlimit fills.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => 1024,
    }
}

/// The numbers that are open in this process, ascending.
///
/// # Errors
/// What reading /proc/self/fd gives.
pub fn open_numbers() -> io::Result<Vec<i32>> {
    open_among(|_| true)
}

fn open_among(wanted: impl Fn(i32) -> bool) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(INHERITED)? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(|n| n.parse().ok())
            && wanted(number)
        {
            numbers.push(number);
        }
    }
    // The directory's own descriptor is among them, and closed by now.
    numbers.retain(|&number| is_open(number));
    numbers.sort_unstable();
    Ok(numbers)
}

/// The open numbers that advice takes from this process, ascending. /proc is read only
/// where it names ranges.
///
/// # Errors
/// What reading /proc/self/fd gives.
pub fn wanted(advice: &Advice) -> io::Result<Vec<i32>> {
    let single = |(from, to)| (from == to).then_some(from);
    match advice.wanted().map(single).collect::<Option<BTreeSet<_>>>() {
        Some(numbers) => Ok(numbers.into_iter().filter(|&n| is_open(n)).collect()),
        None => open_among(|number| advice.wants(number)),
    }
}

/// A copy of a descriptor at `least` or above, or as high as the limit allows,
/// close-on-exec.
///
/// # Errors
/// EBADF where it is not open, EMFILE where no number above 2 is free.
pub fn copy_above(fd: i32, least: i32) -> io::Result<i32> {
    let mut least = least.max(3);
    loop {
        match fcntl(fd, libc::F_DUPFD_CLOEXEC, least) {
            Err(e)
                if least > 3 && matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EMFILE)) =>
            {
                least = (least / 2).max(3);
            }
            other => return other,
        }
    }
}

/// Whether a descriptor is close-on-exec.
pub fn closes_on_exec(fd: i32) -> bool {
    fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// Examines one descriptor of the caller.
///
/// * `fd`: where it is now (a copy will do).
/// * `name`: the path by which a restarting task can open it anew; empty where
///   the engine adopts descriptors.
///
/// # Errors
/// EBADF where it is not open.
pub fn examine(fd: i32, name: Vec<u8>) -> io::Result<CallerFile> {
    let st = status(fd)?;
    let flags = fcntl(fd, libc::F_GETFL, 0)?;
    let close_on_exec = fcntl(fd, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0;
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_else(|_| format!("descriptor {fd}"));
    let kind = kind(fd, &st, &link);
    let mut file = CallerFile {
        kind,
        access: Access::of_flags(flags),
        flags,
        f_mode: f_mode(fd, kind, flags),
        pollable: is_pollable(fd, kind),
        close_on_exec,
        description: fd,
        name,
        link,
        not_given: None,
    };
    file.not_given = match file.name.is_empty() {
        true => why_not_adopted(&file),
        false => why_not_by_name(&file, &st),
    };
    Ok(file)
}

/// The open descriptors that advice would give to restarted tasks, where they are
/// adopted and need no name.
///
/// # Errors
/// What reading /proc/self/fd gives.
pub fn given(advice: &Advice) -> io::Result<Caller> {
    let mut caller = Caller {
        limit: Some(descriptor_limit()),
        ..Caller::default()
    };
    for number in wanted(advice)? {
        caller.files.insert(number, examine(number, Vec::new())?);
        if advice.offers(number) {
            caller.offered.insert(number);
        }
    }
    group(&mut caller, |number| number);
    Ok(caller)
}

/// Gives every number that shares an open file description with a lower one
/// that one's number, and each an own one otherwise.
///
/// `at` tells where each of the caller's numbers is now.
pub fn group(caller: &mut Caller, at: impl Fn(i32) -> i32) {
    let numbers: Vec<i32> = caller.files.keys().copied().collect();
    let mut firsts: BTreeMap<_, Vec<i32>> = BTreeMap::new();
    for &number in &numbers {
        let of_its_file = firsts.entry(identity(at(number)).ok()).or_default();
        let shared = of_its_file
            .iter()
            .copied()
            .find(|&first| same_description(at(first), at(number)));
        if shared.is_none() {
            of_its_file.push(number);
        }
        if let Some(file) = caller.files.get_mut(&number) {
            file.description = shared.unwrap_or(number);
        }
    }
}

/// Whether two descriptors of this process are one open file description:
/// kcmp(2), and where the kernel lacks it, whether they share an offset.
pub fn same_description(a: i32, b: i32) -> bool {
    const KCMP_FILE: i32 = 0;
    if a == b {
        return true;
    }
    if identity(a).ok() != identity(b).ok() {
        return false;
    }
    // SAFETY: getpid and kcmp take integers only.
    let order = unsafe {
        let pid = libc::getpid();
        libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, a, b)
    };
    match order {
        0 => true,
        1.. => false,
        _ => share_an_offset(a, b).unwrap_or(false),
    }
}

fn share_an_offset(a: i32, b: i32) -> io::Result<bool> {
    let at = position(a)?;
    if position(b)? != at {
        return Ok(false);
    }
    // SAFETY: lseek takes integers only.
    check(unsafe { libc::lseek(a, 1, libc::SEEK_CUR) })?;
    let moved = position(b)? != at;
    // SAFETY: as above.
    check(unsafe { libc::lseek(a, -1, libc::SEEK_CUR) })?;
    Ok(moved)
}

/// The offset of a descriptor.
///
/// # Errors
/// ESPIPE where it has none.
pub fn position(fd: i32) -> io::Result<i64> {
    // SAFETY: lseek takes integers only.
    check(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) })
}

/// What kind of file something is that has a name and is not open.
pub fn kind_of_named(st: &libc::stat) -> Kind {
    /// Terminals of the console and of serial lines, /dev/tty and its like, and
    /// the two ends of pairs, the old ones' and those of /dev/pts.
    const TERMINALS: [std::ops::RangeInclusive<u32>; 3] = [2..=5, 128..=143, 204..=204];
    let device = (libc::major(st.st_rdev), libc::minor(st.st_rdev));
    match st.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFCHR if device == TUN => Kind::Tun,
        libc::S_IFCHR if TERMINALS.iter().any(|majors| majors.contains(&device.0)) => Kind::Tty,
        libc::S_IFCHR => Kind::Chr,
        libc::S_IFBLK => Kind::Blk,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Unix,
        _ => Kind::Reg,
    }
}

const TUN: (u32, u32) = (10, 200);

/// * `fd`: of a socket or character device, for what its status does not tell.
pub(crate) fn kind(fd: i32, st: &libc::stat, link: &str) -> Kind {
    let device = (libc::major(st.st_rdev), libc::minor(st.st_rdev));
    match st.st_mode & libc::S_IFMT {
        libc::S_IFREG if link.starts_with("/memfd:") => Kind::Memfd,
        libc::S_IFREG if is_namespace(link) => Kind::Ns,
        libc::S_IFREG if link.starts_with("pidfd:") => Kind::Pidfd,
        libc::S_IFREG => Kind::Reg,
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFCHR if device == TUN => Kind::Tun,
        libc::S_IFCHR if is_terminal(fd) => Kind::Tty,
        libc::S_IFCHR => Kind::Chr,
        libc::S_IFBLK => Kind::Blk,
        libc::S_IFIFO if link.starts_with("pipe:") => Kind::Pipe,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => socket_kind(fd),
        _ => match link {
            "anon_inode:[eventpoll]" => Kind::Epoll,
            "anon_inode:[eventfd]" => Kind::Eventfd,
            "anon_inode:[signalfd]" => Kind::Signalfd,
            "anon_inode:[timerfd]" => Kind::Timerfd,
            "anon_inode:inotify" => Kind::Inotify,
            "anon_inode:[fanotify]" => Kind::Fanotify,
            "anon_inode:[pidfd]" => Kind::Pidfd,
            _ if link.starts_with("anon_inode:bpf") => Kind::Bpf,
            _ => Kind::Other,
        },
    }
}

/// Whether an epoll set can watch a file: tried on one of our own.
fn is_pollable(fd: i32, kind: Kind) -> bool {
    if matches!(kind, Kind::Reg | Kind::Dir) {
        return false;
    }
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the event is read by the kernel only, and the set is our own.
    unsafe {
        let set = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        let watched = libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) == 0;
        libc::close(set);
        watched
    }
}

fn is_namespace(link: &str) -> bool {
    link.split_once(":[")
        .is_some_and(|(name, rest)| !name.starts_with('/') && rest.ends_with(']'))
}

fn is_terminal(fd: i32) -> bool {
    // SAFETY: isatty takes an integer.
    unsafe { libc::isatty(fd) == 1 }
}

fn socket_kind(fd: i32) -> Kind {
    let mut domain: i32 = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: domain and length are writable and of the sizes told.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &mut length,
        )
    };
    match (result, domain) {
        (0, libc::AF_UNIX) => Kind::Unix,
        (0, libc::AF_INET | libc::AF_INET6) => Kind::Inet,
        (0, libc::AF_PACKET) => Kind::Packet,
        (0, libc::AF_NETLINK) => Kind::Netlink,
        _ => Kind::Other,
    }
}

/// The FMODE_ bits that the kernel would give to a new description of the file:
/// the access mode, and what the file's driver leaves of the three that speak of
/// offsets. A vector of no elements asks the kernel without reaching the driver.
fn f_mode(fd: i32, kind: Kind, flags: i32) -> u32 {
    let access = Access::of_flags(flags);
    let mut mode = 0;
    if access.read {
        mode |= FMODE_READ;
    }
    if access.write {
        mode |= FMODE_WRITE;
    }
    if matches!(kind, Kind::Tty | Kind::Fifo | Kind::Pipe) {
        return mode;
    }
    if position(fd).is_ok() {
        mode |= FMODE_LSEEK;
    }
    let refused = |result: isize| {
        result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESPIPE)
    };
    // SAFETY: no vector element is read, since there are none.
    if !refused(unsafe { libc::preadv(fd, std::ptr::null(), 0, 0) }) {
        mode |= FMODE_PREAD;
    }
    // SAFETY: as above.
    if !refused(unsafe { libc::pwritev(fd, std::ptr::null(), 0, 0) }) {
        mode |= FMODE_PWRITE;
    }
    mode
}

/// What an engine that adopts descriptors cannot be sent.
fn why_not_adopted(file: &CallerFile) -> Option<String> {
    (file.link == "anon_inode:[io_uring]").then(|| {
        "the kernel lets no io_uring pass from one process to another, so that CRIU cannot take \
         it: leave it to the program to set up a new one"
            .to_owned()
    })
}

/// What a restart that can only open by name would make of this file, tried on
/// a real Linux-CR kernel kind by kind.
fn why_not_by_name(file: &CallerFile, st: &libc::stat) -> Option<String> {
    const PTMX: (u32, u32) = (5, 2);
    if file.flags & libc::O_PATH != 0 {
        return Some(
            "it was opened with O_PATH and cannot be read or written: open it properly".to_owned(),
        );
    }
    match file.kind {
        Kind::Tty if (libc::major(st.st_rdev), libc::minor(st.st_rdev)) == PTMX => Some(
            "the master of a terminal cannot be opened anew: give its slave, a file or a named \
             fifo"
                .to_owned(),
        ),
        Kind::Reg | Kind::Dir | Kind::Chr | Kind::Blk | Kind::Fifo | Kind::Tty | Kind::Memfd => {
            cannot_open(file)
        }
        kind => without_a_name(kind),
    }
}

/// Why an engine that opens by name cannot have a file of this kind.
pub fn without_a_name(kind: Kind) -> Option<String> {
    match kind {
        Kind::Pipe => Some(
            "Linux-CR opens files by name, and an anonymous pipe has none (libckptadv.so relays \
             one end of one on 0, 1 and 2): give a file, a named fifo (mkfifo) or a terminal \
             (script(1))"
                .to_owned(),
        ),
        Kind::Unix | Kind::Inet | Kind::Packet | Kind::Netlink => Some(
            "Linux-CR opens files by name, and a socket cannot be opened: give a named fifo or a \
             terminal, with a program that copies between it and the socket"
                .to_owned(),
        ),
        kind => Some(format!(
            "Linux-CR opens files by name, and an opened {kind} would be dead: leave the image's as \
             it is"
        )),
    }
}

/// The kernel checks the file's permissions again when it opens it.
fn cannot_open(file: &CallerFile) -> Option<String> {
    let mut access = file.access;
    if file.kind == Kind::Fifo {
        // It is opened for both, so as not to wait for a peer.
        access = Access {
            read: true,
            write: true,
        };
    }
    let path = CString::new(file.name.as_slice()).ok()?;
    let error = may(&path, access).err()?;
    Some(format!(
        "a restarting task could not open it anew ({}: {error}): give a file that this user may \
         open (and mount /proc)",
        String::from_utf8_lossy(&file.name)
    ))
}

/// Whether this process may open a file so: access(2) with effective ids.
///
/// # Errors
/// As open(2) would.
pub fn may(path: &CStr, access: Access) -> io::Result<()> {
    let mut mode = 0;
    if access.read {
        mode |= libc::R_OK;
    }
    if access.write {
        mode |= libc::W_OK;
    }
    may_access(path, mode)
}

/// access(2), with effective ids.
///
/// # Errors
/// EACCES and others of access(2).
pub fn may_access(path: &CStr, mode: i32) -> io::Result<()> {
    // SAFETY: path is a NUL-terminated string that outlives the call.
    let result = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) };
    check(result.into()).map(drop)
}

/// The file that takes the place of a number on which the image comes in: the
/// controlling terminal by its own name, else /dev/null.
pub fn instead_of_the_image() -> CallerFile {
    let terminal = controlling_terminal();
    let (kind, name, f_mode, flags) = match terminal {
        Some(name) => (Kind::Tty, name, FMODE_READ | FMODE_WRITE, libc::O_RDWR),
        None => (
            Kind::Chr,
            "/dev/null".to_owned(),
            FMODE_READ | FMODE_WRITE | FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE,
            libc::O_RDWR,
        ),
    };
    CallerFile {
        kind,
        access: Access {
            read: true,
            write: true,
        },
        flags,
        f_mode,
        pollable: kind == Kind::Tty,
        close_on_exec: false,
        description: -1,
        name: name.clone().into_bytes(),
        link: name,
        not_given: None,
    }
}

/// Opens the same, at `least` or above if there is room: whoever inherits it finds it
/// also where the name means another file.
///
/// # Errors
/// What open(2) says; EMFILE.
pub fn open_instead_of_the_image(least: i32) -> io::Result<OwnedFd> {
    let name = controlling_terminal().unwrap_or_else(|| "/dev/null".to_owned());
    let path = CString::new(name.as_str())?;
    // A serial line is opened without waiting for its other end.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: path is a NUL-terminated string that outlives the call, fcntl gets
    // integers only, and each descriptor is new and belongs to nobody else.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), flags).into())?;
        let opened = OwnedFd::from_raw_fd(fd as i32);
        fcntl(opened.as_raw_fd(), libc::F_SETFL, libc::O_RDWR)?;
        copy_above(opened.as_raw_fd(), least).map(|high| OwnedFd::from_raw_fd(high))
    }
}

/// The controlling terminal under its own name: a restarting task that opens
/// /dev/tty gets ENXIO.
pub fn controlling_terminal() -> Option<String> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (major, minor) = controlling_device(&stat)?;
    let name = match major {
        136..=143 => format!(
            "/dev/pts/{}",
            u64::from(major - 136) * 256 + u64::from(minor)
        ),
        4 if minor < 64 => format!("/dev/tty{minor}"),
        4 => format!("/dev/ttyS{}", minor - 64),
        _ => return None,
    };
    let path = CString::new(std::path::Path::new(&name).as_os_str().as_bytes()).ok()?;
    // SAFETY: stat is plain data, and all zeroes is a value of it.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: path is NUL-terminated, st is writable and of the right type.
    let found = unsafe { libc::stat(path.as_ptr(), &mut st) } == 0;
    let same = found && (libc::major(st.st_rdev), libc::minor(st.st_rdev)) == (major, minor);
    same.then_some(name)
}

/// Major and minor of the controlling terminal, of a /proc/PID/stat.
pub(crate) fn controlling_device(stat: &str) -> Option<(u32, u32)> {
    // The command's name is in parentheses and may hold anything.
    let after = stat.rsplit_once(')')?.1;
    let number: u64 = after.split_whitespace().nth(4)?.parse().ok()?;
    if number == 0 {
        return None;
    }
    // new_encode_dev of the kernel: minor's low byte, 12 bits of major, the
    // rest of the minor.
    let major = ((number >> 8) & 0xfff) as u32;
    let minor = ((number & 0xff) | ((number >> 12) & 0xfff00)) as u32;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ckpt_image::advice::{Action, parse_list};
    use std::fs::File;

    #[test]
    fn what_is_wanted_is_what_is_open_of_it() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let of = |list: String, action| {
            let items = parse_list("CKPT_PRESERVE", list.as_bytes(), &action, 1 << 20);
            let items = items.unwrap();
            let advice = Advice {
                items,
                ..Advice::default()
            };
            wanted(&advice).unwrap()
        };
        assert_eq!(of(format!("900000,{fd}"), Action::Preserve), [fd]);
        assert_eq!(
            of(format!("{fd},900000-900009"), Action::Preserve),
            [fd],
            "of a listing"
        );
        assert!(of("0-".to_owned(), Action::Preserve).contains(&fd));
        assert_eq!(of("0-".to_owned(), Action::Ignore), []);
    }
}
