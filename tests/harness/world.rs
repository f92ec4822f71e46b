//! A private file system for a restart: the machine's own, and beside it the directories that images have.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::ptr::null;
use std::sync::mpsc;
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// Where images have directories of their own, beside whatever the machine has there.
const SHARED: [&str; 3] = ["mnt", "job", "home"];
/// Files that the scenarios of the images left behind.
const FILES: [&str; 6] = ["log", "a", "b", "c", "m", "n"];

/// A mount namespace, and a network with nothing in it, with one thread of this process in it. Nothing of it is left when the thread and all tasks
/// in it have ended.
pub struct World {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl World {
    /// A world that has `/job`, room for more in `/mnt` and `/home`, and its own terminals; mounts go below `scratch`.
    pub fn new(scratch: &Path) -> Self {
        let (jobs, received) = mpsc::channel::<Job>();
        let (ready, result) = mpsc::channel();
        let root = scratch.join("root");
        let thread = thread::spawn(move || {
            let made = make(&root);
            let failed = made.is_err();
            ready.send(made).expect("somebody who waits for the world");
            if failed {
                return;
            }
            for job in received {
                job();
            }
        });
        result
            .recv()
            .expect("a thread that makes the world")
            .expect("mounts");
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    /// A world with the directory `/mnt/NAME` of an image's scenario.
    pub fn of_scenario(scratch: &Path, name: &str) -> Self {
        let world = Self::new(scratch);
        let directory = PathBuf::from("/mnt").join(name);
        world.enter(move || {
            fs::create_dir_all(&directory).expect("a directory");
            for file in FILES.iter().chain(&["own"]) {
                fs::write(directory.join(file), "what the scenario wrote\n").expect("a file");
            }
            make_fifo(&directory.join("ff")).expect("a fifo");
            fs::write("/mnt/crh", "mapped by nobody").expect("an executable");
            let mode = Permissions::from_mode(0o755);
            fs::set_permissions("/mnt/crh", mode).expect("an executable");
        });
        world
    }

    /// Does something inside, where its paths mean what they mean to the tasks.
    pub fn enter<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = mpsc::channel();
        let job = Box::new(move || drop(answer.send(job())));
        self.jobs
            .as_ref()
            .expect("a world in use")
            .send(job)
            .expect("a thread in the world");
        result.recv().expect("a job that does not panic")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A named pipe.
pub fn make_fifo(path: &Path) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: a string that outlives the call.
    ok(unsafe { libc::mkfifo(path.as_ptr(), 0o600) })
}

/// A new network has only this device, and it is off.
fn start_loopback() -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: reads the request.
    ok(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })
}

fn make(root: &Path) -> io::Result<()> {
    // SAFETY: no memory is involved; only this thread gets the new namespaces and its own root.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) })?;
    start_loopback()?;
    mount(
        None,
        Path::new("/"),
        None,
        libc::MS_REC | libc::MS_PRIVATE,
        None,
    )?;
    fs::create_dir_all(root)?;
    mount(Some("world"), root, Some("tmpfs"), 0, Some("mode=755"))?;
    mirror(Path::new("/"), root, &SHARED)?;
    for shared in SHARED {
        fs::create_dir_all(root.join(shared))?;
    }
    let terminals = root.join("dev/pts");
    mount(
        Some("devpts"),
        &terminals,
        Some("devpts"),
        0,
        Some("newinstance,ptmxmode=0666,mode=620"),
    )?;
    let ptmx = terminals.join("ptmx");
    mount(
        ptmx.to_str(),
        &root.join("dev/ptmx"),
        None,
        libc::MS_BIND,
        None,
    )?;
    let root = c_string(root);
    // SAFETY: a string that outlives the call.
    ok(unsafe { libc::chroot(root.as_ptr()) })?;
    std::env::set_current_dir("/job")
}

/// Fills `to` with what `from` has: as mounts, but for the `shared` directories, which are filled in turn.
fn mirror(from: &Path, to: &Path, shared: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let inside = to.join(&name);
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, inside)?;
        } else if kind.is_dir() {
            fs::create_dir(&inside)?;
            if shared.iter().any(|shared| name == *shared) {
                mirror(&entry.path(), &inside, &[])?;
            } else {
                mount(
                    entry.path().to_str(),
                    &inside,
                    None,
                    libc::MS_BIND | libc::MS_REC,
                    None,
                )?;
            }
        }
    }
    Ok(())
}

/// mount(2).
pub fn mount(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: u64,
    data: Option<&str>,
) -> io::Result<()> {
    let source = source.map(|source| CString::new(source).expect("no zero byte"));
    let kind = kind.map(|kind| CString::new(kind).expect("no zero byte"));
    let data = data.map(|data| CString::new(data).expect("no zero byte"));
    let pointer =
        |string: &Option<CString>| string.as_ref().map_or(null(), |string| string.as_ptr());
    let target = c_string(target);
    // SAFETY: strings that outlive the call, or null where the call allows it.
    ok(unsafe {
        libc::mount(
            pointer(&source),
            target.as_ptr(),
            pointer(&kind),
            flags,
            pointer(&data).cast(),
        )
    })
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without a zero byte")
}

fn ok(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
