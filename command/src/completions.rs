//! `completions/` is what the definition of the command gives.

use clap::CommandFactory;
use clap_complete::{Generator, Shell, generate};
use std::fs;
use std::path::Path;
use std::process::Command;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../completions");
const RENEW: &str = "CKPTADV_RENEW=1 cargo test -p ckptadv completions";

#[test]
fn are_those_of_this_command() {
    let renew = std::env::var_os("CKPTADV_RENEW").is_some();
    for (shell, name) in [
        (Shell::Bash, "ckptadv.bash"),
        (Shell::Zsh, "_ckptadv"),
        (Shell::Fish, "ckptadv.fish"),
    ] {
        assert_eq!(name, shell.file_name("ckptadv"));
        let mut wanted = Vec::new();
        generate(
            shell,
            &mut crate::Command::command(),
            "ckptadv",
            &mut wanted,
        );
        let path = Path::new(DIRECTORY).join(name);
        if renew {
            fs::write(&path, &wanted).unwrap();
        }
        let found = fs::read(&path).unwrap_or_default();
        assert!(found == wanted, "completions/{name} is old: {RENEW}");
    }
}

/// What bash offers after these words.
fn offered(words: &[&str]) -> Vec<String> {
    let script = r#"
        source "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _ckptadv ckptadv "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}""#;
    let output = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(Path::new(DIRECTORY).join("ckptadv.bash"))
        .args(words)
        .output()
        .expect("bash");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn bash_offers_every_verb_and_option() {
    let command = crate::Command::command();
    let mut verbs: Vec<String> = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .chain(["--help", "--version", "-V", "-h", "help"].map(str::to_owned))
        .collect();
    verbs.sort();
    assert_eq!(offered(&["ckptadv", ""]), verbs);
    for verb in command.get_subcommands() {
        let mut options: Vec<String> = verb
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .map(|name| format!("--{name}"))
            .chain(["--help".to_owned()])
            .collect();
        options.sort();
        assert_eq!(offered(&["ckptadv", verb.get_name(), "--"]), options);
    }
}
