//! Files that advice names by path, looked up below a directory and never outside it (CKPT_SOURCE_ROOT).
//!
//! Whoever wrote the advice may also be at work in that directory, and the tasks may be meant to stay in it. So a path
//! is resolved by the kernel within it (openat2(2)), and what it leads to is looked at before it is opened: by that
//! very descriptor, so that nothing can be put in its place meanwhile. Only regular files and fifos are opened. A
//! directory that was opened outside a container leads out of it, and a device is opened past the control group that
//! keeps the container from it.

use crate::error::Error;
use crate::paths::{
    self, Found, Tree, cannot_make, is_written, look_at, may_be_made_in, system, to_be_made,
};
use ckpt_image::advice::Kind;
use ckpt_image::caller::{CannotOpen, Opened, Opening, Paths};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};
use std::sync::Arc;

/// The files below a directory.
#[derive(Clone, Debug)]
pub struct Below {
    root: Arc<OwnedFd>,
}

impl Below {
    /// * `root`: the directory.
    ///
    /// # Errors
    /// What open(2) says of it.
    pub fn new(root: &Path) -> Result<Self, Error> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let opened = File::options().read(true).custom_flags(flags).open(root);
        let root = opened
            .map_err(|e| Error::system(format!("CKPT_SOURCE_ROOT={}", root.display()), e))?
            .into();
        Ok(Below {
            root: Arc::new(root),
        })
    }

    /// openat2(2) within the directory.
    ///
    /// * `flags`: of open(2).
    fn openat2(&self, path: &[u8], flags: i32) -> io::Result<OwnedFd> {
        let path = CString::new(path)?;
        // SAFETY: open_how is plain data, and all zeroes is a value of it.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (flags | libc::O_CLOEXEC) as u64;
        how.mode = if flags & libc::O_CREAT != 0 { 0o666 } else { 0 };
        how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
        // A ".." is not resolved while anything on the system is renamed or mounted.
        let mut attempts = 1000;
        loop {
            // SAFETY: the path is NUL-terminated, how is of the size told, and both outlive the call.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    self.root.as_raw_fd(),
                    path.as_ptr(),
                    &raw const how,
                    size_of::<libc::open_how>(),
                )
            };
            if fd >= 0 {
                // SAFETY: it was just opened and belongs to nobody else.
                return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock || attempts == 0 {
                return Err(error);
            }
            attempts -= 1;
            std::thread::yield_now();
        }
    }

    /// What is at a path; `None` where nothing is. It is not opened.
    fn find(&self, opening: &Opening) -> Result<Option<There>, CannotOpen> {
        let fd = match self.openat2(&opening.path, libc::O_PATH) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(opening, error)),
        };
        let file = File::from(fd);
        let kind = file.metadata().map_err(|e| system(opening, e))?.file_type();
        if !kind.is_file() && !kind.is_fifo() {
            return Err(CannotOpen {
                errno: if kind.is_dir() { libc::EISDIR } else { libc::EACCES },
                why: "only regular files and fifos are given below CKPT_SOURCE_ROOT: give one of these"
                    .to_owned(),
            });
        }
        Ok(Some(There(file.into())))
    }

    /// Whether a file could be made where nothing is.
    fn may_be_made(&self, opening: &Opening) -> Result<(), CannotOpen> {
        is_written(opening)?;
        let path = Path::new(OsStr::from_bytes(&opening.path));
        let ends_in_a_name = !opening.path.ends_with(b"/")
            && matches!(path.components().next_back(), Some(Component::Normal(_)));
        if !ends_in_a_name {
            return Err(system(opening, io::Error::from_raw_os_error(libc::EISDIR)));
        }
        if self
            .openat2(&opening.path, libc::O_PATH | libc::O_NOFOLLOW)
            .is_ok()
        {
            return Err(CannotOpen {
                errno: libc::ELOOP,
                why: "it is a symbolic link that leads to nothing: name the file itself".to_owned(),
            });
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let parent = self.openat2(parent.as_os_str().as_bytes(), flags);
        may_be_made_in(&There(parent.map_err(cannot_make)?).path())
    }
}

/// A file that was found, and is held: nothing else can take its place.
struct There(OwnedFd);

impl There {
    /// A path that leads to it.
    fn path(&self) -> CString {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        CString::new(path).unwrap_or_default()
    }
}

impl Paths for Below {
    /// CRIU's images tell the kinds of their files.
    fn kind(&self, _: &[u8]) -> Kind {
        Kind::Reg
    }

    fn look(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        match self.find(opening)? {
            Some(there) => look_at(opening, &Found::of(&there.0), there.path()),
            None => self.may_be_made(opening).map(|()| to_be_made(opening)),
        }
    }

    fn open(&self, opening: &Opening) -> Result<Opened, CannotOpen> {
        self.look(opening)
    }
}

impl Tree for Below {
    fn has(&self, path: &[u8]) -> bool {
        self.openat2(path, libc::O_PATH).is_ok()
    }

    fn open(&self, opening: &Opening) -> Result<OwnedFd, CannotOpen> {
        if let Some(there) = self.find(opening)? {
            return paths::open_there(opening, &there.path());
        }
        self.may_be_made(opening)?;
        // What is made is a regular file, and nobody else's: O_EXCL follows no link either.
        let flags = opening.flags() | libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY;
        self.openat2(&opening.path, flags)
            .map_err(|error| refused(opening, error))
    }
}

fn refused(opening: &Opening, error: io::Error) -> CannotOpen {
    match error.raw_os_error() {
        Some(libc::EXDEV) => CannotOpen {
            errno: libc::EXDEV,
            why: "it leads into another mount than CKPT_SOURCE_ROOT's: give a file of that"
                .to_owned(),
        },
        Some(libc::ENOSYS) => CannotOpen {
            errno: libc::ENOTSUP,
            why: "this kernel has no openat2(2), and without it paths cannot be kept below \
                  CKPT_SOURCE_ROOT: give a number as source"
                .to_owned(),
        },
        _ => system(opening, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ckpt_image::caller::Access;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A directory with a root in it, which is removed.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("ckptadv-below-{name}-{}", std::process::id());
            let place = Place(std::env::temp_dir().join(name));
            fs::create_dir_all(place.root().join("sub")).expect("a directory");
            fs::write(place.0.join("secret"), "outside").expect("a file");
            fs::write(place.root().join("secret"), "inside").expect("a file");
            place
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }

        fn below(&self) -> Below {
            Below::new(&self.root()).expect("a root")
        }

        fn mkfifo(&self, name: &str) {
            let path = self.root().join(name);
            let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
            // SAFETY: the path is a NUL-terminated string.
            assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn opening(path: &str, write: bool) -> Opening {
        Opening {
            item: "".into(),
            path: path.as_bytes().into(),
            access: Access {
                read: !write,
                write,
            },
            flags: 0,
            position: None,
        }
    }

    /// What both a look and an opening refuse.
    fn refuses(below: &Below, opening: &Opening) -> i32 {
        let looked = below.look(opening).expect_err("refused").errno;
        assert_eq!(
            Tree::open(below, opening).expect_err("refused").errno,
            looked
        );
        looked
    }

    #[test]
    fn every_way_out_stays_inside() {
        let place = Place::new("out");
        let inside = place.root();
        symlink("/secret", inside.join("absolute")).expect("a link");
        symlink("../secret", inside.join("relative")).expect("a link");
        symlink("..", inside.join("up")).expect("a link");
        for path in [
            "/secret",
            "/../secret",
            "/../../../../../secret",
            "/sub/../../secret",
            "/absolute",
            "/relative",
            "/up/secret",
            "/sub/../up/up/secret",
        ] {
            let fd = Tree::open(&place.below(), &opening(path, false)).expect(path);
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).expect("text");
            assert_eq!(text, "inside", "{path}");
        }
    }

    #[test]
    fn only_files_and_fifos_are_given() {
        let place = Place::new("kinds");
        let below = place.below();
        symlink("loop", place.root().join("loop")).expect("a link");
        symlink("/sub", place.root().join("link")).expect("a link");
        let _socket = std::os::unix::net::UnixListener::bind(place.root().join("socket"));
        for (path, errno) in [
            ("/", libc::EISDIR),
            ("/..", libc::EISDIR),
            ("/sub", libc::EISDIR),
            ("/sub/", libc::EISDIR),
            ("/link", libc::EISDIR),
            ("/socket", libc::EACCES),
            ("/loop", libc::ELOOP),
            ("/secret/x", libc::ENOTDIR),
            ("/none", libc::ENOENT),
        ] {
            assert_eq!(refuses(&below, &opening(path, false)), errno, "{path}");
        }
        place.mkfifo("fifo");
        assert_eq!(
            below
                .look(&opening("/fifo", false))
                .expect("a fifo")
                .file
                .kind,
            Kind::Fifo
        );
        // Nobody reads it.
        let unread = Tree::open(&below, &opening("/fifo", true)).expect_err("refused");
        assert_eq!(unread.errno, libc::ENXIO);
    }

    #[test]
    fn devices_and_other_mounts_are_refused() {
        let below = Below::new(Path::new("/dev")).expect("a root");
        assert_eq!(refuses(&below, &opening("/null", true)), libc::EACCES);
        let below = Below::new(Path::new("/")).expect("a root");
        let magic = format!("/proc/{}/root/etc/passwd", std::process::id());
        for path in ["/proc/self/status", "/proc/self/root/etc/passwd", &magic] {
            assert_eq!(
                refuses(&below, &opening(path, false)),
                libc::EXDEV,
                "{path}"
            );
        }
        let below = Below::new(Path::new("/proc")).expect("a root");
        for path in ["/self/root/etc/passwd", "/self/exe", "/self/fd/0"] {
            assert_eq!(
                refuses(&below, &opening(path, false)),
                libc::ELOOP,
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_made_is_made_inside() {
        let place = Place::new("made");
        let below = place.below();
        symlink("/nowhere", place.root().join("dangling")).expect("a link");
        symlink("../../nowhere", place.root().join("sub/dangling")).expect("a link");
        for (path, errno) in [
            ("/dangling", libc::ELOOP),
            ("/sub/dangling", libc::ELOOP),
            ("/none/x", libc::ENOENT),
            ("/new/", libc::EISDIR),
        ] {
            assert_eq!(refuses(&below, &opening(path, true)), errno, "{path}");
        }
        for (path, made) in [
            ("/../new", "new"),
            ("/sub/../../new2", "new2"),
            ("/sub/new", "sub/new"),
        ] {
            assert!(below.look(&opening(path, true)).expect(path).missing);
            assert!(!place.root().join(made).exists(), "a look makes nothing");
            Tree::open(&below, &opening(path, true)).expect(path);
            assert!(place.root().join(made).is_file(), "{path}");
        }
        let mut outside: Vec<_> = fs::read_dir(&place.0)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        outside.sort();
        assert_eq!(outside, ["root", "secret"]);
    }

    /// Somebody exchanges what is there, all the time.
    fn raced(place: &Place, a: &str, b: &str, check: impl Fn(&Below)) {
        let path = |name: &str| {
            let path = place.root().join(name);
            CString::new(path.as_os_str().as_bytes()).expect("a path")
        };
        let (a, b) = (path(a), path(b));
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let (at, exchange) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
                    // SAFETY: the paths are NUL-terminated strings.
                    unsafe { libc::renameat2(at, a.as_ptr(), at, b.as_ptr(), exchange) };
                }
            });
            for _ in 0..3000 {
                check(&place.below());
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn nothing_is_gained_by_exchanging_what_is_there() {
        let place = Place::new("raced");
        fs::write(place.root().join("sub/secret"), "inside").expect("a file");
        symlink("../../..", place.root().join("out")).expect("a link");
        let opened = std::cell::Cell::new(0);
        raced(&place, "sub", "out", |below| {
            if let Ok(fd) = Tree::open(below, &opening("/sub/../sub/secret", false)) {
                let mut text = String::new();
                File::from(fd).read_to_string(&mut text).expect("text");
                assert_eq!(text, "inside");
                opened.set(opened.get() + 1);
            }
        });
        assert_ne!(opened.get(), 0, "now and then it is there");
        // A file, then a directory: what is opened is never a directory.
        fs::write(place.root().join("x"), "").expect("a file");
        fs::create_dir(place.root().join("y")).expect("a directory");
        raced(&place, "x", "y", |below| {
            if let Ok(fd) = Tree::open(below, &opening("/x", false)) {
                let status = File::from(fd).metadata().expect("its status");
                assert!(status.is_file());
            }
        });
    }
}
