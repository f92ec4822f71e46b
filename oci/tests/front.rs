//! The program, in front of a runtime that only tells how it was called.

use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A bundle, a runtime, a library and the administrator's file, in a directory of their own.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ckptadv-oci-{}-{number}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        fs::create_dir_all(place.path("bundle/rootfs")).expect("a directory");
        place.program("runc", "runc");
        place.library("libckptadv.so");
        place.administrator("");
        place.annotate(&[]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A runtime that prints its name, its arguments and its environment. Its `state` knows one container.
    fn program(&self, file: &str, name: &str) {
        let text = format!(
            "#!/bin/sh\n\
             for word; do [ \"$word\" = state ] && state=1; last=$word; done\n\
             if [ -n \"$state\" ] && [ \"$last\" = known ]; then\n\
             echo '{{\"id\":\"known\",\"bundle\":\"{}\"}}'; exit; fi\n\
             if [ -n \"$state\" ]; then echo no such container >&2; exit 1; fi\n\
             echo \"{name} $*\"; exec env\n",
            self.text("bundle")
        );
        fs::write(self.path(file), text).expect("a script");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(file), mode).expect("a program");
    }

    /// A library that the loader takes and that does nothing.
    fn library(&self, file: &str) {
        let any = Command::new("cc")
            .arg("-print-file-name=libdl.so.2")
            .output()
            .expect("a C compiler");
        let any = String::from_utf8(any.stdout).expect("a path");
        fs::copy(any.trim(), self.path(file)).expect("a library");
    }

    /// The administrator's file, with a library and these lines.
    fn administrator(&self, more: &str) {
        let text = format!("library = {:?}\n{more}\n", self.text("libckptadv.so"));
        fs::write(self.path("oci.toml"), text).expect("a file");
    }

    fn annotate(&self, annotations: &[(&str, &str)]) {
        let annotations: serde_json::Map<_, _> = annotations
            .iter()
            .map(|&(name, value)| (name.to_owned(), json!(value)))
            .collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": annotations,
        });
        self.config(&config.to_string());
    }

    fn config(&self, text: &str) {
        fs::write(self.path("bundle/config.json"), text).expect("a file");
    }

    /// A call, with nothing in the environment but PATH.
    fn call(&self, program: &Path, line: &str) -> Command {
        let line = line.replace('@', &self.0.to_string_lossy());
        let mut command = Command::new(program);
        command
            .arg(format!("--ckptadv-config={}", self.text("oci.toml")))
            .args(line.split_whitespace())
            .current_dir(self.path("bundle"))
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.display()));
        command
    }

    fn front(&self, line: &str) -> Command {
        self.call(Path::new(env!("CARGO_BIN_EXE_ckptadv-oci")), line)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const RESTORE: &str = "--root /r restore --bundle @/bundle --image-path /i known";
const CHECKPOINT: &str = "--root /r checkpoint --image-path /no/such/image known";

/// How the runtime was called, and what of the environment is ours to set.
fn became(mut command: Command) -> (String, Vec<String>) {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines().map(str::to_owned);
    let called = lines.next().expect("how it was called");
    let set = |line: &String| {
        ["CKPT_", "LD_", "CRADVISE_"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    let mut environment: Vec<String> = lines.filter(set).collect();
    environment.sort();
    (called, environment)
}

/// The one line with which it refuses; nothing is run.
fn refused(mut command: Command) -> String {
    let output = command.output().expect("it runs");
    refusal_of(&output)
}

fn refusal_of(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "the runtime was run: {output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("ckptadv-oci: "), "{said}");
    said.trim_end().to_owned()
}

#[test]
fn advice_reaches_checkpoint_and_restore_and_nothing_else() {
    let place = Place::new();
    place.annotate(&[
        ("org.ckptadv.preserve", "1,2"),
        ("org.ckptadv.ignore", "7"),
        ("org.ckptadv.substitute", "8=/log"),
        ("org.ckptadv.strict", "strict"),
    ]);
    let preload = format!("LD_PRELOAD={}", place.text("libckptadv.so"));
    let root = format!("CKPT_SOURCE_ROOT={}", place.text("bundle/rootfs"));
    let (called, environment) = became(place.front(RESTORE));
    let line = RESTORE.replace('@', &place.0.to_string_lossy());
    assert_eq!(called, format!("runc {line}"));
    assert_eq!(
        environment,
        [
            "CKPT_IGNORE=7",
            "CKPT_PRESERVE=1,2",
            &root,
            "CKPT_STRICT=strict",
            "CKPT_SUBSTITUTE=8=/log",
            &preload,
        ]
    );
    let (called, environment) = became(place.front(CHECKPOINT));
    assert_eq!(called, format!("runc {CHECKPOINT}"));
    assert_eq!(
        environment,
        [
            "CKPT_IGNORE=7",
            "CKPT_LOG_FILE=/no/such/image/ckptadv.log",
            "CKPT_PRESERVE=1,2",
            "CKPT_STRICT=strict",
            &preload,
        ]
    );
    // The bundle is the working directory where none is named.
    assert_eq!(became(place.front("restore known")).1.len(), 6);
    for line in [
        "--version",
        "create --bundle @/bundle known",
        "start known",
        "checkpoint --help",
        "delete --force known",
        "exec known restore",
    ] {
        let (called, environment) = became(place.front(line));
        assert_eq!(
            called,
            format!("runc {line}").replace('@', &place.0.to_string_lossy())
        );
        assert!(environment.is_empty(), "{line}: {environment:?}");
    }
}

#[test]
fn without_annotations_it_is_the_runtime() {
    let place = Place::new();
    for line in [RESTORE, CHECKPOINT] {
        let mut command = place.front(line);
        command.env("CKPT_IGNORE", "9").env("LD_PRELOAD", "");
        assert_eq!(became(command).1, ["CKPT_IGNORE=9", "LD_PRELOAD="]);
    }
}

#[test]
fn hostile_annotations_never_reach_the_runtime() {
    let place = Place::new();
    let long = "/x,".repeat(1 << 14);
    for (name, value) in [
        ("preserve", "3"),
        ("preserve", "0-"),
        ("preserve", "*:0-9"),
        ("preserve", "1,2,\n3"),
        ("substitute", "7=3"),
        ("substitute", "type=reg=4"),
        ("substitute", "7=/proc/self/fd/3"),
        ("substitute", "7=/../../proc/1/root/etc/shadow"),
        ("substitute", "7=relative"),
        ("ignore", "7\nLD_PRELOAD=/tmp/x.so"),
        ("ignore", "\u{1b}]0;x\u{7}"),
        ("ignore", "7\0"),
        ("ignore", &long),
        ("strict", "1"),
        ("log_file", "/etc/cron.d/x"),
        ("report", "/etc/x"),
        ("library", "/tmp/x.so"),
        ("runtime", "/tmp/x"),
        ("allow.highest_descriptor", "9"),
    ] {
        place.annotate(&[
            ("org.ckptadv.ignore", "5"),
            (&format!("org.ckptadv.{name}"), value),
        ]);
        for line in [RESTORE, CHECKPOINT] {
            if line == CHECKPOINT && value.contains("/proc") {
                continue; // It has no paths.
            }
            let said = refused(place.front(line));
            assert!(said.contains(&format!("org.ckptadv.{name}")), "{said}");
            assert!(!said.contains('\u{1b}'), "{said}");
        }
    }
}

#[test]
fn a_bundle_that_cannot_be_read_is_refused() {
    let place = Place::new();
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(9999), "]".repeat(9999));
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(16 << 20));
    for text in [
        "",
        "null",
        r#"{"annotations":{"org.ckptadv.ignore":7}}"#,
        r#"{"annotations":{"org.ckptadv.ignore":"\ud800"}}"#,
        r#"{"annotations":{},"annotations":{"org.ckptadv.ignore":"7"}}"#,
        r#"{"annotations":[]}"#,
        r#"{"root":{},"annotations":{}}"#,
        &large,
    ] {
        place.config(text);
        let said = refused(place.front(RESTORE));
        assert!(said.contains("config.json"), "{said}");
    }
    // What is passed over may be as deep as it likes.
    place.config(&deep);
    became(place.front(RESTORE));
    fs::remove_file(place.path("bundle/config.json")).expect("it goes");
    refused(place.front(RESTORE));
    fs::create_dir(place.path("bundle/config.json")).expect("a directory");
    let said = refused(place.front(RESTORE));
    assert!(said.contains("not a regular file"), "{said}");
    fs::remove_dir(place.path("bundle/config.json")).expect("it goes");
    // Nobody waits for who writes into it.
    let made = Command::new("mkfifo")
        .arg(place.path("bundle/config.json"))
        .status();
    assert!(made.is_ok_and(|status| status.success()));
    let said = refused(place.front(RESTORE));
    assert!(said.contains("not a regular file"), "{said}");
    // What the runtime does not know either.
    let said = refused(place.front("checkpoint stranger"));
    assert!(said.contains("no such container"), "{said}");
}

#[test]
fn the_environment_does_not_mix_with_annotations() {
    let place = Place::new();
    place.annotate(&[("org.ckptadv.ignore", "7")]);
    for name in [
        "CKPT_PRESERVE",
        "CKPT_LOG",
        "CKPT_REPORT",
        "CKPT_SOURCE_ROOT",
        "CKPT_NEW",
    ] {
        let mut command = place.front(RESTORE);
        command.env(name, "1");
        let said = refused(command);
        assert!(said.contains(name), "{said}");
    }
    let mut command = place.front(RESTORE);
    command
        .env("CKPT_PRESERVE", "")
        .env("CRADVISE_TABLE", "3:1")
        .env("CRADVISE_NR", "999")
        .env("LD_PRELOAD", "libm.so.6");
    let preload = format!("LD_PRELOAD=libm.so.6:{}", place.text("libckptadv.so"));
    assert_eq!(
        became(command).1,
        ["CKPT_IGNORE=7", "CKPT_PRESERVE=", &preload]
    );
}

#[test]
fn the_administrator_names_and_allows() {
    let place = Place::new();
    place.program("other", "other");
    place.annotate(&[
        ("org.ckptadv.preserve", "5"),
        ("org.ckptadv.substitute", "7=/proc/x"),
    ]);
    place.administrator(&format!(
        "runtime = {:?}\nlog = \"info\"\nlog_file = \"/l\"\n\
         [allow]\nhighest_descriptor = 5\nhost_paths = true",
        place.text("other")
    ));
    let (called, environment) = became(place.front(RESTORE));
    assert!(called.starts_with("other --root"), "{called}");
    let preload = format!("LD_PRELOAD={}", place.text("libckptadv.so"));
    assert_eq!(
        environment,
        [
            "CKPT_LOG=info",
            "CKPT_LOG_FILE=/l",
            "CKPT_PRESERVE=5",
            "CKPT_SUBSTITUTE=7=/proc/x",
            &preload,
        ]
    );
    // No log for the commands that nobody advises.
    assert!(became(place.front("start known")).1.is_empty());
}

#[test]
fn the_name_says_which_runtime() {
    let place = Place::new();
    let named = |name: &str| {
        let link = place.path(name);
        symlink(env!("CARGO_BIN_EXE_ckptadv-oci"), &link).expect("a link");
        link
    };
    let none = named("ckptadv-oci-no-such-runtime");
    let said = refused(place.call(&none, "start known"));
    assert!(
        said.contains("no-such-runtime: no such runtime in PATH"),
        "{said}"
    );
    // Podman deletes containers with no PATH at all.
    let env = named("ckptadv-oci-env");
    let mut command = place.call(&env, "--version");
    command.env_remove("PATH");
    assert!(became(command).0.starts_with("env (GNU"));
    let crun = named("ckptadv-oci-crun");
    place.program("crun", "crun");
    assert!(
        became(place.call(&crun, "start known"))
            .0
            .starts_with("crun ")
    );
    place.program("elsewhere", "elsewhere");
    place.administrator(&format!("[runtimes]\ncrun = {:?}", place.text("elsewhere")));
    assert!(
        became(place.call(&crun, "start known"))
            .0
            .starts_with("elsewhere ")
    );
    assert!(became(place.front("start known")).0.starts_with("runc "));
    // It does not run itself.
    let own = named("ckptadv-oci-own");
    place.administrator(&format!(
        "[runtimes]\nown = {:?}",
        own.display().to_string()
    ));
    let said = refused(place.call(&own, "start known"));
    assert!(said.contains("itself"), "{said}");
}

#[test]
fn an_administrators_file_with_a_mistake_runs_nothing() {
    let place = Place::new();
    for (text, why) in [
        ("runtimes = 1", "line 2"),
        ("nonsense = 1", "nonsense"),
        ("[allow]\nnumbers = 5", "numbers"),
        ("[allow]\nhighest_descriptor = \"5\"", "line 3"),
        ("runtime = \"runc\"", "not an absolute path"),
        ("[runtimes]\nx = \"./crun\"", "not an absolute path"),
        ("library = \"/a\"", "duplicate"),
    ] {
        place.administrator(text);
        let said = refused(place.front("start known"));
        assert!(said.contains("oci.toml") && said.contains(why), "{said}");
    }
    place.administrator("");
    for mode in [0o664, 0o646] {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(place.path("oci.toml"), mode).expect("a mode");
        let said = refused(place.front("start known"));
        assert!(said.contains("others than the administrator"), "{said}");
    }
    let mut command = place.front("start known");
    command.arg("--"); // Whatever stands behind.
    fs::remove_file(place.path("oci.toml")).expect("it goes");
    let said = refused(command);
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn a_library_that_the_loader_would_leave_out_is_refused() {
    let place = Place::new();
    place.annotate(&[("org.ckptadv.ignore", "7")]);
    fs::remove_file(place.path("libckptadv.so")).expect("it goes");
    let said = refused(place.front(RESTORE));
    assert!(said.contains("No such file"), "{said}");
    for text in ["", "#!/bin/sh", "\x7fELF\x01\x01\x01"] {
        fs::write(place.path("libckptadv.so"), text).expect("a file");
        let said = refused(place.front(RESTORE));
        assert!(said.contains("this is no library"), "{said}");
    }
    assert!(became(place.front("start known")).0.starts_with("runc "));
    for name in ["with blank.so", "with:colon.so"] {
        place.library(name);
        let text = format!("library = {:?}", place.text(name));
        fs::write(place.path("oci.toml"), text).expect("a file");
        let said = refused(place.front(RESTORE));
        assert!(said.contains("LD_PRELOAD"), "{said}");
    }
}

#[test]
fn daemons_find_a_refusal_in_the_runtimes_log() {
    let place = Place::new();
    place.annotate(&[("org.ckptadv.preserve", "\"3")]);
    let log = place.path("log");
    let line = "--log @/log --log-format json restore --bundle @/bundle known";
    let said = refused(place.front(line));
    let entry: serde_json::Value =
        serde_json::from_slice(&fs::read(&log).expect("a log")).expect("JSON");
    assert_eq!(entry, json!({"level": "error", "msg": said}));
    let said = refused(place.front("--log=@/log restore --bundle @/bundle known"));
    let text = fs::read_to_string(&log).expect("a log");
    let last = text.lines().last().expect("a line");
    assert_eq!(last, format!("level=error msg={}", json!(said)));
}

#[test]
fn a_command_line_that_could_be_a_restore_is_refused() {
    let place = Place::new();
    place.annotate(&[("org.ckptadv.ignore", "7")]);
    let said = refused(place.front("--new value restore --bundle @/bundle known"));
    assert!(said.contains("--new"), "{said}");
    let said = refused(place.front("checkpoint --new value known"));
    assert!(said.contains("--new"), "{said}");
    assert!(
        became(place.front("--new value start known"))
            .0
            .starts_with("runc --new")
    );
}
