//! `ckptadv check` against the model of the Linux-CR restart call: what it blesses restarts, what it condemns does
//! not, and what it says cures it does.

use harness::build;
use harness::criu::library;
use harness::linux_cr::{Restart, Verdict, image, table};
use harness::scratch::Scratch;
use harness::world::World;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::process::Command;

/// What `ckptadv check` says of the image of a scenario, where that took place and this
/// has happened since.
fn check(name: &str, since: fn(), advice: &[&str]) -> Value {
    let scratch = Scratch::new("ckptadv-check");
    let world = World::of_scenario(scratch.path(), name);
    let image_path = scratch.file("image");
    fs::write(&image_path, image(name)).expect("an image");
    let mut command = Command::new(build::command());
    command
        .args(["check", "--json"])
        .args(advice)
        .arg(image_path);
    let output = world.enter(move || {
        since();
        command.output().expect("ckptadv runs")
    });
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(found["error"], Value::Null, "{output:?}");
    found
}

/// Verdict, word and descriptors of each finding.
fn verdicts(found: &Value) -> Vec<(String, String, String)> {
    let text = |it: &Value| it.as_str().expect("text").to_owned();
    let list = |it: &Value| {
        let all = it.as_array().expect("a list").iter().map(text);
        all.collect::<Vec<_>>().join(" ")
    };
    let findings = found["findings"].as_array().expect("findings").iter();
    findings
        .map(|it| {
            (
                text(&it["verdict"]),
                text(&it["what"]),
                list(&it["descriptors"]),
            )
        })
        .collect()
}

/// The files are as long as they were; with less in them, that is said.
fn filled() {
    for directory in fs::read_dir("/mnt").expect("/mnt").flatten() {
        for file in fs::read_dir(directory.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if file.file_type().expect("a type").is_file() {
                fs::write(file.path(), [b'x'; 8192]).expect("written");
            }
        }
    }
}

/// The table of outcomes has images that restart where their scenario took place.
#[test]
fn what_restarts_is_blessed() {
    if !harness::is_root() {
        return;
    }
    let mut names: Vec<String> = table("outcomes.tsv")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    names.retain(|name| name != "image");
    names.dedup();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let found = check(&name, filled, &[]);
        let verdicts = verdicts(&found);
        let expected: &[(&str, &str, &str)] = match name.as_str() {
            // The other ends were closed.
            "pipe" => &[
                ("lost", "other end", "640:6"),
                ("lost", "other end", "640:9"),
            ],
            _ => &[],
        };
        let verdicts: Vec<(&str, &str, &str)> = verdicts
            .iter()
            .map(|(a, b, c)| (&**a, &**b, &**c))
            .collect();
        assert_eq!(verdicts, expected, "{name}: {found:#}");
    }
}

fn shortened() {
    fs::write("/mnt/threads/a", "12345").expect("written");
}
fn lost_file() {
    fs::remove_file("/mnt/files/c").expect("a file");
}
fn lost_fifo() {
    fs::remove_file("/mnt/fifo/ff").expect("a fifo");
}
fn name_is_directory() {
    fs::create_dir("/mnt/unix-listen/sock").expect("a directory");
}
fn port_taken() {
    let taken = TcpListener::bind("127.0.0.1:7001").or_else(|_| TcpListener::bind("0.0.0.0:7001"));
    // For as long as the test process.
    let _ = taken.expect("a listener").into_raw_fd();
}

/// Scenario, what has happened since, verdict, word, descriptors, and what to ignore.
type Row = (
    &'static str,
    fn(),
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("files", lost_file, "fails", "missing", "534:9 534:60", "9,60"),
    ("threads", shortened, "lost", "size", "837:3", "3"),
    ("fifo", lost_fifo, "fails", "missing", "690:3", "3-5"),
    ("unix-listen", name_is_directory, "fails", "name", "534:3", "3"),
    ("tcp-listen", port_taken, "fails", "port", "134:3", "3"),
];

#[test]
fn what_it_condemns_does_not_restart() {
    if !harness::is_root() {
        return;
    }
    for &(name, since, verdict, what, descriptors, ignore) in ROWS {
        let found = check(name, since, &[]);
        let expected = (verdict.to_owned(), what.to_owned(), descriptors.to_owned());
        assert_eq!(
            verdicts(&found).first(),
            Some(&expected),
            "{name}: {found:#}"
        );
        let plain = Restart::new(&image(name))
            .scenario(name)
            .prepare(since)
            .run();
        assert!(
            (plain.verdict == Verdict::Restarted) == (verdict == "lost"),
            "{name}: {:?}",
            plain.verdict
        );
        let found = check(name, since, &["--ignore", ignore]);
        assert_eq!(verdicts(&found), [], "{name}: {found:#}");
        let cured = Restart::new(&image(name)).scenario(name).prepare(since);
        let cured = cured.preload(library()).env("CKPT_IGNORE", ignore).run();
        assert!(
            matches!(cured.verdict, Verdict::Restarted),
            "{name}: {:?}",
            cured.verdict
        );
    }
}
