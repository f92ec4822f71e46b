//! The Linux-CR restart program: what happens at its calls.
//!
//! The program reads the head of the image itself, makes the tasks, and then
//! calls restart(2). The first bytes of an image in a read are the moment to
//! look at the whole request, since no task exists yet: the caller's descriptors
//! are copied out of the way (tasks inherit the copies, and open them by name),
//! and an image in a regular file is checked from end to end. At the call itself
//! the image's descriptor is replaced by one from which the rewritten image
//! comes.

use crate::state::{State, state};
use crate::table;
use ckpt_image::advice::{Action, Advice};
use ckpt_image::linux_cr::begins_like_an_image;
use ckpt_image::linux_cr::survey::Surveyor;
use ckpt_image::listing::Engine;
use ckpt_restart::call::{self, Shape};
use ckpt_restart::request::{self, ABOVE, Naming, Request, Sources};
use ckpt_restart::{Error, caller, debug, errno, log, report, reserved, stream, warn};
use cradvise::CALL;
use libc::{c_char, c_int, c_long, c_uint, c_void, size_t, ssize_t};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::time::Duration;

/// Descriptors that advice takes, as they were when the program started.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());
/// Some of them are not copied yet.
static KEEPING: AtomicBool = AtomicBool::new(false);
/// What was read may be the first bytes of an image, with more to come.
static BEGINNING: Mutex<Option<Beginning>> = Mutex::new(None);
/// An image was seen, and the request looked at: what came of it.
static REQUEST: OnceCell<Result<Option<Request>, c_int>> = OnceCell::new();
/// The process that looks or has looked at it, as opposed to its forked children: 0
/// before.
static LOOKER: AtomicI32 = AtomicI32::new(0);
/// The head of an image that comes through a pipe, while it is read from this
/// descriptor.
static HEAD: Mutex<Option<Surveyor>> = Mutex::new(None);
static HEAD_FD: AtomicI32 = AtomicI32::new(-1);
/// The descriptor on which the head of an image was read, where advice is carried out.
static IMAGE: AtomicI32 = AtomicI32::new(-1);
/// Shared with forked children: whether one of them made the restart call, or was
/// refused what comes before it.
static SEEN: AtomicPtr<AtomicBool> = AtomicPtr::new(std::ptr::null_mut());

/// The first record of an image, little-endian and big-endian: its type and length.
const PREFIXES: [[u8; 8]; 2] = [[1, 0, 0, 0, 72, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 72]];
const FIRST_RECORD: usize = 72;
/// Above what the kernel lets fs.nr_open be.
const NEVER_OPEN: c_uint = c_int::MAX.cast_unsigned();
/// How many bytes tell an image: the prefix and the magic number.
const TELLING: usize = 16;

/// The first bytes that were read from a descriptor.
struct Beginning {
    fd: c_int,
    bytes: [u8; TELLING],
    length: usize,
}

impl Beginning {
    /// With the next bytes, as far as they tell something.
    fn and(mut self, next: &[u8]) -> Self {
        let more = next.len().min(TELLING - self.length);
        self.bytes[self.length..][..more].copy_from_slice(&next[..more]);
        self.length += more;
        self
    }

    fn may_be_an_image(&self) -> bool {
        let bytes = &self.bytes[..self.length];
        match self.length {
            0..8 => PREFIXES.iter().any(|prefix| prefix.starts_with(bytes)),
            8..TELLING => PREFIXES.iter().any(|prefix| bytes.starts_with(prefix)),
            _ => begins_like_an_image(bytes),
        }
    }
}

/// Whether a read ended with the bytes that tell an image. Gives those that were read
/// before it, which may be few at a time.
fn beginning(fd: c_int, bytes: &[u8]) -> Option<Vec<u8>> {
    // Whoever holds the lock reads at the same time, which no restart program does.
    let mut kept = BEGINNING.try_lock()?;
    let anew = Beginning {
        fd,
        bytes: [0; TELLING],
        length: 0,
    };
    let before = kept.take().filter(|before| before.fd == fd);
    for before in before.into_iter().chain([anew]) {
        let length = before.length;
        let read = before.and(bytes);
        if !read.may_be_an_image() {
            continue;
        }
        if read.length == TELLING {
            return Some(read.bytes[..length].to_vec());
        }
        *kept = Some(read);
        return None;
    }
    None
}

/// A descriptor that advice takes.
struct Kept {
    number: i32,
    identity: (u64, u64),
    copy: Option<i32>,
}

/// How long it takes to copy one, at most.
const A_COPY: Duration = Duration::from_secs(1);

/// Before main: notes which descriptors advice takes.
pub fn start(state: &State) {
    let mut kept = KEPT.lock();
    for number in caller::wanted(&state.settings.advice).unwrap_or_default() {
        if let Ok(identity) = caller::identity(number) {
            kept.push(Kept {
                number,
                identity,
                copy: None,
            });
        }
    }
    KEEPING.store(!kept.is_empty(), Ordering::Release);
}

/// At exit: says so where an image was read and nothing came of it.
pub fn end() {
    let seen = SEEN.load(Ordering::Acquire);
    if is_forked() || seen.is_null() || !matches!(REQUEST.get(), Some(Ok(Some(_)))) {
        return;
    }
    // SAFETY: the page was mapped by us and is never unmapped.
    if unsafe { !(*seen).load(Ordering::Acquire) } {
        warn!(
            "an image was read, but no restart was seen, so the advice was not carried out: if \
             this kernel's restart(2) has a number of its own, set CKPT_RESTART_NR to it"
        );
    }
}

/// After a read: the first bytes of an image are the moment to look at the
/// request.
///
/// Whoever asks for more than the first record is a program that copies or
/// unpacks an image: one that restarts leaves the rest to the kernel, and reads
/// the head exactly.
pub fn on_read(fd: c_int, buffer: *const c_void, count: size_t, result: ssize_t) -> ssize_t {
    let Ok(length) = usize::try_from(result) else {
        return result;
    };
    let Some(state) = state() else {
        return result;
    };
    if REQUEST.get().is_some() {
        // SAFETY: read(2) has just written this many bytes there.
        head(fd, || unsafe {
            std::slice::from_raw_parts(buffer.cast::<u8>(), length)
        });
        return result;
    }
    if length == 0 || count > FIRST_RECORD {
        return result;
    }
    // SAFETY: read(2) has just written this many bytes there.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length) };
    let errno = errno::get();
    let Some(earlier) = beginning(fd, bytes) else {
        return result;
    };
    // SAFETY: the descriptor was just read from.
    let regular = request::regular_at(unsafe { BorrowedFd::borrow_raw(fd) });
    let start = regular.and_then(|at| at.checked_sub((earlier.len() + length) as u64));
    let looked = look_at(state, fd, start, true);
    match looked {
        Ok(request) => {
            if request.is_some() {
                IMAGE.store(fd, Ordering::Relaxed);
            }
            if request.is_some_and(|request| !request.is_checked()) {
                // Nobody has it: it is looked at from now on.
                if let Some(mut head) = HEAD.try_lock() {
                    *head = Some(Surveyor::default());
                }
                HEAD_FD.store(fd, Ordering::Relaxed);
                head(fd, || &earlier);
                head(fd, || bytes);
            }
            errno::set(errno);
            result
        }
        Err(errno) => fail(errno) as ssize_t,
    }
}

/// The head of an image that cannot be read in advance: its tree has the pids by
/// which advice names the tasks, and the restart program writes new ones into it
/// before the kernel, and we, see it again.
fn head<'a>(fd: c_int, bytes: impl FnOnce() -> &'a [u8]) {
    if HEAD_FD.load(Ordering::Relaxed) != fd {
        return;
    }
    let Some(mut head) = HEAD.try_lock() else {
        return;
    };
    let Some(surveyor) = head.as_mut() else {
        return;
    };
    let errno = errno::get();
    let failed = surveyor.feed(bytes()).is_err();
    let tasks = &surveyor.survey().tasks;
    if let (false, Some(Ok(Some(request)))) = (tasks.is_empty(), REQUEST.get()) {
        request.name_tasks(tasks.iter().map(|task| task.pid).collect());
    }
    if failed || !tasks.is_empty() {
        HEAD_FD.store(-1, Ordering::Relaxed);
        *head = None;
    }
    errno::set(errno);
}

/// close(2): a copy that tasks will open by name stays.
pub fn on_close(fd: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if reserved::is_reserved(fd) {
        return 0;
    }
    table::closing(fd);
    before_closing(fd);
    real()
}

/// close_range(2), the whole range or piece by piece around what is to stay.
///
/// * `closes`: it is not only to make them close-on-exec.
/// * `real`: the call, for a part of the range.
pub fn on_close_range(
    first: c_uint,
    last: c_uint,
    closes: bool,
    real: impl Fn(c_uint, c_uint) -> c_int,
) -> c_int {
    if closes {
        // Where it fails, it does so for a number that is never open, too.
        let succeeds = || first <= last && real(NEVER_OPEN, NEVER_OPEN) == 0;
        if table::is_used() && succeeds() {
            table::closing_all(first, last);
        }
        before_closing_all(first, last);
    }
    reserved::around(first, last, real)
}

/// closefrom(3).
pub fn on_closefrom(least: c_int, real: impl FnOnce()) {
    let first = least.max(0).cast_unsigned();
    table::closing_all(first, c_uint::MAX);
    before_closing_all(first, c_uint::MAX);
    if !reserved::any() {
        return real();
    }
    let errno = errno::get();
    let close_range = |first: c_uint, last: c_uint| {
        // SAFETY: takes integers only; the program wants these closed.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) as c_int }
    };
    if reserved::around(first, c_uint::MAX, close_range) != 0 {
        // Before Linux 5.9.
        let end = c_uint::try_from(caller::descriptor_limit()).unwrap_or(c_uint::MAX);
        for fd in first..end.min(1 << 20) {
            // SAFETY: as above; it goes through on_close.
            unsafe { libc::close(fd.cast_signed()) };
        }
    }
    errno::set(errno);
}

/// chroot(2): tasks that are given files of the caller's open them below /proc. Where
/// the new root has no place for one, no task need be made.
///
/// # Safety
/// `path` is what the program gave: a string, as for chroot(2).
pub unsafe fn on_chroot(path: *const c_char, real: impl FnOnce() -> c_int) -> c_int {
    let Some(Ok(Some(request))) = REQUEST.get() else {
        return real();
    };
    if path.is_null() {
        return real();
    }
    let errno = errno::get();
    // SAFETY: not null, and a string as the caller promises.
    let root = Path::new(OsStr::from_bytes(
        unsafe { CStr::from_ptr(path) }.to_bytes(),
    ));
    if let Err(error) = request.can_be_rooted(root) {
        report::refused(Engine::LinuxCr, &error);
        saw_restart();
        errno::set(error.errno());
        return -1;
    }
    errno::set(errno);
    real()
}

/// dup2(2) and dup3(2). A restart program that takes a number of ours is told that it
/// is in use: its file must not come back as the caller's.
pub fn on_dup(from: c_int, to: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if reserved::is_reserved(to) && from != to {
        warn!("descriptor {to} is the library's while a restart is under way: use another");
        errno::set(libc::EBUSY);
        return -1;
    }
    before_closing(to);
    table::on_dup(from, to, real)
}

/// Before numbers are closed: those among them that advice takes are copied.
fn before_closing_all(first: c_uint, last: c_uint) {
    if !KEEPING.load(Ordering::Relaxed) || REQUEST.get().is_some() {
        return;
    }
    // Whoever holds the lock is copying them all.
    let Some(mut kept) = KEPT.try_lock() else {
        return;
    };
    errno::keeping(|| {
        for kept in kept.iter_mut() {
            if (first..=last).contains(&kept.number.cast_unsigned()) {
                kept.copy_away();
            }
        }
    });
}

/// Before a number is closed or replaced: one that advice takes is copied.
fn before_closing(fd: c_int) {
    if let Ok(fd) = c_uint::try_from(fd) {
        before_closing_all(fd, fd);
    }
}

/// Before a forked child gets the write end of a pipe as its output: the feeder of
/// user-cr since 2011 begins so. It copies the rest of the image from 0, also where
/// the head came in on another descriptor (-i), and would copy anything or wait for
/// ever: it gets the image on 0.
pub fn before_feeding(from: c_int, to: c_int) {
    let image = IMAGE.load(Ordering::Relaxed);
    if to != 1 || image <= 0 || !is_forked() || !caller::is_pipe(from) {
        return;
    }
    errno::keeping(|| {
        if !caller::same_description(0, image) {
            debug!("the feeder reads the image on 0 instead of {image}");
            // SAFETY: dup2 takes integers only.
            unsafe { libc::dup2(image, 0) };
        }
    });
}

/// Whether this is a child of the process that looked at the image.
fn is_forked() -> bool {
    LOOKER.load(Ordering::Relaxed) != process()
}

fn process() -> c_int {
    // SAFETY: getpid takes nothing.
    unsafe { libc::getpid() }
}

/// A call through syscall(2), which may be a restart.
pub fn on_syscall(
    number: c_long,
    arguments: [c_long; 4],
    real: impl Fn(c_long) -> c_long,
) -> c_long {
    let Some(state) = state() else {
        return real(arguments[1]);
    };
    let configured = state.settings.restart_nr;
    let shape = match call::shape(number, arguments, configured) {
        // Tasks call on small stacks, and may share their memory.
        None | Some(Shape::Task) => return real(arguments[1]),
        Some(shape) => shape,
    };
    let (Shape::Coordinator { image: fd, .. } | Shape::Itself(fd)) = shape else {
        return real(arguments[1]);
    };
    if REQUEST.get().is_none() && !call::is_image(fd) {
        return real(arguments[1]);
    }
    let with = |fd: i32| real(c_long::from(fd));
    // SAFETY: the call's descriptor is open, as its shape says.
    let start = request::regular_at(unsafe { BorrowedFd::borrow_raw(fd) });
    let looked = look_at(state, fd, start, matches!(shape, Shape::Itself(_)));
    saw_restart();
    let request = match looked {
        Ok(Some(request)) => request,
        Ok(None) => return call::unadvised(shape, &|| real(arguments[1])),
        Err(errno) => {
            if matches!(shape, Shape::Coordinator { .. }) {
                call::give_up(&with);
            }
            return fail(errno);
        }
    };
    let dry_run = state.settings.dry_run;
    match call::carry(request, shape, dry_run, &with) {
        Ok(result) => result,
        Err(error) => {
            report::refused(Engine::LinuxCr, &error);
            fail(error.errno())
        }
    }
}

/// Looks at the request once; gives it, or the errno of the refusal. Who comes while that
/// is under way is refused and does not wait: it may be a signal handler that has
/// interrupted it, or a forked child that will never see the end of it.
///
/// * `inherits`: what is opened now the restarting tasks will have.
fn look_at(
    state: &'static State,
    fd: c_int,
    start: Option<u64>,
    inherits: bool,
) -> Result<Option<&'static Request>, c_int> {
    let mine = || {
        let looker = LOOKER.compare_exchange(0, process(), Ordering::AcqRel, Ordering::Acquire);
        looker.is_ok()
    };
    if REQUEST.get().is_none() && mine() {
        map_seen();
        let looked = prepare(state, fd, start, inherits).map_err(|error| {
            report::refused(Engine::LinuxCr, &error);
            error.errno()
        });
        let _ = REQUEST.set(looked);
    }
    let Some(looked) = REQUEST.get() else {
        return Err(libc::EBUSY);
    };
    match looked {
        Ok(request) => Ok(request.as_ref()),
        Err(errno) => Err(*errno),
    }
}

fn prepare(
    state: &State,
    fd: c_int,
    start: Option<u64>,
    inherits: bool,
) -> Result<Option<Request>, Error> {
    let settings = &state.settings;
    settings.begin()?;
    if settings.source_root.is_some() && !settings.advice.paths().is_empty() {
        return Err(ckpt_image::Error::unsupported(
            "CKPT_SOURCE_ROOT",
            "a restarting task of Linux-CR opens paths itself: give numbers as sources, or unset it",
        )
        .into());
    }
    let advice = table::advice(settings)?;
    if advice.is_empty() && !settings.dry_run {
        return Ok(None);
    }
    let mut sources = Sources::new();
    // Another thread that has it copies one and is done, unless it was not forked along.
    let mut kept = KEPT.try_lock_for(A_COPY).ok_or_else(|| {
        let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
        Error::system("descriptors are being closed while the image is read", busy)
    })?;
    for kept in kept.iter_mut() {
        let copy = kept
            .copy_away()
            .ok_or_else(|| could_not_keep(kept.number))?;
        sources.insert(kept.number, copy);
    }
    KEEPING.store(false, Ordering::Release);
    let mut close_on_exec = Vec::new();
    for number in marked(&advice) {
        if let Entry::Vacant(place) = sources.entry(number) {
            let copy = caller::copy_above(number, ABOVE).map_err(|_| could_not_keep(number))?;
            reserved::reserve(copy);
            place.insert(copy);
            if caller::closes_on_exec(number) {
                close_on_exec.push(number);
            }
        }
    }
    let mut request = Request::new(&advice, sources, Naming::Inherited, Some(fd))?;
    close_on_exec
        .into_iter()
        .for_each(|number| request.closes_on_exec(number));
    if let Some(start) = start {
        // SAFETY: the program has it open for the length of its call.
        let image = unsafe { BorrowedFd::borrow_raw(fd) };
        let rewriter = request.check(image, start)?;
        let planned = rewriter.report(call::outcome_of_check(settings.dry_run));
        log::report(&planned);
        if settings.dry_run {
            report::write(&planned);
            return Err(Error::DryRun);
        }
    }
    if !settings.dry_run {
        request.relay()?;
    }
    if inherits && request.is_checked() {
        request.hold(ABOVE)?;
    }
    if !settings.dry_run {
        stream::has_room()?;
    }
    debug!("advice is ready for the restart");
    Ok(Some(request))
}

/// The numbers that cradvise(2) preserves.
fn marked(advice: &Advice) -> impl Iterator<Item = i32> {
    let given = advice.items.iter().filter(|item| item.variable == CALL);
    let preserved = given.filter(|item| item.action != Action::Ignore);
    preserved.filter_map(|item| Some(item.target.numbers()?.0))
}

fn could_not_keep(number: i32) -> Error {
    Error::system(
        format!(
            "descriptor {number} could not be copied out of the way (raise ulimit -n, or leave it \
             open in the restart program)"
        ),
        std::io::Error::last_os_error(),
    )
}

impl Kept {
    /// Copies the descriptor to a high number, once; `None` where it is not the
    /// file any more that it was in the beginning, or there is no room.
    fn copy_away(&mut self) -> Option<i32> {
        if self.copy.is_none() && caller::identity(self.number).ok() == Some(self.identity) {
            self.copy = caller::copy_above(self.number, ABOVE).ok();
            self.copy.into_iter().for_each(reserved::reserve);
        }
        self.copy
    }
}

/// A page that forked children share.
fn map_seen() {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping of a page, zeroed, which is never unmapped; an
    // AtomicBool is one byte, and zero is false.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if page != libc::MAP_FAILED {
        SEEN.store(page.cast(), Ordering::Release);
    }
}

fn saw_restart() {
    let seen = SEEN.load(Ordering::Acquire);
    if !seen.is_null() {
        // SAFETY: the page was mapped by us and is never unmapped.
        unsafe { (*seen).store(true, Ordering::Release) };
    }
}

fn fail(errno: c_int) -> c_long {
    errno::set(errno);
    -1
}
