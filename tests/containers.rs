//! End to end, with real runtimes: what becomes of the descriptors of a container that is checkpointed and restored with
//! advice, in the environment of the runtime or in annotations, seen in /proc/PID/fd.

use harness::containers::{Call, Container, Yard};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn runc() -> Vec<String> {
    vec!["runc".to_owned()]
}

/// A file of the host's for a container's output.
fn output(yard: &Yard, name: &str) -> File {
    File::options()
        .append(true)
        .create(true)
        .open(yard.path(name))
        .expect("a file")
}

/// Holds what no criu dumps: 1 and 2 outside the container's mounts, and a ring on 7; and a log on 8.
const WORDS: &[&str] = &[
    "7=unwritable:ring",
    "8=append:/log",
    "8=write:before",
    "9=ro:/log",
];

fn annotate(container: &mut Container<'_>, annotations: &[(&str, &str)]) {
    container.spec["annotations"] = annotations
        .iter()
        .map(|&(name, value)| (format!("org.ckptadv.{name}"), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
}

#[test]
fn runc_obeys_its_environment() {
    let Some(yard) = Yard::new(&["runc", "iptables"]) else {
        return;
    };
    let container = yard.container(&runc(), WORDS);
    container.run(&output(&yard, "out"));

    // What criu cannot dump, it does not; what advice leaves out is no obstacle.
    container.checkpoint("plain", &["--leave-running"]).fails();
    container
        .checkpoint("some", &["--leave-running"])
        .advice("IGNORE", "1,2")
        .fails();
    container
        .checkpoint("image", &[])
        .advice("IGNORE", "1,2,7")
        .advice("STRICT", "strict")
        .succeeds();
    let record = fs::read_to_string(yard.path("image/ckptadv.json")).expect("a record");
    assert!(record.contains("\"fd\":7"), "{record}");

    // A mistake restores nothing.
    for (name, value) in [("PRESERVE", "77"), ("IGNORE", "7x"), ("IGNORE", "55")] {
        let said = container
            .restore("image", &[])
            .advice("STRICT", "strict")
            .advice(name, value)
            .fails();
        let line = said.lines().find(|line| line.starts_with("ckptadv: "));
        let line = line.unwrap_or_else(|| panic!("the library is silent: {said}"));
        assert!(
            line.contains("restart refused") && line.contains(value),
            "{line}"
        );
    }

    let today = output(&yard, "today");
    yard.write("elsewhere", "");
    container
        .restore("image", &[])
        .advice("PRESERVE", "1,2")
        .advice("IGNORE", "7")
        .advice(
            "SUBSTITUTE",
            &format!("8={},9=/dev/null", yard.path("elsewhere")),
        )
        .advice("STRICT", "strict")
        .standard(&today)
        .succeeds();
    let links = container.links();
    assert_eq!(links[&1], yard.path("today"));
    assert_eq!(links[&2], yard.path("today"));
    assert_eq!(links.get(&7), None);
    assert_eq!(links[&8], yard.path("elsewhere"));
    assert_eq!(links[&9], "/dev/null");
}

#[test]
fn a_restore_without_advice_is_as_ever() {
    let Some(yard) = Yard::new(&["runc", "iptables"]) else {
        return;
    };
    let container = yard.container(&yard.front(), &["8=append:/log", "9=eventfd"]);
    container.run(
        &File::options()
            .append(true)
            .open("/dev/null")
            .expect("/dev/null"),
    );
    let before = container.links();
    container.checkpoint("image", &[]).succeeds();
    assert!(!Path::new(&yard.path("image/ckptadv.json")).exists());
    container.restore("image", &[]).succeeds();
    let after = container.links();
    // Outside, unless runc re-connects it.
    assert_eq!(after[&0], "/dev/null");
    for number in [8, 9] {
        assert_eq!(after[&number], before[&number], "{number}");
    }
}

#[test]
fn annotations_advise_runc() {
    let Some(yard) = Yard::new(&["runc", "iptables"]) else {
        return;
    };
    let mut container = yard.container(&yard.front(), WORDS);
    container.run(&output(&yard, "out"));
    // criu has no standard error then: what the library says stands beside criu's log.
    annotate(
        &mut container,
        &[("ignore", "1,2,7,55"), ("strict", "strict")],
    );
    container.describe();
    container.checkpoint("refused", &[]).fails();
    let log = fs::read_to_string(yard.path("refused/ckptadv.log")).expect("a log");
    assert!(
        log.contains("dump refused: nothing matched: CKPT_IGNORE=55"),
        "{log}"
    );

    let annotations = [
        ("preserve", "1,2"),
        ("ignore", "7,8"),
        ("substitute", "8=/tmp/new,9=/log"),
        ("strict", "strict"),
    ];
    annotate(&mut container, &annotations);
    container.describe();
    for round in ["first", "second"] {
        // The second time 8 and 9 lie outside the container's mounts, since they were given from there.
        if round == "second" {
            annotate(&mut container, &[("preserve", "1,2"), ("ignore", "8-9")]);
            container.describe();
        }
        container.checkpoint(round, &[]).succeeds();
        let name = format!("{round}.out");
        let today = output(&yard, &name);
        container.restore(round, &[]).standard(&today).succeeds();
        let links = container.links();
        assert_eq!(links[&1], yard.path(&name));
        assert_eq!(links[&2], yard.path(&name));
        assert_eq!(links.get(&7), None);
        if round == "first" {
            assert_eq!(links[&8], yard.inside("tmp/new"));
            assert_eq!(links[&9], yard.inside("log"));
        } else {
            assert_eq!(links.get(&8), None);
        }
    }
}

/// crun, of a suite that was built with criu: by way of libcriu.so.2, which starts criu swrk as runc does. It refuses a
/// cgroup tree of both versions, so it gets one of version 2 where that is what there is; criu could not always restore
/// a cpuset there, and leaves cgroups to crun.
#[test]
fn annotations_advise_crun() {
    let Some(yard) = Yard::new(&["unshare", "mount", "iptables"]) else {
        return;
    };
    const CGROUP2: &str = "[ -e /sys/fs/cgroup/cgroup.controllers ] || \
                           mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    const CGROUPS: &[&str] = &["--manage-cgroups-mode=ignore"];
    let crun = harness::criu::program().with_file_name("crun");
    let file = fs::read_to_string(yard.path("oci.toml")).expect("a file");
    yard.write("oci.toml", &format!("{file}[runtimes]\ncrun = {crun:?}\n"));
    let mut front = yard.front();
    let link = yard.path("bin/ckptadv-oci-crun");
    symlink(&front[0], &link).expect("a link");
    front[0] = link;
    let own = ["unshare", "--mount", "sh", "-c", CGROUP2, "sh"].map(str::to_owned);
    let mut container = yard.container(&[own.to_vec(), front].concat(), WORDS);
    annotate(
        &mut container,
        &[
            ("preserve", "1,2"),
            ("ignore", "7,8"),
            ("substitute", "8=/tmp/new"),
            ("strict", "strict"),
        ],
    );
    container.run(&output(&yard, "out"));
    container.checkpoint("image", CGROUPS).succeeds();
    let today = output(&yard, "today");
    container
        .restore("image", CGROUPS)
        .standard(&today)
        .succeeds();
    let links = container.links();
    assert_eq!(links[&1], yard.path("today"));
    assert_eq!(links[&2], yard.path("today"));
    assert_eq!(links.get(&7), None);
    assert_eq!(links[&8], yard.inside("tmp/new"));
}

/// What a container could prepare for itself and then ask for, in order to reach what is not its own.
#[test]
fn no_annotation_reaches_outside() {
    let Some(yard) = Yard::new(&["runc", "iptables"]) else {
        return;
    };
    let mut container = yard.container(&yard.front(), &["8=reg:/log", "9=ro:/log"]);
    annotate(&mut container, &[("ignore", "1,2")]);
    container.run(&output(&yard, "out"));
    container.checkpoint("image", &[]).succeeds();

    yard.write("secret", "outside");
    let secret = yard.path("secret");
    let inside = |name: &str| yard.inside(name);
    symlink("/", inside("root")).expect("a link");
    symlink(&secret, inside("absolute")).expect("a link");
    symlink("../../secret", inside("relative")).expect("a link");
    symlink("../../made", inside("dangling")).expect("a link");
    symlink("/proc/self/fd/3", inside("socket")).expect("a link");
    let device = std::ffi::CString::new(inside("kmem")).expect("a path");
    // SAFETY: the path is a NUL-terminated string.
    let made = unsafe { libc::mknod(device.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)) };
    assert_eq!(made, 0, "a device");
    const KINDS: &str = "only regular files and fifos";
    let up = format!("/..{secret}");
    for (annotation, value, why) in [
        ("preserve", "3", "up to 2"),
        ("preserve", "1,2,3-", "up to 2"),
        ("substitute", "8=3", "up to 2"),
        ("substitute", "9=/", KINDS),
        ("substitute", "9=/root", KINDS),
        ("substitute", "9=/tmp/..", KINDS),
        ("substitute", "9=/absolute", "is not there"),
        ("substitute", "9=/relative", "is not there"),
        ("substitute", &format!("9={secret}"), "is not there"),
        ("substitute", &format!("9={up}"), "is not there"),
        (
            "substitute",
            &format!("9=/root/root{secret}"),
            "is not there",
        ),
        ("substitute", &format!("8={up}"), "cannot be made"),
        ("substitute", "8=/dangling", "symbolic link"),
        ("substitute", "9=/socket", "lies in /proc"),
        ("substitute", "8=/dev/null", "lies in /dev"),
        ("substitute", "8=/kmem", KINDS),
        ("log_file", "/tmp/x", "no annotation of this name"),
    ] {
        annotate(&mut container, &[("ignore", "1,2"), (annotation, value)]);
        container.describe();
        let said = container.restore("image", &[]).fails();
        assert!(said.contains(why), "{annotation}={value}: {said}");
    }
    assert_eq!(fs::read_to_string(&secret).expect("a file"), "outside");
    assert!(!Path::new(&yard.path("made")).exists());
    assert!(!Path::new(&yard.path("bundle/made")).exists());

    // What is its own it gets.
    annotate(
        &mut container,
        &[
            ("ignore", "1,2"),
            ("substitute", "8=/root/../../../new,9=/root/holder"),
        ],
    );
    container.describe();
    container.restore("image", &[]).succeeds();
    let links = container.links();
    assert_eq!(links[&8], inside("new"));
    assert_eq!(links[&9], inside("holder"));
}

/// A container of Podman's, which goes with this.
struct Pod<'y> {
    yard: &'y Yard,
    options: Vec<String>,
    name: String,
}

impl<'y> Pod<'y> {
    fn new(yard: &'y Yard) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Podman calls a runtime by its path alone.
        let front = yard.path("bin/front");
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", yard.front().join(" "));
        yard.write("bin/front", &text);
        fs::set_permissions(&front, Permissions::from_mode(0o755)).expect("a program");
        let mut options = vec!["podman".to_owned()];
        for (option, value) in [
            ("root", yard.path("store")),
            ("runroot", yard.path("run")),
            ("tmpdir", yard.path("tmp")),
            ("storage-driver", "vfs".to_owned()),
            ("events-backend", "file".to_owned()),
            ("cgroup-manager", "cgroupfs".to_owned()),
            ("runtime", front),
        ] {
            options.push(format!("--{option}={value}"));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Pod {
            yard,
            options,
            name: format!("ckptadv-{}-{number}", std::process::id()),
        }
    }

    fn podman(&self, words: &[&str]) -> Call<'y> {
        let mut line = self.options.clone();
        line.extend(words.iter().map(|&word| word.to_owned()));
        self.yard.command(&line)
    }

    /// Runs the holder until it has a number.
    ///
    /// * `what`: an image, or `--rootfs` and a directory.
    fn run(&self, annotations: &[&str], what: &[&str], words: &[&str], until: i32) {
        let mut line = vec!["run", "--detach", "--name", &self.name, "--network", "none"];
        // The default profile has no io_uring.
        line.extend(["--security-opt", "seccomp=unconfined"]);
        // Podman's own are higher, and raising them may not be allowed.
        line.extend([
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1000:1000",
        ]);
        let annotations = annotations.iter().flat_map(|one| ["--annotation", one]);
        line.extend(annotations);
        line.extend(what);
        line.extend(["/holder", "/tmp/ready"]);
        line.extend(words);
        self.podman(&line).succeeds();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let links = self.links();
            let is_busy = links.values().any(|link| link.ends_with("/tmp/ready"));
            if links.contains_key(&until) && !is_busy && links.keys().all(|&number| number < 600) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the holder is not ready: {links:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn links(&self) -> BTreeMap<i32, String> {
        let pid = self
            .podman(&["inspect", "--format", "{{.State.Pid}}", &self.name])
            .succeeds();
        harness::criu::links(pid.trim().parse().expect("a pid"))
    }

    fn remove(&self) -> (bool, String) {
        self.podman(&["rm", "--force", "--time", "0", &self.name])
            .run()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

const PODMAN: &[&str] = &["podman", "conmon", "runc", "iptables"];

#[test]
fn annotations_advise_podman() {
    let Some(yard) = Yard::new(PODMAN) else {
        return;
    };
    let pod = Pod::new(&yard);
    let annotations = [
        "\"org.ckptadv.ignore=7,8\"",
        "\"org.ckptadv.substitute=8=/tmp/new,9=1\"",
        "org.ckptadv.strict=strict",
    ];
    let rootfs = ["--rootfs", &yard.path("bundle/rootfs")];
    let words = [
        "7=unwritable:ring",
        "8=append:/log",
        "9=append:/log",
        "count",
    ];
    pod.run(&annotations, &rootfs, &words, 9);
    let before = pod.links();
    assert_eq!(before[&7], "anon_inode:[io_uring]");

    pod.podman(&["container", "checkpoint", "--keep", &pod.name])
        .succeeds();
    pod.podman(&["container", "restore", "--keep", &pod.name])
        .succeeds();
    let links = pod.links();
    assert_eq!(links.get(&7), None);
    assert_eq!(links[&8], yard.inside("tmp/new"));
    assert!(
        links[&1].starts_with("pipe:") && links[&1] != before[&1],
        "{links:?}"
    );
    assert_eq!(links[&9], links[&1], "conmon's pipe");
}

#[test]
fn advice_travels_with_an_exported_checkpoint() {
    let Some(yard) = Yard::new(PODMAN) else {
        return;
    };
    let mut pod = Pod::new(&yard);
    let (rootfs, archive) = (yard.path("bundle/rootfs"), yard.path("rootfs.tar"));
    let tar = [
        "tar",
        "--create",
        "--file",
        &archive,
        "--directory",
        &rootfs,
        ".",
    ];
    yard.command(&tar.map(str::to_owned)).succeeds();
    let image = "localhost/ckptadv-holder:1";
    pod.podman(&["import", "--quiet", &archive, image])
        .succeeds();
    let annotations = [
        "org.ckptadv.ignore=7",
        "org.ckptadv.substitute=8=/tmp/new",
        "org.ckptadv.strict=strict",
    ];
    pod.run(
        &annotations,
        &[image],
        &["7=unwritable:ring", "8=append:/log"],
        8,
    );
    let exported = yard.path("checkpoint.tar.gz");
    pod.podman(&["container", "checkpoint", "--export", &exported, &pod.name])
        .succeeds();
    let (removed, said) = pod.remove();
    assert!(removed, "{said}");

    // Perhaps on another machine, where nobody gives advice.
    pod.name += "-again";
    pod.podman(&[
        "container",
        "restore",
        "--import",
        &exported,
        "--name",
        &pod.name,
    ])
    .succeeds();
    let links = pod.links();
    assert_eq!(links.get(&7), None);
    assert!(links[&8].ends_with("/tmp/new"), "{links:?}");
    let (_, said) = pod.remove();
    let (removed, more) = pod.podman(&["rmi", "--force", image]).run();
    assert!(removed, "{said}{more}");
}

#[test]
fn podman_tells_what_an_annotation_may_not() {
    let Some(yard) = Yard::new(PODMAN) else {
        return;
    };
    let pod = Pod::new(&yard);
    let rootfs = ["--rootfs", &yard.path("bundle/rootfs")];
    pod.run(&["org.ckptadv.preserve=3"], &rootfs, &["8=append:/log"], 8);
    let before = pod.links();
    let said = pod.podman(&["container", "checkpoint", &pod.name]).fails();
    assert!(
        said.contains("checkpoint refused: org.ckptadv.preserve"),
        "{said}"
    );
    assert_eq!(pod.links(), before, "it goes on");
}

#[test]
fn podman_tells_what_the_library_refuses() {
    let Some(yard) = Yard::new(PODMAN) else {
        return;
    };
    let pod = Pod::new(&yard);
    let rootfs = ["--rootfs", &yard.path("bundle/rootfs")];
    pod.run(
        &["org.ckptadv.substitute=8=/tmp"],
        &rootfs,
        &["8=append:/log"],
        8,
    );
    pod.podman(&["container", "checkpoint", "--keep", &pod.name])
        .succeeds();
    let said = pod
        .podman(&["container", "restore", "--keep", &pod.name])
        .fails();
    assert!(
        said.contains("ckptadv: restart refused: ") && said.contains("only regular files"),
        "{said}"
    );
    // Once the reason is gone, it is restored after all.
    fs::rename(yard.inside("tmp"), yard.inside("old")).expect("another name");
    pod.podman(&["container", "restore", "--keep", &pod.name])
        .succeeds();
    assert_eq!(pod.links()[&8], yard.inside("tmp"));
}
