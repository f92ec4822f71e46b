//! Files that advice names by path: what they are, and opened.
//!
//! Three who answer a planner: [`Looking`] makes nothing, [`Making`] opens what
//! is needed at the moment it is, for an image that comes through a pipe, and
//! [`Holding`] has opened all of it in advance. A [`Tree`] is where paths begin.

use crate::caller;
use crate::error::Error;
use ckpt_image::advice::Kind;
use ckpt_image::caller::{CallerFile, CannotOpen, Opened, Opening, Paths};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// FMODE_LSEEK, FMODE_PREAD and FMODE_PWRITE, which a regular file has.
const SEEKS: u32 = 0x1c;

/// Where paths are looked up.
pub trait Tree {
    /// Whether a file is there.
    fn has(&self, path: &[u8]) -> bool;

    /// Opens a file, at its offset; makes it if it is to be written.
    ///
    /// # Errors
    /// What open(2) says.
    fn open(&self, opening: &Opening) -> Result<OwnedFd, CannotOpen>;
}

/// The root directory of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own;

impl Tree for Own {
    fn has(&self, path: &[u8]) -> bool {
        Path::new(OsStr::from_bytes(path)).exists()
    }

    fn open(&self, opening: &Opening) -> Result<OwnedFd, CannotOpen> {
        open(opening)
    }
}

/// Looks, and makes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looking;

impl Paths for Looking {
    fn kind(&self, path: &[u8]) -> Kind {
        kind_of(path)
    }

    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        look(opening)
    }

    fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        look(opening)
    }
}

/// Opens files when they are needed. A restarting task, which does not inherit
/// them any more, opens them by their own names.
#[derive(Debug, Default)]
pub struct Making {
    /// Until the image has gone by: a fifo's other end must not see it closed
    /// before the task has it.
    open: Mutex<Vec<OwnedFd>>,
}

impl Paths for Making {
    fn kind(&self, path: &[u8]) -> Kind {
        kind_of(path)
    }

    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        look(opening)
    }

    fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        let fd = open(opening)?;
        let path = real_path(opening)?;
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        let real = path.canonicalize().unwrap_or(path.to_owned());
        let opened = opened(opening, &fd, real.as_os_str().as_bytes().to_vec())?;
        let mut kept = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(fd);
        Ok(opened)
    }
}

/// A file that was opened in advance.
#[derive(Debug)]
pub struct Held {
    opening: Opening,
    fd: OwnedFd,
}

/// Has them open: a restarting task inherits them.
#[derive(Clone, Debug, Default)]
pub struct Holding(pub Arc<Vec<Held>>);

impl Paths for Holding {
    fn kind(&self, path: &[u8]) -> Kind {
        kind_of(path)
    }

    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        let held = self.0.iter().find(|held| held.opening.is_like(opening));
        let Some(Held { opening, fd }) = held else {
            return Err(system(opening, io::ErrorKind::NotFound.into()));
        };
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        opened(opening, fd, name.into_bytes())
    }

    fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        self.look(opening)
    }
}

/// Opens files and holds them out of the way: those that are there first, so that
/// none is made where another cannot be opened.
///
/// * `tree`: where they are.
/// * `least`: their numbers, or above, if there is room.
///
/// # Errors
/// What open(2) says.
pub fn hold(openings: &[Opening], tree: &dyn Tree, least: i32) -> Result<Vec<Held>, Error> {
    let (there, missing): (Vec<_>, Vec<_>) =
        openings.iter().partition(|opening| tree.has(&opening.path));
    let mut held = Vec::with_capacity(openings.len());
    for opening in there.into_iter().chain(missing) {
        let path = String::from_utf8_lossy(&opening.path);
        let fd = tree
            .open(opening)
            .map_err(|CannotOpen { errno, why }| Error::Path {
                what: format!("{}: {path}: {why}", opening.item),
                errno,
            })?;
        let high = caller::copy_above(fd.as_raw_fd(), least)
            .map_err(|e| Error::system(format!("no descriptor for {path}"), e))?;
        held.push(Held {
            opening: opening.clone(),
            // SAFETY: it was made just now, for nobody else.
            fd: unsafe { OwnedFd::from_raw_fd(high) },
        });
    }
    Ok(held)
}

impl Held {
    /// How it was opened.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }
}

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// What kind of file a path is; regular where there is none.
fn kind_of(path: &[u8]) -> Kind {
    let Ok(path) = CString::new(path) else {
        return Kind::Reg;
    };
    // SAFETY: stat is plain data, and all zeroes is a value of it.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: path is NUL-terminated, st is writable and of the right type.
    match unsafe { libc::stat(path.as_ptr(), &mut st) } {
        0 => caller::kind_of_named(&st),
        _ => Kind::Reg,
    }
}

/// What opening would give. A fifo is not opened, since whoever waits for its
/// other end would notice.
fn look(opening: &Opening) -> Result<Opened, CannotOpen> {
    let real = real_path(opening)?;
    match Found::at(&real) {
        Ok(found) => look_at(opening, &found, real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            may_be_made(opening, &real)?;
            Ok(to_be_made(opening))
        }
        Err(error) => Err(system(opening, error)),
    }
}

/// The same of what is there.
///
/// * `path`: by which it can be opened.
pub(crate) fn look_at(
    opening: &Opening,
    found: &Found,
    path: CString,
) -> Result<Opened, CannotOpen> {
    if found.is_fifo {
        caller::may(&path, opening.access).map_err(|e| system(opening, e))?;
        let mut file = expected(opening, Kind::Fifo, 0);
        if found.link.starts_with("pipe:") {
            file.kind = Kind::Pipe;
            file.not_given = caller::without_a_name(Kind::Pipe);
        }
        return Ok(Opened {
            file,
            position: 0,
            missing: false,
        });
    }
    let fd = open_there(opening, &path)?;
    opened(opening, &fd, path.into_bytes())
}

/// What will be of a file that is made.
pub(crate) fn to_be_made(opening: &Opening) -> Opened {
    Opened {
        file: expected(opening, Kind::Reg, SEEKS),
        position: opening.start(0),
        missing: true,
    }
}

/// What is at a path, without opening it.
pub(crate) struct Found {
    is_fifo: bool,
    link: String,
}

impl Found {
    fn at(path: &CString) -> io::Result<Self> {
        call_open(path, libc::O_PATH).map(|fd| Found::of(&fd))
    }

    /// What a descriptor is.
    pub(crate) fn of(fd: &OwnedFd) -> Self {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Found {
            is_fifo: caller::is_pipe(fd.as_raw_fd()),
            link: link.map_or(String::new(), |link| link.to_string_lossy().into_owned()),
        }
    }
}

/// A file as it will be.
fn expected(opening: &Opening, kind: Kind, f_mode: u32) -> CallerFile {
    let access = opening.access;
    CallerFile {
        kind,
        access,
        flags: opening.flags(),
        f_mode: f_mode | u32::from(access.read) | u32::from(access.write) << 1,
        pollable: kind != Kind::Reg,
        close_on_exec: false,
        description: -1,
        name: opening.path.to_vec(),
        link: String::from_utf8_lossy(&opening.path).into_owned(),
        not_given: None,
    }
}

/// A file that is open.
fn opened(opening: &Opening, fd: &OwnedFd, name: Vec<u8>) -> Result<Opened, CannotOpen> {
    let examined = caller::examine(fd.as_raw_fd(), name);
    let file = examined.map_err(|e| system(opening, e))?;
    let seeks = matches!(file.kind, Kind::Reg | Kind::Blk);
    let position = caller::position(fd.as_raw_fd()).ok().filter(|_| seeks);
    Ok(Opened {
        file: CallerFile {
            link: String::from_utf8_lossy(&opening.path).into_owned(),
            ..file
        },
        position: position.and_then(|at| u64::try_from(at).ok()).unwrap_or(0),
        missing: false,
    })
}

/// Opens a file, at its offset; makes it if it is to be written.
///
/// # Errors
/// What open(2) says.
fn open(opening: &Opening) -> Result<OwnedFd, CannotOpen> {
    let path = real_path(opening)?;
    match Found::at(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && opening.access.write => {
            let flags = opening.flags() | libc::O_CREAT | libc::O_NOCTTY;
            call_open(&path, flags).map_err(|e| system(opening, e))
        }
        _ => open_there(opening, &path),
    }
}

/// Opens what is there, at its offset.
pub(crate) fn open_there(opening: &Opening, path: &CString) -> Result<OwnedFd, CannotOpen> {
    // Nobody waits for the other end of a fifo or for a line to be up.
    let flags = opening.flags() | libc::O_NOCTTY | libc::O_NONBLOCK;
    let fd = call_open(path, flags).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => CannotOpen {
            errno: libc::ENXIO,
            why: "it is a socket, a device that is not there, or a fifo that nobody reads: give \
                  another file, or start the reader first"
                .to_owned(),
        },
        _ => system(opening, error),
    })?;
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, opening.flags()) };
    // SAFETY: as above.
    let size = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
    let is_directory = Path::new(OsStr::from_bytes(path.as_bytes())).is_dir();
    let at = match u64::try_from(size) {
        Ok(size) if !is_directory => opening.start(size),
        _ => 0,
    };
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    // SAFETY: as above; where there is no offset it fails, and nothing is lost.
    unsafe { libc::lseek(fd.as_raw_fd(), at, libc::SEEK_SET) };
    Ok(fd)
}

fn call_open(path: &CString, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o666) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The path, and the terminal's own name for /dev/tty, which means nothing to a
/// restarting task.
fn real_path(opening: &Opening) -> Result<CString, CannotOpen> {
    let path = match opening.path.as_ref() {
        b"/dev/tty" => match caller::controlling_terminal() {
            Some(name) => name.into_bytes(),
            None => {
                return Err(CannotOpen {
                    errno: libc::ENXIO,
                    why: "there is no controlling terminal here: give another file".to_owned(),
                });
            }
        },
        path => path.to_vec(),
    };
    CString::new(path).map_err(|e| system(opening, e.into()))
}

/// Whether a file that is not there can be made.
fn may_be_made(opening: &Opening, path: &CString) -> Result<(), CannotOpen> {
    is_written(opening)?;
    let mut path = PathBuf::from(OsStr::from_bytes(path.as_bytes()));
    // A link that leads nowhere: the file is made where it leads.
    for _ in 0..40 {
        let Ok(to) = path.read_link() else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(to);
    }
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(system(opening, io::Error::from_raw_os_error(libc::EISDIR)));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = CString::new(directory.as_os_str().as_bytes());
    let directory = directory.map_err(|e| system(opening, e.into()))?;
    may_be_made_in(&directory)
}

/// Whether a file can be made in a directory.
pub(crate) fn may_be_made_in(directory: &CStr) -> Result<(), CannotOpen> {
    let mode = libc::W_OK | libc::X_OK;
    caller::may_access(directory, mode).map_err(cannot_make)
}

pub(crate) fn cannot_make(error: io::Error) -> CannotOpen {
    CannotOpen {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        why: format!("it is not there, and cannot be made in its directory: {error}"),
    }
}

/// Whether a file would be made.
pub(crate) fn is_written(opening: &Opening) -> Result<(), CannotOpen> {
    if opening.access.write {
        return Ok(());
    }
    Err(CannotOpen {
        errno: libc::ENOENT,
        why: "it is to be read and is not there (only what is to be written is made): give a \
              file that is there"
            .to_owned(),
    })
}

pub(crate) fn system(opening: &Opening, error: io::Error) -> CannotOpen {
    let what = match (opening.access.read, opening.access.write) {
        (true, true) => "reading and writing",
        (_, true) => "writing",
        _ => "reading",
    };
    CannotOpen {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        why: format!("it cannot be opened for {what}: {error}"),
    }
}
