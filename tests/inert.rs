//! In a program that has nothing to do with restarts the library does nothing, whatever the environment asks for.

use std::path::Path;
use std::process::{Command, Output};

use harness::build::program;
use harness::criu::library;

/// The system calls of a program, one a line, and what it said.
fn trace(preload: Option<&Path>, environment: &[(&str, &str)]) -> (Vec<String>, Output) {
    let log = std::env::temp_dir().join(format!("ckptadv-trace-{}", std::process::id()));
    let mut command = Command::new("strace");
    command.arg("-o").arg(&log);
    if let Some(library) = preload {
        command
            .arg("-E")
            .arg(format!("LD_PRELOAD={}", library.display()));
    }
    for (name, value) in environment {
        command.arg("-E").arg(format!("{name}={value}"));
    }
    let output = command.arg(program("plain")).output().expect("strace");
    let calls = std::fs::read_to_string(&log).expect("a trace");
    std::fs::remove_file(&log).unwrap();
    assert!(output.status.success(), "{output:?}");
    (calls.lines().map(str::to_owned).collect(), output)
}

/// What is called between the marks, as it stands.
fn between_marks(calls: &[String]) -> Vec<&String> {
    let mark = |call: &&String| call.contains("(\"/mark");
    assert_eq!(calls.iter().filter(mark).count(), 2);
    let inside = calls
        .iter()
        .skip_while(|call| !call.contains("(\"/mark"))
        .skip(1);
    inside
        .take_while(|call| !call.contains("(\"/mark"))
        .collect()
}

/// The names of the calls before the first mark.
fn before_main(calls: &[String]) -> Vec<&str> {
    let calls = calls.iter().take_while(|call| !call.contains("(\"/mark"));
    calls.map(|call| call.split('(').next().unwrap()).collect()
}

#[test]
#[serial_test::serial]
fn without_advice_only_the_loader_does_more() {
    let (plain, _) = trace(None, &[]);
    let (with, output) = trace(Some(&library()), &[]);
    assert_eq!(between_marks(&plain), between_marks(&with));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    // What ld.so does for one more library.
    let loading = [
        "openat",
        "read",
        "pread64",
        "fstat",
        "newfstatat",
        "mmap",
        "mprotect",
        "close",
        "munmap",
    ];
    let count =
        |calls: &[String], name: &str| before_main(calls).iter().filter(|c| **c == name).count();
    for name in before_main(&with) {
        assert!(
            loading.contains(&name) || count(&with, name) == count(&plain, name),
            "{name} is called more often"
        );
    }
}

#[test]
#[serial_test::serial]
fn with_advice_another_program_is_left_alone() {
    let (plain, _) = trace(None, &[]);
    let advice = [("CKPT_IGNORE", "3"), ("CKPT_PRESERVE", "1")];
    for environment in [&advice[..], &[("CKPT_IGNORE", "not a list")]] {
        let (with, output) = trace(Some(&library()), environment);
        assert_eq!(between_marks(&plain), between_marks(&with));
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

/// It is loaded into whatever a restart program starts: criu starts half a dozen programs at each restore.
#[test]
#[serial_test::serial]
fn what_is_open_is_listed_for_ranges_only() {
    let lists = |environment: &[(&str, &str)]| {
        let (calls, _) = trace(Some(&library()), environment);
        calls.iter().any(|call| call.contains("/proc/self/fd"))
    };
    assert!(!lists(&[("CKPT_IGNORE", "3-")]));
    assert!(!lists(&[("CKPT_PRESERVE", "1,2"), ("CKPT_LOG", "warn")]));
    assert!(lists(&[("CKPT_PRESERVE", "1-")]));
}

#[test]
fn who_closes_it_does_not_pull_it_from_under_its_hooks() {
    let path = library().into_os_string().into_encoded_bytes();
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: a library whose constructors do nothing without advice.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        assert_eq!(libc::dlclose(handle), 0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains("libckptadv.so"), "{maps}");
}

#[test]
fn valgrind_finds_nothing() {
    for advice in [None, Some("3")] {
        let mut command = Command::new("valgrind");
        command
            .args(["-q", "--error-exitcode=9", "--child-silent-after-fork=no"])
            .arg(program("plain"))
            .env("LD_PRELOAD", library());
        if let Some(advice) = advice {
            command.env("CKPT_IGNORE", advice);
        }
        let output = command.output().expect("valgrind");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn shells_and_pipelines_with_the_variables_exported_are_silent() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/files.ckpt");
    let output = Command::new("sh")
        .arg("-c")
        .arg("cat \"$0\" | cat > /dev/null; (echo a; echo b >&2) 2>&1 | wc -l; exec 3<&0 0</dev/null; cat 0<&3")
        .arg(&image)
        .env("LD_PRELOAD", library())
        .env("CKPT_PRESERVE", "0,1,2")
        .env("CKPT_IGNORE", "3")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("a shell");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}
