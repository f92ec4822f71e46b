//! What a crate that can be published must say of itself.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn members() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .current_dir(ROOT)
        .output()
        .expect("cargo");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn crates_are_complete_or_not_to_be_published() {
    let mut published = Vec::new();
    for package in members() {
        let name = package["name"].as_str().unwrap().to_owned();
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        for field in ["description", "documentation", "readme", "rust_version"] {
            assert!(package[field].is_string(), "{name}: {field}");
        }
        for field in ["keywords", "categories"] {
            let count = package[field].as_array().unwrap().len();
            assert!((1..=5).contains(&count), "{name}: {field}");
        }
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{name}");
        let home = Path::new(package["manifest_path"].as_str().unwrap())
            .parent()
            .unwrap();
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let ours =
                fs::read(home.join(licence)).unwrap_or_else(|e| panic!("{name}: {licence}: {e}"));
            assert_eq!(ours, fs::read(Path::new(ROOT).join(licence)).unwrap());
        }
        // What a published crate needs must be published as well.
        for dependency in package["dependencies"].as_array().unwrap() {
            let development = dependency["kind"] == "dev";
            assert!(
                development || dependency["req"] != "*",
                "{name}: {dependency}"
            );
        }
        published.push(name);
    }
    for name in ["cradvise", "ckptadv", "ckpt-image", "ckpt-restart"] {
        assert!(published.iter().any(|other| other == name), "{name}");
    }
}

#[test]
fn the_changelog_has_this_version_or_a_next_one() {
    let changelog = fs::read_to_string(Path::new(ROOT).join("CHANGELOG.md")).unwrap();
    let first = changelog
        .lines()
        .find(|line| line.starts_with("## "))
        .unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        first == "## [Unreleased]" || first.starts_with(&format!("## [{version}]")),
        "{first}"
    );
}
