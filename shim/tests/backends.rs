//! Which backend is in force, and what restart() does, by the environment.

mod support;

use cradvise::{
    CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise, cradvise_query, cradvise_reset, restart, status,
};
use libc::{EBADF, EINVAL, ENOSYS, ENOTSUP, ESTALE};
use std::os::fd::AsRawFd;
use support::{errno, open_at, run_alone};

/// What a process with these variables says: its status, then the errno of
/// every call.
fn say(variables: &[(&str, &str)]) -> (String, String) {
    let output = run_alone("say_alone", variables);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |key| {
        let line = text.lines().find_map(|line| line.split_once(key));
        line.unwrap_or_else(|| panic!("{text}")).1.to_owned()
    };
    (line("status: "), line("calls: "))
}

#[test]
#[ignore = "run by say"]
fn say_alone() {
    let errnos = [
        errno(cradvise(3000, CR_ADV_IGNORE)),
        errno(cradvise_query(3000)),
        errno(cradvise::advice().map_err(Into::into)),
        errno(cradvise_reset()),
    ];
    println!("\nstatus: {}\ncalls: {errnos:?}", status());
}

#[test]
fn the_table_without_a_number() {
    let (status, calls) = say(&[]);
    assert_eq!(status, "userspace table: CRADVISE_NR is not set");
    assert_eq!(calls, "[0, 0, 0, 0]");
    let (status, _) = say(&[("CRADVISE_NR", ""), ("CRADVISE_BACKEND", "")]);
    assert_eq!(status, "userspace table: CRADVISE_NR is not set");
}

#[test]
fn the_table_where_the_call_does_not_exist() {
    let (status, calls) = say(&[("CRADVISE_NR", "10000")]);
    assert_eq!(
        status,
        "userspace table: CRADVISE_NR=10000, and that call answers ENOSYS"
    );
    assert_eq!(calls, "[0, 0, 0, 0]");
}

#[test]
fn the_kernel_forced_where_there_is_none() {
    let all = format!("{:?}", [ENOSYS; 4]);
    let (status, calls) = say(&[("CRADVISE_BACKEND", "kernel")]);
    assert_eq!(
        status,
        "none: CRADVISE_BACKEND=kernel, and CRADVISE_NR is not set"
    );
    assert_eq!(calls, all);
    let (status, calls) = say(&[("CRADVISE_BACKEND", "kernel"), ("CRADVISE_NR", "10000")]);
    assert_eq!(
        status,
        "none: CRADVISE_NR=10000, and that call answers ENOSYS"
    );
    assert_eq!(calls, all);
}

#[test]
fn a_typo_refuses_everything() {
    let all = format!("{:?}", [EINVAL; 4]);
    for (name, value) in [
        ("CRADVISE_NR", "ten"),
        ("CRADVISE_NR", "-1"),
        ("CRADVISE_BACKEND", "Kernel"),
    ] {
        let (status, calls) = say(&[(name, value)]);
        assert!(status.starts_with("none: CRADVISE_"), "{status}");
        assert!(status.contains(name), "{status}");
        assert_eq!(calls, all, "{name}={value}");
    }
}

#[test]
fn the_environment_is_read_when_the_program_starts() {
    run_alone("environment_alone", &[("CRADVISE_BACKEND", "table")]);
}

#[test]
#[ignore = "run by the_environment_is_read_when_the_program_starts"]
fn environment_alone() {
    // SAFETY: nothing else runs here that reads the environment.
    unsafe {
        std::env::set_var("CRADVISE_BACKEND", "kernel");
        std::env::set_var("CKPT_RESTART_NR", "0");
    }
    assert_eq!(
        status().to_string(),
        "userspace table: CRADVISE_BACKEND is set"
    );
    assert_eq!(errno(restart(1, 0, 0, -1)), ENOSYS);
}

#[test]
fn restart_makes_the_configured_call_or_none() {
    run_alone("no_restart_call", &[]);
    run_alone("bad_restart_call", &[("CKPT_RESTART_NR", "restart")]);
    let getpid = libc::SYS_getpid.to_string();
    run_alone("some_restart_call", &[("CKPT_RESTART_NR", &getpid)]);
}

#[test]
#[ignore = "run by restart_makes_the_configured_call_or_none"]
fn no_restart_call() {
    assert_eq!(errno(restart(1, 0, 0, -1)), ENOSYS);
}

#[test]
#[ignore = "run by restart_makes_the_configured_call_or_none"]
fn bad_restart_call() {
    assert_eq!(errno(restart(1, 0, 0, -1)), EINVAL);
}

#[test]
#[ignore = "run by restart_makes_the_configured_call_or_none"]
fn some_restart_call() {
    let me = i64::from(std::process::id());
    assert_eq!(restart(1, 0, 0, -1).unwrap(), me);
    cradvise(7, CR_ADV_IGNORE).unwrap();
    let image = std::fs::File::open("/proc/self/exe").unwrap();
    let no_image = restart(1, image.as_raw_fd(), 0, -1);
    assert_eq!(
        errno(no_image),
        EINVAL,
        "advice is checked against the image first"
    );
    assert_eq!(restart(0, 0, 0, -1).unwrap(), me, "a task reads no image");
    assert_eq!(restart(0, -1, 0, -1).unwrap(), me, "and has none");

    // As read(2) would refuse them.
    open_at("/dev/null", 701);
    // SAFETY: new numbers, and one that is closed again.
    let (write_only, path_only) = unsafe {
        libc::close(701);
        (
            libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY),
            libc::open(c"/dev/null".as_ptr(), libc::O_PATH),
        )
    };
    for advised in [true, false] {
        for image in [-1, -2, i32::MIN, 701, i32::MAX, write_only, path_only] {
            assert_eq!(errno(restart(1, image, 0, -1)), EBADF, "{image} {advised}");
        }
        cradvise_reset().unwrap();
    }

    // The tasks are there already, and nobody can hand them an end of a relay.
    cradvise_reset().unwrap();
    cradvise(1, CR_ADV_PRESERVE | CR_ADV_IGNORE).unwrap();
    let pipe = restart(1, image.as_raw_fd(), 0, -1);
    assert_eq!(errno(pipe), ENOTSUP, "standard output is a pipe here");

    open_at("/dev/null", 700);
    cradvise(700, CR_ADV_PRESERVE).unwrap();
    open_at("/dev/zero", 700);
    assert_eq!(errno(restart(1, 0, 0, -1)), ESTALE);
}
