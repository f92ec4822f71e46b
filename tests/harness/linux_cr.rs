//! Restarting a Linux-CR image with a restart program, under the model of the restart call.
//!
//! ```no_run
//! use harness::linux_cr::{Feed, Restart, Verdict, image};
//!
//! let log = std::fs::File::create("/tmp/log").unwrap();
//! let outcome = Restart::new(&image("files"))
//!     .scenario("files")
//!     .env("CKPT_PRESERVE", "1,2")
//!     .preload("target/debug/libckptadv.so")
//!     .descriptor(1, log)
//!     .feed(Feed::Pipe)
//!     .run();
//! assert_eq!(outcome.verdict, Verdict::Restarted, "{}", outcome.stderr());
//! assert_eq!(outcome.link(534, 1), "/tmp/log");
//! println!("{}", outcome.report());
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::build;
use crate::criu;
use crate::edit;
use crate::report::{self, Names};
use crate::scratch::Scratch;
use crate::world::World;

/// The one task of the image `files`.
pub const FILES: i32 = 534;

/// Long enough for a busy machine, short enough for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the program gets its image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// A regular file on standard input.
    File,
    /// A pipe on standard input.
    Pipe,
    /// `-i FILE`.
    Option,
    /// As the test gives it, as a descriptor or an argument.
    Given,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The tasks live.
    Restarted,
    /// What the call returned, and the kernel's first complaint.
    Failed {
        /// By name.
        errno: String,
        /// Bytes read.
        offset: u64,
        /// As in the kernel's log.
        complaint: String,
    },
    /// The model knows too little to judge.
    Unsupported(String),
    /// The program ended without a restart.
    NoRestart,
}

/// A restart to be done.
pub struct Restart {
    image: Vec<u8>,
    feed: Feed,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    preload: Option<PathBuf>,
    number: u32,
    scenario: Option<String>,
    prepare: Vec<Box<dyn FnOnce() + Send>>,
    descriptors: Vec<(i32, OwnedFd)>,
    own_pids: bool,
    descriptor_limit: Option<u64>,
}

impl Restart {
    /// An image of a scenario, where that took place, with the library under test.
    pub fn advised(name: &str) -> Self {
        let restart = Self::new(&image(name)).scenario(name);
        restart.preload(criu::library())
    }

    /// With the program `restart.c`, the image as a regular file on 0, and 1 and 2 collected.
    pub fn new(image: &[u8]) -> Self {
        Self {
            image: image.to_owned(),
            feed: Feed::File,
            program: build::program("restart"),
            arguments: Vec::new(),
            environment: Vec::new(),
            preload: None,
            number: 302,
            scenario: None,
            prepare: Vec::new(),
            descriptors: Vec::new(),
            own_pids: false,
            descriptor_limit: None,
        }
    }

    /// How the program gets the image.
    pub fn feed(mut self, feed: Feed) -> Self {
        self.feed = feed;
        self
    }

    /// Another restart program.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Arguments of the program.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// A variable in the environment of the program (not of the model).
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// LD_PRELOAD for the program.
    pub fn preload(mut self, library: impl Into<PathBuf>) -> Self {
        self.preload = Some(library.into());
        self
    }

    /// The number of the restart call, 302 unless said.
    pub fn number(mut self, number: u32) -> Self {
        self.number = number;
        self
    }

    /// Gives the world the directory `/mnt/NAME` of a scenario of the images.
    pub fn scenario(mut self, name: impl Into<String>) -> Self {
        self.scenario = Some(name.into());
        self
    }

    /// Something to do inside the world before the program starts.
    pub fn prepare(mut self, job: impl FnOnce() + Send + 'static) -> Self {
        self.prepare.push(Box::new(job));
        self
    }

    /// A file for the program to have open under a number: a file, an end of a pipe, a terminal. 0 is the image
    /// unless the image comes by `-i`.
    pub fn descriptor(mut self, number: i32, file: impl Into<OwnedFd>) -> Self {
        self.descriptors.push((number, file.into()));
        self
    }

    /// Runs everything in a pid namespace of its own, so that the pids of the image are free.
    pub fn own_pids(mut self) -> Self {
        self.own_pids = true;
        self
    }

    /// RLIMIT_NOFILE of the program, 1024 unless said.
    pub fn descriptor_limit(mut self, limit: u64) -> Self {
        self.descriptor_limit = Some(limit);
        self
    }

    /// Runs the program until the restart is decided.
    pub fn run(self) -> Outcome {
        let mut outcome = self.start();
        outcome.decide();
        outcome
    }

    /// Only starts the program; [`Outcome::decide`] waits.
    pub fn start(self) -> Outcome {
        let scratch = Scratch::new("restarted-image");
        let world = match &self.scenario {
            Some(name) => World::of_scenario(scratch.path(), name),
            None => World::new(scratch.path()),
        };
        for job in self.prepare {
            world.enter(job);
        }
        let image = scratch.file("image");
        fs::write(&image, &self.image).expect("the image");
        let saved = edit::pids(&self.image);
        let mut arguments = self.arguments;
        arguments.extend(["--nr".into(), self.number.to_string().into()]);
        let stdin = match self.feed {
            Feed::File => Some(File::open(&image).expect("the image").into()),
            Feed::Pipe => Some(pour(self.image)),
            Feed::Option => {
                arguments.extend(["-i".into(), image.into()]);
                None
            }
            Feed::Given => None,
        };
        let collect = |name: &str| File::create(scratch.file(name)).expect("a file");
        let mut descriptors = vec![
            (
                0,
                stdin.unwrap_or_else(|| File::open("/dev/null").expect("/dev/null").into()),
            ),
            (1, collect("stdout").into()),
            (2, collect("stderr").into()),
        ];
        descriptors.extend(self.descriptors);
        let verdict = scratch.file("verdict");
        let mut model = Command::new(build::binary("restart-model"));
        model
            .arg("--verdict")
            .arg(&verdict)
            .args(["--nr", &self.number.to_string(), "--"]);
        // Another process sets the variables, so that the model is not preloaded with what is to be tested.
        model.arg("/usr/bin/env");
        if let Some(library) = self.preload {
            model.arg(assignment("LD_PRELOAD".as_ref(), library.as_os_str()));
        }
        model.args(
            self.environment
                .iter()
                .map(|(name, value)| assignment(name, value)),
        );
        model.arg(self.program).args(arguments);
        let limit = self.descriptor_limit.unwrap_or(1024);
        let own_pids = self.own_pids;
        let started = world.enter(move || start(model, descriptors, limit, own_pids));
        Outcome {
            verdict: Verdict::NoRestart,
            tasks: Vec::new(),
            notes: Vec::new(),
            status: None,
            model: started.expect("the model"),
            handles: Vec::new(),
            world,
            scratch,
            saved,
        }
    }
}

/// What became of a restart. Dropping it kills the tasks.
pub struct Outcome {
    /// What the model said.
    pub verdict: Verdict,
    /// Saved and present pid of every task that lives, in the order of the image, threads included.
    pub tasks: Vec<(i32, i32)>,
    /// Where the model could not do exactly what the kernel did.
    pub notes: Vec<String>,
    /// How the program ended, if it has.
    pub status: Option<ExitStatus>,
    model: Child,
    handles: Vec<OwnedFd>,
    world: World,
    scratch: Scratch,
    saved: Vec<i32>,
}

impl Outcome {
    /// The tasks live.
    ///
    /// # Panics
    /// They do not.
    #[track_caller]
    pub fn assert_restarted(&self) {
        assert_eq!(self.verdict, Verdict::Restarted, "{}", self.stderr());
    }

    /// It was refused before any task existed, with these words.
    ///
    /// # Panics
    /// It was not.
    #[track_caller]
    pub fn assert_refused(&mut self, words: &[&str]) {
        assert_eq!(self.verdict, Verdict::NoRestart, "{}", self.stderr());
        assert!(self.tasks.is_empty());
        assert_ne!(exit_code(self.wait()), 0);
        let said = self.stderr();
        for word in words {
            assert!(said.contains(word), "no \"{word}\" in: {said}");
        }
    }

    /// The present pid of a task.
    pub fn pid(&self, saved: i32) -> i32 {
        let task = self.tasks.iter().find(|(old, _)| *old == saved);
        task.unwrap_or_else(|| panic!("no task {saved} in {:?}", self.tasks))
            .1
    }

    /// The descriptors of every process, as the tables of outcomes have them. Reading them empties them.
    pub fn report(&self) -> String {
        let (tasks, notes) = (self.tasks.clone(), self.notes.clone());
        self.world.enter(move || {
            let mut names = Names::of(&notes);
            let leaders = tasks
                .into_iter()
                .filter(|(_, new)| Path::new(&format!("/proc/{new}/ns")).exists());
            let leaders = leaders.filter(|(_, new)| is_leader(*new));
            let reports: Vec<_> = leaders
                .map(|(old, new)| report::describe(new, old, &mut names))
                .collect();
            reports.join(" // ")
        })
    }

    /// What a task's descriptor leads to, as the task sees it.
    pub fn link(&self, saved: i32, number: i32) -> String {
        let pid = self.pid(saved);
        self.world.enter(move || report::link(pid, number))
    }

    /// The task's own open file description.
    pub fn take(&self, saved: i32, number: i32) -> OwnedFd {
        report::take(self.pid(saved), number)
    }

    /// The numbers that a task has open.
    pub fn numbers(&self, saved: i32) -> Vec<i32> {
        report::numbers(self.pid(saved))
    }

    /// Does something in the world of the tasks.
    pub fn enter<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.world.enter(job)
    }

    /// What the program wrote to 1, unless that was given.
    pub fn stdout(&self) -> String {
        self.scratch.read("stdout")
    }

    /// What the program wrote to 2, unless that was given.
    pub fn stderr(&self) -> String {
        self.scratch.read("stderr")
    }

    /// Sends a signal to the model, which passes it on to the program.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no memory is involved; the model has not been waited for, so its number is still its own.
        unsafe { libc::kill(self.model.id() as i32, signal) };
    }

    /// Kills the tasks and waits for the program.
    pub fn finish(&mut self) -> ExitStatus {
        self.kill_tasks();
        self.wait()
    }

    /// Waits for the program, which waits for its root task.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.model.try_wait().expect("the model") {
                self.status = Some(status);
                return status;
            }
            if Instant::now() > deadline {
                self.kill_program();
                panic!("the restart program did not end\n{}", self.stderr());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the restart is decided, or the program has ended without one.
    pub fn decide(&mut self) {
        let verdict = self.scratch.file("verdict");
        let deadline = Instant::now() + PATIENCE;
        while !verdict.exists() && Instant::now() < deadline {
            if let Some(status) = self.model.try_wait().expect("the model") {
                self.status = Some(status);
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        if let Ok(text) = fs::read_to_string(&verdict) {
            self.parse(&text);
        }
        if self.verdict != Verdict::Restarted {
            self.wait();
        }
    }

    /// The program has renamed the tasks before the model saw them, so their old pids are those of the image as it was.
    fn parse(&mut self, text: &str) {
        let mut saved = std::mem::take(&mut self.saved).into_iter();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "restarted" => self.verdict = Verdict::Restarted,
                "failed" => {
                    let mut words = rest.splitn(4, ' ');
                    let errno = words.next().unwrap_or("").to_owned();
                    let offset = words
                        .nth(1)
                        .and_then(|offset| offset.parse().ok())
                        .unwrap_or(0);
                    let complaint = words.next().unwrap_or("").trim_matches('"').to_owned();
                    self.verdict = Verdict::Failed {
                        errno,
                        offset,
                        complaint,
                    };
                }
                "unsupported-by-model" => {
                    self.verdict = Verdict::Unsupported(rest.trim_matches('"').to_owned())
                }
                "task" => {
                    let (old, new) = rest.split_once(' ').expect("two pids");
                    let new = new.parse().expect("a pid");
                    self.tasks
                        .push((saved.next().unwrap_or(old.parse().expect("a pid")), new));
                    self.handles.extend(handle(new));
                }
                "zombie" => drop(saved.next()),
                "note" => self.notes.push(rest.trim_matches('"').to_owned()),
                other => panic!("the model says {other}"),
            }
        }
    }

    /// The model and whoever it runs: they are a process group.
    fn kill_program(&mut self) {
        // SAFETY: no memory is involved; the model has not been waited for, so its number is still its own.
        unsafe { libc::kill(-(self.model.id() as i32), libc::SIGKILL) };
        let _ = self.model.wait();
    }

    fn kill_tasks(&mut self) {
        for handle in self.handles.drain(..) {
            // SAFETY: no memory is involved.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    handle.as_raw_fd(),
                    libc::SIGKILL,
                    0,
                    0,
                )
            };
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.kill_tasks();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.model.try_wait() {
            if Instant::now() > deadline {
                self.kill_program();
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads an image of `tests/images`, `NAME` or `edited/NAME`.
pub fn image(name: &str) -> Vec<u8> {
    let path = images().join(format!("{name}.ckpt"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of a table of `tests/images`, without its heading.
pub fn table(name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(images().join(name)).expect("a table");
    text.lines()
        .skip(1)
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

/// Starts the model with these descriptors and no others.
fn start(
    mut model: Command,
    descriptors: Vec<(i32, OwnedFd)>,
    limit: u64,
    own_pids: bool,
) -> io::Result<Child> {
    // Out of the way of the wanted numbers first.
    let mut placed = Vec::new();
    for (number, file) in &descriptors {
        // SAFETY: no memory is involved; the new descriptor is owned by nobody else.
        let high = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500) };
        assert!(
            high >= 0,
            "descriptor {number}: {}",
            io::Error::last_os_error()
        );
        // SAFETY: as above.
        placed.push((*number, unsafe { OwnedFd::from_raw_fd(high) }));
    }
    model
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    // SAFETY: only system calls between fork and exec; the descriptors live in the closure.
    unsafe {
        model.pre_exec(move || {
            for (number, file) in &placed {
                if libc::dup2(file.as_raw_fd(), *number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            let mut limits = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits);
            limits.rlim_cur = limit.min(limits.rlim_max);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limits);
            if own_pids && libc::unshare(libc::CLONE_NEWPID) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    model.spawn()
}

/// A pipe that gets these bytes for as long as somebody reads.
fn pour(bytes: Vec<u8>) -> OwnedFd {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    thread::spawn(move || drop(writer.write_all(&bytes)));
    reader.into()
}

fn assignment(name: &OsStr, value: &OsStr) -> OsString {
    let mut assignment = name.to_owned();
    assignment.push("=");
    assignment.push(value);
    assignment
}

fn handle(pid: i32) -> Option<OwnedFd> {
    // SAFETY: no memory is involved; fails for a thread, whose leader is killed anyway.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    // SAFETY: a new descriptor, owned by nobody else.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_leader(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| {
        line.strip_prefix("Tgid:")
            .is_some_and(|tgid| tgid.trim() == pid.to_string())
    })
}

/// How the program ended, as a shell would say it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
