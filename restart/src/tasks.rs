//! Tasks that are being dumped, as /proc and kcmp(2) know them.

use crate::{caller, errno, marks};
use ckpt_image::criu::dump::{Kernel, Open, OpenFile, Place, Task, Watch, watches};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

const KCMP_FILE: i32 = 0;
const KCMP_FILES: i32 = 2;
/// Whether a set watches a file.
pub const KCMP_EPOLL_TFD: i32 = 7;

/// The processes that this one traces, the root task first and parents before
/// their children, with their marks; their descriptors are not looked at yet.
///
/// * `traced`: threads that were traced at some time, in the order in which that
///   began; those that are not any more are left out.
///
/// # Errors
/// What reading /proc gives.
pub fn traced(traced: &[i32]) -> io::Result<Vec<Task>> {
    // SAFETY: getpid takes nothing.
    let tracer = unsafe { libc::getpid() };
    let mut processes: Vec<Process> = Vec::new();
    let mut index: BTreeMap<i32, usize> = BTreeMap::new();
    for &thread in traced {
        let Some(status) = Status::read(thread)? else {
            continue;
        };
        if status.tracer != tracer {
            continue;
        }
        let at = *index.entry(status.process).or_insert_with(|| {
            processes.push(Process {
                pid: status.process,
                parent: status.parent,
                image_pid: status.innermost,
                threads: Vec::new(),
            });
            processes.len() - 1
        });
        let process = &mut processes[at];
        if thread == status.process {
            process.image_pid = status.innermost;
        } else if !process.threads.contains(&thread) {
            process.threads.push(thread);
        }
    }
    let mut tables = Tables::default();
    let mut tasks = Vec::with_capacity(processes.len());
    for process in in_order(&processes, &index) {
        let mut marks = marks::of(process.pid).unwrap_or_else(|error| {
            crate::warn!(
                "the marks of task {} cannot be read, and do not count: {error}",
                process.pid
            );
            Vec::new()
        });
        marks.retain(|mark| mark.leaves_out() || mark.asks());
        tasks.push(Task {
            pid: process.pid,
            image_pid: process.image_pid,
            threads: process.threads.clone(),
            table: tables.number(process.pid),
            descriptors: Vec::new(),
            marks,
        });
    }
    Ok(tasks)
}

/// Looks at the descriptors of tasks.
///
/// * `wanted`: whether the file of a number must be known, also where no task has marked
///   its own.
///
/// # Errors
/// What reading /proc gives.
pub fn look_at_descriptors(tasks: &mut [Task], wanted: &dyn Fn(i32) -> bool) -> io::Result<()> {
    for task in tasks {
        let marks = &task.marks;
        let is_marked = |number| {
            marks
                .binary_search_by_key(&number, |mark| mark.number)
                .is_ok()
        };
        task.descriptors = descriptors(task.pid, &|n| wanted(n) || is_marked(n))?;
    }
    Ok(())
}

/// Whether this process traces a thread now.
pub fn is_traced(thread: i32) -> bool {
    // SAFETY: getpid takes nothing.
    let me = unsafe { libc::getpid() };
    matches!(Status::read(thread), Ok(Some(status)) if status.tracer == me)
}

/// The pid that a process has in its innermost namespace; `None` of another thread of it,
/// or where it has ended.
pub fn pid_of_process(thread: i32) -> Option<i32> {
    let status = Status::read(thread).ok()??;
    (status.process == thread).then_some(status.innermost)
}

struct Process {
    pid: i32,
    parent: i32,
    image_pid: i32,
    threads: Vec<i32>,
}

/// Each process in front of its children.
fn in_order<'a>(processes: &'a [Process], index: &BTreeMap<i32, usize>) -> Vec<&'a Process> {
    let mut children: BTreeMap<i32, Vec<&Process>> = BTreeMap::new();
    let mut open = Vec::new();
    for process in processes.iter().rev() {
        if index.contains_key(&process.parent) {
            children.entry(process.parent).or_default().push(process);
        } else {
            open.push(process);
        }
    }
    let mut order = Vec::with_capacity(processes.len());
    while let Some(process) = open.pop() {
        order.push(process);
        open.extend(children.remove(&process.pid).into_iter().flatten());
    }
    order
}

/// What /proc/PID/status says of a thread.
struct Status {
    process: i32,
    parent: i32,
    tracer: i32,
    /// Its pid in the innermost namespace.
    innermost: i32,
}

impl Status {
    /// `None` where the thread has ended.
    fn read(thread: i32) -> io::Result<Option<Self>> {
        let text = match std::fs::read(format!("/proc/{thread}/status")) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if ended(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next_back()?.parse().ok()
        };
        let must = |value: Option<i32>| value.ok_or(io::ErrorKind::InvalidData);
        Ok(Some(Status {
            process: must(field("Tgid:"))?,
            parent: must(field("PPid:"))?,
            tracer: must(field("TracerPid:"))?,
            innermost: field("NSpid:").unwrap_or(thread),
        }))
    }
}

fn ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Numbers for file tables, found by the kernel's order of them.
#[derive(Default)]
struct Tables {
    /// A process that has it, and its number.
    sorted: Vec<(i32, usize)>,
}

impl Tables {
    fn number(&mut self, pid: i32) -> usize {
        let order = |&(other, _): &(i32, usize)| order(kcmp(other, pid, KCMP_FILES, 0, 0));
        match self.sorted.binary_search_by(order) {
            Ok(at) => self.sorted[at].1,
            Err(at) => {
                let number = self.sorted.len();
                self.sorted.insert(at, (pid, number));
                number
            }
        }
    }
}

fn descriptors(pid: i32, wanted: &dyn Fn(i32) -> bool) -> io::Result<Vec<Open>> {
    let path = format!("/proc/{pid}/fd");
    let directory = File::open(&path)?;
    let mut open = Vec::new();
    for entry in std::fs::read_dir(&path)? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let file = match wanted(number) {
            true => Some(file(&directory, (pid, number))?),
            false => None,
        };
        open.push(Open { number, file });
    }
    open.sort_unstable_by_key(|open| open.number);
    Ok(open)
}

/// The NUL-terminated digits of a number.
fn digits(number: i32) -> [u8; 12] {
    let mut digits = [0; 12];
    let text = number.to_string();
    digits[..text.len()].copy_from_slice(text.as_bytes());
    digits
}

fn link(directory: &File, number: i32) -> io::Result<Vec<u8>> {
    let name = digits(number);
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the name ends in a NUL, and the buffer is as long as told.
    let length = unsafe {
        libc::readlinkat(
            directory.as_raw_fd(),
            name.as_ptr().cast(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    match usize::try_from(length) {
        Ok(length) => Ok(buffer[..length].to_vec()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn file(directory: &File, place: Place) -> io::Result<OpenFile> {
    let link = link(directory, place.1)?;
    let name = digits(place.1);
    // SAFETY: stat is plain data, and all zeroes is a value of it.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends in a NUL; st is writable and of the right type.
    let result = unsafe { libc::fstatat(directory.as_raw_fd(), name.as_ptr().cast(), &mut st, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let asked = matches!(st.st_mode & libc::S_IFMT, libc::S_IFSOCK | libc::S_IFCHR);
    let copy = if asked { copy(place) } else { None };
    let fd = copy.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    let kind = caller::kind(fd, &st, &String::from_utf8_lossy(&link));
    Ok(OpenFile { kind, link })
}

/// A copy of another process's descriptor, of the same description.
fn copy((pid, number): Place) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes integers; what it gives is nobody else's.
    let process = unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0))? };
    let process = process.as_raw_fd();
    // SAFETY: as above.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_getfd, process, number, 0)) }
}

/// # Safety
/// The number is an error, or a descriptor that nobody else owns.
unsafe fn owned(fd: i64) -> Option<OwnedFd> {
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: as the caller promises.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// 0: equal, 1: less, 2: greater, 3: not equal; negative where it cannot be told.
fn kcmp(a: i32, b: i32, what: i32, of_a: i64, of_b: i64) -> i64 {
    // SAFETY: integers only, for the kinds that compare numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, a, b, what, of_a, of_b) }
}

/// Whether a descriptor of this process is one of a task's.
pub fn is_a_copy_of(own: i32, (pid, number): Place) -> bool {
    // SAFETY: getpid takes nothing.
    let me = unsafe { libc::getpid() };
    kcmp(me, pid, KCMP_FILE, own.into(), number.into()) == 0
}

/// `struct kcmp_epoll_slot`: a watch of an epoll set.
#[repr(C)]
pub struct Slot {
    /// The number of the set.
    pub set: u32,
    /// The number by which the file was added.
    pub number: u32,
    /// How many watches by that number come before.
    pub nth: u32,
}

impl Slot {
    /// That of a watch.
    pub fn new(set: Place, watch: Watch) -> Self {
        Slot {
            set: set.1.unsigned_abs(),
            number: watch.number.unsigned_abs(),
            nth: watch.nth,
        }
    }

    /// As [`kcmp`], with the file that is watched.
    fn compare(&self, set: Place, target: Place) -> i64 {
        let number = i64::from(target.1);
        // SAFETY: the slot is read by the kernel only, and outlives the call.
        unsafe {
            libc::syscall(
                libc::SYS_kcmp,
                target.0,
                set.0,
                KCMP_EPOLL_TFD,
                number,
                &raw const *self,
            )
        }
    }
}

/// What [`kcmp`] gives, as an order.
fn order(result: i64) -> Ordering {
    match result {
        0 => Ordering::Equal,
        1 => Ordering::Less,
        _ => Ordering::Greater,
    }
}

/// The kernel of this machine.
pub struct ThisKernel;

impl Kernel for ThisKernel {
    fn order(&self, a: Place, b: Place) -> Ordering {
        order(kcmp(a.0, b.0, KCMP_FILE, a.1.into(), b.1.into()))
    }

    fn link(&self, (pid, number): Place) -> Vec<u8> {
        std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
            .map(|link| link.into_os_string().into_vec())
            .unwrap_or_default()
    }

    fn is_set(&self, place: Place) -> bool {
        // Of a set it is told that there is no such watch, of another file that it
        // is none.
        let number = i32::MAX;
        let nothing = Slot::new(place, Watch { number, nth: 0 });
        errno::keeping(|| nothing.compare(place, place) < 0 && errno::get() == libc::ENOENT)
    }

    fn watches(&self, set: Place) -> Vec<Watch> {
        watches(&information(set))
    }

    fn is_watched(&self, set: Place, watch: Watch, target: Place) -> bool {
        Slot::new(set, watch).compare(set, target) == 0
    }

    fn locks(&self) -> Vec<u8> {
        std::fs::read("/proc/locks").unwrap_or_default()
    }

    fn identity(&self, (pid, number): Place) -> Option<(u64, u64)> {
        let file = std::fs::metadata(format!("/proc/{pid}/fd/{number}")).ok()?;
        Some((file.dev(), file.ino()))
    }

    fn flags(&self, place: Place) -> Option<i32> {
        let text = information(place);
        i32::from_str_radix(&field(&text, b"flags:")?, 8).ok()
    }

    fn terminal_of_master(&self, master: Place) -> Option<u32> {
        let text = information(master);
        field(&text, b"tty-index:")?.parse().ok()
    }

    fn controlling_terminal(&self, task: i32) -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{task}/stat")).ok()?;
        let (major, minor) = caller::controlling_device(&stat)?;
        // UNIX98 slaves have eight majors of 256 each.
        (136..=143)
            .contains(&major)
            .then(|| (major - 136) * 256 + minor)
    }
}

/// /proc/PID/fdinfo/N; empty where it cannot be read.
fn information((pid, number): Place) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default()
}

fn field(information: &[u8], name: &[u8]) -> Option<String> {
    let mut lines = information.split(|&b| b == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name))?;
    Some(String::from_utf8_lossy(value).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ckpt_image::advice::Kind;

    #[test]
    fn parents_come_before_their_children() {
        let process = |pid, parent| Process {
            pid,
            parent,
            image_pid: pid,
            threads: Vec::new(),
        };
        let processes = [
            process(12, 11),
            process(10, 1),
            process(11, 10),
            process(13, 10),
            process(14, 12),
        ];
        let index = processes.iter().enumerate().map(|(i, p)| (p.pid, i));
        let order: Vec<i32> = in_order(&processes, &index.collect())
            .iter()
            .map(|p| p.pid)
            .collect();
        assert_eq!(order, [10, 11, 12, 14, 13]);
    }

    #[test]
    fn the_kernel_tells_copies_sets_and_kinds() {
        let (read, write) = std::io::pipe().expect("a pipe");
        let copy = read.try_clone().expect("a copy");
        // SAFETY: integers only.
        let set = unsafe { owned(libc::epoll_create1(0).into()) }.expect("a set");
        let mut event = libc::epoll_event { events: 1, u64: 0 };
        // SAFETY: the event is read by the kernel only.
        let added = unsafe {
            libc::epoll_ctl(
                set.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                read.as_raw_fd(),
                &raw mut event,
            )
        };
        assert_eq!(added, 0);
        let me = std::process::id() as i32;
        let place = |fd: &dyn AsRawFd| (me, fd.as_raw_fd());
        assert!(ThisKernel.order(place(&read), place(&copy)).is_eq());
        let (a, b) = (place(&read), place(&write));
        let there = ThisKernel.order(a, b);
        assert!(there.is_ne() && ThisKernel.order(b, a) == there.reverse());
        assert!(ThisKernel.is_set(place(&set)) && !ThisKernel.is_set(a));
        let watches = ThisKernel.watches(place(&set));
        assert_eq!(watches.len(), 1);
        assert!(ThisKernel.is_watched(place(&set), watches[0], place(&copy)));
        assert!(!ThisKernel.is_watched(place(&set), watches[0], place(&write)));
        let open = descriptors(me, &|number| number == write.as_raw_fd()).expect("a table");
        let file = |fd: i32| open.iter().find(|o| o.number == fd)?.file.as_ref();
        assert_eq!(file(write.as_raw_fd()).map(|f| f.kind), Some(Kind::Pipe));
        assert!(file(read.as_raw_fd()).is_none(), "not asked for");
    }

    #[test]
    fn a_process_that_is_not_traced_is_none_of_the_tasks() {
        let me = std::process::id() as i32;
        let none = traced(&[me, i32::MAX]).expect("a list");
        assert!(none.is_empty());
    }
}
