//! One restart: the grammar of the image, and whose turn it is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_long, pid_t};

use crate::call::{CONN_RESET, TASKSELF};
use crate::descriptors::{self, Watch};
use crate::hash::{Hash, Object};
use crate::image::{Image, Taken};
use crate::layout::{Layout, Record, kind, object};
use crate::process;
use crate::tracer::{Gone, Tracer};
use crate::verdict::{Ending, Verdict};

/// Why a step could not be done.
pub enum Stop {
    /// A positive errno.
    Errno(i32),
    /// Beyond this model.
    Unsupported(String),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Errno(libc::ESRCH)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The result of a step.
pub type Step<T> = Result<T, Stop>;

/// EINVAL, by far the commonest answer.
pub fn invalid<T>() -> Step<T> {
    Err(Stop::Errno(libc::EINVAL))
}

/// Work that waits for the end of a file table.
pub enum Deferred {
    /// The items of an epoll file. Which one stands in their own record.
    EpollItems,
    /// The first of two sockets shall send to the second.
    Join(i32, i32),
    /// What was sent to a unix socket.
    UnixBuffers(i32),
    /// The queues of an internet socket.
    InetBuffers,
}

struct Header {
    kind: u32,
    length: u32,
}

struct Entry {
    pid: i32,
    tgid: i32,
}

/// What restart(2) was called with.
pub struct Request {
    /// The task that called.
    pub coordinator: pid_t,
    /// The root task in that task's pid namespace.
    pub root: pid_t,
    /// RESTART_ flags.
    pub flags: u64,
}

/// A restart under way.
pub struct Restart<'a> {
    pub(crate) tracer: &'a mut Tracer,
    pub(crate) layout: Layout,
    pub(crate) hash: Hash,
    /// The task on whose behalf records are read now.
    pub(crate) reader: pid_t,
    pub(crate) deferred: VecDeque<Deferred>,
    /// Items for epoll files, as the kernel reads them at once; added when all files are what they will be.
    pub(crate) watches: Vec<Vec<Watch>>,
    /// The numbers of all sockets, in the order in which they came.
    pub(crate) sockets: Vec<i32>,
    pub(crate) notes: Vec<String>,
    pub(crate) image: Image,
    request: Request,
    complaint: Option<(Stop, u64, String)>,
    restored: Vec<(i32, Option<pid_t>)>,
    entries: Vec<Entry>,
    /// Whether a task has been touched; before, one that restarts itself gets an error and lives.
    begun: bool,
    /// Of v23: pid objects and their numbers.
    pids: Vec<(i32, i32)>,
    xstate: u32,
    nesting: u32,
}

/// Deeper than any real image nests its announcements; the kernel's own stack would not bear much more.
const DEEPEST: u32 = 64;
/// Largest thing that the kernel allocates in one piece.
const KMALLOC_MAX: usize = 4 << 20;
const NR_OPEN: u64 = 1 << 20;

impl<'a> Restart<'a> {
    /// Serves a call to its end. Only the return to the caller is left to do.
    pub fn run(tracer: &'a mut Tracer, request: Request, image: OwnedFd) -> (Verdict, i32) {
        let coordinator = request.coordinator;
        let image = match Image::new(image) {
            Ok(image) => image,
            Err(error) => {
                let reason = format!("image descriptor: {error}");
                let ending = Ending::Unsupported(reason);
                return (
                    Verdict {
                        ending,
                        tasks: Vec::new(),
                        notes: Vec::new(),
                    },
                    libc::ENOSYS,
                );
            }
        };
        let mut restart = Self {
            tracer,
            layout: Layout::V20,
            hash: Hash::new(),
            reader: coordinator,
            deferred: VecDeque::new(),
            watches: Vec::new(),
            sockets: Vec::new(),
            notes: Vec::new(),
            image,
            request,
            complaint: None,
            restored: Vec::new(),
            entries: Vec::new(),
            begun: false,
            pids: Vec::new(),
            xstate: 512,
            nesting: 0,
        };
        let result = restart.restore();
        restart.end(result)
    }

    fn restore(&mut self) -> Step<()> {
        self.tracer.hold(self.request.coordinator)?;
        let root = self.root_task()?;
        self.read_head()?;
        self.read_tree()?;
        if self.is_self() && self.entries.len() != 1 {
            return invalid();
        }
        for i in 0..self.entries.len() {
            let task = if self.is_self() {
                self.request.coordinator
            } else {
                self.await_task(root, i)?
            };
            self.interrupted()?;
            self.reader = task;
            self.begun = true;
            if let Err(stop) = self.restore_task(i) {
                return Err(self.complain(stop, "task restart failed"));
            }
        }
        self.reader = self.request.coordinator;
        let tail = self.record(kind::TAIL)?;
        if tail.u64(8) != 0x002d_2a0c_c0de_ef00 {
            return invalid();
        }
        self.interrupted()
    }

    /// Lets everybody live, or kills everybody.
    fn end(mut self, result: Step<()>) -> (Verdict, i32) {
        let result = result.and_then(|()| {
            for task in self.living() {
                self.tracer.settle_down::<Stop>(task)?;
            }
            Ok(())
        });
        // What no task took closes now, before anyone runs on, and after the last call that a signal from it could
        // have interrupted.
        self.hash.clear();
        if result.is_ok() {
            for task in self.living() {
                self.tracer.let_go(task);
            }
            let ghosts: Vec<_> = self
                .tracer
                .parked()
                .into_iter()
                .map(|(tid, _)| tid)
                .collect();
            self.tracer.kill(&ghosts);
        }
        let (ending, errno) = match result {
            Ok(()) => (Ending::Restarted, 0),
            Err(stop) => {
                self.kill_everyone();
                let (stop, offset, complaint) = self.complaint.take().unwrap_or((
                    stop,
                    self.image.position(),
                    "restart failed".to_owned(),
                ));
                match stop {
                    Stop::Errno(errno) => (
                        Ending::Failed {
                            errno,
                            offset,
                            complaint,
                        },
                        errno,
                    ),
                    Stop::Unsupported(reason) => (Ending::Unsupported(reason), libc::ENOSYS),
                }
            }
        };
        let tasks = if errno == 0 {
            self.restored
        } else {
            Vec::new()
        };
        (
            Verdict {
                ending,
                tasks,
                notes: self.notes,
            },
            errno,
        )
    }

    fn living(&self) -> Vec<pid_t> {
        self.restored.iter().filter_map(|(_, task)| *task).collect()
    }

    fn kill_everyone(&mut self) {
        let coordinator = self.request.coordinator;
        let mut doomed = self.living();
        doomed.extend(self.tracer.parked().into_iter().map(|(tid, _)| tid));
        let begun = self.reader != coordinator || self.is_self() && self.begun;
        if begun {
            doomed.push(self.reader);
        }
        if !self.is_self() {
            let group = process::Status::of(coordinator).map(|status| status.tgid);
            doomed.retain(|&tid| process::Status::of(tid).map(|status| status.tgid) != group);
        }
        self.tracer.kill(&doomed);
    }

    /// Whether the records read now are read by the coordinator, which is no task of the image.
    pub(crate) fn reading_as_coordinator(&self) -> bool {
        self.reader == self.request.coordinator && !self.is_self()
    }

    /// Whether connections to elsewhere are to be closed.
    pub(crate) fn resets_connections(&self) -> bool {
        self.request.flags & CONN_RESET != 0
    }

    fn is_self(&self) -> bool {
        self.request.flags & TASKSELF != 0
    }

    /// The root task: a child of the caller, or the caller.
    fn root_task(&mut self) -> Step<pid_t> {
        let caller = process::Status::of(self.request.coordinator).ok_or(Gone)?;
        let level = caller.pids.len() - 1;
        if self.is_self() {
            return if caller.pids[level] == self.request.root {
                Ok(self.request.coordinator)
            } else {
                invalid()
            };
        }
        for tid in self.tracer.tasks() {
            if let Some(status) = process::Status::of(tid)
                && status.pids.get(level) == Some(&self.request.root)
                && status.ppid == caller.tgid
            {
                return Ok(tid);
            }
        }
        let stop = Stop::Errno(libc::ESRCH);
        Err(self.complain(stop, "No root task"))
    }

    /// The task of an entry, once it sits in its call.
    fn await_task(&mut self, root: pid_t, entry: usize) -> Step<pid_t> {
        let wanted = self.entries[entry].pid;
        let namespace = process::pid_namespace(root);
        loop {
            let named = self.tracer.tasks().into_iter().find(|&tid| {
                process::Status::of(tid).is_some_and(|status| status.pids.last() == Some(&wanted))
                    && process::pid_namespace(tid) == namespace
            });
            let Some(tid) = named else {
                let complaint = format!("task {wanted} not found");
                return Err(self.complain(Stop::Errno(libc::ESRCH), &complaint));
            };
            if self
                .tracer
                .parked()
                .iter()
                .any(|(parked, _)| *parked == tid)
            {
                self.tracer.hold(tid)?;
                return Ok(tid);
            }
            self.tracer.pump(None, 20);
            self.interrupted()?;
        }
    }

    // ---- errors

    /// Keeps the first complaint, which decides what the call returns.
    pub(crate) fn complain(&mut self, stop: Stop, complaint: &str) -> Stop {
        let again = match &stop {
            Stop::Errno(errno) => Stop::Errno(*errno),
            Stop::Unsupported(reason) => Stop::Unsupported(reason.clone()),
        };
        if self.complaint.is_none() {
            self.complaint = Some((stop, self.image.position(), complaint.to_owned()));
        }
        again
    }

    /// Errors that were complained of are fatal, also where the caller would ignore them.
    pub(crate) fn fatal(&self) -> Step<()> {
        match &self.complaint {
            Some((Stop::Errno(errno), ..)) => Err(Stop::Errno(*errno)),
            Some((Stop::Unsupported(reason), ..)) => Err(Stop::Unsupported(reason.clone())),
            None => Ok(()),
        }
    }

    /// EINTR if a signal waits for the coordinator, which sleeps interruptibly.
    pub(crate) fn interrupted(&self) -> Step<()> {
        interrupted(self.tracer, self.request.coordinator, self.is_self())
    }

    /// A system call of the task that reads.
    pub(crate) fn inject(&mut self, number: c_long, arguments: &[u64]) -> Step<i64> {
        let (coordinator, alone) = (self.request.coordinator, self.is_self());
        let check = &mut |tracer: &Tracer| interrupted(tracer, coordinator, alone);
        self.tracer.inject(self.reader, number, arguments, check)
    }

    // ---- reading

    fn bytes(&mut self, mut buffer: &mut [u8]) -> Step<()> {
        while !buffer.is_empty() {
            match self.image.take(buffer)? {
                Taken::Bytes(n) => buffer = &mut buffer[n..],
                Taken::End => return Err(Stop::Errno(libc::EPIPE)),
                Taken::Empty => {
                    if !self.sleep_for_image()? {
                        return Err(Stop::Errno(libc::EPIPE));
                    }
                }
            }
        }
        Ok(())
    }

    /// Sleeps until the image pipe can be read; false when it has ended.
    pub(crate) fn sleep_for_image(&mut self) -> Step<bool> {
        while !self.tracer.pump(Some(self.image.file()), 100) {
            self.interrupted()?;
        }
        self.tracer.settle();
        Ok(self.image.refill()?)
    }

    fn discard(&mut self, mut bytes: u64) -> Step<()> {
        let mut buffer = [0; 4096];
        while bytes > 0 {
            let n = bytes.min(buffer.len() as u64) as usize;
            self.bytes(&mut buffer[..n])?;
            bytes -= n as u64;
        }
        Ok(())
    }

    /// The next header that is not an announcement; announced objects are restored on the way.
    fn header(&mut self) -> Step<Header> {
        loop {
            self.fatal()?;
            let mut prefix = [0; 8];
            self.bytes(&mut prefix)?;
            let prefix = Record(prefix.to_vec());
            let header = Header {
                kind: prefix.u32(0),
                length: prefix.u32(4),
            };
            if header.length < 8 {
                return invalid();
            }
            match header.kind {
                kind::ERROR => return Err(Stop::Errno(libc::EIO)),
                kind::OBJREF => self.announced(header.length)?,
                _ => return Ok(header),
            }
        }
    }

    /// A record of fixed size. Failing here is what the kernel complains of.
    pub(crate) fn record(&mut self, kind: u32) -> Step<Record> {
        let length = self.layout.length(kind);
        let written = self.layout.kind(kind);
        match self.any(length, length) {
            Ok((found, record)) if found == written => Ok(record),
            Ok((found, _)) => {
                let complaint = format!("Next object was type {found}, not {written}");
                Err(self.complain(Stop::Errno(libc::EINVAL), &complaint))
            }
            Err(stop) => Err(self.complain(stop, &format!("Expecting to read type {written}"))),
        }
    }

    /// A record of a length between two bounds, read without complaint.
    pub(crate) fn silent(&mut self, kind: u32, shortest: usize, longest: usize) -> Step<Record> {
        let written = self.layout.kind(kind);
        match self.any(shortest, longest)? {
            (found, record) if found == written => Ok(record),
            _ => invalid(),
        }
    }

    fn any(&mut self, shortest: usize, longest: usize) -> Step<(u32, Record)> {
        let header = self.header()?;
        let length = header.length as usize;
        if length < shortest || length > longest {
            return invalid();
        }
        if length > KMALLOC_MAX {
            return Err(Stop::Errno(libc::ENOMEM));
        }
        let mut record = vec![0; length];
        self.bytes(&mut record[8..])?;
        Ok((header.kind, Record(record)))
    }

    /// Only the header of a record; its payload, of exactly this many bytes, is the caller's to read.
    pub(crate) fn opened(&mut self, kind: u32, payload: u64) -> Step<()> {
        let header = self.header()?;
        if u64::from(header.length) != payload + 8 || header.kind != self.layout.kind(kind) {
            return invalid();
        }
        Ok(())
    }

    /// Reads payload of a record that [`Restart::opened`] opened.
    pub(crate) fn payload(&mut self, buffer: &mut [u8]) -> Step<()> {
        self.bytes(buffer)
    }

    /// The length of the next record, of this kind, whose payload is left to be read or spliced.
    pub(crate) fn opened_any(&mut self, kind: u32) -> Step<usize> {
        let header = self.header()?;
        if header.kind != self.layout.kind(kind) {
            return invalid();
        }
        Ok(header.length as usize - 8)
    }

    /// A name. One without payload makes the kernel write in front of its buffer.
    pub(crate) fn name(&mut self, kind: u32) -> Step<Vec<u8>> {
        let record = self.silent(kind, 8, 8 + 4096)?;
        let Some((_, name)) = record.payload().split_last() else {
            return Err(self.complain(Stop::Errno(libc::EINVAL), "oops: a string without payload"));
        };
        let end = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        Ok(name[..end].to_vec())
    }

    // ---- objects

    fn announced(&mut self, length: u32) -> Step<()> {
        let mut body = [0; 16];
        let kept = (length as usize).min(16);
        self.bytes(&mut body[8..kept])?;
        self.discard(u64::from(length).saturating_sub(16))?;
        let body = Record(body.to_vec());
        let (kind, objref) = (body.u32(8), body.i32(12));
        let kind = self.layout.restorable(kind);
        let (Some(kind), true) = (kind, objref > 0) else {
            return invalid();
        };
        self.nesting += 1;
        if self.nesting > DEEPEST {
            return Err(self.unsupported("announcements nested too deep"));
        }
        let object = self.restore_object(kind)?;
        self.nesting -= 1;
        self.insert(objref, object)
    }

    /// Gives an object its number.
    pub(crate) fn insert(&mut self, objref: i32, object: Object) -> Step<()> {
        if self.hash.contains_key(&objref) {
            return invalid();
        }
        if let Object::Socket(_) = object {
            self.sockets.push(objref);
        }
        self.hash.insert(objref, object);
        Ok(())
    }

    /// The object of this number and type; failing here is what the kernel complains of.
    pub(crate) fn fetch(&mut self, objref: i32, kind: u32) -> Step<&Object> {
        let errno = match self.hash.get(&objref) {
            Some(object) if object.kind() == kind => return Ok(&self.hash[&objref]),
            Some(_) => libc::ENOMSG,
            None => libc::EINVAL,
        };
        let complaint = format!(
            "[obj {objref}]Fetching object (type {})",
            self.layout.object(kind)
        );
        Err(self.complain(Stop::Errno(errno), &complaint))
    }

    /// Ends the restart without a verdict.
    pub(crate) fn unsupported(&mut self, what: &str) -> Stop {
        self.complain(Stop::Unsupported(what.to_owned()), "")
    }

    fn restore_object(&mut self, kind: u32) -> Step<Object> {
        match kind {
            object::FILE_TABLE => return self.restore_file_table(),
            object::FILE => return Ok(Object::File(self.restore_file()?)),
            object::TTY => return self.restore_terminal(),
            object::MM => self.restore_mm()?,
            object::FS => self.restore_fs()?,
            object::SIGHAND => drop(self.record(kind::SIGHAND)?),
            object::NS => self.restore_namespaces()?,
            object::UTS_NS => drop(self.record(kind::UTS_NS)?),
            object::USER_NS => drop(self.record(kind::USER_NS)?),
            object::CRED => self.restore_cred()?,
            object::USER => {
                let user = self.record(kind::USER)?;
                self.fetch(user.i32(12), object::USER_NS)?;
            }
            object::GROUPINFO => self.restore_groups()?,
            object::SOCK => return self.restore_socket(),
            object::IPC_NS => return Err(self.unsupported("a SysV IPC namespace")),
            object::SECURITY => return Err(self.unsupported("a security label")),
            other => return Err(self.unsupported(&format!("object type {other}"))),
        }
        Ok(Object::Plain(kind))
    }

    fn restore_cred(&mut self) -> Step<()> {
        let cred = self.record(kind::CRED)?;
        self.fetch(cred.i32(40), object::USER)?;
        self.fetch(cred.i32(44), object::GROUPINFO)?;
        Ok(())
    }

    fn restore_groups(&mut self) -> Step<()> {
        let groups = self.silent(kind::GROUPINFO, 16, 16 + 4 * 65536)?;
        let count = groups.u32(8) as usize;
        if groups.len() != 16 + 4 * count.min(65537) {
            return invalid();
        }
        let ids: Vec<u32> = (0..count).map(|i| groups.u32(12 + 4 * i)).collect();
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return invalid();
        }
        Ok(())
    }

    fn restore_namespaces(&mut self) -> Step<()> {
        let ns = self.record(kind::NS)?;
        for (objref, kind) in [(ns.i32(8), object::UTS_NS), (ns.i32(12), object::IPC_NS)] {
            if objref != 0 {
                self.fetch(objref, kind)?;
            }
        }
        Ok(())
    }

    fn restore_fs(&mut self) -> Step<()> {
        self.record(kind::FS)?;
        let cwd = self.name(kind::FILE_NAME)?;
        let root = self.name(kind::FILE_NAME)?;
        if self.reading_as_coordinator() {
            return Err(self.unsupported("a working directory read by the coordinator"));
        }
        // Names are those seen from the old root: the new one comes last.
        self.on_path(libc::SYS_chdir, &cwd)?;
        if root != b"/" {
            self.on_path(libc::SYS_chroot, &root)?;
        }
        Ok(())
    }

    fn on_path(&mut self, number: c_long, path: &[u8]) -> Step<()> {
        let path = [path, &[0]].concat();
        let at = self.tracer.put::<Stop>(self.reader, &path)?;
        match self.inject(number, &[at])? {
            0 => Ok(()),
            error => Err(Stop::Errno(-error as i32)),
        }
    }

    // ---- the head

    fn read_head(&mut self) -> Step<()> {
        let header = self.record(kind::HEADER)?;
        let rev = header.u16(24);
        self.layout = if rev == 6 { Layout::V23 } else { Layout::V20 };
        let version = (
            header.u16(16),
            header.u16(18),
            header.u16(20),
            header.u16(22),
            rev,
        );
        let known = self.layout == Layout::V23 || version == (2, 2, 6, 33, 5);
        let terminal_characters = if self.layout == Layout::V23 { 19 } else { 8 };
        let auxv = self.layout.auxv() as u16;
        let constants = [
            16,
            auxv,
            64,
            65,
            65,
            65,
            65,
            65,
            65,
            16,
            4096,
            terminal_characters,
        ];
        let same = (0..12).all(|i| header.u16(32 + 2 * i) == constants[i]);
        let flags = if self.layout == Layout::V23 { 3 } else { 1 };
        let magic = header.u64(8) == 0x00fe_ed0c_c0a2_d200;
        if !magic || version.0 != 2 || !known || !same || header.u64(64) & !flags != 0 {
            return invalid();
        }
        for _ in 0..3 {
            self.silent(kind::BUFFER, 73, 73)?;
        }
        let arch = self.record(kind::HEADER_ARCH)?;
        let machine = (arch.u16(8), arch.u16(10), arch.u16(12));
        if self.layout == Layout::V20 && machine != (1, 0, 512) {
            return invalid();
        }
        self.xstate = u32::from(machine.2);
        self.record(kind::CONTAINER)?;
        self.silent(kind::BUFFER, 19, 19)?;
        self.silent(kind::LSM_INFO, 8, 8 + 200)?;
        Ok(())
    }

    fn read_tree(&mut self) -> Step<()> {
        if self.layout == Layout::V23 {
            self.pids = self.read_pids()?;
        }
        let tree = self.record(kind::TREE)?;
        let count = tree.i32(8);
        if count < 1 {
            return invalid();
        }
        let Some(length) = (count as usize)
            .checked_mul(24)
            .filter(|&length| length < KMALLOC_MAX)
        else {
            return Err(Stop::Errno(libc::ENOMEM));
        };
        let tasks = self.silent(kind::BUFFER, 8 + length, 8 + length)?;
        for i in 0..count as usize {
            let number = |field: usize| {
                let id = tasks.i32(8 + 24 * i + 4 * field);
                if self.layout == Layout::V20 {
                    return Some(id);
                }
                self.pids
                    .iter()
                    .find(|(objref, _)| *objref == id)
                    .map(|(_, pid)| *pid)
            };
            let (Some(pid), Some(tgid)) = (number(0), number(2)) else {
                return invalid();
            };
            self.entries.push(Entry { pid, tgid });
        }
        Ok(())
    }

    /// The pids of v23: their objrefs, and their numbers in the outermost namespace.
    fn read_pids(&mut self) -> Step<Vec<(i32, i32)>> {
        let head = self.record(kind::PIDS)?;
        let (count, nested, first) = (head.u32(8) as usize, head.u32(12) as usize, head.i32(16));
        let length = count
            .saturating_mul(8)
            .saturating_add(nested.saturating_mul(4));
        if length >= KMALLOC_MAX {
            return Err(Stop::Errno(libc::ENOMEM));
        }
        let body = self.silent(kind::BUFFER, 8 + length, 8 + length)?;
        let mut pids = Vec::new();
        let mut at = 8;
        for i in 0..count {
            let depth = body.u32(at) as usize;
            if at + 8 > body.len() || depth > nested {
                return invalid();
            }
            let Some(objref) = first.checked_add(i as i32) else {
                return invalid();
            };
            pids.push((objref, body.i32(at + 4)));
            self.insert(objref, Object::Plain(object::PID))?;
            at += 8 + 4 * depth;
        }
        Ok(pids)
    }

    // ---- one task

    fn restore_task(&mut self, entry: usize) -> Step<()> {
        let Entry { pid, tgid } = self.entries[entry];
        let task = self.record(kind::TASK)?;
        self.silent(kind::STRING, 24, 24)?;
        if task.u32(8) == 64 {
            self.restored.push((pid, None));
            return self.restore_zombie(task.u32(12), task.u32(16));
        }
        self.restored.push((pid, Some(self.reader)));
        self.record(kind::THREAD)?;
        self.record(kind::RESTART_BLOCK)?;
        let cpu = self.record(kind::CPU)?;
        if cpu.u32(188) != 0 {
            let length = 8 + self.xstate as usize;
            self.silent(kind::CPU_FPU, length, length)?;
        }
        let creds = self.record(kind::TASK_CREDS)?;
        self.fetch(creds.i32(8), object::CRED)?;
        self.fetch(creds.i32(12), object::CRED)?;
        let ns = self.record(kind::TASK_NS)?;
        self.fetch(ns.i32(8), object::NS)?;
        self.restore_task_objects(pid == tgid)?;
        self.restore_pending()?;
        self.record(kind::SIGNAL_TASK)?;
        Ok(())
    }

    fn restore_zombie(&mut self, state: u32, code: u32) -> Step<()> {
        if state != 16 {
            return invalid();
        }
        let zombie = self.reader;
        self.reader = self.request.coordinator;
        // The number that a tracer sees last is that of a call which does not return.
        let never = &mut |_: &Tracer| Ok(());
        match self.tracer.inject::<Stop>(
            zombie,
            libc::SYS_exit_group,
            &[u64::from(code >> 8 & 0xff)],
            never,
        ) {
            _ if !self.tracer.alive(zombie) => Ok(()),
            _ => invalid(),
        }
    }

    fn restore_task_objects(&mut self, leader: bool) -> Step<()> {
        let objects = self.record(kind::TASK_OBJS)?;
        let gap = if self.layout == Layout::V23 { 4 } else { 0 };
        self.join_file_table(objects.i32(8))?;
        self.fetch(objects.i32(12), object::MM)?;
        self.fetch(objects.i32(16), object::FS)?;
        self.fetch(objects.i32(20 + gap), object::SIGHAND)?;
        let signal = objects.i32(24 + gap);
        if !self.hash.contains_key(&signal) {
            if signal <= 0 {
                return invalid();
            }
            self.restore_signal(leader)?;
            self.restore_pending()?;
            self.insert(signal, Object::Plain(object::SIGNAL))?;
        }
        Ok(())
    }

    fn restore_signal(&mut self, leader: bool) -> Step<()> {
        let signal = self.record(kind::SIGNAL)?;
        let hard_limit_of_descriptors = signal.u64(8 + 16 * 7 + 8);
        if hard_limit_of_descriptors > NR_OPEN {
            return Err(Stop::Errno(libc::EPERM));
        }
        let terminal = signal.i32(312);
        if terminal != 0 && leader {
            let group = signal.i32(316);
            // v23 keeps pid objects here, and has negative ones for the groups that are not in the image.
            let named = self.pids.iter().find(|(objref, _)| *objref == group);
            let group = match named {
                Some((_, pid)) => *pid,
                None if self.layout == Layout::V23 && group < 0 => 0,
                None => group,
            };
            self.restore_controlling_terminal(terminal, group)?;
        }
        Ok(())
    }

    fn restore_pending(&mut self) -> Step<()> {
        let length = self.opened_any(kind::SIGPENDING);
        let length = length.map_err(|stop| self.complain(stop, "Expecting to read type 604"))?;
        let mut head = [0; 16];
        if length < head.len() {
            return invalid();
        }
        self.bytes(&mut head)?;
        let count = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        if length as u64 != 16 + self.layout.siginfo() * u64::from(count) {
            return invalid();
        }
        self.discard(length as u64 - 16)
    }

    // ---- memory, of which only the references count here

    fn restore_mm(&mut self) -> Step<()> {
        let mm = self.record(kind::MM)?;
        if mm.i32(12) != 0 {
            self.fetch(mm.i32(12), object::FILE)?;
        }
        let auxv = 8 + 8 * self.layout.auxv();
        self.silent(kind::BUFFER, auxv, auxv)?;
        let mut vdso = 0;
        for _ in 0..mm.u32(8) {
            let vma = self.record(kind::VMA)?;
            if vma.u64(32) >= vma.u64(40) {
                return invalid();
            }
            match vma.u32(8) {
                1 => vdso = vma.u64(32),
                2 | 4 => self.skip_pages()?,
                3 | 6 => {
                    self.check_mapping(vma.i32(12), vma.u64(56))?;
                    if vma.u32(8) == 3 {
                        self.skip_pages()?;
                    }
                }
                5 => {}
                8..=10 => return Err(self.unsupported("memory of SysV IPC or huge pages")),
                _ => return invalid(),
            }
        }
        let context = self.record(kind::MM_CONTEXT)?;
        let entries = context.u32(20) as usize;
        if context.u64(8) != vdso || context.u32(16) != 8 || entries > 8192 {
            return invalid();
        }
        self.silent(kind::LDT, 8 + 8 * entries, 8 + 8 * entries)?;
        Ok(())
    }

    fn check_mapping(&mut self, objref: i32, flags: u64) -> Step<()> {
        let Object::File(file) = self.fetch(objref, object::FILE)? else {
            return invalid();
        };
        let file = file.clone();
        match descriptors::mapping_error(&file, flags, self.hash.values()) {
            0 => Ok(()),
            errno => Err(Stop::Errno(errno)),
        }
    }

    fn skip_pages(&mut self) -> Step<()> {
        loop {
            let pages = self.record(kind::PGARR)?.u64(8);
            if pages == 0 {
                return Ok(());
            }
            let Some(bytes) = pages
                .checked_mul(8 + 4096)
                .filter(|&bytes| bytes < i32::MAX as u64)
            else {
                return invalid();
            };
            self.opened(kind::BUFFER, bytes)?;
            self.discard(bytes)?;
        }
    }
}

fn interrupted(tracer: &Tracer, coordinator: pid_t, alone: bool) -> Step<()> {
    let waiting = !alone && tracer.would_wake(coordinator);
    if waiting || !tracer.alive(coordinator) {
        Err(Stop::Errno(libc::EINTR))
    } else {
        Ok(())
    }
}

/// The kernel's line for a failed restart, on the descriptor that the caller gave for it.
pub fn write_log(log: &OwnedFd, verdict: &Verdict) {
    if let Ending::Failed {
        errno,
        offset,
        complaint,
    } = &verdict.ending
    {
        let line = format!("[err -{errno}][pos {offset}] {complaint}\n");
        // SAFETY: reads the bytes of the line.
        unsafe { libc::write(log.as_raw_fd(), line.as_ptr().cast(), line.len()) };
    }
}
