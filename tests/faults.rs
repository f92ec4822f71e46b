//! The system fails under the library and the command: short reads and writes, interrupted calls, no descriptor, no
//! room, no /proc, closed standard descriptors, images that shrink while they are read, killed helpers. Whatever
//! happens, a restart is what was asked for, as it is without the fault, or there is none and it is said; nothing is
//! left behind. `tests/programs/cut.c` makes most of the faults.

use harness::build::{product, program, shared_object};
use harness::criu::{self, Image, library};
use harness::linux_cr::{Feed, Outcome, Restart, Verdict, exit_code, image};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::iter;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the system says where it has none left, in turn.
const SHORTAGES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC];
/// No run asks for so many.
const MANY: usize = 60;

/// The number of the caller's file.
const GIVEN: i32 = 12;

/// Of every task, by its number in the image or its place among them: what is open.
type Tables = BTreeMap<i32, BTreeMap<i32, String>>;

/// A directory for one run: the caller's file, a TMPDIR, a log of faults.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ckptadv-faults-{}-{number}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        fs::create_dir_all(place.path("tmp")).expect("a directory for a run");
        fs::write(place.path("given"), "given\n").expect("a file");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn given(&self) -> File {
        let options = File::options().read(true).write(true).clone();
        options.open(self.path("given")).expect("a file")
    }

    /// The variables of a run, the fault among them.
    ///
    /// * `within`: how the paths begin of files that may be cut.
    fn environment(&self, cut: &str, within: &Path) -> Vec<(&'static str, OsString)> {
        println!("{cut}");
        vec![
            ("CUT_WITHIN", within.into()),
            ("TMPDIR", self.path("tmp").into()),
            ("CUT_LOG", self.log().into()),
            ("CUT", cut.into()),
        ]
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// Whether something failed.
    fn happened(&self) -> bool {
        self.log().exists()
    }

    /// The processes of the run, by the variable that only they have.
    fn processes(&self) -> Vec<i32> {
        let mark = [b"CUT_LOG=", self.log().as_os_str().as_encoded_bytes()].concat();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|v| v == mark)
        })
        .collect()
    }

    /// Everything has ended, and every name is gone again.
    #[track_caller]
    fn assert_nothing_is_left(&self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() {
            let late = Instant::now() > deadline;
            assert!(!late, "{what}: processes {:?} stay", self.processes());
            std::thread::sleep(Duration::from_millis(2));
        }
        let left: Vec<_> = fs::read_dir(self.path("tmp"))
            .expect("TMPDIR")
            .flatten()
            .collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The library, and behind it what makes faults.
fn preload() -> OsString {
    let mut both = library().into_os_string();
    both.push(":");
    both.push(shared_object("cut"));
    both
}

/// A pipe whose other end nobody reads yet.
fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (OwnedFd::from(reader).into(), writer.into())
}

// ---- Linux-CR

/// A restart with advice of every kind.
#[derive(Clone, Copy)]
struct Job {
    image: &'static str,
    feed: Feed,
    /// Of the restart program.
    arguments: &'static [&'static str],
    /// 1 is a pipe of the caller's, and not its file.
    piped: bool,
    /// A shell's words that end in the restart program, `"$@"`.
    shell: &'static str,
    limit: u64,
    /// `ckptadv run` starts it.
    run: bool,
}

const PLAIN: Job = Job {
    image: "files",
    feed: Feed::File,
    arguments: &[],
    piped: false,
    shell: "",
    limit: 1024,
    run: false,
};
const FED: Job = Job {
    feed: Feed::Pipe,
    ..PLAIN
};
const PIPED: Job = Job {
    piped: true,
    ..PLAIN
};
const ITSELF: Job = Job {
    arguments: &["--self"],
    ..PLAIN
};
const FORKED: Job = Job {
    image: "fork-shared",
    feed: Feed::Pipe,
    ..PIPED
};
const JOBS: [(&str, Job); 5] = [
    ("file", PLAIN),
    ("pipe", FED),
    ("piped output", PIPED),
    ("itself", ITSELF),
    ("forked, fed and piped", FORKED),
];

impl Job {
    fn start(&self, cut: &str, place: &Place) -> (Outcome, Option<File>) {
        let given = place.given();
        let mut restart = Restart::new(&image(self.image))
            .scenario(self.image)
            .feed(self.feed)
            .descriptor_limit(self.limit)
            .descriptor(GIVEN, given.try_clone().unwrap());
        if self.run {
            restart = restart
                .program(product("ckptadv"))
                .args([
                    "run",
                    "--preserve=1",
                    "--ignore=2",
                    "--substitute=0=12",
                    "--",
                ])
                .args([program("restart")])
                .preload(shared_object("cut"));
        } else {
            restart = restart
                .env("CKPT_PRESERVE", "1")
                .env("CKPT_IGNORE", "2")
                .env("CKPT_SUBSTITUTE", format!("0={GIVEN}"))
                .preload(preload());
        }
        let scratch = format!("restarted-image-{}-", std::process::id());
        let within = std::env::temp_dir().join(scratch);
        for (name, value) in place.environment(cut, &within) {
            restart = restart.env(name, value);
        }
        if !self.shell.is_empty() {
            let restart_program = program("restart").into_os_string();
            restart = restart
                .program("/bin/sh")
                .args(["-c", self.shell, "sh"])
                .args([restart_program]);
        }
        restart = restart.args(self.arguments.iter().copied());
        let mut reader = None;
        if self.piped {
            let (ours, theirs) = pipe();
            restart = restart.descriptor(1, theirs);
            reader = Some(ours);
        } else {
            restart = restart.descriptor(1, given);
        }
        (restart.run(), reader)
    }

    /// What is restored where nothing fails.
    fn expected(&self) -> Tables {
        let place = Place::new();
        let (mut outcome, _reader) = self.start("none", &place);
        assert_eq!(outcome.verdict, Verdict::Restarted, "{}", outcome.stderr());
        let tables = tables(&outcome, &place);
        outcome.finish();
        tables
    }

    /// A run with a fault is as expected, or refused. Whether there was a fault, and whether it was refused.
    #[track_caller]
    fn endures(&self, cut: &str, expected: &Tables) -> (bool, bool) {
        let place = Place::new();
        let (mut outcome, reader) = self.start(cut, &place);
        let what = format!("{} {:?} {cut} {}", self.image, self.arguments, self.shell);
        let restarted = outcome.verdict == Verdict::Restarted;
        if restarted {
            assert_eq!(&tables(&outcome, &place), expected, "{what}");
            assert_no_zombies(&place, &what);
            let status = exit_code(outcome.finish());
            let said = outcome.stderr();
            let right = match status {
                0 => true,
                // Who restarts itself is killed with the tasks.
                137 => self.arguments.contains(&"--self"),
                // No restart was seen.
                120 => self.run && said.contains("cannot be told of this"),
                _ => false,
            };
            assert!(right, "{what}: {status} {said}");
        } else {
            let status = outcome.status.map(exit_code);
            let said = outcome.stderr();
            assert!(status.is_some_and(|status| status != 0), "{what}: {said}");
            let heard = !self.shell.contains("2>&-");
            assert!(!heard || !said.is_empty(), "{what}: nothing is said");
            let ours = said
                .lines()
                .filter(|l| l.starts_with("ckptadv: restart refused"));
            assert!(ours.count() <= 1, "{what}: {said}");
        }
        drop(outcome);
        if let Some(mut reader) = reader {
            // It ends, since nobody holds the other end.
            reader.read_to_end(&mut Vec::new()).expect("a pipe");
        }
        place.assert_nothing_is_left(&what);
        (place.happened(), !restarted)
    }
}

#[track_caller]
fn tables(outcome: &Outcome, place: &Place) -> Tables {
    let mut tables = Tables::new();
    for &(saved, _) in &outcome.tasks {
        let numbers = outcome.numbers(saved).into_iter();
        let links = numbers.map(|number| (number, outcome.link(saved, number)));
        tables.insert(saved, links.map(|(n, l)| (n, plainly(&l, place))).collect());
    }
    tables
}

/// A name without what differs from run to run.
fn plainly(link: &str, place: &Place) -> String {
    let at = place.0.display().to_string();
    let fifo = link.contains("/ckptadv-") && link.ends_with("/fifo (deleted)");
    match link.split_once(":[") {
        Some((kind, _)) => format!("{kind}:"),
        None if fifo => "a relay".to_owned(),
        None => link.replace(&at, "@"),
    }
}

#[track_caller]
fn assert_no_zombies(place: &Place, what: &str) {
    let parents = place.processes();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = fields.split(' ').collect();
        let parent = fields[1].parse().unwrap_or(0);
        let dead = fields[0] == "Z" && parents.contains(&parent);
        assert!(!dead, "{what}: a zombie: {stat}");
    }
}

/// Injects the N-th fault for each N until there is none; gives how many there were.
#[track_caller]
fn one_by_one(mut endures: impl FnMut(usize) -> bool) -> usize {
    let n = (1..MANY).find(|&n| !endures(n));
    n.expect("an end of it") - 1
}

#[test]
fn linux_cr_reads_and_writes_are_cut_short_and_interrupted() {
    if !harness::is_root() {
        return;
    }
    for (name, job) in JOBS {
        let (happened, refused) = job.endures("short", &job.expected());
        assert!(happened && !refused, "{name}: a fault that is none");
    }
}

#[test]
fn linux_cr_every_descriptor_fails_once() {
    if !harness::is_root() {
        return;
    }
    for (name, job) in JOBS {
        let expected = job.expected();
        let count = one_by_one(|n| {
            let errno = SHORTAGES[n % SHORTAGES.len()];
            job.endures(&format!("fail:{n}:{errno}"), &expected).0
        });
        assert!(count >= 4, "{name}: only {count}");
    }
}

#[test]
fn linux_cr_the_place_for_an_image_has_no_room() {
    if !harness::is_root() {
        return;
    }
    let expected = ITSELF.expected();
    let count = one_by_one(|n| {
        ITSELF
            .endures(&format!("write:{n}:{}", libc::ENOSPC), &expected)
            .0
    });
    assert_ne!(count, 0, "nothing is written");
    let (_, refused) = ITSELF.endures(&format!("memfd:{}", libc::ENOSYS), &expected);
    assert!(!refused, "a directory takes the file");
}

#[test]
fn linux_cr_images_shrink_while_they_are_read() {
    if !harness::is_root() {
        return;
    }
    for job in [PLAIN, PIPED, ITSELF] {
        let expected = job.expected();
        let mut refusals = 0;
        let count = one_by_one(|n| {
            let (happened, refused) = job.endures(&format!("shrink:{n}"), &expected);
            refusals += usize::from(refused);
            happened
        });
        // Of a read that finds the end already nothing is missing.
        assert!(
            refusals > 0 && refusals + 2 >= count,
            "{refusals} of {count}"
        );
    }
}

#[test]
fn linux_cr_signals_come_all_the_time() {
    if !harness::is_root() {
        return;
    }
    // Who restarts itself would be killed afterwards: its handlers are those of the image.
    for job in [PLAIN, FED, PIPED, FORKED] {
        assert!(job.endures("storm", &job.expected()).0, "no signal came");
    }
}

#[test]
fn linux_cr_helpers_are_killed() {
    if !harness::is_root() {
        return;
    }
    for job in [PIPED, FORKED] {
        let expected = job.expected();
        for n in 1..5 {
            let (happened, _) = job.endures(&format!("feeder:{n}"), &expected);
            assert!(happened || n > 1, "no feeder");
        }
        for n in 1..5 {
            let (happened, _) = job.endures(&format!("relay:{n}"), &expected);
            assert!(happened || n > 1, "no relay");
        }
    }
}

/// What a shell does before it becomes the program.
const CLOSING: [&str; 7] = [
    "0<&-",
    "1>&-",
    "2>&-",
    "0<&- 1>&-",
    "0<&- 2>&-",
    "1>&- 2>&-",
    "0<&- 1>&- 2>&-",
];

#[test]
fn linux_cr_standard_descriptors_are_closed() {
    if !harness::is_root() {
        return;
    }
    let mut job = Job {
        feed: Feed::Option,
        ..PLAIN
    };
    let expected = job.expected();
    for closing in CLOSING {
        let shell = format!("exec \"$@\" {closing}");
        job.shell = shell.leak();
        let (_, refused) = job.endures("none", &expected);
        // 1 is to be preserved.
        assert!(refused || !closing.contains("1>&-"), "{closing}");
    }
}

#[test]
fn linux_cr_few_descriptors_and_no_proc() {
    if !harness::is_root() {
        return;
    }
    let (expected, relayed) = (PLAIN.expected(), PIPED.expected());
    for limit in [16, 24, 32, 64] {
        for job in [PLAIN, PIPED, FED, ITSELF] {
            let job = Job { limit, ..job };
            let expected = if job.piped { &relayed } else { &expected };
            job.endures("none", expected);
        }
    }
    let shell = "exec unshare -m sh -c 'mount -t tmpfs none /proc && exec \"$@\"' sh \"$@\"";
    for job in [PLAIN, PIPED, FED] {
        let (_, refused) = Job { shell, ..job }.endures("none", &expected);
        assert!(refused, "restarted without /proc");
    }
}

#[test]
fn linux_cr_restarts_at_the_same_time() {
    if !harness::is_root() {
        return;
    }
    let expected = PIPED.expected();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (_, refused) = PIPED.endures("short", &expected);
                assert!(!refused);
            });
        }
    });
}

// ---- CRIU

/// A dumped program, its tables as they are to be, and what the caller has.
struct Dumped<'w> {
    image: Image<'w>,
    expected: Tables,
}

impl<'w> Dumped<'w> {
    fn new(world: &'w criu::World) -> Self {
        let words = ["7=reg:@f", "8=reg:@g", "9=pipe:10", "11=eventfd", "fork"];
        let at = world.path("");
        let words = words.map(|word| word.replace('@', &at));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let image = world.hold(&words).dump();
        let mut dumped = Dumped {
            image,
            expected: Tables::new(),
        };
        let place = Place::new();
        let outcome = dumped.restore("none", &place, "", &dumped.image);
        let root = dumped.image.root;
        dumped.expected = dumped.tables(&outcome.restored(), &place);
        let table = &dumped.expected[&root];
        assert!(table[&1] == "@/given" && table[&8] == "@/given" && !table.contains_key(&7));
        dumped
    }

    fn restore(&self, cut: &str, place: &Place, shell: &str, image: &Image<'_>) -> criu::Outcome {
        let given = place.given();
        let mut restore = image
            .restore()
            .env("LD_PRELOAD", &preload().to_string_lossy())
            .env("CKPT_PRESERVE", "1")
            .env("CKPT_IGNORE", "7")
            .env(
                "CKPT_SUBSTITUTE",
                &format!("8={}", place.path("given").display()),
            )
            .fd(1, &given);
        for (name, value) in place.environment(cut, &place.path("image")) {
            restore = restore.env(name, &value.to_string_lossy());
        }
        if shell.is_empty() {
            return restore.run();
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", shell, "sh"]).arg(criu::program());
        command.args(["restore", "-d", "-D"]).arg(&image.directory);
        restore.run_as(command)
    }

    fn tables(&self, restored: &criu::Restored, place: &Place) -> Tables {
        let of = |&pid: &i32| {
            let links = restored.links(pid).into_iter();
            (pid, links.map(|(n, l)| (n, plainly(&l, place))).collect())
        };
        self.image.pids.iter().map(of).collect()
    }

    /// As for a restart of Linux-CR.
    #[track_caller]
    fn endures(&self, cut: &str, shell: &str) -> (bool, bool) {
        let place = Place::new();
        // It may be cut, and criu writes into it.
        let copy = self.image.at(&place.path("image").display().to_string());
        fs::create_dir(&copy.directory).expect("a directory");
        let files = self.image.files();
        for (name, bytes) in &files {
            fs::write(copy.directory.join(name), bytes).expect("a file of an image");
        }
        let outcome = self.restore(cut, &place, shell, &copy);
        let what = format!("criu {cut} {shell}: {}", outcome.said);
        let refused = outcome.status != Some(0);
        if refused {
            assert!(shell.contains("2>&-") || !outcome.said.is_empty(), "{what}");
            let ours = outcome.said.lines();
            let ours = ours.filter(|line| line.starts_with("ckptadv: restart refused"));
            assert!(ours.count() <= 1, "{what}");
        } else {
            let restored = outcome.restored();
            assert_eq!(self.tables(&restored, &place), self.expected, "{what}");
        }
        place.assert_nothing_is_left(&what);
        let after = copy.files().into_iter();
        let new = after.filter(|(name, bytes)| files.get(name) != Some(bytes));
        let new: Vec<String> = new.map(|(name, _)| name).collect();
        let known = |name: &String| name.starts_with("stats-") || name.ends_with(".log");
        assert!(
            cut.starts_with("shrink") || new.iter().all(known),
            "{what}: {new:?}"
        );
        (place.happened(), refused)
    }
}

#[test]
fn criu_short_reads_no_memory_files_and_signals() {
    let Some(world) = criu::World::new() else {
        return;
    };
    let dumped = Dumped::new(&world);
    let (happened, refused) = dumped.endures("short", "");
    assert!(happened && !refused, "a fault that is none");
    let (happened, refused) = dumped.endures(&format!("memfd:{}", libc::ENOSYS), "");
    assert!(
        happened && refused,
        "nothing is served without memory files"
    );
    assert!(dumped.endures("storm", "").0, "no signal came");
}

#[test]
fn criu_every_descriptor_fails_once() {
    let Some(world) = criu::World::new() else {
        return;
    };
    let dumped = Dumped::new(&world);
    let count = one_by_one(|n| {
        let errno = SHORTAGES[n % SHORTAGES.len()];
        dumped.endures(&format!("fail:{n}:{errno}"), "").0
    });
    assert!(count >= 8, "only {count}");
    let count = one_by_one(|n| dumped.endures(&format!("write:{n}:{}", libc::ENOSPC), "").0);
    assert!(count >= 2, "only {count}");
}

#[test]
fn criu_images_shrink_while_they_are_read() {
    let Some(world) = criu::World::new() else {
        return;
    };
    let dumped = Dumped::new(&world);
    let count = one_by_one(|n| dumped.endures(&format!("shrink:{n}"), "").0);
    assert!(count >= 4, "only {count}");
}

#[test]
fn criu_standard_descriptors_limits_and_proc() {
    let Some(world) = criu::World::new() else {
        return;
    };
    let dumped = Dumped::new(&world);
    for closing in CLOSING {
        let (_, refused) = dumped.endures("none", &format!("exec \"$@\" {closing}"));
        assert!(refused || !closing.contains("1>&-"), "{closing}");
    }
    for limit in [16, 32, 64, 256] {
        dumped.endures("none", &format!("ulimit -n {limit}; exec \"$@\""));
    }
    let shell = "exec unshare -m sh -c 'mount -t tmpfs none /proc && exec \"$@\"' sh \"$@\"";
    let (_, refused) = dumped.endures("none", shell);
    assert!(refused, "restored without /proc");
}

#[test]
fn criu_restores_at_the_same_time() {
    let Some(world) = criu::World::new() else {
        return;
    };
    let Some(other) = criu::World::new() else {
        return;
    };
    let dumped = [Dumped::new(&world), Dumped::new(&other)];
    std::thread::scope(|scope| {
        for dumped in &dumped {
            scope.spawn(|| (0..3).for_each(|_| assert!(!dumped.endures("short", "").1)));
        }
    });
}

// ---- the command

#[test]
fn a_restart_by_ckptadv_run() {
    if !harness::is_root() {
        return;
    }
    let job = Job { run: true, ..PIPED };
    let expected = job.expected();
    let (happened, refused) = job.endures("short", &expected);
    assert!(happened && !refused, "a fault that is none");
    assert!(job.endures("storm", &expected).0, "no signal came");
    let count = one_by_one(|n| {
        let errno = SHORTAGES[n % SHORTAGES.len()];
        job.endures(&format!("fail:{n}:{errno}"), &expected).0
    });
    assert!(count >= 6, "only {count}");
}

/// What is to be rewritten, and into what: a file or a directory.
fn rewrites(input: &Path) {
    let expected = Place::new();
    let output = rewrite(input, "none", &expected).expect("it is rewritten");
    // A signal must meet a call that it interrupts.
    for cut in iter::once("short").chain(iter::repeat_n("storm", 20)) {
        let place = Place::new();
        let out = rewrite(input, cut, &place);
        assert!(out.as_ref() == Some(&output), "{input:?} {cut}");
    }
    for (cut, errno) in [
        ("fail", libc::EMFILE),
        ("write", libc::ENOSPC),
        ("shrink", 0),
    ] {
        let count = one_by_one(|n| {
            let place = Place::new();
            let copy = place.path("copy");
            let copied = Command::new("cp").arg("-r").args([input, &copy]).status();
            assert!(copied.expect("cp").success());
            let out = rewrite(&copy, &format!("{cut}:{n}:{errno}"), &place);
            let same = out.is_none() || out.as_ref() == Some(&output);
            assert!(same, "{input:?} {cut}:{n}: another image");
            place.happened()
        });
        assert_ne!(count, 0, "{input:?}: no {cut}");
    }
}

/// The files of the new image by their names; `None` where it was refused, and nothing is there.
fn rewrite(input: &Path, cut: &str, place: &Place) -> Option<BTreeMap<String, Vec<u8>>> {
    let new = place.path("tmp").join("new");
    let mut command = Command::new(product("ckptadv"));
    command
        .args(["rewrite", "--ignore", "3,7"])
        .arg(input)
        .arg("-o")
        .arg(&new)
        .env("LD_PRELOAD", shared_object("cut"))
        .envs(place.environment(cut, &place.path("copy")))
        .stdin(Stdio::null());
    let output = command.output().expect("ckptadv");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let what = format!("rewrite {input:?} {cut}: {said}");
    let files = output.status.success().then(|| {
        let mut files = BTreeMap::new();
        if new.is_dir() {
            for entry in fs::read_dir(&new).expect("an image").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let mut bytes = fs::read(entry.path()).expect("a file");
                // It may be the very file, and shrink with it.
                if fs::read(input.join(&name)).ok().as_ref() == Some(&bytes) {
                    bytes = b"as it was".to_vec();
                }
                files.insert(name, bytes);
            }
            fs::remove_dir_all(&new).expect("an image");
        } else {
            files.insert(String::new(), fs::read(&new).expect("an image"));
            fs::remove_file(&new).expect("an image");
        }
        files
    });
    let lines = said
        .lines()
        .filter(|line| !line.contains("warning: "))
        .count();
    assert_eq!(lines, usize::from(files.is_none()), "{what}");
    place.assert_nothing_is_left(&what);
    files
}

#[test]
fn images_rewritten_by_the_command() {
    if !harness::is_root() {
        return;
    }
    let place = Place::new();
    let path = place.path("image");
    fs::write(&path, image("files")).expect("an image");
    rewrites(&path);
    let Some(world) = criu::World::new() else {
        return;
    };
    let at = world.path("");
    let image = world.hold(&[&format!("7=reg:{at}f"), "9=pipe:10"]).dump();
    rewrites(&image.directory);
}
