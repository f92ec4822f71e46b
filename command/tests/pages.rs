//! The pages say what the programs do: the same variables, options and kinds.

use ckpt_image::advice::Kind;
use ckpt_restart::settings::VARIABLES;
use std::collections::BTreeSet;
use std::process::Command;

const ADVICE: &str = include_str!("../../man/ckpt_advice.7");
const LIBRARY: &str = include_str!("../../man/libckptadv.8");
const COMMAND: &str = include_str!("../../man/ckptadv.1");

/// A page without its title and fonts: what it calls things, line by line.
fn plain(page: &str) -> String {
    let below_title = page.split_once("\n.SH ").expect("a page").1;
    let mut text = format!(".SH {below_title}")
        .replace("\\-", "-")
        .replace("\\|", "");
    for font in ["\\fB", "\\fI", "\\fR", "\\fP"] {
        text = text.replace(font, "");
    }
    text
}

/// The lines between a heading and the next one of its rank.
fn section<'a>(page: &'a str, rank: &str, heading: &str) -> Vec<&'a str> {
    let wanted = format!("{rank} {heading}");
    page.lines()
        .skip_while(|line| *line != wanted)
        .skip(1)
        .take_while(|line| !line.starts_with(".SH ") && !line.starts_with(rank))
        .collect()
}

/// The tags of a section's paragraphs.
fn tags<'a>(section: &[&'a str]) -> Vec<&'a str> {
    section
        .windows(2)
        .filter(|lines| lines[0] == ".TP")
        .map(|lines| lines[1])
        .collect()
}

/// Words of which every byte may stand in a name.
fn words(text: &str, is_name: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    text.split(move |c| !is_name(c)).filter(|w| !w.is_empty())
}

fn variables(text: &str) -> BTreeSet<&str> {
    words(text, |c| c.is_ascii_alphanumeric() || c == '_')
        .filter(|word| word.starts_with("CKPT_") && *word != "CKPT_")
        .collect()
}

fn options(text: &str) -> BTreeSet<&str> {
    words(text, |c| c.is_ascii_alphanumeric() || c == '-')
        .filter(|word| word.starts_with('-') && !word.trim_start_matches('-').is_empty())
        .collect()
}

/// What the command prints as its help.
fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ckptadv"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The lines of the help that describe an option or a command. What goes on in a
/// line of its own, as where clap wraps, stands further in.
fn entries(help: &str, heading: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.len() - line.trim_start().len() <= 6)
        .filter_map(|line| line.trim_start().split("  ").next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_has_every_variable_and_no_other() {
    let page = plain(ADVICE);
    let known: BTreeSet<&str> = VARIABLES.iter().copied().collect();
    let environment = section(&page, ".SH", "ENVIRONMENT");
    assert_eq!(variables(&tags(&environment).join("\n")), known);
    assert_eq!(variables(&page), known, "mentioned somewhere");
    for page in [LIBRARY, COMMAND] {
        assert!(variables(&plain(page)).is_subset(&known));
    }
}

#[test]
fn the_grammar_has_every_kind_and_no_other() {
    let page = plain(ADVICE);
    let kinds: BTreeSet<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("kind    = "))
        .enumerate()
        .take_while(|(index, line)| *index == 0 || line.starts_with(' '))
        .flat_map(|(_, line)| line.trim_start_matches("kind    = ").split_whitespace())
        .collect();
    let known: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(kinds, known);
}

#[test]
fn the_page_has_every_option_of_every_command() {
    let page = plain(COMMAND);
    let general = entries(&help(&[]), "Options:").join("\n");
    let described = section(&page, ".SH", "OPTIONS");
    assert_eq!(options(&tags(&described).join("\n")), options(&general));

    let commands = entries(&help(&[]), "Commands:");
    let headings: Vec<&str> = section(&page, ".SH", "COMMANDS")
        .into_iter()
        .filter_map(|line| line.strip_prefix(".SS "))
        .collect();
    assert_eq!(headings, commands);

    let synopsis = section(&page, ".SH", "SYNOPSIS").join("\n");
    let synopsis = options(&synopsis);
    for command in commands.iter().filter(|command| *command != "help") {
        let given = entries(&help(&[command]), "Options:").join("\n");
        let described = tags(&section(&page, ".SS", command)).join("\n");
        assert_eq!(options(&described), options(&given), "{command}");
        for option in given.lines() {
            let named = options(option).iter().any(|name| synopsis.contains(name));
            assert!(named || option.contains("--help"), "SYNOPSIS: {option}");
        }
    }
}
