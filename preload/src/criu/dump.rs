//! A criu that dumps does not see the descriptors that advice leaves out.
//!
//! The request is checked, and the plan made, when every task is stopped and criu
//! begins to ask about them: at the first answer of sock_diag(7), or when it makes
//! files.img. From then on
//!
//! * the listing of /proc/PID/fd lacks the numbers ([`on_readdir`]);
//! * what is said of epoll sets and unix sockets that stay is as if they had been
//!   closed ([`on_openat`], [`on_kcmp`], [`on_recvmsg`]);
//! * when criu makes inventory.img, what was left out is recorded beside it, and what the
//!   program asks whoever restores it for.
//!
//! What a task says of its own descriptors counts without a variable of ours: every dump is
//! looked at, and where there is neither advice nor a mark, nothing else happens.
//!
//! The tasks are only looked at. A refusal is an errno from the call that makes
//! files.img or inventory.img: criu lets the tasks go as they were, and what it wrote
//! without inventory.img is no image.

mod answers;
mod information;
mod listings;

use super::files::Opened;
use ckpt_image::advice::Advice;
use ckpt_image::criu::{dump as image, moment, record};
use ckpt_image::listing::Engine;
use ckpt_image::report::{Outcome, Report};
use ckpt_restart::regular::OPENS;
use ckpt_restart::settings::Settings;
use ckpt_restart::{Error, errno, log, refuse, report, tasks, warn};
use libc::{c_char, c_int, c_uint, msghdr, ssize_t};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use information::on_kcmp;
pub use listings::{on_closedir, on_fdopendir, on_readdir};

/// What a dump by this process is to be told.
enum Request {
    /// The advice, whether the plan is only to be shown.
    Advice(Advice, bool),
    /// Nothing may be dumped.
    Refused(Arc<Error>),
}

static REQUEST: OnceCell<Request> = OnceCell::new();

/// How far a dump has come.
#[derive(Default)]
enum Stage {
    /// The tasks are being stopped.
    #[default]
    Before,
    /// The tasks are known.
    Planned(Box<image::Plan>),
    /// It has been said why.
    Refused(c_int),
}

impl Stage {
    /// What is to be done, where that is known.
    fn plan(&self) -> Option<&image::Plan> {
        match self {
            Stage::Planned(plan) => Some(plan),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Dump {
    /// Threads that criu has stopped, in that order.
    stopped: Vec<i32>,
    stage: Stage,
    /// criu has begun to write an image of tasks, as opposed to their memory only.
    writes: bool,
    /// Of sock_diag, for criu to receive.
    answers: answers::Answers,
}

static DUMP: Mutex<Option<Dump>> = Mutex::new(None);

/// A dump came to its image.
static SEEN: AtomicBool = AtomicBool::new(false);

/// Prepares for dumps by this process.
///
/// * `begun`: whether the settings can be obeyed at all.
/// * `streams`: its image does not come out in files.
pub fn prepare(settings: &Settings, begun: Result<(), Arc<Error>>, streams: bool) {
    let request = match begun.and_then(|()| advice(settings, streams).map_err(Arc::new)) {
        // What is not seen cannot be obeyed.
        Ok(advice) if advice.is_empty() && streams && !settings.dry_run => return,
        Ok(advice) => Request::Advice(advice, settings.dry_run),
        Err(error) => Request::Refused(error),
    };
    let _ = REQUEST.set(request);
}

fn advice(settings: &Settings, streams: bool) -> Result<Advice, Error> {
    if streams && !settings.advice.is_empty() {
        return Err(ckpt_image::Error::unsupported(
            "criu --stream",
            "an image that goes to a streamer cannot be advised: dump to a directory",
        )
        .into());
    }
    Ok(image::at_a_dump(&settings.advice)?)
}

/// Whether advice is for dumps by this process, too.
pub fn is_active() -> bool {
    REQUEST.get().is_some()
}

/// Whether advice was given, so that a dump that passes by it must not succeed.
fn is_asked() -> bool {
    match REQUEST.get() {
        Some(Request::Advice(advice, dry_run)) => !advice.is_empty() || *dry_run,
        Some(Request::Refused(_)) => true,
        None => false,
    }
}

/// Why nothing may be dumped, if that is known already.
pub fn refusal() -> Option<&'static Error> {
    match REQUEST.get() {
        Some(Request::Refused(error)) => Some(error),
        _ => None,
    }
}

/// At exit of a criu that was started to dump.
pub fn end() {
    if is_asked() && !SEEN.load(Ordering::Relaxed) {
        warn!("criu ended and did not make files.img: the advice was not used");
    }
}

/// ptrace(2), after it: criu stops what it dumps.
pub fn after_ptrace(request: c_uint, thread: c_int, succeeded: bool) {
    if request != libc::PTRACE_SEIZE || !succeeded || REQUEST.get().is_none() {
        return;
    }
    let errno = errno::get();
    let mut dump = DUMP.lock();
    let dump = dump.get_or_insert_default();
    let over = match &dump.stage {
        Stage::Before => false,
        Stage::Planned(plan) => !plan.hidden.keys().any(|&task| tasks::is_traced(task)),
        Stage::Refused(_) => true,
    };
    if over {
        *dump = Dump::default();
    }
    dump.stopped.push(thread);
    errno::set(errno);
}

impl Dump {
    /// Makes the plan, once the tasks are known.
    fn plan(&mut self) {
        let Stage::Before = self.stage else {
            return;
        };
        if self.stopped.is_empty() {
            return;
        }
        match self.planned() {
            Ok(Some(plan)) => self.stage = Stage::Planned(Box::new(plan)),
            Ok(None) => {}
            Err(errno) => self.stage = Stage::Refused(errno),
        }
    }

    /// The tasks, with their descriptors where anybody has something to say of these.
    fn tasks(&self, advice: &Advice) -> io::Result<Vec<image::Task>> {
        let mut tasks = tasks::traced(&self.stopped)?;
        if is_asked() || tasks.iter().any(|task| !task.marks.is_empty()) {
            tasks::look_at_descriptors(&mut tasks, &|number| image::concerns(advice, number))?;
        }
        Ok(tasks)
    }

    fn planned(&self) -> Result<Option<image::Plan>, c_int> {
        let said = |error: &Error| {
            refused(error);
            error.errno()
        };
        let (advice, dry_run) = match REQUEST.get() {
            None => return Ok(None),
            Some(Request::Refused(error)) => return Err(said(error)),
            Some(Request::Advice(advice, dry_run)) => (advice, *dry_run),
        };
        let tasks = match self.tasks(advice) {
            Ok(tasks) => tasks,
            Err(_) if !is_asked() => return Ok(None),
            Err(error) => return Err(said(&Error::system("cannot look at the tasks", error))),
        };
        if tasks.is_empty() {
            return Ok(None);
        }
        if !is_asked() && tasks.iter().all(|task| task.marks.is_empty()) {
            return Ok(Some(image::Plan::nothing(&tasks)));
        }
        let plan =
            image::plan(&tasks, advice, &tasks::ThisKernel).map_err(|error| said(&error.into()))?;
        let outcome = match dry_run {
            true => Outcome::Planned,
            false => Outcome::Dumped,
        };
        let planned = report_of(&plan, outcome);
        log::report(&planned);
        if dry_run {
            report::write(&planned);
            return Err(said(&Error::DryRun));
        }
        Ok(Some(plan))
    }
}

/// openat(2) and openat64, of a dump: refuses, records, and has what epoll sets watch
/// read from memory. `None` where the call is to be made as it is.
///
/// * `real`: the real call, for a path and flags.
pub fn on_openat(
    directory: c_int,
    name: &CStr,
    flags: c_int,
    real: &dyn Fn(*const c_char, c_int) -> c_int,
) -> Option<io::Result<c_int>> {
    REQUEST.get()?;
    let creates = flags & libc::O_CREAT != 0;
    match name.to_bytes() {
        b"files.img" if creates => begin().err().map(Err),
        b"inventory.img" if creates => record(directory, real).err().map(Err),
        bytes if bytes.starts_with(b"fdinfo/") && !creates => {
            let number = std::str::from_utf8(&bytes[7..]).ok()?.parse().ok()?;
            let open = || real(name.as_ptr(), flags);
            information::read(directory, number, open, flags)
        }
        _ => None,
    }
}

/// What advice makes of a dump.
fn report_of(plan: &image::Plan, outcome: Outcome) -> Report<'_> {
    Report {
        changes: &plan.changes,
        unmatched: &plan.unmatched,
        warnings: &plan.warnings,
        ..Report::new(Engine::Criu, outcome)
    }
}

/// Says that a dump is refused, and reports it.
pub fn refused(error: &Error) {
    log::dump_refused(error);
    report::failed(Engine::Criu, error);
}

fn errno_of(errno: c_int) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// criu makes files.img.
fn begin() -> io::Result<()> {
    SEEN.store(true, Ordering::Relaxed);
    let mut dump = DUMP.lock();
    let dump = dump.get_or_insert_default();
    dump.plan();
    dump.writes = true;
    match dump.stage {
        Stage::Planned(_) => Ok(()),
        Stage::Refused(errno) => Err(errno_of(errno)),
        Stage::Before if !is_asked() => Ok(()),
        Stage::Before => {
            refuse!(
                "dump refused: criu writes an image, and which tasks it has stopped was not seen: \
                 dump without advice"
            );
            dump.stage = Stage::Refused(libc::ECANCELED);
            Err(errno_of(libc::ECANCELED))
        }
    }
}

/// criu makes inventory.img: the image is whole.
///
/// * `directory`: its own.
fn record(directory: c_int, real: &dyn Fn(*const c_char, c_int) -> c_int) -> io::Result<()> {
    let mut dump = DUMP.lock();
    let Some(dump) = dump.as_mut().filter(|dump| dump.writes) else {
        return Ok(());
    };
    let plan = match &dump.stage {
        Stage::Planned(plan) => plan,
        Stage::Before if !is_asked() => return Ok(()),
        _ => return Err(errno_of(libc::ECANCELED)),
    };
    if plan.is_nothing() && !is_asked() {
        // One that is here is of an image that is being overwritten.
        // SAFETY: the name ends in a NUL.
        unsafe { libc::unlinkat(directory, RECORD.as_ptr(), 0) };
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        let fd = real(RECORD.as_ptr(), flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened just now, for nobody else.
        let mut file = unsafe { File::from_raw_fd(fd) };
        let open = |name: &CStr| real(name.as_ptr(), OPENS);
        // Without it, the record counts for every image of these tasks.
        let dump = moment(&Opened { open: &open }).unwrap_or_default();
        file.write_all(&record::write(&plan.record(dump)))
    };
    write().map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        refused(&Error::system(record::RECORD, error));
        errno_of(errno)
    })?;
    report::write(&report_of(plan, Outcome::Dumped));
    Ok(())
}

/// [`record::RECORD`], for C.
const RECORD: &CStr = c"ckptadv.json";

/// recvmsg(2): what sock_diag says of unix sockets.
///
/// # Safety
/// `message` is what the program gave, as for recvmsg(2), and `real` the real call.
pub unsafe fn on_recvmsg(
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
    real: &dyn Fn(*mut msghdr) -> ssize_t,
) -> ssize_t {
    if REQUEST.get().is_none() || flags != 0 || !answers::come_on(fd) {
        return real(message);
    }
    let mut dump = DUMP.lock();
    let Some(dump) = dump.as_mut() else {
        return real(message);
    };
    errno::keeping(|| dump.plan());
    match &mut dump.stage {
        Stage::Planned(plan) if !plan.sockets.is_empty() => {
            // SAFETY: as the caller promises.
            unsafe { dump.answers.receive(fd, message, &mut plan.sockets, real) }
        }
        _ => real(message),
    }
}
