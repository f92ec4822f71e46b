//! What `ckptadv check` shows, and how it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn image(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/images/{name}.ckpt"))
}

fn check(words: &[&str], input: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckptadv"));
    command.arg("check").args(words).env_remove("COLUMNS");
    command.stdin(File::open(input).unwrap()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_finding_has_a_line_and_cures_below() {
    let output = check(
        &[image("example").to_str().unwrap()],
        Path::new("/dev/null"),
    );
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = text(&output);
    let expected = "\nlost: tty /dev/pts/3 4242:0-2: its terminal is not in the image, and it would \
                    come back hung up\n    cure: --preserve 0,1,2\n";
    assert!(text.contains(expected), "{text}");
    assert!(text.ends_with("\nIn all: 2 fail, 1 lost.\n"), "{text}");
}

#[test]
fn what_advice_takes_away_is_not_judged() {
    let words = ["--ignore=0-2", image("example").to_str().unwrap()].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = text(&check(&words, Path::new("/dev/null")));
    assert!(!text.contains("tty"), "{text}");
    // What advice gives, neither.
    let words = ["--preserve=0-2", words[1]];
    let text = self::text(&check(&words, Path::new("/dev/null")));
    assert!(!text.contains("tty") && text.contains("data.txt"), "{text}");
}

/// The first regular file of a task at an offset on which a kernel crashes.
fn far_off() -> PathBuf {
    const FILE: [u8; 8] = [48, 1, 0, 0, 48, 0, 0, 0];
    let mut bytes = fs::read(image("files")).unwrap();
    let files = bytes.windows(32).enumerate();
    let mut files = files.filter(|(_, record)| record[..8] == FILE && record[24] == 5);
    let (at, _) = files.next().expect("a file at offset 5");
    bytes[at + 24..at + 32].copy_from_slice(&(3u64 << 30).to_le_bytes());
    let path = std::env::temp_dir().join(format!("ckptadv-check-far-{}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_no_kernel_restores_is_found_without_advice() {
    let image = far_off();
    let output = check(&[image.to_str().unwrap()], Path::new("/dev/null"));
    let without = check(&["--ignore=type=reg", image.to_str().unwrap()], &image);
    fs::remove_file(&image).unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let words = text(&output)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let expected = "fails: task 534 descriptor 3: offset 0xc0000000: a Linux-CR kernel would crash";
    assert!(words.contains(expected), "{words}");
    assert!(!text(&without).contains("offset"), "{without:?}");
}

#[test]
fn an_image_may_come_on_standard_input() {
    let file = check(&[image("files").to_str().unwrap()], Path::new("/dev/null"));
    assert_eq!(text(&check(&["-"], &image("files"))), text(&file));
}

#[test]
fn a_refusal_is_the_librarys() {
    let words = ["--strict", "--ignore=99", image("files").to_str().unwrap()].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = check(&words, Path::new("/dev/null"));
    assert_eq!(output.status.code(), Some(121));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.starts_with("ckptadv: ") && said.contains("--ignore=99"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    // Advice needs an image.
    assert_eq!(
        check(&words[..2], Path::new("/dev/null")).status.code(),
        Some(2)
    );
}

#[test]
fn a_layout_that_is_not_known_is_said_to_be() {
    let directory =
        std::env::temp_dir().join(format!("ckptadv-check-layout-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(
        directory.join("inventory.img"),
        [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 9],
    )
    .unwrap();
    let output = check(
        &["--json", directory.to_str().unwrap()],
        Path::new("/dev/null"),
    );
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(output.status.code(), Some(121), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let message = found["error"]["message"].as_str().unwrap();
    assert!(message.contains("images of layout 9"), "{message}");
}
