//! What `make install` installs is enough: programs in C, C++ and Rust are built from it alone, with pkg-config, and
//! run.

use harness::build;
use harness::linux_cr::{Feed, Restart, Verdict, image};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A prefix with all that is installed.
static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
    build::product("libcradvise.so");
    let prefix = build::built().join("installed");
    let _ = fs::remove_dir_all(&prefix);
    make("install", &prefix);
    prefix
});

fn make(target: &str, prefix: &Path) {
    let release = build::product("ckptadv");
    let target_directory = release.parent().and_then(Path::parent).unwrap();
    let mut command = Command::new("make");
    command
        .args(["--no-print-directory", "-C", ROOT, target, "LDCONFIG=true"])
        .arg(format!("PREFIX={}", prefix.display()))
        .env_remove("DESTDIR")
        .env_remove("MAKEFLAGS")
        .env("CARGO_TARGET_DIR", target_directory);
    succeeds(&mut command);
}

fn succeeds(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).expect("text")
}

/// What pkg-config says, in words.
fn pkg_config(options: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(options).arg("cradvise");
    command.env("PKG_CONFIG_PATH", PREFIX.join("lib/pkgconfig"));
    let words = text(succeeds(&mut command).stdout);
    words.split_whitespace().map(str::to_owned).collect()
}

const C99: &[&str] = &["cc", "-std=c99"];

/// Builds a program from the installed files.
fn compiled(name: &str, compiler: &[&str], source: &Path, libraries: &[String]) -> PathBuf {
    let program = PREFIX.join(name);
    let mut command = Command::new(compiler[0]);
    command
        .args(&compiler[1..])
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"])
        .args(pkg_config(&["--cflags"]))
        .arg(source)
        .args(libraries)
        .arg("-o")
        .arg(&program);
    succeeds(&mut command);
    program
}

/// A program that finds the shared library where it is installed.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("LD_LIBRARY_PATH", PREFIX.join("lib"));
    command
}

/// The C program of a page's EXAMPLES, as a file of the caller's.
fn example(page: &str, name: &str, file: &str) -> PathBuf {
    let page = fs::read_to_string(PREFIX.join("share/man").join(page)).expect("the page");
    let (_, examples) = page.split_once("\n.SH EXAMPLES\n").expect("EXAMPLES");
    let (_, program) = examples
        .split_once(&format!("\n.EX\n/* {name}: "))
        .expect("the program");
    let (program, _) = program.split_once("\n.EE\n").expect("its end");
    let path = PREFIX.join(file);
    fs::write(&path, plain(&format!("/* {name}: {program}"))).expect("a file");
    path
}

/// Text of a page, as its reader sees it.
fn plain(text: &str) -> String {
    text.replace("\\-", "-").replace("\\e", "\\") + "\n"
}

#[test]
fn everything_is_where_it_belongs_and_goes_again() {
    let prefix = PREFIX.with_extension("uninstalled");
    let _ = fs::remove_dir_all(&prefix);
    make("install", &prefix);
    for file in [
        "bin/ckptadv",
        "include/cradvise.h",
        "lib/libckptadv.so",
        "lib/libcradvise.a",
        "lib/libcradvise.so",
        "lib/libcradvise.so.0",
        "lib/pkgconfig/cradvise.pc",
        "share/bash-completion/completions/ckptadv",
        "share/doc/ckptadv/CHANGELOG.md",
        "share/doc/ckptadv/LICENSE-APACHE",
        "share/doc/ckptadv/LICENSE-MIT",
        "share/doc/ckptadv/README.md",
        "share/fish/vendor_completions.d/ckptadv.fish",
        "share/man/man1/ckptadv.1",
        "share/man/man2/cradvise.2",
        "share/man/man2/cradvise_query.2",
        "share/man/man3/cradvise.3",
        "share/man/man3/cradvise_restart.3",
        "share/man/man5/ckpt_image.5",
        "share/man/man7/ckpt_advice.7",
        "share/man/man8/libckptadv.8",
        "share/zsh/site-functions/_ckptadv",
    ] {
        let file = prefix.join(file);
        let file = fs::metadata(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(file.len() > 0);
    }
    let pages = fs::read_dir(Path::new(ROOT).join("man")).unwrap();
    for page in pages.map(|page| page.unwrap().file_name().into_string().unwrap()) {
        let section = page.rsplit('.').next().unwrap();
        assert!(
            prefix
                .join(format!("share/man/man{section}/{page}"))
                .exists(),
            "{page}"
        );
    }
    make("uninstall", &prefix);
    assert_eq!(files(&prefix), Vec::<PathBuf>::new());
    fs::remove_dir_all(&prefix).unwrap();
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The symbols that `nm` lists.
fn symbols(options: &[&str], library: &str) -> BTreeSet<String> {
    let mut nm = Command::new("nm");
    nm.args(options).arg(PREFIX.join("lib").join(library));
    text(succeeds(&mut nm).stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_libraries_export_what_is_listed_and_no_more() {
    let list = fs::read_to_string(Path::new(ROOT).join("shim/c/symbols")).unwrap();
    let list: BTreeSet<String> = list.lines().map(str::to_owned).collect();
    assert_eq!(symbols(&["-D", "--defined-only"], "libcradvise.so.0"), list);
    assert_eq!(symbols(&["-g", "--defined-only"], "libcradvise.a"), list);
}

#[test]
fn the_shared_library_has_its_name() {
    let mut readelf = Command::new("readelf");
    readelf.args(["-d"]).arg(PREFIX.join("lib/libcradvise.so"));
    let text = text(succeeds(&mut readelf).stdout);
    assert!(
        text.contains("Library soname: [libcradvise.so.0]"),
        "{text}"
    );
}

#[test]
fn the_shared_library_is_never_unloaded() {
    let mut readelf = Command::new("readelf");
    readelf.args(["-d"]).arg(PREFIX.join("lib/libcradvise.so"));
    let text = text(succeeds(&mut readelf).stdout);
    assert!(text.contains("NODELETE"), "{text}");
}

/// What a host says that unloads a plugin and loads it again, and whether something is marked in between.
fn unloaded(name: &str, libraries: &[String]) -> (String, bool) {
    let mut shared = vec!["-shared".to_owned(), "-fPIC".to_owned()];
    shared.extend_from_slice(libraries);
    let plugin = compiled(name, C99, &source("plugin.c"), &shared);
    let host = compiled(&format!("host-of-{name}"), C99, &source("host.c"), &[]);
    let mut child = command(&host)
        .arg(&plugin)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut said).unwrap();
    let mut show = Command::new(build::command());
    let shown = text(succeeds(show.args(["show", &child.id().to_string()])).stdout);
    drop(child.stdin.take());
    output.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    (said, !shown.starts_with("No descriptor of task "))
}

#[test]
fn a_plugin_that_is_unloaded_takes_its_marks_along_or_can_take_them_back() {
    let mut part: Vec<String> = vec!["-l:libcradvise.a".into()];
    let shared = pkg_config(&["--libs"]);
    part.extend(shared.iter().filter(|word| word.starts_with("-L")).cloned());
    let own = unloaded("plugin-static.so", &part);
    assert_eq!(own, ("0 gone\n0 gone\n".to_owned(), false));
    let common = unloaded("plugin-shared.so", &shared);
    assert_eq!(common, ("0 gone\n2 gone\n".to_owned(), true));
}

const WORDS: &[&str] = &["0=1", "7=2", "2=3", "1=4", "900=1", "900=2", "-1=0"];
const ANSWERS: &str = "1: Invalid argument\n900: Bad file descriptor\n-1: Bad file descriptor\n\
    0: 1\n7: 2\n2: 3\n900: 2\nuserspace table: CRADVISE_NR is not set\n";

fn source(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/installed").join(name)
}

#[test]
fn a_cxx_program_links_with_either_library() {
    let shared = pkg_config(&["--libs"]);
    let mut part: Vec<String> = vec!["-l:libcradvise.a".into()];
    part.extend(shared.iter().filter(|word| word.starts_with("-L")).cloned());
    let mut whole: Vec<String> = vec!["-static".into()];
    whole.extend(pkg_config(&["--static", "--libs"]));
    for (name, libraries) in [("shared", shared), ("part", part), ("static", whole)] {
        let program = compiled(
            name,
            &["c++", "-std=c++17"],
            &source("advise.cc"),
            &libraries,
        );
        let output = succeeds(command(&program).args(WORDS));
        assert_eq!(text(output.stdout), ANSWERS, "{name}");
    }
}

#[test]
fn a_rust_program_links_with_the_installed_library() {
    let program = PREFIX.join("advise-rs");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-D", "warnings"]);
    rustc.arg(source("advise.rs")).arg("-o").arg(&program);
    for word in pkg_config(&["--libs-only-L"]) {
        rustc.arg(word);
    }
    succeeds(&mut rustc);
    let output = succeeds(command(&program).args(WORDS));
    assert_eq!(text(output.stdout), ANSWERS);
}

#[test]
fn the_program_of_the_page_compiles_and_says_what_is_missing() {
    let source = example("man3/cradvise.3", "become", "said.c");
    let libraries = pkg_config(&["--libs"]);
    let program = compiled("become-c", &["cc", "-std=c11"], &source, &libraries);
    let log = PREFIX.join("become.log");
    let output = command(&program)
        .args([Path::new("/dev/null"), &log])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(output.stderr),
        "advice is kept by: userspace table: CRADVISE_NR is not set\n"
    );
    let said = fs::read_to_string(log).unwrap();
    assert_eq!(said, "cradvise_restart: Function not implemented\n");
}

#[test]
fn the_program_of_the_call_prints_what_its_page_says() {
    let source = example("man2/cradvise.2", "advise", "advise.c");
    let libraries = pkg_config(&["--libs"]);
    let program = compiled("advise-c", C99, &source, &libraries);
    let output = succeeds(command(&program).arg(PREFIX.join("advise.log")));
    let said = text(output.stdout) + &text(output.stderr);
    let page = fs::read_to_string(PREFIX.join("share/man/man2/cradvise.2")).unwrap();
    let (_, shown) = page.split_once("./advise /tmp/log\\fP\n").expect("a call");
    let (shown, _) = shown.split_once(".EE\n").expect("its end");
    assert_eq!(said, shown);
}

#[test]
fn every_program_of_the_pages_compiles() {
    let libraries = pkg_config(&["--libs"]);
    let mut count = 0;
    for page in ["man2/cradvise.2", "man3/cradvise.3"] {
        let text = fs::read_to_string(PREFIX.join("share/man").join(page)).unwrap();
        let (_, examples) = text.split_once("\n.SH EXAMPLES\n").expect("EXAMPLES");
        let blocks = examples.split("\n.EX\n").skip(1);
        let blocks = blocks.map(|block| block.split("\n.EE\n").next().unwrap());
        for program in blocks.filter(|block| block.contains("#include <cradvise.h>")) {
            let file = PREFIX.join(format!("example-{count}.c"));
            fs::write(&file, plain(program)).unwrap();
            compiled("example-c", C99, &file, &libraries);
            compiled(
                "example-cxx",
                &["c++", "-x", "c++", "-std=c++17"],
                &file,
                &libraries,
            );
            count += 1;
        }
    }
    assert_eq!(count, 2);
}

#[test]
fn the_program_of_the_page_becomes_another() {
    if !harness::is_root() {
        return;
    }
    let libraries = pkg_config(&["--libs"]);
    let source = example("man3/cradvise.3", "become", "restarted.c");
    let program = compiled("become", &["cc", "-std=c11"], &source, &libraries);
    let images = PREFIX.join("files.ckpt");
    fs::write(&images, image("files")).unwrap();
    let log = PREFIX.join("again.log");
    let outcome = Restart::new(&image("files"))
        .scenario("files")
        // It takes no options, and the harness appends one.
        .program("/bin/sh")
        .args(["-c", r#"exec "$0" "$1" "$2""#])
        .args([&program, &images, &log])
        .env("LD_LIBRARY_PATH", PREFIX.join("lib"))
        .env("CKPT_RESTART_NR", "302")
        .feed(Feed::Given)
        .run();
    assert_eq!(outcome.verdict, Verdict::Restarted, "{}", outcome.stderr());
    for number in [1, 2] {
        assert_eq!(outcome.link(534, number), log.to_string_lossy());
    }
    assert_eq!(outcome.link(534, 4), "/mnt/files/a");
    let numbers = outcome.numbers(534);
    assert!(numbers.contains(&4) && !numbers.contains(&3), "{numbers:?}");
}

#[test]
fn a_c_program_starts_a_restart_program_with_its_advice() {
    if !harness::is_root() {
        return;
    }
    let libraries = pkg_config(&["--libs"]);
    let program = compiled("again", &["cc", "-std=c11"], &source("again.c"), &libraries);
    let log = PREFIX.join("exec.log");
    let outcome = Restart::new(&image("files"))
        .scenario("files")
        .program(program)
        .args([
            PREFIX.join("lib/libckptadv.so"),
            log.clone(),
            build::program("restart"),
        ])
        .env("LD_LIBRARY_PATH", PREFIX.join("lib"))
        .run();
    let said = fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(
        outcome.verdict,
        Verdict::Restarted,
        "{}{said}",
        outcome.stderr()
    );
    for number in [1, 2] {
        assert_eq!(outcome.link(534, number), log.to_string_lossy());
    }
    let numbers = outcome.numbers(534);
    assert!(numbers.contains(&4) && !numbers.contains(&3), "{numbers:?}");
}
