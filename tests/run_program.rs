//! `ckptadv run` and the program that it runs: what stands in the way, what the program is started with, signals.

use harness::build::{self, product};
use harness::criu::{self, World};
use harness::terminal;
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Copies a program by another process: what another test forks meanwhile would hold a file that this one writes, and
/// nobody could execute it (ETXTBSY).
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// A directory with the product in it, which everybody may read.
struct Installed(PathBuf);

impl Installed {
    fn new() -> Self {
        Self::at("", "")
    }

    /// * `bin`, `lib`: where the command and the library are.
    fn at(bin: &str, lib: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ckptadv-installed-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for (directory, file) in [(bin, "ckptadv"), (lib, "libckptadv.so")] {
            fs::create_dir_all(path.join(directory)).unwrap();
            copy(&product(file), &path.join(directory).join(file));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Installed(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A program of these bytes.
    fn program(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let (path, written) = (self.path(name), self.path("written"));
        fs::write(&written, bytes).unwrap();
        copy(&written, &path);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn run(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("ckptadv"));
        command.args(["run", "--ignore", "7"]).args(words);
        command.stdin(Stdio::null()).env_remove("LD_PRELOAD");
        command
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one line that tells why a program was not started.
fn refused(output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(
        output.stdout.is_empty() && said.lines().count() == 1,
        "{said}"
    );
    said.strip_prefix("ckptadv: ")
        .unwrap()
        .trim_end()
        .to_owned()
}

/// What a program said on its standard output, which was started with the library.
fn ran(output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(120), "{said}");
    assert!(said.contains("the library was loaded into "), "{said}");
    text(&output.stdout)
}

#[test]
fn what_stands_in_the_way_is_named() {
    let here = Installed::new();
    let real = fs::read("/bin/true").unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = real.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let loader = b"/lib64/ld-linux-x86-64.so.2\0";
    let loaded_at = real
        .windows(loader.len())
        .position(|it| it == loader)
        .unwrap();
    here.program("arm", &changed(18, &183u16.to_le_bytes()));
    here.program("short", &changed(4, &[1]));
    here.program("musl", &changed(loaded_at, b"/lib/ld-musl-x86_64.so.1\0"));
    here.program("bionic", &changed(loaded_at, b"/system/bin/linker64\0"));
    let at = |name: &str| here.path(name).to_str().unwrap().to_owned();
    copy(&build::static_program("plain"), at("static").as_ref());
    here.program("script", format!("#! {} -x\n", at("static")).as_bytes());
    here.program("second", format!("#!{}\n", at("script")).as_bytes());
    here.program("by-env", b"#!/usr/bin/env static\n");
    here.program("by-words", b"#!/usr/bin/env -S A=1 static -x\n");
    for name in ["sudo", "doas", "su"] {
        here.program(name, &real);
    }
    for (words, expected) in [
        (&["arm"][..], "is not for x86_64"),
        (&["short"], "is not for x86_64"),
        (&["musl"], "is linked with musl (/lib/ld-musl-x86_64.so.1)"),
        (&["bionic"], "is loaded by /system/bin/linker64"),
        (&["static"], "is statically linked"),
        (&["script"], "static is statically linked"),
        (&["second"], "static is statically linked"),
        (&["by-env"], "static is statically linked"),
        (&["by-words"], "static is statically linked"),
        (
            &["env", "A=1", "--", "static", "-x"],
            "static is statically linked",
        ),
        (
            &["env", "-u", "HOME", "static"],
            "static is statically linked",
        ),
        (
            &["env", "--unset=HOME", "static"],
            "static is statically linked",
        ),
        (&["env", "-i", "true"], "env -i ckptadv run"),
        (
            &["env", "-u", "A", "-u", "LD_PRELOAD", "true"],
            "env -u LD_PRELOAD ckptadv run",
        ),
        (
            &["env", "-uLD_PRELOAD", "true"],
            "env -u LD_PRELOAD ckptadv run",
        ),
        (
            &["env", "--unset", "LD_PRELOAD", "true"],
            "env -u LD_PRELOAD ckptadv run",
        ),
        (
            &["env", "--unset=LD_PRELOAD", "true"],
            "env -u LD_PRELOAD ckptadv run",
        ),
        (
            &["env", "LD_PRELOAD=x", "true"],
            "LD_PRELOAD=... ckptadv run",
        ),
        (&["sudo", "true"], "sudo ckptadv run"),
        (&["doas", "true"], "doas ckptadv run"),
        (&["su", "-c", "true"], "su ckptadv run"),
        (
            &["--library", "/nowhere/libckptadv.so", "true"],
            "/nowhere/libckptadv.so: No such file",
        ),
        (
            &["--library", "/with space.so", "true"],
            "a space or a colon",
        ),
        (&["--library", "/etc/passwd", "true"], "no library"),
        (
            &["--report", "/nowhere/report", "true"],
            "--report=/nowhere/report: No such file",
        ),
    ] {
        let mut command = here.run(words);
        let path = format!("{}:{}", here.0.display(), std::env::var("PATH").unwrap());
        let message = refused(&command.env("PATH", path).output().unwrap());
        assert!(message.contains(expected), "{words:?}: {message}");
    }
    for cut in [0, 3, 40, 64, 100, 200] {
        let cut = here.program("cut", &real[..cut]);
        // Like any shell, execvp(3) takes what the kernel does not for a script.
        let mut command = here.run(&[cut.to_str().unwrap()]);
        let output = command.current_dir(&here.0).output().unwrap();
        assert!(
            [120, 125, 126].contains(&output.status.code().unwrap()),
            "{output:?}"
        );
    }
}

#[test]
fn privileged_programs_are_no_obstacle_to_who_has_the_privilege() {
    if !harness::is_root() {
        return;
    }
    let here = Installed::new();
    let real = fs::read("/bin/true").unwrap();
    let program = here.program("program", &real);
    let shown = program.to_str().unwrap();
    let tried = |uid: u32| here.run(&[shown]).uid(uid).gid(uid).output().unwrap();
    let nobody = 65534;
    for (mode, expected) in [(0o4755, "is set-user-ID"), (0o2755, "is set-group-ID")] {
        fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        let message = refused(&tried(nobody));
        assert!(
            message.contains(expected) && message.contains("as root"),
            "{message}"
        );
        assert_eq!(ran(&tried(0)), "");
    }
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(ran(&tried(nobody)), "");
    // Revision 2, effective; CAP_NET_RAW.
    let capabilities: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let bytes: Vec<u8> = capabilities
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let path = CString::new(program.as_os_str().as_bytes()).unwrap();
    let name = c"security.capability".as_ptr();
    // SAFETY: both strings end in a NUL, and the bytes are as many as told.
    let set = unsafe { libc::setxattr(path.as_ptr(), name, bytes.as_ptr().cast(), bytes.len(), 0) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    assert!(refused(&tried(nobody)).contains("has file capabilities"));
    assert_eq!(ran(&tried(0)), "");
}

#[test]
fn what_cannot_be_run_has_the_statuses_of_env() {
    let here = Installed::new();
    let directory = here.0.to_str().unwrap();
    for (words, status) in [
        (&["nonexistent-program"][..], 127),
        (&["/nonexistent/program"], 127),
        (&["/etc/passwd"], 126),
        (&[directory], 126),
        (&["--nonsense", "true"], 125),
        (&["--"], 125),
        (&["--ignore", "8x", "true"], 125),
    ] {
        let output = here.run(words).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {output:?}");
    }
    let mut command = Command::new(here.path("ckptadv"));
    let output = command
        .args(["run", "--ignore", "8x", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(121));
    assert!(text(&output.stderr).contains("restart refused: --ignore: \"8x\": column 2"));
    let output = here.run(&["sh", "-c", "kill -KILL $$"]).output().unwrap();
    assert_eq!(output.status.code(), Some(120));
    assert!(text(&output.stderr).contains("sh was ended by signal 9"));
}

#[test]
fn the_library_is_found_where_it_is_installed() {
    for (bin, lib) in [
        ("bin", "bin"),
        ("bin", "lib"),
        ("bin", "lib64"),
        ("usr/bin", "usr/lib/x86_64-linux-gnu"),
    ] {
        let here = Installed::at(bin, lib);
        symlink(here.path(bin).join("ckptadv"), here.path("ckptadv")).unwrap();
        let output = here.run(&["printenv", "LD_PRELOAD"]).output().unwrap();
        let library = here.path(lib).join("libckptadv.so");
        let library = library.canonicalize().unwrap();
        assert_eq!(Path::new(ran(&output).trim_end()), library);
    }
    let here = Installed::new();
    fs::create_dir_all(here.path("lib/x86_64-linux-gnu")).unwrap();
    let moved = here.path("lib/x86_64-linux-gnu/libckptadv.so");
    fs::rename(here.path("libckptadv.so"), moved).unwrap();
    let library = format!("{}/$LIB/libckptadv.so", here.0.display());
    let output = here.run(&["--library", &library, "true"]).output().unwrap();
    assert_eq!(ran(&output), "");
    assert!(refused(&here.run(&["true"]).output().unwrap()).contains("install the library"));
}

#[test]
fn the_program_has_what_we_were_started_with() {
    let here = Installed::new();
    let plain = "for n in /proc/self/fd/*; do echo ${n##*/}; done; grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let start = |words: &[&str], closed: bool| {
        let mut command = Command::new("sh");
        let close = if closed { "exec <&- 9</dev/null" } else { ":" };
        let line = format!("trap '' PIPE USR1; {close}; exec \"$@\"");
        command
            .args(["-c", &line, "sh"])
            .args(words)
            .args(["sh", "-c", plain]);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let ckptadv = here.path("ckptadv");
    let with = [ckptadv.to_str().unwrap(), "run", "--ignore", "7", "--"];
    for closed in [false, true] {
        let expected = text(&start(&["env"], closed).stdout);
        assert!(expected.contains("SigIgn"), "{expected}");
        assert_eq!(ran(&start(&with, closed)), expected);
    }

    let mut command = here.run(&["--preserve", "1", "--strict", "--log", "info", "--", "env"]);
    command
        .env("LD_PRELOAD", "libm.so.6")
        .env("CKPT_IGNORE", "3")
        .env("CKPT_STRICT", "");
    let environment = ran(&command.output().unwrap());
    let library = here.path("libckptadv.so");
    for line in [
        &format!("LD_PRELOAD=libm.so.6:{}", library.display()),
        "CKPT_PRESERVE=1",
        "CKPT_IGNORE=7",
        "CKPT_STRICT=strict",
        "CKPT_LOG=info",
    ] {
        assert!(
            environment.lines().any(|it| it == line),
            "{line} in {environment}"
        );
    }
    let output = here
        .run(&["sh", "-c", "echo $0; cat /proc/$$/cmdline"])
        .output()
        .unwrap();
    assert!(ran(&output).starts_with("sh\nsh\0-c\0"), "{output:?}");
}

#[test]
fn a_static_program_that_starts_criu_is_looked_through() {
    let Some(world) = World::new() else { return };
    let here = Installed::new();
    let starter = here.path("starter");
    copy(&build::static_program("starter"), &starter);
    let starter = starter.to_str().unwrap();
    let empty = here.path("empty");
    fs::create_dir(&empty).unwrap();
    let message = refused(&here.run(&[starter]).env("PATH", &empty).output().unwrap());
    assert!(message.contains("no criu that it could start"), "{message}");
    copy(&build::static_program("plain"), &empty.join("criu"));
    let message = refused(&here.run(&[starter]).env("PATH", &empty).output().unwrap());
    assert!(message.contains("criu is statically linked"), "{message}");

    let image = world.hold(&["7=eventfd"]).dump();
    let mut command = here.run(&[starter, "restore", "-d", "-D"]);
    command.arg(&image.directory);
    let criu = criu::program();
    let path = format!(
        "{}:{}",
        criu.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    // What is started gets the PATH of the test.
    let mut env = Command::new("env");
    env.arg(format!("PATH={path}"))
        .arg(command.get_program())
        .args(command.get_args());
    let outcome = image.restore().run_as(env);
    assert!(
        outcome
            .said
            .ends_with("restarted: 1 descriptor as advised\n"),
        "{}",
        outcome.said
    );
    assert!(!outcome.restored().links(image.root).contains_key(&7));
}

/// The program that says which signals it gets, under `ckptadv run`.
struct Signalled {
    child: Child,
    lines: std::io::Lines<BufReader<File>>,
}

impl Signalled {
    fn next(&mut self) -> String {
        let line = self.lines.next().expect("a line").expect("text");
        line.trim_end().to_owned()
    }

    fn send(&self, signal: i32) {
        // SAFETY: no memory is involved; the child has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

#[test]
fn signals_of_other_processes_are_passed_on_once() {
    let here = Installed::new();
    let program = build::program("signals");
    let mut command = here.run(&["--", program.to_str().unwrap()]);
    let (reader, writer) = std::io::pipe().unwrap();
    let child = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(command);
    let lines = BufReader::new(File::from(OwnedFd::from(reader))).lines();
    let mut it = Signalled { child, lines };
    assert_eq!(it.next(), "ready");
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGINT, "INT"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGALRM, "ALRM"),
        (libc::SIGCONT, "CONT"),
        (libc::SIGUSR2, "USR2"),
    ] {
        it.send(signal);
        assert_eq!(it.next(), format!("SIG{name} process"));
    }
    assert!(it.lines.next().is_none());
    let output = it.child.wait_with_output().unwrap();
    assert!(text(&output.stderr).contains("signals ended with status 7"));
}

#[test]
fn keys_reach_the_program_once_and_job_control_works() {
    let here = Installed::new();
    let program = build::program("signals");
    let (master, slave) = terminal::pair();
    let mut command = Command::new("bash");
    let line = "stty -echo; \"$@\"; echo stopped; fg >/dev/null; echo status $?";
    command
        .args(["-mc", line, "bash"])
        .arg(here.path("ckptadv"));
    command
        .args(["run", "--"])
        .arg(program)
        .env_remove("LD_PRELOAD");
    let copy = || Stdio::from(slave.try_clone().unwrap());
    command.stdin(copy()).stdout(copy()).stderr(copy());
    let fd = slave.as_raw_fd();
    // SAFETY: only system calls, without memory, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            match libc::setsid() < 0 || libc::ioctl(fd, libc::TIOCSCTTY, 0) < 0 {
                true => Err(std::io::Error::last_os_error()),
                false => Ok(()),
            }
        })
    };
    let child = command.spawn().unwrap();
    drop((command, slave));
    let mut keys = File::from(master.try_clone().unwrap());
    let lines = BufReader::new(File::from(master)).lines();
    let mut it = Signalled { child, lines };
    assert_eq!(it.next(), "ready");
    keys.write_all(b"\x03").unwrap();
    assert_eq!(it.next(), "SIGINT kernel");
    keys.write_all(b"\x1c").unwrap();
    assert_eq!(it.next(), "SIGQUIT kernel");
    keys.write_all(b"\x1a").unwrap();
    // bash tells of the job before.
    let stopped = std::iter::from_fn(|| Some(it.next()))
        .take(5)
        .any(|line| line == "stopped");
    assert!(stopped);
    // From the shell to both, and perhaps once more by us.
    assert_eq!(it.next(), "SIGCONT process");
    let group = fs::read_to_string(format!("/proc/{0}/task/{0}/children", it.child.id())).unwrap();
    let run: i32 = group.trim().parse().unwrap();
    // SAFETY: no memory is involved; it is a child of the shell, which waits for it.
    unsafe { libc::kill(run, libc::SIGUSR2) };
    let rest: Vec<String> = it.lines.by_ref().map_while(Result::ok).collect();
    let rest: Vec<&str> = rest.iter().map(|line| line.trim_end()).collect();
    let of = |start: &str| rest.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        (of("SIGUSR2 process"), of("status 120")),
        (1, 1),
        "{rest:?}"
    );
    it.child.wait().unwrap();
}
