//! A child that carries out the advice of this process: what it gets.

mod support;

use cradvise::{Advised, CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{close, errno, open_at, run_alone};

/// A library that every program has anyway.
const HARMLESS: &str = "libc.so.6";

/// A shell that tells its environment; nothing is loaded into it.
fn told(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_environment_has_the_advice_and_the_library() {
    run_alone("environment_alone", &[("CRADVISE_TABLE", "1,9=2")]);
}

#[test]
#[ignore = "run by the_environment_has_the_advice_and_the_library"]
fn environment_alone() {
    let script = ["-c", "echo $CRADVISE_TABLE; echo $LD_PRELOAD"];
    let mut none = Command::new("/bin/sh");
    none.args(script)
        .env_remove("LD_PRELOAD")
        .advised(HARMLESS)
        .unwrap();
    assert_eq!(
        told(&mut none),
        "\nlibc.so.6\n",
        "nothing of what is not ours is handed on"
    );
    cradvise(5000, CR_ADV_IGNORE).unwrap();
    let mut one = Command::new("/bin/sh");
    one.args(script)
        .env("LD_PRELOAD", "")
        .advised(HARMLESS)
        .unwrap();
    assert_eq!(told(&mut one), "1,5000=2\nlibc.so.6\n");
}

/// What LD_PRELOAD becomes.
fn preload(before: &str, library: &OsStr) -> String {
    let mut command = Command::new("/bin/sh");
    command.env("LD_PRELOAD", before).advised(library).unwrap();
    let (_, value) = command
        .get_envs()
        .find(|(name, _)| *name == "LD_PRELOAD")
        .unwrap();
    value.unwrap().to_str().unwrap().to_owned()
}

#[test]
fn the_library_comes_first_and_once() {
    let library = a_library();
    let path = library.to_str().unwrap();
    let of = |before: &str| preload(before, library.as_os_str());
    assert_eq!(of(""), path);
    assert_eq!(of("others.so"), format!("{path}:others.so"));
    assert_eq!(of(path), path);
    assert_eq!(
        of(&format!("a.so {path}:b.so:{path}")),
        format!("{path}:a.so:b.so")
    );
    assert_eq!(
        preload("a.so", OsStr::new("libckptadv.so")),
        "libckptadv.so:a.so"
    );
    assert_eq!(
        preload("", OsStr::new("/usr/$LIB/none.so")),
        "/usr/$LIB/none.so"
    );
}

/// One that can be loaded, by its path.
fn a_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps
        .split_whitespace()
        .find(|word| word.ends_with("/libc.so.6"));
    path.unwrap().into()
}

#[test]
fn a_library_that_cannot_be_loaded_starts_nothing() {
    let here = std::env::temp_dir().join(format!("cradvise-command-{}", std::process::id()));
    std::fs::create_dir(&here).unwrap();
    let apart = here.join("a b");
    let colon = here.join("a:b");
    std::os::unix::fs::symlink(a_library(), here.join("real.so")).unwrap();
    std::os::unix::fs::symlink(a_library(), &apart).unwrap();
    std::os::unix::fs::symlink(a_library(), &colon).unwrap();
    std::fs::write(here.join("text"), "no library").unwrap();
    let refused = |library: &Path| {
        let mut command = Command::new("/bin/true");
        let answer = errno(command.current_dir(&here).advised(library).map(drop));
        let untouched = command.get_envs().count() == 0;
        assert_eq!(untouched, answer != 0, "{library:?}");
        answer
    };
    assert_eq!(refused(Path::new("")), libc::EINVAL);
    assert_eq!(refused(&apart), libc::EINVAL);
    assert_eq!(refused(&colon), libc::EINVAL);
    assert_eq!(refused(Path::new("libckptadv.so:other.so")), libc::EINVAL);
    assert_eq!(refused(Path::new("/nowhere/libckptadv.so")), libc::ENOENT);
    assert_eq!(refused(Path::new("./nowhere.so")), libc::ENOENT);
    assert_eq!(refused(Path::new("./text")), libc::ELIBBAD);
    assert_eq!(refused(Path::new("/")), libc::ELIBBAD);
    // As the child finds it, which starts elsewhere.
    assert_eq!(refused(Path::new("./real.so")), 0);
    // The loader looks for it.
    assert_eq!(refused(Path::new("nowhere.so")), 0);
    std::fs::remove_dir_all(here).unwrap();
}

#[test]
fn a_descriptor_that_is_not_what_it_was_starts_nothing() {
    run_alone("stale_alone", &[]);
}

#[test]
#[ignore = "run by a_descriptor_that_is_not_what_it_was_starts_nothing"]
fn stale_alone() {
    open_at("/dev/null", 500);
    cradvise(500, CR_ADV_PRESERVE).unwrap();
    let mut command = Command::new("/bin/true");
    command.advised(HARMLESS).unwrap();
    open_at("/dev/zero", 500);
    assert_eq!(errno(command.status()), libc::ESTALE);
    close(500);
    assert_eq!(errno(command.status()), libc::EBADF);
    open_at("/dev/null", 500);
    assert!(command.status().unwrap().success());
    // Redirected by the command.
    cradvise(1, CR_ADV_PRESERVE).unwrap();
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).advised(HARMLESS).unwrap();
    assert!(command.status().unwrap().success());
    assert_eq!(errno(command.stdout(Stdio::null()).status()), libc::ESTALE);
}
