//! File tables, files of every kind, and how tasks get them.

use std::ffi::OsString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use libc::{c_int, c_uint, c_void, pid_t};

use crate::hash::{Descriptors, Nature, Object, OpenFile};
use crate::image;
use crate::layout::{Record, kind, object};
use crate::process::Status;
use crate::restart::{Deferred, Restart, Step, Stop, invalid};

/// Of f_mode: open for reading.
pub const READ: u32 = 1;
/// Open for writing.
pub const WRITE: u32 = 2;
const LSEEK: u32 = 4;
const PREAD: u32 = 8;
const PWRITE: u32 = 0x10;
/// What open() gives every file; drivers take some of it away.
const SEEKABLE: u32 = LSEEK | PREAD | PWRITE;

/// Always set today for a 64-bit caller, and therefore 0 in its C library.
const O_LARGEFILE: c_int = 0x8000;
const NR_OPEN: i32 = 1 << 20;
const FILE_HEAD: usize = 48;
/// The kernel adds epoll items in chunks of so many, and gives up a chunk at its first failure.
const CHUNK: u32 = 337;
const ITEM: usize = 24;
/// Opening did not know these in 2.6.33; or they mean nothing for a file that nobody holds by a number yet.
const NEWER_FLAGS: c_int = libc::O_PATH | 0o20_000_000 | libc::O_CLOEXEC;

/// An epoll item.
pub struct Watch {
    epoll: Rc<OpenFile>,
    file: Rc<OpenFile>,
    number: i32,
    events: u32,
    data: u64,
}

impl Restart<'_> {
    // ---- tables

    pub(crate) fn restore_file_table(&mut self) -> Step<Object> {
        let table = self.record(kind::FILE_TABLE)?;
        let count = table.i32(8);
        if !(0..=NR_OPEN).contains(&count) {
            return Err(Stop::Errno(libc::EMFILE));
        }
        let owner = self.task_that_reads()?;
        self.close_all()?;
        let mut descriptors = Descriptors::new();
        for _ in 0..count {
            let desc = self.record(kind::FILE_DESC)?;
            let (objref, number, close_on_exec) = (desc.i32(8), desc.i32(12), desc.u32(16) != 0);
            if objref <= 0 || number < 0 {
                return invalid();
            }
            let file = self.fetch_file(objref)?;
            self.install(&file, number, close_on_exec)?;
            descriptors.insert(number, (file, close_on_exec));
        }
        self.run_deferred()?;
        let real = self.make_sockets_real()?;
        for (&number, (file, close_on_exec)) in &descriptors {
            if real.iter().any(|socket| Rc::ptr_eq(socket, file)) {
                self.install(file, number, *close_on_exec)?;
            }
        }
        self.add_watches()?;
        Ok(Object::FileTable(owner, descriptors))
    }

    /// Makes the task use a table. Two processes cannot be made to share one afterwards: a second one gets the
    /// same descriptions under the same numbers.
    pub(crate) fn join_file_table(&mut self, objref: i32) -> Step<()> {
        let task = self.task_that_reads()?;
        let Object::FileTable(owner, descriptors) = self.fetch(objref, object::FILE_TABLE)? else {
            return invalid();
        };
        if *owner == task || same_table(*owner, task) {
            return Ok(());
        }
        let (owner, descriptors) = (*owner, descriptors.clone());
        self.notes.push(format!(
            "task {task} has copies of the descriptors of {owner} instead of sharing its table"
        ));
        self.close_all()?;
        for (number, (file, close_on_exec)) in descriptors {
            self.install(&file, number, close_on_exec)?;
        }
        Ok(())
    }

    fn task_that_reads(&mut self) -> Step<pid_t> {
        if self.reading_as_coordinator() {
            return Err(self.unsupported("a file table read by the coordinator"));
        }
        Ok(self.reader)
    }

    fn close_all(&mut self) -> Step<()> {
        self.inject(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0])
            .map(drop)
    }

    fn run_deferred(&mut self) -> Step<()> {
        // The walk fetches its next entry before it runs one: what the last one adds waits for another table.
        while let Some(entry) = self.deferred.pop_front() {
            let last = self.deferred.is_empty();
            // The error of an entry is lost, unless it was complained of.
            let _ = match entry {
                Deferred::EpollItems => self.restore_epoll_items(),
                Deferred::Join(from, to) => self.join_sockets(from, to),
                Deferred::UnixBuffers(socket) => self.restore_unix_buffers(socket),
                Deferred::InetBuffers => self.restore_inet_buffers(),
            };
            self.fatal()?;
            if last {
                break;
            }
        }
        Ok(())
    }

    fn restore_epoll_items(&mut self) -> Step<()> {
        let record = self.record(kind::EPOLL_ITEMS)?;
        let epoll = self.fetch_file(record.i32(8))?;
        if epoll.nature != Nature::Epoll {
            return Err(self.complain(Stop::Errno(libc::EINVAL), "not an epoll file"));
        }
        let mut left = record.u32(12);
        if left == 0 {
            return Ok(());
        }
        self.opened(kind::BUFFER, ITEM as u64 * u64::from(left))?;
        while left > 0 {
            let count = left.min(CHUNK);
            let mut chunk = vec![0; ITEM * count as usize];
            self.payload(&mut chunk)?;
            left -= count;
            let chunk = Record(chunk);
            let mut watches = Vec::new();
            for at in (0..chunk.len()).step_by(ITEM) {
                watches.push(Watch {
                    epoll: epoll.clone(),
                    file: self.fetch_file(chunk.i32(at + 12))?,
                    number: chunk.i32(at + 8),
                    events: chunk.u32(at + 16),
                    data: chunk.u64(at),
                });
            }
            self.watches.push(watches);
        }
        Ok(())
    }

    fn add_watches(&mut self) -> Step<()> {
        for chunk in std::mem::take(&mut self.watches) {
            for watch in chunk {
                if !self.watch(&watch)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Adds an item; false if the kernel would not.
    fn watch(&mut self, watch: &Watch) -> Step<bool> {
        let (number, events, data) = (watch.number, watch.events, watch.data);
        let mut limit = unlimited();
        // SAFETY: a valid place for the limits.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        if number < 0 || number as u64 >= limit.rlim_cur {
            return Err(self.unsupported(&format!("an epoll item under number {number}")));
        }
        // Both are wake-up modes that came after 2.6.33.
        let events = events & !(libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;
        let (epoll, file) = (watch.epoll.fd.as_raw_fd(), watch.file.fd.as_raw_fd());
        // The number is part of the item's key, and may be in use here: a process with a table of its own adds it.
        // (Not a thread: whoever runs in one pid namespace and starts children in another may have none.)
        let mut event = libc::epoll_event { events, u64: data };
        let mut status = 0;
        // SAFETY: this process has one thread, and the child does nothing but system calls; the event and the
        // status outlive them.
        let waited = unsafe {
            let child = libc::fork();
            if child == 0 {
                // Two of them, so that one stays out of the way.
                let (one, two) = (libc::dup(epoll), libc::dup(epoll));
                let epoll = if one == number { two } else { one };
                let file = libc::dup2(file, number);
                let added =
                    file >= 0 && libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, file, &mut event) == 0;
                libc::_exit(i32::from(!added));
            }
            libc::waitpid(child, &mut status, libc::__WALL)
        };
        Ok(waited > 0 && status == 0)
    }

    // ---- files

    /// The FILE of this number.
    pub(crate) fn fetch_file(&mut self, objref: i32) -> Step<Rc<OpenFile>> {
        match self.fetch(objref, object::FILE)? {
            Object::File(file) => Ok(file.clone()),
            _ => invalid(),
        }
    }

    pub(crate) fn restore_file(&mut self) -> Step<Rc<OpenFile>> {
        let record = self.silent(kind::FILE, FILE_HEAD, 8 + 4096)?;
        let length = |wanted| {
            if record.len() == wanted {
                Ok(())
            } else {
                invalid()
            }
        };
        let file = match record.u32(8) {
            1 => {
                length(48)?;
                self.restore_generic(&record)?
            }
            2 => {
                length(56)?;
                self.restore_pipe(&record)?
            }
            3 => {
                length(56)?;
                self.restore_fifo(&record)?
            }
            // Only for this kind the length is not looked at.
            4 => self.restore_socket_file(&record)?,
            5 => {
                length(56)?;
                self.restore_terminal_file(&record)?
            }
            6 => {
                length(48)?;
                // SAFETY: no memory is involved.
                let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
                self.deferred.push_back(Deferred::EpollItems);
                Rc::new(OpenFile {
                    fd,
                    mode: READ | WRITE,
                    nature: Nature::Epoll,
                })
            }
            7 => {
                length(64)?;
                let (count, flags) = (record.u64(48) as c_uint, record.u32(56) as c_int);
                // SAFETY: no memory is involved.
                let fd = owned(unsafe { libc::eventfd(count, flags) })?;
                Rc::new(OpenFile {
                    fd,
                    mode: READ | WRITE,
                    nature: Nature::Other,
                })
            }
            _ => return invalid(),
        };
        self.finish_file(&record, &file)?;
        Ok(file)
    }

    /// What every kind of file has in common.
    fn finish_file(&mut self, record: &Record, file: &OpenFile) -> Step<()> {
        let (saved, flags, position) = (record.u32(12), record.i32(16), record.u64(24));
        self.fetch(record.i32(20), object::CRED)?;
        let settable =
            libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME;
        // SAFETY: no memory is involved.
        ok(unsafe { libc::fcntl(file.fd.as_raw_fd(), libc::F_SETFL, flags & settable) })?;
        let mut mode = file.mode;
        if mode & WRITE != 0 && saved & WRITE == 0 {
            mode &= !WRITE;
            mode |= saved & READ;
        }
        if mode != saved {
            return invalid();
        }
        if file.mode & LSEEK == 0 {
            return Ok(());
        }
        // SAFETY: no memory is involved.
        let result = unsafe { libc::lseek(file.fd.as_raw_fd(), position as i64, libc::SEEK_SET) };
        if result < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // The kernel keeps the new position in an int, and takes it for an error pointer when it is negative.
        match result as i32 {
            0.. => Ok(()),
            error @ -4095..=-1 => Err(Stop::Errno(-error)),
            _ => Err(self.complain(Stop::Errno(libc::EINVAL), "oops: bit 31 of f_pos")),
        }
    }

    fn restore_generic(&mut self, record: &Record) -> Step<Rc<OpenFile>> {
        let flags = record.i32(16);
        let path = self.name_to_open(flags)?;
        self.open_by_path(&path, flags)
    }

    fn name_to_open(&mut self, flags: c_int) -> Step<Vec<u8>> {
        if flags & (libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC) != 0 {
            return invalid();
        }
        self.name(kind::FILE_NAME)
    }

    /// Opens as the task that reads, with the verdicts of 2.6.33. What the path leads to is looked at first:
    /// today's kernel opens things that the old one could not, and refuses some that it could.
    fn open_by_path(&mut self, path: &[u8], flags: c_int) -> Step<Rc<OpenFile>> {
        let access = access_mode(flags);
        let look = libc::O_PATH | flags & (libc::O_NOFOLLOW | libc::O_DIRECTORY);
        let target = self.open(path, look)?;
        let stat = stat(&target)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFLNK => return Err(Stop::Errno(libc::ELOOP)),
            libc::S_IFSOCK => return Err(Stop::Errno(libc::ENXIO)),
            libc::S_IFIFO if link(&target).starts_with("pipe:") => {
                return self.half_made_file(access);
            }
            libc::S_IFCHR if stat.st_rdev == libc::makedev(5, 2) => {
                return self.half_made_file(access);
            }
            _ if link(&target).starts_with("anon_inode:") => {
                return self.dead_file(&target, access);
            }
            _ => {}
        }
        drop(target);
        let fd = self.open(path, flags & !NEWER_FLAGS)?;
        if flags & O_LARGEFILE == 0 && is_regular(&stat) && stat.st_size > i64::from(i32::MAX) {
            return Err(Stop::Errno(libc::EOVERFLOW));
        }
        let terminal = is_terminal(&fd);
        if terminal && access == WRITE {
            self.claim_terminal(path, flags)?;
        }
        let mode = access
            | if terminal {
                0
            } else {
                seekable_bits(&fd, &stat, access)
            };
        let nature = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFBLK | libc::S_IFCHR if !terminal => Nature::Mappable {
                inode: (stat.st_dev, stat.st_ino),
            },
            _ => Nature::Other,
        };
        Ok(Rc::new(OpenFile { fd, mode, nature }))
    }

    /// What 2.6.33 made of an anonymous pipe or a terminal master by path: it calls itself seekable, and is not.
    fn half_made_file(&mut self, access: u32) -> Step<Rc<OpenFile>> {
        let (fd, _) = image::pipe(0)?;
        Ok(Rc::new(OpenFile {
            fd,
            mode: access | SEEKABLE,
            nature: Nature::Other,
        }))
    }

    /// What 2.6.33 gave for a re-opened eventfd, epoll file and the like: nothing that can be done to it succeeds.
    /// An empty epoll file comes closest.
    fn dead_file(&mut self, target: &OwnedFd, access: u32) -> Step<Rc<OpenFile>> {
        self.notes
            .push(format!("dead file: {} opened by path", link(target)));
        // SAFETY: no memory is involved.
        let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mode = access | SEEKABLE;
        Ok(Rc::new(OpenFile {
            fd,
            mode,
            nature: Nature::Other,
        }))
    }

    /// Today a terminal that is opened for writing only does not become the controlling one; then it did.
    fn claim_terminal(&mut self, path: &[u8], flags: c_int) -> Step<()> {
        let number = self.open_in_task(path, flags & !NEWER_FLAGS)?;
        self.inject(libc::SYS_ioctl, &[number, libc::TIOCSCTTY, 0])?;
        self.inject(libc::SYS_close, &[number]).map(drop)
    }

    // ---- pipes

    fn restore_pipe(&mut self, record: &Record) -> Step<Rc<OpenFile>> {
        let objref = record.i32(48);
        if objref <= 0 {
            return invalid();
        }
        if let Some(parked) = self.parked_end(objref)? {
            return Ok(parked);
        }
        let (reader, writer) = image::pipe(0)?;
        let reader = Rc::new(OpenFile {
            fd: reader,
            mode: READ,
            nature: Nature::Other,
        });
        let writer = Rc::new(OpenFile {
            fd: writer,
            mode: WRITE,
            nature: Nature::Other,
        });
        let (this, other) = if record.i32(16) & libc::O_WRONLY != 0 {
            (writer.clone(), reader)
        } else {
            (reader, writer.clone())
        };
        self.insert(objref, Object::File(other))?;
        self.restore_pipe_buffer(&writer.fd)?;
        Ok(this)
    }

    fn parked_end(&self, objref: i32) -> Step<Option<Rc<OpenFile>>> {
        match self.hash.get(&objref) {
            None => Ok(None),
            Some(Object::File(file)) => Ok(Some(file.clone())),
            Some(_) => Err(Stop::Errno(libc::ENOMSG)),
        }
    }

    fn restore_pipe_buffer(&mut self, pipe: &OwnedFd) -> Step<()> {
        let bytes = self.opened_any(kind::PIPE_BUF)?;
        if bytes == 0 {
            return Ok(());
        }
        if self.image.exhausted() && !self.sleep_for_image()? {
            return Err(Stop::Errno(libc::EPIPE));
        }
        if self.image.splice_into(pipe, bytes)? == bytes {
            Ok(())
        } else {
            Err(Stop::Errno(libc::EPIPE))
        }
    }

    fn restore_fifo(&mut self, record: &Record) -> Step<Rc<OpenFile>> {
        let (flags, objref) = (record.i32(16), record.i32(48));
        if objref <= 0 {
            return invalid();
        }
        let path = self.name_to_open(flags)?;
        let both = flags & !libc::O_ACCMODE | libc::O_RDWR;
        let opened = self.open_by_path(&path, both)?;
        let access = access_mode(flags);
        let mode = opened.mode & !(READ | WRITE) | access;
        // With both ends open the second opening does not wait; the kernel instead trims the first.
        let file = match stat(&opened.fd)?.st_mode & libc::S_IFMT {
            libc::S_IFIFO if opened.mode & LSEEK == 0 => {
                let fd = self.open(&path, flags & !NEWER_FLAGS)?;
                Rc::new(OpenFile {
                    fd,
                    mode,
                    nature: Nature::Other,
                })
            }
            _ => {
                let fd = opened.fd.try_clone()?;
                Rc::new(OpenFile {
                    fd,
                    mode,
                    nature: opened.nature,
                })
            }
        };
        if self.parked_end(objref)?.is_none() {
            self.insert(objref, Object::File(file.clone()))?;
            self.restore_pipe_buffer(&opened.fd)?;
        }
        Ok(file)
    }

    // ---- between a task and us

    /// Opens in the task that reads: with its directories, its rights and its own /proc/self.
    pub(crate) fn open(&mut self, path: &[u8], flags: c_int) -> Step<OwnedFd> {
        let number = self.open_in_task(path, flags)?;
        let taken = take(self.reader, number as c_int);
        self.inject(libc::SYS_close, &[number])?;
        match taken {
            Ok(fd) => Ok(fd),
            Err(error) => {
                Err(self.unsupported(&format!("taking a file from task {}: {error}", self.reader)))
            }
        }
    }

    pub(crate) fn open_in_task(&mut self, path: &[u8], flags: c_int) -> Step<u64> {
        let path = [path, &[0]].concat();
        let at = self.tracer.put::<Stop>(self.reader, &path)?;
        let number = self.inject(
            libc::SYS_openat,
            &[libc::AT_FDCWD as u64, at, flags as u64, 0],
        )?;
        u64::try_from(number).map_err(|_| Stop::Errno(-number as i32))
    }

    /// Gives the task that reads a description of ours under a number.
    fn install(&mut self, file: &OpenFile, number: i32, close_on_exec: bool) -> Step<()> {
        let place = self.tracer.place::<Stop>(self.reader)?;
        let seqpacket = libc::SOCK_DGRAM as u64;
        let made = self.inject(
            libc::SYS_socketpair,
            &[libc::AF_UNIX as u64, seqpacket, 0, place],
        )?;
        if made < 0 {
            return Err(Stop::Errno(-made as i32));
        }
        let mut ends = [0; 8];
        self.tracer.get::<Stop>(self.reader, &mut ends)?;
        let ends = Record(ends.to_vec());
        let (theirs, ours) = (ends.u32(0), ends.u32(4));
        let socket = take(self.reader, ours as c_int);
        let socket = socket.map_err(|error| {
            self.unsupported(&format!("reaching task {}: {error}", self.reader))
        })?;
        send(&socket, &file.fd)?;
        // A message header without name or data, and room for one descriptor behind it.
        let message = Message::bytes(place);
        self.tracer.put::<Stop>(self.reader, &message)?;
        let received = self.inject(libc::SYS_recvmsg, &[u64::from(theirs), place, 0])?;
        if received < 0 {
            return Err(Stop::Errno(-received as i32));
        }
        let mut answer = message;
        self.tracer.get::<Stop>(self.reader, &mut answer)?;
        let arrived = Message::descriptor(&answer);
        self.inject(libc::SYS_close, &[u64::from(theirs)])?;
        self.inject(libc::SYS_close, &[u64::from(ours)])?;
        let wanted = number as u64;
        if arrived != wanted {
            let moved = self.inject(libc::SYS_dup2, &[arrived, wanted])?;
            self.inject(libc::SYS_close, &[arrived])?;
            if moved < 0 {
                return Err(Stop::Errno(-moved as i32));
            }
        }
        let flag = if close_on_exec {
            libc::FD_CLOEXEC as u64
        } else {
            0
        };
        self.inject(libc::SYS_fcntl, &[wanted, libc::F_SETFD as u64, flag])
            .map(drop)
    }
}

/// A msghdr, its iovec, one byte and the control block, as they lie in the memory of a task.
struct Message;

impl Message {
    const IOVEC: usize = 56;
    const BYTE: usize = 72;
    const CONTROL: usize = 80;
    const CONTROL_LENGTH: usize = 24;
    const LENGTH: usize = Self::CONTROL + Self::CONTROL_LENGTH;

    fn bytes(at: u64) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let mut put = |offset: usize, value: u64| {
            bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes())
        };
        put(16, at + Self::IOVEC as u64);
        put(24, 1);
        put(32, at + Self::CONTROL as u64);
        put(40, Self::CONTROL_LENGTH as u64);
        put(Self::IOVEC, at + Self::BYTE as u64);
        put(Self::IOVEC + 8, 1);
        bytes
    }

    fn descriptor(bytes: &[u8]) -> u64 {
        u64::from(Record(bytes.to_vec()).u32(Self::CONTROL + 16))
    }
}

fn send(socket: &OwnedFd, file: &OwnedFd) -> io::Result<()> {
    let mut byte = 0u8;
    let mut data = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 3];
    // SAFETY: the message points to the locals above, which outlive the call; the control block has room for one
    // header and one descriptor.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<[u64; 3]>();
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as c_uint) as usize;
        libc::CMSG_DATA(header)
            .cast::<c_int>()
            .write_unaligned(file.as_raw_fd());
        if libc::sendmsg(socket.as_raw_fd(), &message, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The description behind a descriptor of another task.
pub fn take(tid: pid_t, number: c_int) -> io::Result<OwnedFd> {
    // For a thread since Linux 6.9; before, its process will do if they have one table.
    let thread = libc::O_EXCL;
    // SAFETY: no memory is involved.
    unsafe {
        let task = owned(libc::syscall(libc::SYS_pidfd_open, tid, thread) as c_int);
        let task = match task {
            Ok(task) => task,
            Err(error) => {
                let leader = Status::of(tid).map_or(tid, |status| status.tgid);
                if leader != tid && !same_table(leader, tid) {
                    return Err(error);
                }
                owned(libc::syscall(libc::SYS_pidfd_open, leader, 0) as c_int)?
            }
        };
        owned(libc::syscall(libc::SYS_pidfd_getfd, task.as_raw_fd(), number, 0) as c_int)
    }
}

fn same_table(a: pid_t, b: pid_t) -> bool {
    const KCMP_FILES: c_int = 2;
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0, 0) == 0 }
}

/// What mmap would say to a mapping with these VM_ flags, 0 if it would do it.
pub fn mapping_error<'a>(
    file: &OpenFile,
    flags: u64,
    objects: impl Iterator<Item = &'a Object>,
) -> i32 {
    const VM_WRITE: u64 = 2;
    const VM_EXEC: u64 = 4;
    const VM_SHARED: u64 = 8;
    const VM_DENYWRITE: u64 = 0x800;
    let Nature::Mappable { .. } = file.nature else {
        return libc::ENODEV;
    };
    if file.mode & READ == 0
        || flags & (VM_SHARED | VM_WRITE) == VM_SHARED | VM_WRITE && file.mode & WRITE == 0
    {
        return libc::EACCES;
    }
    if flags & VM_EXEC != 0 && on_noexec(&file.fd) {
        return libc::EPERM;
    }
    let mut writers = objects.filter_map(|object| match object {
        Object::File(other) => Some(other.mode & WRITE != 0 && other.nature == file.nature),
        _ => None,
    });
    if flags & VM_DENYWRITE != 0 && writers.any(|writes| writes) {
        libc::ETXTBSY
    } else {
        0
    }
}

/// Which of the seek bits a driver leaves, asked of the file without moving or changing anything.
fn seekable_bits(fd: &OwnedFd, stat: &libc::stat, access: u32) -> u32 {
    if matches!(
        stat.st_mode & libc::S_IFMT,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK
    ) && !is_proc(fd)
    {
        return SEEKABLE;
    }
    let refused = |result: isize| {
        result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESPIPE)
    };
    let (fd, mut byte) = (fd.as_raw_fd(), 0u8);
    let at = (&raw mut byte).cast::<c_void>();
    let mut bits = 0;
    // SAFETY: lengths of 0, so no memory is touched.
    unsafe {
        if !refused(libc::lseek(fd, 0, libc::SEEK_CUR) as isize) {
            bits |= LSEEK;
        }
        if !refused(libc::pread(fd, at, 0, 0)) {
            bits |= PREAD;
        }
        // An empty write may mean something to a driver; one to a file that is not open for it is only refused.
        let writable = access & WRITE != 0;
        if if writable {
            bits & PREAD != 0
        } else {
            !refused(libc::pwrite(fd, at, 0, 0))
        } {
            bits |= PWRITE;
        }
    }
    bits
}

fn access_mode(flags: c_int) -> u32 {
    (flags as u32 + 1) & 3
}

fn link(fd: &OwnedFd) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.map_or_else(
        |_| String::new(),
        |link| OsString::into_vec(link.into()).escape_ascii().to_string(),
    )
}

fn stat(fd: &OwnedFd) -> io::Result<libc::stat> {
    // SAFETY: a valid place for the answer, for which all zeroes is a valid value.
    unsafe {
        let mut stat = zeroed();
        ok(libc::fstat(fd.as_raw_fd(), &mut stat))?;
        Ok(stat)
    }
}

fn is_regular(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
}

fn is_terminal(fd: &OwnedFd) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
}

fn is_proc(fd: &OwnedFd) -> bool {
    // SAFETY: a valid place for the answer, for which all zeroes is a valid value.
    unsafe {
        let mut statfs: libc::statfs = zeroed();
        libc::fstatfs(fd.as_raw_fd(), &mut statfs) == 0 && statfs.f_type == libc::PROC_SUPER_MAGIC
    }
}

fn on_noexec(fd: &OwnedFd) -> bool {
    // SAFETY: a valid place for the answer, for which all zeroes is a valid value.
    unsafe {
        let mut statvfs: libc::statvfs = zeroed();
        libc::fstatvfs(fd.as_raw_fd(), &mut statvfs) == 0 && statvfs.f_flag & libc::ST_NOEXEC != 0
    }
}

fn unlimited() -> libc::rlimit {
    libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    }
}

/// Owns what a call made, if it did.
pub fn owned(result: c_int) -> io::Result<OwnedFd> {
    // SAFETY: a descriptor that a call has just made is owned by nobody else.
    ok(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The result of a call, or its error.
pub fn ok(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
