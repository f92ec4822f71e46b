//! A real criu: a program is started, dumped, restored as the test says, and its
//! descriptors are looked at from outside.
//!
//! ```no_run
//! use harness::criu::World;
//! let Some(world) = World::new() else { return };
//! let log = world.path("log");
//! let image = world.hold(&[&format!("1=append:{log}"), "7=eventfd", "count"]).dump();
//! let out = world.open("out");
//! let restored = image.restore().advice("PRESERVE", "1").fd(1, &out).run().restored();
//! assert_eq!(restored.links(restored.root)[&1], world.path("out"));
//! ```
//!
//! What was started is ended when its guard goes, by its pid. The test process
//! becomes a subreaper, so that restored tasks are its children to wait for: a
//! task cannot be restored while the one of that pid is not gone altogether.

use crate::{build, is_root, processes, scratch};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program or a criu may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for one test, and the criu to use.
pub struct World {
    directory: PathBuf,
    criu: PathBuf,
}

/// The criu to test with: `CRIU` names a program, `CRIU_SUITE` one that
/// `tests/setup-criu` has unpacked (trixie where neither is set).
///
/// # Panics
/// It is not there.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("CRIU") {
        return path.into();
    }
    let suite = std::env::var("CRIU_SUITE").unwrap_or_else(|_| "trixie".to_owned());
    let path = target().join(format!("criu-{suite}/criu"));
    assert!(path.exists(), "no {}: run tests/setup-criu", path.display());
    path
}

/// The library under test.
///
/// # Panics
/// It is not built.
pub fn library() -> PathBuf {
    let path = match std::env::var_os("CKPTADV_LIBRARY") {
        Some(path) => path.into(),
        None => target().join("release/libckptadv.so"),
    };
    assert!(
        path.exists(),
        "no {}: run cargo build --release",
        path.display()
    );
    path
}

/// The directory that cargo builds in.
fn target() -> PathBuf {
    let built = build::built();
    built.parent().expect("target/PROFILE").to_owned()
}

impl World {
    /// An empty directory; `None` where these tests cannot run here.
    ///
    /// # Panics
    /// Something that is needed is missing.
    pub fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        own_terminals();
        // SAFETY: prctl with integers; it makes orphans children of this process.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let criu = program();
        let directory = scratch::make("ckptadv-criu");
        Some(World { directory, criu })
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    /// A file in the directory, open for reading and writing, made if need be.
    ///
    /// # Panics
    /// It cannot be opened.
    pub fn open(&self, name: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(name))
            .expect("a file of the test")
    }

    /// Starts the holder with these words (see its source). Descriptors 0, 1 and
    /// 2 are /dev/null where no word says otherwise.
    ///
    /// # Panics
    /// It cannot do what the words say.
    pub fn hold(&self, words: &[&str]) -> Held<'_> {
        let null = File::options().read(true).write(true).open("/dev/null");
        self.hold_on(&null.expect("/dev/null"), words)
    }

    /// As [`World::hold`], with another file than /dev/null.
    ///
    /// # Panics
    /// It cannot do what the words say.
    pub fn hold_on(&self, standard: &impl AsRawFd, words: &[&str]) -> Held<'_> {
        let mut program = Command::new(build::program("holder"));
        program.arg(self.path("ready")).args(words).env_clear();
        let forks = words.iter().filter(|w| ["fork", "clone"].contains(w));
        self.start(program, standard, 1 + forks.count())
    }

    /// Starts the program that calls cradvise(2) (see its source), and marks what the words
    /// say; `@` in them is the test's directory. Each process ends its words with `hold`.
    ///
    /// # Panics
    /// It cannot do what the words say.
    pub fn advise(&self, preload: bool, words: &str) -> Held<'_> {
        let words = words
            .replace("hold", "hold @ready")
            .replace('@', &self.path(""));
        let mut program = Command::new(build::binary("advised"));
        program.args(words.split_whitespace()).env_clear();
        // SAFETY: integers only; they are called in the child.
        unsafe {
            program.pre_exec(|| {
                // Of whoever runs the tests.
                libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
                check(libc::setsid()).map(drop)
            });
        };
        if preload {
            program.env("LD_PRELOAD", library());
        }
        let null = File::options().read(true).write(true).open("/dev/null");
        let processes = words.matches("hold").count();
        self.start(program, &null.expect("/dev/null"), processes)
    }

    fn start(&self, mut program: Command, standard: &impl AsRawFd, count: usize) -> Held<'_> {
        let ready = self.directory.join("ready");
        let _ = fs::remove_file(&ready);
        program.current_dir("/");
        let words: Vec<_> = program.get_args().map(|w| w.to_owned()).collect();
        let mut standard = [0, 1, 2].map(|number| (standard.as_raw_fd(), number));
        // SAFETY: only fcntl and dup2 are called in the child.
        unsafe { program.pre_exec(move || inherit(&mut standard)) };
        #[expect(clippy::zombie_processes, reason = "it is waited for by its pid")]
        let program = program.spawn().expect("the holder starts");
        let root = program.id() as i32;
        let mut held = Held {
            world: self,
            tasks: Tasks {
                root,
                pids: vec![root],
            },
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&ready).unwrap_or_default();
            let pids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
            let path = ready.to_string_lossy();
            let still_open = |&pid: &i32| links(pid).values().any(|link| *link == path);
            if pids.len() == count && !pids.iter().any(still_open) {
                held.tasks.pids = pids;
                held.tasks.pids.sort_unstable_by_key(age_after(root));
                return held;
            }
            assert!(!text.contains("holder:"), "{words:?}: {text}");
            assert!(Instant::now() < deadline, "the holder is not ready");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs a criu to its end: its exit status and what it and the library said.
    fn criu(&self, command: &mut Command) -> (Option<i32>, String) {
        let said = self.path("criu.err");
        let file = File::create(&said).expect("a file for messages");
        // A file, since a restored task may hold what criu was given.
        command.stderr(file);
        let mut child = command.spawn().expect("criu starts");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("criu is a child of the test") {
                break status.code();
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("criu hangs; it said: {}", read(&said));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        (status, read(&said))
    }
}

/// Orders the pids of a program as its processes were made, also where the numbers began anew meanwhile.
fn age_after(root: i32) -> impl Fn(&i32) -> i32 {
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").expect("/proc/sys");
    let most: i32 = most.trim().parse().expect("a number");
    move |pid| (pid - root).rem_euclid(most)
}

impl Drop for World {
    fn drop(&mut self) {
        // What did not tell its pid: a parent of one that did, a criu that hangs, half-made tasks.
        processes::end_naming(&self.directory);
        scratch::remove(&self.directory);
    }
}

/// Gives this thread and what it starts a /dev/pts of their own: a terminal can be
/// restored only while nobody has taken its number.
fn own_terminals() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if DONE.replace(true) {
        return;
    }
    let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: every string is a constant that ends in a NUL.
    let done = unsafe {
        let (pts, devpts) = (c"/dev/pts".as_ptr(), c"devpts".as_ptr());
        let options = c"newinstance,ptmxmode=0666,mode=0620".as_ptr();
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, private, none.cast()) == 0
            && libc::mount(devpts, pts, devpts, 0, options.cast()) == 0
    };
    assert!(done, "an own /dev/pts: {}", io::Error::last_os_error());
}

fn read(path: &str) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Processes that end with their guard.
struct Tasks {
    root: i32,
    pids: Vec<i32>,
}

impl Tasks {
    /// Ends them, parents first, so that their children become ours. What is no
    /// child of this process is none of its business, whatever its pid.
    fn end(&mut self) {
        for pid in std::mem::take(&mut self.pids) {
            if wait_for(pid, libc::WNOHANG) == 0 {
                // SAFETY: kill takes integers; the pid is that of a child, which
                // nobody else waits for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                wait_for(pid, 0);
            }
        }
    }

    /// Waits for the end of tasks that criu has killed.
    fn wait(&self) {
        for &pid in &self.pids {
            wait_for(pid, 0);
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end();
    }
}

/// waitid(2): the pid of what ended, 0 where it runs, -1 where it is no child.
fn wait_for(pid: i32, flags: i32) -> i32 {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = flags | libc::WEXITED;
    // SAFETY: there is room for what is written.
    let result = unsafe { libc::waitid(libc::P_PID, pid as u32, info.as_mut_ptr(), flags) };
    // SAFETY: zeroes are a siginfo_t.
    let ended = unsafe { info.assume_init().si_pid() };
    if result < 0 { -1 } else { ended }
}

/// A program that was started.
pub struct Held<'w> {
    world: &'w World,
    tasks: Tasks,
}

impl<'w> Held<'w> {
    /// Its first process.
    pub fn root(&self) -> i32 {
        self.tasks.root
    }

    /// Dumps it, which ends it.
    ///
    /// # Panics
    /// criu cannot.
    pub fn dump(self) -> Image<'w> {
        self.dump_with(&[])
            .unwrap_or_else(|said| panic!("criu dump: {said}"))
    }

    /// Dumps it, with more options.
    ///
    /// # Errors
    /// What criu says where it cannot.
    pub fn dump_with(self, options: &[&str]) -> Result<Image<'w>, String> {
        let dumped = self.checkpoint("image").options(options).run();
        if dumped.status != Some(0) {
            return Err(dumped.said);
        }
        self.tasks.wait();
        Ok(dumped.image)
    }

    /// A dump into a directory of this name, yet without advice and library, and
    /// without an end of the program where `--leave-running` says so.
    pub fn checkpoint(&self, name: &str) -> Checkpoint<'_, 'w> {
        Checkpoint {
            held: self,
            directory: self.world.directory.join(name),
            environment: BTreeMap::new(),
            options: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// All its processes, ascending.
    pub fn pids(&self) -> &[i32] {
        &self.tasks.pids
    }

    /// Ends it.
    pub fn end(mut self) {
        self.tasks.end();
    }
}

/// A dump being prepared.
pub struct Checkpoint<'h, 'w> {
    held: &'h Held<'w>,
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    options: Vec<String>,
    descriptors: Vec<(RawFd, RawFd)>,
}

impl<'w> Checkpoint<'_, 'w> {
    /// With the library.
    pub fn library(mut self) -> Self {
        let library = library().to_string_lossy().into_owned();
        self.environment.insert("LD_PRELOAD".to_owned(), library);
        self
    }

    /// With the library, and `CKPT_NAME=value`.
    pub fn advice(self, name: &str, value: &str) -> Self {
        let mut this = self.library();
        let value = value.to_owned();
        this.environment.insert(format!("CKPT_{name}"), value);
        this
    }

    /// With more options for criu.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&o| o.to_owned()));
        self
    }

    /// Dumps it.
    ///
    /// # Panics
    /// criu does not start or does not end.
    pub fn run(self) -> Dumped<'w> {
        let mut command = Command::new(&self.held.world.criu);
        command
            .args(["dump", "-t", &self.held.root().to_string(), "-D"])
            .arg(&self.directory)
            .args(&self.options);
        self.run_as(command)
    }

    /// Dumps it with another command that ends when the dump has.
    ///
    /// # Panics
    /// As [`Checkpoint::run`].
    pub fn run_as(self, mut command: Command) -> Dumped<'w> {
        let _ = fs::create_dir(&self.directory);
        command.envs(&self.environment);
        let mut descriptors = self.descriptors.clone();
        // SAFETY: only fcntl and dup2 are called in the child.
        unsafe { command.pre_exec(move || inherit(&mut descriptors)) };
        let world = self.held.world;
        let (status, said) = world.criu(&mut command);
        Dumped {
            status,
            said,
            image: Image {
                world,
                directory: self.directory,
                root: self.held.root(),
                pids: self.held.tasks.pids.clone(),
            },
        }
    }

    /// With a descriptor, which must stay open until then.
    pub fn fd(mut self, number: RawFd, file: &impl AsRawFd) -> Self {
        self.descriptors.push((file.as_raw_fd(), number));
        self
    }

    /// The directory of the image.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }
}

/// What came of a dump.
pub struct Dumped<'w> {
    /// The exit status; `None` for a signal.
    pub status: Option<i32>,
    /// What criu and the library said.
    pub said: String,
    /// What is in the directory now.
    pub image: Image<'w>,
}

/// A program that was dumped.
pub struct Image<'w> {
    world: &'w World,
    /// The directory of its files.
    pub directory: PathBuf,
    /// Its first process.
    pub root: i32,
    /// All its processes, ascending.
    pub pids: Vec<i32>,
}

impl<'w> Image<'w> {
    /// The same program, as another directory has it.
    pub fn at(&self, directory: &str) -> Image<'w> {
        Image {
            world: self.world,
            directory: directory.into(),
            root: self.root,
            pids: self.pids.clone(),
        }
    }

    /// A restore, yet without advice and library.
    pub fn restore(&self) -> Restore<'_> {
        Restore {
            image: self,
            environment: BTreeMap::new(),
            options: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// An image that builds on this one, as a dump with --prev-images-dir: it has no
    /// page of its own. (Kernels without soft-dirty bits make none.)
    ///
    /// # Panics
    /// This is no image.
    pub fn built_on(&self, directory: &str) -> Image<'w> {
        fs::create_dir(directory).expect("a directory for an image");
        let next = self.at(directory);
        for (name, mut bytes) in self.files() {
            if name.starts_with("pagemap-") {
                bytes = pages_of_parent(&bytes);
            } else if name.starts_with("pages-") {
                bytes.clear();
            }
            fs::write(next.directory.join(name), bytes).expect("a file of an image");
        }
        let name = self.directory.file_name().expect("a name");
        let way = std::path::Path::new("..").join(name);
        std::os::unix::fs::symlink(way, next.directory.join("parent")).expect("a link");
        next
    }

    /// The names of the files of the image with their bytes.
    ///
    /// # Panics
    /// One cannot be read.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(&self.directory)
            .expect("the image is there")
            .map(|entry| {
                let entry = entry.expect("the image can be listed");
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, fs::read(entry.path()).expect("a file of the image"))
            })
            .collect()
    }
}

/// A restore being prepared.
pub struct Restore<'i> {
    image: &'i Image<'i>,
    environment: BTreeMap<String, String>,
    options: Vec<String>,
    descriptors: Vec<(RawFd, RawFd)>,
}

impl Restore<'_> {
    /// With the library, and `CKPT_NAME=value`.
    pub fn advice(self, name: &str, value: &str) -> Self {
        self.library().env(&format!("CKPT_{name}"), value)
    }

    /// With the library.
    pub fn library(self) -> Self {
        self.env("LD_PRELOAD", &library().to_string_lossy())
    }

    /// With a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With more options for criu.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&o| o.to_owned()));
        self
    }

    /// With a descriptor, which must stay open until then. 0, 1 and 2 are /dev/null
    /// and a file without it.
    pub fn fd(mut self, number: RawFd, file: &impl AsRawFd) -> Self {
        self.descriptors.push((file.as_raw_fd(), number));
        self
    }

    /// Restores it.
    pub fn run(self) -> Outcome {
        let image = self.image;
        let mut command = Command::new(&image.world.criu);
        command
            .args(["restore", "-d", "-D"])
            .arg(&image.directory)
            .args(&self.options);
        self.run_as(command)
    }

    /// Restores it with another command that ends when the restore has.
    pub fn run_as(self, mut command: Command) -> Outcome {
        let image = self.image;
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut descriptors = self.descriptors.clone();
        // SAFETY: only fcntl and dup2 are called in the child.
        unsafe { command.pre_exec(move || inherit(&mut descriptors)) };
        let (status, said) = image.world.criu(&mut command);
        let mut tasks = Tasks {
            root: image.root,
            pids: image.pids.clone(),
        };
        let began = tasks
            .pids
            .iter()
            .any(|&pid| wait_for(pid, libc::WNOHANG | libc::WNOWAIT) != -1);
        if status != Some(0) {
            tasks.end();
        }
        Outcome {
            status,
            said,
            began,
            restored: Restored {
                root: image.root,
                tasks,
            },
        }
    }
}

fn check(result: i32) -> io::Result<i32> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        other => Ok(other),
    }
}

/// Puts descriptors, each with the number that it is to have, there, in a child
/// before exec, where nothing may be allocated.
fn inherit(descriptors: &mut [(RawFd, RawFd)]) -> io::Result<()> {
    const OUT_OF_THE_WAY: RawFd = 400;
    for (from, _) in descriptors.iter_mut() {
        // SAFETY: fcntl with integers.
        *from = check(unsafe { libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) })?;
    }
    for &mut (from, to) in descriptors {
        // SAFETY: dup2 with integers.
        check(unsafe { libc::dup2(from, to) })?;
    }
    Ok(())
}

/// What came of a restore.
pub struct Outcome {
    /// The exit status; `None` for a signal.
    pub status: Option<i32>,
    /// What criu and the library said.
    pub said: String,
    /// A task was made, whatever became of it.
    pub began: bool,
    restored: Restored,
}

impl Outcome {
    /// The tasks that run now.
    ///
    /// # Panics
    /// They were not restored.
    pub fn restored(self) -> Restored {
        assert_eq!(self.status, Some(0), "not restored: {}", self.said);
        self.restored
    }

    /// What the library said, in its one line.
    ///
    /// # Panics
    /// Something was restored, or the library said nothing.
    pub fn refused(self) -> String {
        assert_eq!(self.status, Some(1), "not refused: {}", self.said);
        // One that died is gone by now, and criu has told of it.
        let died = self.said.contains("killed by signal");
        assert!(!self.began && !died, "a task was made: {}", self.said);
        let lines: Vec<&str> = self
            .said
            .lines()
            .filter(|line| line.starts_with("ckptadv: "))
            .collect();
        assert!(!lines.is_empty(), "the library is silent: {}", self.said);
        lines.join("\n")
    }
}

/// A program that was restored.
pub struct Restored {
    /// Its first process.
    pub root: i32,
    /// Ends them with this.
    tasks: Tasks,
}

impl Restored {
    /// As a program to be dumped again.
    pub fn hold(self, world: &World) -> Held<'_> {
        Held {
            world,
            tasks: self.tasks,
        }
    }

    /// What the descriptors of a task are, as /proc/PID/fd has them, without
    /// inode numbers: `pipe:`, `socket:`.
    ///
    /// # Panics
    /// There is no such task.
    pub fn links(&self, task: i32) -> BTreeMap<i32, String> {
        let kind = |link: String| match link.split_once(":[") {
            Some((kind, _)) => format!("{kind}:"),
            None => link,
        };
        let links = links(task).into_iter();
        links.map(|(number, link)| (number, kind(link))).collect()
    }

    /// A copy of a descriptor of a task.
    ///
    /// # Panics
    /// There is no such descriptor.
    pub fn copy(&self, task: i32, number: i32) -> OwnedFd {
        // SAFETY: both calls take integers; what they give is nobody else's.
        unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, task, 0) as i32;
            assert!(process >= 0, "task {task}");
            let process = OwnedFd::from_raw_fd(process);
            let number = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
            assert!(number >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(number as i32)
        }
    }

    /// A field of /proc/PID/fdinfo/N.
    pub fn info(&self, task: i32, number: i32, field: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{task}/fdinfo/{number}")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix(field))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    }

    /// A descriptor of the open file description that a task's descriptor is.
    ///
    /// # Panics
    /// The task does not have it.
    pub fn borrow(&self, task: i32, number: i32) -> File {
        // SAFETY: integers only.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, task, 0) } as RawFd;
        assert!(process >= 0, "task {task}: {}", io::Error::last_os_error());
        // SAFETY: it was made just now, for nobody else.
        let process = unsafe { File::from_raw_fd(process) };
        // SAFETY: integers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        assert!(
            fd >= 0,
            "task {task} {number}: {}",
            io::Error::last_os_error()
        );
        // SAFETY: it was made just now, for nobody else.
        unsafe { File::from_raw_fd(fd as RawFd) }
    }

    /// Whether a task's descriptor is the open file description of one here.
    pub fn shares(&self, task: i32, number: i32, file: &impl AsRawFd) -> bool {
        same(task, number, std::process::id() as i32, file.as_raw_fd())
    }

    /// Whether two descriptors of tasks are one open file description.
    pub fn same(&self, a: (i32, i32), b: (i32, i32)) -> bool {
        same(a.0, a.1, b.0, b.1)
    }
}

/// What the descriptors of a task are, as /proc/PID/fd has them.
///
/// # Panics
/// There is no such task.
pub fn links(task: i32) -> BTreeMap<i32, String> {
    fs::read_dir(format!("/proc/{task}/fd"))
        .expect("the task runs")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            let link = fs::read_link(entry.path()).ok()?;
            Some((number, link.to_string_lossy().into_owned()))
        })
        .collect()
}

fn same(task: i32, number: i32, other: i32, other_number: i32) -> bool {
    const KCMP_FILE: i32 = 0;
    // SAFETY: kcmp takes integers only.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, task, other, KCMP_FILE, number, other_number) };
    assert!(order >= 0, "kcmp: {}", io::Error::last_os_error());
    order == 0
}

/// A pagemap-N.img of which every run of pages is in the parent image.
fn pages_of_parent(pagemap: &[u8]) -> Vec<u8> {
    /// The field of flags, and PE_PARENT. All fields are numbers.
    const FLAGS: [u8; 2] = [4 << 3, 1];
    let (head, mut rest) = pagemap.split_at(8);
    let mut new = head.to_vec();
    let mut first = true;
    while let Some((length, entries)) = rest.split_first_chunk() {
        let (entry, next) = entries.split_at(u32::from_ne_bytes(*length) as usize);
        rest = next;
        let mut entry = entry.to_vec();
        if !std::mem::take(&mut first) {
            let end_of =
                |from: usize| from + entry[from..].iter().take_while(|&&b| b > 127).count() + 1;
            let fields = std::iter::successors(Some(0), |&at| Some(end_of(end_of(at))));
            let mut fields = fields.take_while(|&at| at < entry.len());
            let flags = fields.find(|&at| entry[at] == FLAGS[0]).expect("flags");
            entry[flags..flags + FLAGS.len()].copy_from_slice(&FLAGS);
        }
        new.extend((entry.len() as u32).to_ne_bytes());
        new.extend(entry);
    }
    new
}
