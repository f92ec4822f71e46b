//! `ckptadv diff`: what it finds, and its exit status.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn image(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/images/{name}.ckpt"))
}

fn ckptadv(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckptadv"));
    command
        .args(words)
        .env_remove("COLUMNS")
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn diff(a: &Path, b: &Path, json: bool) -> (i32, String) {
    let mut words = vec!["diff", a.to_str().unwrap(), b.to_str().unwrap()];
    words.extend(json.then_some("--json"));
    let output = ckptadv(&words);
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

/// An image rewritten with these options, gone with it.
struct Rewritten(PathBuf);

impl Rewritten {
    fn new(name: &str, options: &[&str]) -> Self {
        let file = format!(
            "ckptadv-diff-{}-{name}-{}",
            std::process::id(),
            options.concat().replace('/', "_")
        );
        let path = std::env::temp_dir().join(file);
        let image = image(name);
        let words = [
            "rewrite",
            image.to_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
        ];
        let output = ckptadv(&[&words[..], options].concat());
        assert!(output.status.success(), "{output:?}");
        Rewritten(path)
    }
}

impl Drop for Rewritten {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Task, number, change and fields of each descriptor that differs.
fn changes(text: &str) -> Vec<(i64, i64, String, Vec<String>)> {
    let found: Value = serde_json::from_str(text).unwrap();
    assert_eq!(found["version"], 1);
    let descriptors = found["descriptors"].as_array().unwrap().iter();
    let words = |it: &Value| it.as_str().unwrap().to_owned();
    descriptors
        .map(|it| {
            let fields = it["fields"].as_array().unwrap().iter().map(words);
            let (task, number) = (it["task"].as_i64(), it["number"].as_i64());
            (
                task.unwrap(),
                number.unwrap(),
                words(&it["change"]),
                fields.collect(),
            )
        })
        .collect()
}

#[test]
fn an_image_is_as_itself() {
    for entry in std::fs::read_dir(image("files").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "ckpt") {
            assert_eq!(diff(&path, &path, false), (0, String::new()), "{path:?}");
            let (status, text) = diff(&path, &path, true);
            let found: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((status, &found["same"]), (0, &json!(true)), "{path:?}");
        }
    }
}

#[test]
fn what_a_rewrite_drops_is_removed_and_added_the_other_way() {
    for (name, advice, gone) in [
        ("files", "3", &[(534, 3)][..]),
        ("fork-shared", "3,888:7", &[(886, 3), (888, 3), (888, 7)]),
        ("pipe", "4", &[(640, 4)]),
        ("shared-table", "1", &[(861, 1), (863, 1)]),
    ] {
        let new = Rewritten::new(name, &["--ignore", advice]);
        let whole = image(name);
        for (from, to, change) in [(&whole, &new.0, "removed"), (&new.0, &whole, "added")] {
            let (status, text) = diff(from, to, true);
            assert_eq!(status, 1);
            let only: Vec<(i64, i64)> = changes(&text)
                .into_iter()
                .filter(|(.., how, _)| how == change)
                .map(|(task, number, ..)| (task, number))
                .collect();
            assert_eq!(only, gone, "{name}: {text}");
            let (_, text) = diff(from, to, false);
            for (task, number) in gone {
                let line = text
                    .lines()
                    .find(|line| line.starts_with(&format!("{task}:{number} ")));
                assert!(line.is_some_and(|line| line.contains(change)), "{text}");
            }
        }
    }
}

#[test]
fn what_is_at_the_other_end_and_what_waits_is_compared() {
    // The writing end of the pipe of 3 and 5, in which something waits for them.
    let new = Rewritten::new("pipe", &["--ignore", "4"]);
    let found = changes(&diff(&image("pipe"), &new.0, true).1);
    let three = found.iter().find(|it| it.1 == 3);
    assert_eq!(three.unwrap().3, ["other_end"], "{found:?}");
    let json: Value = serde_json::from_str(&diff(&image("pipe"), &new.0, true).1).unwrap();
    let three = &json["descriptors"][0];
    let ends = (&three["before"]["other_end"], &three["after"]["other_end"]);
    assert_eq!(ends, (&json!(true), &json!(false)), "{three}");
    let (_, text) = diff(&image("pipe"), &new.0, false);
    assert!(text.contains("other end open -> closed"), "{text}");
}

#[test]
fn what_takes_the_place_of_a_file_is_a_change() {
    let log = std::env::temp_dir().join(format!("ckptadv-diff-log-{}", std::process::id()));
    std::fs::write(&log, "four").unwrap();
    let source = format!("1={}", log.display());
    let new = Rewritten::new("files", &["--substitute", &source]);
    std::fs::remove_file(&log).unwrap();
    let (status, text) = diff(&image("files"), &new.0, true);
    assert_eq!(status, 1);
    let found = changes(&text);
    let one = found.iter().find(|it| it.1 == 1).unwrap();
    assert_eq!((one.0, one.2.as_str()), (534, "changed"));
    assert!(one.3.contains(&"name".to_owned()), "{found:?}");
    // 1 and 2 were one open file description.
    for number in [1, 2] {
        let it = found.iter().find(|it| it.1 == number).unwrap();
        assert!(it.3.contains(&"sharing".to_owned()), "{found:?}");
    }
    let (_, text) = diff(&image("files"), &new.0, false);
    assert!(text.contains("was reg /mnt/files/log"), "{text}");
}

#[test]
fn tasks_of_one_image_only_are_told() {
    let (status, text) = diff(&image("files"), &image("fork-shared"), false);
    assert_eq!(status, 1);
    let line = |start: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines()
            .map(words)
            .find(|line| line.starts_with(start))
            .unwrap()
    };
    assert_eq!(line("534 "), "534 removed crh");
    assert_eq!(line("888 "), "888 added crh");
    assert!(line("888:7 ").contains("added reg"));
}

#[test]
fn trouble_is_none_of_the_statuses_of_a_comparison() {
    let files = image("files");
    let there = files.to_str().unwrap();
    for (a, b) in [
        ("/nonexistent", there),
        (there, "/nonexistent"),
        (there, "/etc/passwd"),
    ] {
        let output = ckptadv(&["diff", a, b]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
