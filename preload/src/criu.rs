//! CRIU: a criu that restores reads the files that advice changes from memory,
//! and is started with the caller's descriptors to inherit.
//!
//! What is inherited must be known when criu reads its options, which is before
//! it says where the image is (over RPC much before), so everything that the
//! caller gives is offered, under names that do not depend on the image; for a
//! file that is opened by its path, a placeholder. The image is read, and the
//! request checked, when criu opens `pstree.img`, by the descriptor that it has of
//! the directory: no task exists then, and what it inherits criu puts away only
//! later, so that placeholders can still give way. A refusal is told then, and
//! stops criu when it opens `files.img`. The files on disk are never written to.

mod arguments;
mod clock;
pub mod dump;
mod files;
pub mod marks;
mod outcome;

use crate::state::State;
use crate::table;
use arguments::{Invocation, Verb};
use ckpt_image::advice::{Advice, Strictness};
use ckpt_image::caller::{Caller, Opening, Paths};
use ckpt_image::criu::{self as image, Image, Naming, What};
use ckpt_image::listing::Engine;
use ckpt_image::plan::{Fate, Planner};
use ckpt_restart::below::Below;
use ckpt_restart::call::outcome_of_check;
use ckpt_restart::log;
use ckpt_restart::paths::{self, Looking, Own, Tree};
use ckpt_restart::settings::Settings;
use ckpt_restart::{Error, caller, errno, info, regular, report, warn};
use files::{Opened, in_memory};
use libc::{c_char, c_int};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Above what programs use, and below criu's service descriptors, which lie under
/// the limit: where that is low, so is this.
fn out_of_the_way() -> c_int {
    if caller::descriptor_limit() < 512 {
        32
    } else {
        160
    }
}

/// What a restore of this process is to be told.
enum Request {
    /// It is advised.
    Advice(Advised),
    /// There is no advice: it is only to be said what a dump left out, and what the program
    /// asks for.
    Tell {
        /// What it does that the program asks in vain.
        strictness: Strictness,
        /// There is a report to be written.
        reports: bool,
    },
    /// Nothing may be restored.
    Refused(Arc<Error>),
}

struct Advised {
    advice: Advice,
    caller: Caller,
    /// What criu inherits until the files that are opened by path are known, by
    /// the name.
    placeholders: BTreeMap<String, c_int>,
    /// Below which paths as source are looked up.
    root: Option<PathBuf>,
    /// It is only to be shown.
    dry_run: bool,
}

static REQUEST: OnceCell<Request> = OnceCell::new();

/// What criu reads instead of the files of one directory.
#[derive(Default)]
struct Served {
    /// Device and inode of the directory.
    directory: (u64, u64),
    files: BTreeMap<String, Vec<u8>>,
}

/// criu came for the image.
static SEEN: AtomicBool = AtomicBool::new(false);

/// What came of looking at the image: what is served, or the errno of the
/// refusal. Forked tasks inherit it.
static SERVED: Mutex<Option<Result<Served, c_int>>> = Mutex::new(None);

/// Runs before main in a criu: prepares one that restores, dumps or serves.
pub fn start(state: &State) {
    let Some(invocation) = arguments::parse(&state.arguments) else {
        return;
    };
    let begun = state.settings.begin().map_err(Arc::new);
    if invocation.verb != Verb::Restore {
        dump::prepare(&state.settings, begun.clone(), invocation.streams);
    }
    if invocation.verb == Verb::Dump {
        if let Some(error) = dump::refusal() {
            dump::refused(error);
            give_up();
        }
        return;
    }
    let prepare = || prepare(&state.settings, invocation).map_err(Arc::new);
    let prepared = begun.and_then(|()| clock::counted(prepare));
    let request = prepared.unwrap_or_else(|error| {
        if invocation.verb == Verb::Restore {
            report::refused(Engine::Criu, &error);
            give_up();
        }
        // It is said when it is known that a restore is wanted.
        Some(Request::Refused(error))
    });
    if let Some(request) = request {
        let _ = REQUEST.set(request);
    }
}

fn give_up() -> ! {
    // SAFETY: ends the process; nothing of it has run yet.
    unsafe { libc::_exit(1) }
}

/// At exit: says so where an image was read or written in a way that was not seen.
pub fn end(state: &State) {
    // SAFETY: getpid takes nothing.
    if state.pid != unsafe { libc::getpid() } {
        return;
    }
    match arguments::parse(&state.arguments).map(|invocation| invocation.verb) {
        Some(Verb::Dump) => dump::end(),
        Some(Verb::Restore) if !SEEN.load(Ordering::Relaxed) => {
            if let Some(Request::Advice(..)) = REQUEST.get() {
                warn!("criu ended and did not open pstree.img: the advice was not used");
            }
        }
        _ => {}
    }
}

/// Whether the program is criu, whatever it is called and however it was
/// started: it exports what its plugins call. The loader tells, by a weak reference: to
/// ask it with dlsym(3) would take memory in every program that is not.
pub fn is_criu() -> bool {
    let address: usize;
    // SAFETY: reads the entry that the loader has filled in, 0 where there is no such symbol.
    unsafe {
        std::arch::asm!(
            ".weak criu_get_image_dir",
            "mov {0}, qword ptr [rip + criu_get_image_dir@GOTPCREL]",
            out(reg) address,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    address != 0
}

/// Checks what can be checked before the image is known, and lays out what criu
/// is to inherit; `None` where nothing is asked for.
fn prepare(settings: &Settings, invocation: Invocation) -> Result<Option<Request>, Error> {
    let advice = &table::advice(settings)?;
    if advice.is_empty() && settings.accept.is_empty() && !settings.dry_run {
        if settings.reports() && invocation.verb == Verb::Restore {
            outcome::report_at_exit(image::Rewrite::default());
        }
        return Ok(Some(Request::Tell {
            strictness: advice.strictness,
            reports: settings.reports(),
        }));
    }
    if invocation.streams {
        return Err(ckpt_image::Error::unsupported(
            "criu --stream",
            "an image that comes out of a streamer cannot be advised: extract it to a directory",
        )
        .into());
    }
    let mut offers = advice.clone();
    offers.items.extend(settings.accept.iter().cloned());
    let caller = caller::given(&offers)
        .map_err(|e| Error::system("cannot examine the caller's descriptors", e))?;
    Planner::new(&offers, caller.clone(), true)?;
    let inherited = image::inherited(&offers, &caller);
    if !inherited.is_empty() && invocation.verb == Verb::Serve {
        // It ends where its configuration has descriptors to inherit.
        return Err(ckpt_image::Error::unsupported(
            "criu service",
            "neither the caller's descriptors nor paths can be given to what a service restores \
             yet: use criu restore or criu swrk, or only CKPT_IGNORE",
        )
        .into());
    }
    let mut placeholders = BTreeMap::new();
    if !inherited.is_empty() {
        placeholders = hand_over(&inherited)
            .map_err(|e| Error::system("cannot hand criu the caller's descriptors", e))?;
    }
    Ok(Some(Request::Advice(Advised {
        advice: advice.clone(),
        caller,
        placeholders,
        root: settings.source_root.clone(),
        dry_run: settings.dry_run,
    })))
}

/// Copies what criu inherits out of the way, and tells criu by the configuration
/// file that CRIU_CONFIG_FILE names, after what the user's says. Gives the
/// placeholders of files that are opened later, by name.
fn hand_over(inherited: &[image::Inherited]) -> io::Result<BTreeMap<String, c_int>> {
    const VARIABLE: &str = "CRIU_CONFIG_FILE";
    let mut text = match std::env::var_os(VARIABLE) {
        Some(path) => std::fs::read(path).unwrap_or_default(), // As criu does.
        None => Vec::new(),
    };
    let mut lines = String::from("\n");
    let mut placeholders = BTreeMap::new();
    for image::Inherited { name, what } in inherited {
        let copy = match what {
            What::Descriptor(number) => caller::copy_above(*number, out_of_the_way())?,
            What::Path(..) => {
                // Not /dev/null: in a container's cgroup devices may be out of reach.
                let nothing = in_memory(b"", true)?;
                let copy = caller::copy_above(nothing.as_raw_fd(), out_of_the_way())?;
                placeholders.insert(name.clone(), copy);
                copy
            }
        };
        let _ = writeln!(lines, "inherit-fd fd[{copy}]:{name}");
    }
    text.extend_from_slice(lines.as_bytes());
    let low = in_memory(&text, true)?;
    let config = caller::copy_above(low.as_raw_fd(), out_of_the_way())?;
    // SAFETY: the process has one thread, its main has not begun.
    unsafe { std::env::set_var(VARIABLE, format!("/proc/self/fd/{config}")) };
    Ok(placeholders)
}

/// openat(2) and openat64: what advice changes comes from memory.
///
/// * `real`: the real call, for a path and flags.
///
/// # Safety
/// `path` is what the program gave: a string, as for openat(2).
pub unsafe fn on_openat(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    real: impl Fn(*const c_char, c_int) -> c_int,
) -> c_int {
    if path.is_null() || !is_active() {
        return real(path, flags);
    }
    let before = errno::get();
    // SAFETY: not null, and a string as the caller promises.
    let name = unsafe { CStr::from_ptr(path) };
    let result = match dump::on_openat(directory, name, flags, &real) {
        None => on_reading(directory, name.to_bytes(), flags, &real),
        other => other,
    };
    errno::set(before);
    match result {
        Some(Ok(fd)) => fd,
        None => real(path, flags),
        Some(Err(error)) => {
            errno::set(error.raw_os_error().unwrap_or(libc::EIO));
            -1
        }
    }
}

fn is_active() -> bool {
    REQUEST.get().is_some() || dump::is_active()
}

/// What a restore reads: `None` where it is as it lies on the disk.
fn on_reading(
    directory: c_int,
    name: &[u8],
    flags: c_int,
    real: &dyn Fn(*const c_char, c_int) -> c_int,
) -> Option<io::Result<c_int>> {
    const NOT_READ: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_PATH | libc::O_DIRECTORY;
    let request = REQUEST.get()?;
    if flags & NOT_READ != libc::O_RDONLY {
        return None;
    }
    if name == b"pstree.img" {
        let open = |name: &CStr| real(name.as_ptr(), regular::OPENS);
        // A refusal waits for files.img: criu crashes where this file is missing.
        let served = clock::counted(|| request.carry_out(directory, &Opened { open: &open }));
        *SERVED.lock() = Some(served);
        None
    } else if name.ends_with(b".img") {
        let name = String::from_utf8_lossy(name);
        clock::counted(|| serve(directory, &name, flags)).transpose()
    } else {
        None
    }
}

impl Request {
    /// Reads the image, and has the files that advice changes ready; the errno
    /// that stops the restore otherwise.
    fn carry_out(&self, directory: c_int, files: &Opened<'_>) -> Result<Served, c_int> {
        SEEN.store(true, Ordering::Relaxed);
        let advised = match self {
            Request::Tell {
                strictness,
                reports,
            } => {
                let told = tell(files, *strictness);
                if told.is_ok() && *reports {
                    outcome::report_at_exit(image::Rewrite::default());
                }
                return told
                    .map(|()| Served::default())
                    .map_err(|error| refused(&error));
            }
            Request::Refused(error) => return Err(refused(error)),
            Request::Advice(advised) => advised,
        };
        // A panic would be caught further out, and the restore go on without advice.
        let rewrite = AssertUnwindSafe(|| advised.rewrite(directory, files));
        let served = panic::catch_unwind(rewrite).unwrap_or_else(|_| {
            let mistake = "this is a mistake of ckptadv, please report it";
            Err(ckpt_image::Error::unsupported("this image", mistake).into())
        });
        served.map_err(|error| refused(&error))
    }
}

/// Says that the restore is refused, and nothing else of it from now on; gives the errno
/// that stops criu: an image that is not there (ENOENT) is an empty one to it.
fn refused(error: &Error) -> c_int {
    outcome::forget();
    report::refused(Engine::Criu, error);
    match error.errno() {
        libc::ENOENT => libc::EIO,
        errno => errno,
    }
}

impl Advised {
    fn rewrite(&self, directory: c_int, files: &Opened<'_>) -> Result<Served, Error> {
        let below = self.root.as_deref().map(Below::new).transpose()?;
        let paths: Box<dyn Paths> = match &below {
            Some(below) => Box::new(below.clone()),
            None => Box::new(Looking),
        };
        let image = Image::read(files)?;
        let mut rewrite = image::rewrite(
            &image,
            files,
            &self.advice,
            self.caller.clone(),
            paths,
            Naming::Inherited,
        )?;
        marks::restored(&image.asks, lacking(&image, &rewrite));
        let planned = rewrite.report(outcome_of_check(self.dry_run));
        log::report(&planned);
        rewrite.missing.iter().for_each(|entry| info!("{entry}"));
        report::write(&planned);
        if self.dry_run {
            return Err(Error::DryRun);
        }
        let tree: &dyn Tree = match &below {
            Some(below) => below,
            None => &Own,
        };
        self.fill_places(&rewrite.openings, tree)?;
        let directory = caller::identity(directory)
            .map_err(|error| Error::system("the image directory", error))?;
        let files = std::mem::take(&mut rewrite.files);
        outcome::report_at_exit(rewrite);
        Ok(Served { directory, files })
    }

    /// Puts files that are opened by path where criu inherits them.
    fn fill_places(&self, openings: &[(String, Opening)], tree: &dyn Tree) -> Result<(), Error> {
        let all: Vec<Opening> = openings.iter().map(|(_, o)| o.clone()).collect();
        for held in paths::hold(&all, tree, out_of_the_way())? {
            let named = openings.iter().find(|(_, o)| o == held.opening());
            let place = named.and_then(|(name, _)| self.placeholders.get(name));
            let Some(&place) = place else { continue };
            // SAFETY: no memory is involved; the place was made for this.
            if unsafe { libc::dup3(held.as_raw_fd(), place, libc::O_CLOEXEC) } < 0 {
                let path = String::from_utf8_lossy(&held.opening().path).into_owned();
                return Err(Error::system(path, io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

/// The tasks that come back without a descriptor that they had.
fn lacking(image: &Image, rewrite: &image::Rewrite) -> Vec<i32> {
    let left_out = image.left_out.values().flatten().map(|it| it.task);
    let dropped = rewrite.changes.iter().filter(|it| it.fate == Fate::Drop);
    let lack: BTreeSet<i32> = left_out.chain(dropped.map(|it| it.task)).collect();
    let tables = image.tables.values().map(|table| &table.tasks);
    let of_those = tables.filter(|tasks| tasks.iter().any(|task| lack.contains(task)));
    of_those.flatten().copied().collect()
}

/// Says what a dump left out and what the program asks for, where there is no advice for
/// the image. It is the image's program that asks: without advice a record that cannot be
/// read is no reason to refuse it.
fn tell(files: &Opened<'_>, strictness: Strictness) -> Result<(), Error> {
    let record = match image::recorded(files) {
        Ok(record) => record,
        Err(error) if strictness == Strictness::Strict => return Err(error.into()),
        Err(error) => {
            warn!("{error}");
            return Ok(());
        }
    };
    record.left_out.iter().for_each(|entry| info!("{entry}"));
    let left_out = record.left_out.iter();
    let left_out: BTreeSet<(i32, i32)> = left_out.map(|it| (it.task, it.number)).collect();
    let unmatched = record.asks.iter().map(|ask| {
        let is_missing = left_out.contains(&(ask.task, ask.number));
        format!("{}: {}", ask.item(), ask.not_offered(is_missing))
    });
    match strictness {
        Strictness::BestEffort => {}
        Strictness::Warn => unmatched.for_each(|line| warn!("{line}")),
        Strictness::Strict if record.asks.is_empty() => {}
        Strictness::Strict => {
            let items = unmatched.collect::<Vec<_>>().join("; ");
            return Err(ckpt_image::Error::Unmatched { items }.into());
        }
    }
    marks::restored(&record.asks, record.left_out.iter().map(|it| it.task));
    Ok(())
}

/// A descriptor of what a file is to be; `None` where it stays as it is.
fn serve(directory: c_int, name: &str, flags: c_int) -> io::Result<Option<c_int>> {
    let served = SERVED.lock();
    let served = match served.as_ref() {
        Some(Ok(served)) => served,
        Some(Err(errno)) if name == "files.img" => {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        Some(Err(_)) | None => return Ok(None),
    };
    let Some(bytes) = served.files.get(name) else {
        return Ok(None);
    };
    if caller::identity(directory)? != served.directory {
        return Ok(None);
    }
    let file = in_memory(bytes, flags & libc::O_CLOEXEC != 0)?;
    Ok(Some(file.into_raw_fd()))
}
