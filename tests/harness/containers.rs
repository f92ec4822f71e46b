//! Real containers: the holder (see its source), linked statically, as the only program of a root file system; run,
//! checkpointed and restored by a runtime that is called as daemons call it.
//!
//! Each test has a directory of its own for images and for the state of runtimes, and containers of a name of their own,
//! which go with their guard.

use crate::{build, criu, is_root, processes, scratch, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a runtime, or the holder, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a runtime gives to one that it starts: nothing but this PATH, and what the test sets.
pub struct Yard {
    directory: PathBuf,
    path: String,
}

impl Yard {
    /// A directory with a root file system and a bundle; `None` where these tests cannot run here.
    ///
    /// * `programs`: what must be installed for the test.
    ///
    /// # Panics
    /// Something is missing where it must not be.
    pub fn new(programs: &[&str]) -> Option<Self> {
        if !is_root() || !programs.iter().all(|program| is_installed(program)) {
            return None;
        }
        let directory = scratch::make("ckptadv-oci");
        for made in ["bin", "bundle/rootfs/tmp"] {
            fs::create_dir_all(directory.join(made)).expect("a directory for the test");
        }
        symlink(criu::program(), directory.join("bin/criu")).expect("a criu in PATH");
        fs::copy(
            build::static_program("holder"),
            directory.join("bundle/rootfs/holder"),
        )
        .expect("a program for the container");
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            directory.join("bin").display()
        );
        let yard = Yard { directory, path };
        yard.write(
            "oci.toml",
            &format!("library = {:?}\n", criu::library().display().to_string()),
        );
        Some(yard)
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    /// The path of a file in the containers' root file system.
    pub fn inside(&self, name: &str) -> String {
        self.path(&format!("bundle/rootfs/{name}"))
    }

    /// Writes a file in the directory.
    ///
    /// # Panics
    /// It cannot.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("a file of the test");
    }

    /// The front under test, with an administrator's file that names the library under test.
    pub fn front(&self) -> Vec<String> {
        let front = build::product("ckptadv-oci").display().to_string();
        vec![front, format!("--ckptadv-config={}", self.path("oci.toml"))]
    }

    /// A container of the bundle, not yet run.
    ///
    /// * `runtime`: the program, and options of it.
    pub fn container(&self, runtime: &[String], words: &[&str]) -> Container<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("ckptadv-{}-{number}", std::process::id());
        let mut args = vec!["/holder", "/tmp/ready"];
        args.extend(words);
        let mounted = |destination: &str, kind: &str| json!({"destination": destination, "type": kind, "source": kind});
        let namespaces =
            ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let capabilities = ["CAP_KILL"];
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": args,
                "cwd": "/",
                "env": ["PATH=/"],
                "user": {"uid": 0, "gid": 0},
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
            },
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "held",
            "mounts": [mounted("/proc", "proc"), mounted("/dev", "tmpfs")],
            "linux": {
                "namespaces": namespaces,
            },
        });
        Container {
            yard: self,
            runtime: runtime.to_vec(),
            id,
            spec,
        }
    }

    /// A command with PATH alone in its environment.
    pub fn command(&self, words: &[String]) -> Call<'_> {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", &self.path)
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        Call {
            yard: self,
            command,
            standard: None,
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return scratch::remove(&self.directory);
        }
        // conmon has Podman clean up behind a container, and ends later than that is removed.
        let deadline = Instant::now() + PATIENCE;
        while !processes::naming(&self.directory).is_empty() {
            assert!(
                Instant::now() < deadline,
                "{:?} left processes",
                self.directory
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        scratch::remove(&self.directory);
    }
}

/// A program that a daemon starts.
pub struct Call<'y> {
    yard: &'y Yard,
    command: Command,
    standard: Option<File>,
}

impl Call<'_> {
    /// With a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With the library, and `CKPT_NAME=value`.
    pub fn advice(self, name: &str, value: &str) -> Self {
        let library = criu::library().to_string_lossy().into_owned();
        self.env("LD_PRELOAD", &library)
            .env(&format!("CKPT_{name}"), value)
    }

    /// With this on 1 and 2.
    ///
    /// # Panics
    /// There are no descriptors left.
    pub fn standard(mut self, file: &File) -> Self {
        self.standard = Some(file.try_clone().expect("a copy"));
        self
    }

    /// Runs it to its end: whether it succeeded, and what it said on 1 and 2, which its children may keep open.
    ///
    /// # Panics
    /// It cannot be started, or hangs.
    pub fn run(mut self) -> (bool, String) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let said = self.yard.directory.join(format!("said.{number}"));
        let file = match self.standard.take() {
            Some(file) => file,
            None => File::create(&said).expect("a file for messages"),
        };
        let other = file.try_clone().expect("a copy");
        let mut child = self
            .command
            .stdout(file)
            .stderr(other)
            .spawn()
            .expect("it starts");
        // The command holds copies.
        drop(self.command);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a child of the test") {
                let said = fs::read(&said).unwrap_or_default();
                return (
                    status.success(),
                    String::from_utf8_lossy(&said).into_owned(),
                );
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "it hangs: {}",
                    fs::read_to_string(&said).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs it, and gives what it said.
    ///
    /// # Panics
    /// It fails.
    pub fn succeeds(self) -> String {
        let (done, said) = self.run();
        assert!(done, "{said}");
        said
    }

    /// Runs it, and gives what it said.
    ///
    /// # Panics
    /// It does not fail.
    pub fn fails(self) -> String {
        let (done, said) = self.run();
        assert!(!done, "it did not fail: {said}");
        said
    }
}

/// A container that a runtime is called for; it goes with this.
pub struct Container<'y> {
    yard: &'y Yard,
    runtime: Vec<String>,
    /// Its name.
    pub id: String,
    /// Its config.json, written when it is run.
    pub spec: Value,
}

impl<'y> Container<'y> {
    /// The runtime, called to do this.
    pub fn call(&self, words: &[&str]) -> Call<'y> {
        let mut line = self.runtime.clone();
        line.extend(["--root".to_owned(), self.yard.path("state")]);
        line.extend(words.iter().map(|&word| word.to_owned()));
        line.push(self.id.clone());
        self.yard.command(&line)
    }

    /// Writes its config.json.
    pub fn describe(&self) {
        self.yard
            .write("bundle/config.json", &self.spec.to_string());
    }

    /// Runs it until the holder is ready.
    ///
    /// * `standard`: its 1 and 2.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn run(&self, standard: &File) {
        self.describe();
        let bundle = self.yard.path("bundle");
        let (done, _) = self
            .call(&["run", "--detach", "--bundle", &bundle])
            .standard(standard)
            .run();
        assert!(done, "the container is not run");
        let ready = self.yard.inside("tmp/ready");
        let told = || fs::read_to_string(&ready).unwrap_or_default();
        wait_until("the holder", || {
            assert!(!told().contains("holder:"), "{}", told());
            told().ends_with('\n')
        });
        let is_ready = |link: &String| link.ends_with("/tmp/ready");
        wait_until("it closes the file", || {
            !self.links().values().any(is_ready)
        });
        let _ = fs::remove_file(&ready);
    }

    /// A checkpoint, as daemons ask for it.
    ///
    /// * `image`: the name of a directory.
    pub fn checkpoint(&self, image: &str, options: &[&str]) -> Call<'y> {
        let image = self.yard.path(image);
        let words = ["checkpoint", "--image-path", &image, "--work-path", &image];
        self.call(&[&words, options].concat())
    }

    /// A restore, as daemons ask for it.
    ///
    /// * `image`: the name of a directory.
    pub fn restore(&self, image: &str, options: &[&str]) -> Call<'y> {
        let (image, bundle) = (self.yard.path(image), self.yard.path("bundle"));
        let words = [
            "restore",
            "--detach",
            "--bundle",
            &bundle,
            "--image-path",
            &image,
            "--work-path",
            &image,
        ];
        self.call(&[&words, options].concat())
    }

    /// What the descriptors of its first task are, as /proc/PID/fd has them.
    ///
    /// # Panics
    /// It does not run.
    pub fn links(&self) -> BTreeMap<i32, String> {
        let state = self.call(&["state"]).succeeds();
        let state: Value = serde_json::from_str(&state).expect("JSON");
        let pid = state["pid"].as_i64().expect("a pid");
        criu::links(pid as i32)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force"]).run();
    }
}

/// Whether a program is there. Without it the test is skipped, loudly, and fails in CI.
fn is_installed(program: &str) -> bool {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let is_there = |directory: &str| Path::new(directory).join(program).exists();
    if path.split(':').any(is_there) {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "this test needs {program}: run tests/setup"
    );
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: this test needs {program}: run tests/setup"
    );
    false
}
