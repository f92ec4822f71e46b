//! A child that carries out the advice of this process: what it gets.

mod support;

use cradvise::{Advised, CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise};
use std::process::{Command, Stdio};
use support::{close, errno, open_at, run_alone};

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
        .advised("")
        .unwrap();
    assert_eq!(
        told(&mut none),
        "\n\n",
        "nothing of what is not ours is handed on"
    );
    cradvise(5000, CR_ADV_IGNORE).unwrap();
    let mut one = Command::new("/bin/sh");
    one.args(script).env("LD_PRELOAD", "").advised("").unwrap();
    assert_eq!(told(&mut one), "1,5000=2\n\n");
    let mut before = Command::new("/bin/sh");
    before
        .env("LD_PRELOAD", "others.so")
        .advised("/lib/a.so")
        .unwrap();
    let preload = before
        .get_envs()
        .find(|(name, _)| *name == "LD_PRELOAD")
        .unwrap()
        .1;
    assert_eq!(preload.unwrap(), "/lib/a.so:others.so");
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
    command.advised("").unwrap();
    open_at("/dev/zero", 500);
    assert_eq!(errno(command.status()), libc::ESTALE);
    close(500);
    assert_eq!(errno(command.status()), libc::EBADF);
    open_at("/dev/null", 500);
    assert!(command.status().unwrap().success());
    // Redirected by the command.
    cradvise(1, CR_ADV_PRESERVE).unwrap();
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).advised("").unwrap();
    assert!(command.status().unwrap().success());
    assert_eq!(errno(command.stdout(Stdio::null()).status()), libc::ESTALE);
}
