//! The Debian packages: dpkg installs them in a root that has only what they depend on, and a real process is dumped
//! and restored there with advice.

use harness::{build, criu, is_root};
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn succeeds(command: &mut Command) -> String {
    let output = finishes(command);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn finishes(command: &mut Command) -> Output {
    let output = command.env("LC_ALL", "C").output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The packages, ckptadv first.
fn packages(directory: &Path, compressor: &str) -> Vec<PathBuf> {
    let _ = fs::remove_dir_all(directory);
    let release = build::product("libcradvise.so");
    succeeds(
        Command::new(Path::new(SOURCE).join("packaging/deb"))
            .arg(directory)
            .env(
                "CARGO_TARGET_DIR",
                release.parent().and_then(Path::parent).unwrap(),
            )
            .env("DPKG_DEB_COMPRESSOR_TYPE", compressor)
            .env_remove("MAKEFLAGS"),
    );
    let files = fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let names: Vec<&str> = files
        .iter()
        .map(|file| file.file_name().and_then(OsStr::to_str).unwrap())
        .map(|name| name.split('_').next().unwrap())
        .collect();
    assert_eq!(names, ["ckptadv", "libcradvise-dev", "libcradvise0"]);
    files
}

/// The names in a field of dependencies.
fn names(field: &str) -> impl Iterator<Item = &str> {
    field
        .split(',')
        .filter_map(|item| item.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap())
}

/// These packages of this machine, and all that they depend on.
fn closure<'a>(wanted: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut waiting: Vec<String> = wanted.map(str::to_owned).collect();
    let mut found = BTreeSet::new();
    while let Some(package) = waiting.pop() {
        if found.contains(&package) {
            continue;
        }
        let format = "-f${Pre-Depends},${Depends}\n";
        let fields = succeeds(Command::new("dpkg-query").args(["-W", format, &package]));
        let first = fields.lines().next().unwrap_or_default();
        waiting.extend(names(first).map(str::to_owned));
        found.insert(package);
    }
    found
}

/// A file system root; everything of it goes with it.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let name = format!("ckptadv-{name}-{}", std::process::id());
        let root = Root(std::env::temp_dir().join(name));
        for directory in ["usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "tmp"] {
            fs::create_dir_all(root.0.join(directory)).unwrap();
        }
        for directory in ["bin", "lib", "lib64", "sbin"] {
            let target = Path::new("usr").join(directory);
            symlink(target, root.0.join(directory)).unwrap();
        }
        fs::create_dir_all(root.0.join("var/lib/dpkg/info")).unwrap();
        fs::create_dir_all(root.0.join("var/lib/dpkg/updates")).unwrap();
        fs::write(root.0.join("var/lib/dpkg/status"), "").unwrap();
        root
    }

    /// Copies the files of packages of this machine.
    fn copy(&self, packages: &BTreeSet<String>) {
        for package in packages {
            let list = succeeds(Command::new("dpkg-query").args(["-L", package]));
            for path in list.lines().filter(|line| line.starts_with('/')) {
                let from = Path::new(path);
                let to = self.inside(from);
                let kind = fs::symlink_metadata(from).map(|file| file.file_type());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                match kind {
                    Ok(kind) if kind.is_symlink() && fs::symlink_metadata(&to).is_err() => {
                        symlink(fs::read_link(from).unwrap(), to).unwrap();
                    }
                    Ok(kind) if kind.is_file() => drop(fs::copy(from, to).unwrap()),
                    // Directories, and documentation that this machine leaves out.
                    _ => {}
                }
            }
        }
    }

    /// A path of this root, as this machine has it.
    fn inside(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap())
    }

    /// Has dpkg know these packages of this machine.
    fn register(&self, packages: &BTreeSet<String>) {
        let status: String = packages
            .iter()
            .map(|package| succeeds(Command::new("dpkg-query").args(["-s", package])) + "\n")
            .collect();
        fs::write(self.0.join("var/lib/dpkg/status"), status).unwrap();
    }

    fn dpkg(&self, files: &[PathBuf]) -> Output {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(&self.0).arg("-i").args(files);
        finishes(&mut dpkg)
    }

    /// Runs a script with this as the root of a mount namespace of its own, and a directory of the outside.
    fn run(&self, script: &str, outside: Option<&Path>) -> Output {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
        let root = name(&self.0);
        let binds: Vec<(CString, CString)> = ["/proc", "/sys", "/dev"]
            .map(Path::new)
            .into_iter()
            .chain(outside)
            .map(|path| {
                fs::create_dir_all(self.inside(path)).unwrap();
                (name(path), name(&self.inside(path)))
            })
            .collect();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", script]);
        shell
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .current_dir("/");
        let in_a_session_of_its_own = move || {
            // That of who runs the tests may have no pid here, in a container: criu dumps no job of such a one.
            // SAFETY: no arguments; it leads no process group yet.
            unsafe { libc::setsid() };
            enter(&root, &binds)
        };
        // SAFETY: the child makes system calls only, and allocates nothing.
        unsafe { shell.pre_exec(in_a_session_of_its_own) };
        finishes(&mut shell)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory the root of this process and of a mount namespace of its own.
fn enter(root: &CString, binds: &[(CString, CString)]) -> io::Result<()> {
    let check = |result: i64| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let none = std::ptr::null();
    let (bind, private) = (
        libc::MS_BIND | libc::MS_REC,
        libc::MS_REC | libc::MS_PRIVATE,
    );
    let here = c".".as_ptr();
    // SAFETY: every string ends in a zero byte.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS).into())?;
        check(libc::mount(none, c"/".as_ptr(), none, private, none.cast()).into())?;
        check(libc::mount(root.as_ptr(), root.as_ptr(), none, bind, none.cast()).into())?;
        for (from, to) in binds {
            check(libc::mount(from.as_ptr(), to.as_ptr(), none, bind, none.cast()).into())?;
        }
        check(libc::chdir(root.as_ptr()).into())?;
        // The old root comes to lie on top of the new one, and is taken away.
        check(libc::syscall(libc::SYS_pivot_root, here, here))?;
        check(libc::umount2(here, libc::MNT_DETACH).into())?;
        check(libc::chdir(c"/".as_ptr()).into())?;
        // What was opened outside is no file of this root, and criu could not dump it.
        let cloexec = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
        check(libc::close_range(3, libc::c_uint::MAX, cloexec).into())?;
        libc::close(0);
        check(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR).into())
    }
}

/// A counter is dumped; with advice it goes on in another file, and lacks its 7.
const SCRIPT: &str = r#"
    cd /tmp
    ckptadv --version
    # Without a program to do it: there is only a shell here.
    wait_for() {
        tries=0
        until [ -s "$1" ]; do
            tries=$((tries + 1))
            [ $tries -lt 20000000 ] || { echo "nothing in $1" >&2; exit 1; }
        done
    }
    counter </dev/null >old 2>/dev/null 7<unwanted &
    pid=$!
    trap 'kill -9 $pid 2>/dev/null || true' EXIT
    wait_for old
    CRIU dump -v1 -t $pid -D images --shell-job
    wait $pid || true
    ckptadv inspect images
    while read line; do last=$line; done <old

    CKPT_PRESERVE=1 CKPT_IGNORE=7 LD_PRELOAD=libckptadv.so \
        CRIU restore -v1 -D images -d --shell-job >new
    wait_for new
    read first <new
    echo "went on: $last, $first"
    [ -e /proc/$pid/fd/1 ] && [ ! -e /proc/$pid/fd/7 ] && echo "7 is gone"
"#;

#[test]
fn a_clean_root_needs_the_packages_only() {
    if !is_root() {
        return;
    }
    let files = packages(&build::built().join("debian"), "xz");
    let root = Root::new("clean");

    let empty = Root::new("empty");
    let refused = empty.dpkg(&files[..1]);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(
        said(&refused).contains("ckptadv depends on libc6"),
        "{}",
        said(&refused)
    );

    let depends = succeeds(
        Command::new("dpkg-deb")
            .arg("-f")
            .arg(&files[0])
            .arg("Depends"),
    );
    let needed = closure(names(&depends));
    assert!(needed.len() < 9, "more than a C library: {needed:?}");
    root.register(&needed);
    root.copy(&needed);
    for packages in [&files[..1], &files[1..]] {
        let installed = root.dpkg(packages);
        assert!(installed.status.success(), "{}", said(&installed));
    }

    // What the test itself needs there.
    root.copy(&BTreeSet::from(["dash".to_owned()]));
    fs::copy(build::program("counter"), root.0.join("usr/bin/counter")).unwrap();
    fs::write(root.0.join("tmp/unwanted"), "").unwrap();
    fs::create_dir(root.0.join("tmp/images")).unwrap();
    let criu = fs::canonicalize(criu::program()).unwrap();
    let unpacked = criu.starts_with(build::built().parent().unwrap());
    if !unpacked {
        let owner = succeeds(Command::new("dpkg").arg("-S").arg(&criu));
        root.copy(&closure(owner.split(':').take(1)));
    }
    let outside = unpacked.then(|| criu.parent().unwrap());
    let output = root.run(&SCRIPT.replace("CRIU", &criu.to_string_lossy()), outside);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("7 is gone\n"), "{text}");
    let counts = text
        .lines()
        .find_map(|line| line.strip_prefix("went on: count "));
    let (last, first) = counts.and_then(|line| line.split_once(", count ")).unwrap();
    let (last, first): (u32, u32) = (last.parse().unwrap(), first.parse().unwrap());
    assert!(first == last + 1, "{text}");
}

#[test]
fn packages_are_built_the_same_again() {
    let bytes = |directory: &str| -> Vec<Vec<u8>> {
        let files = packages(&build::built().join(directory), "none");
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    };
    assert!(bytes("debian-one") == bytes("debian-two"));
}
