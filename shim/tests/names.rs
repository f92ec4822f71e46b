//! Header, crate, pages and README use the same names: flags, errors of each function, variables.

use ckpt_restart::settings::VARIABLES;
use std::collections::{BTreeMap, BTreeSet};

const HEADER: &str = include_str!("../include/cradvise.h");
const CRATE: &str = include_str!("../src/lib.rs");
const RESTART: &str = include_str!("../src/restart.rs");
const ENVIRONMENT: &str = include_str!("../src/environment.rs");
const CALLS: &str = include_str!("../../man/cradvise.2");
const LIBRARY: &str = include_str!("../../man/cradvise.3");
const OTHERS: [&str; 3] = [
    include_str!("../../man/ckptadv.1"),
    include_str!("../../man/libckptadv.8"),
    include_str!("../../README.md"),
];

type Names<'a> = BTreeSet<&'a str>;

/// Words in capitals, digits and underscores.
fn capitals(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.len() > 2)
}

fn starting<'a>(text: &'a str, prefixes: &[&str]) -> Names<'a> {
    let starts = |word: &&str| {
        prefixes
            .iter()
            .any(|p| word.len() > p.len() && word.starts_with(p))
    };
    capitals(text).filter(starts).collect()
}

fn errnos(text: &str) -> Names<'_> {
    let known = [
        "E2BIG",
        "EACCES",
        "EBADF",
        "EBUSY",
        "ECANCELED",
        "EEXIST",
        "EFAULT",
        "EINTR",
        "EINVAL",
        "EIO",
        "ELIBBAD",
        "EMFILE",
        "ENOENT",
        "ENOMEM",
        "ENOSYS",
        "ENOTSUP",
        "EPERM",
        "EPIPE",
        "ESRCH",
        "ESTALE",
    ];
    capitals(text).filter(|word| known.contains(word)).collect()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start:?}"));
    rest.split_once(end).map_or(rest, |(inside, _)| inside)
}

/// The errors of each function by the comments of the header.
fn errors_of_the_header() -> BTreeMap<&'static str, Names<'static>> {
    let mut found = BTreeMap::new();
    let mut comment = "";
    for part in HEADER.split("/*\n").skip(1) {
        let (text, after) = part.split_once("*/\n").expect("the end of a comment");
        comment = if text.contains("* Errors:") {
            text
        } else {
            comment
        };
        let Some(declaration) = after.lines().next().filter(|line| line.ends_with(");")) else {
            continue;
        };
        let name = declaration
            .split('(')
            .next()
            .and_then(|d| d.split_whitespace().last());
        let (_, errors) = comment.split_once("* Errors:").expect("errors");
        found.insert(name.expect("a name"), errnos(errors));
    }
    found
}

/// Those of the crate, by its documentation.
fn errors_of_the_crate() -> BTreeMap<&'static str, Names<'static>> {
    let mut found = BTreeMap::new();
    let functions = [
        (CRATE, "cradvise", "cradvise"),
        (CRATE, "cradvise_query", "cradvise_query"),
        (CRATE, "cradvise_reset", "cradvise_reset"),
        (RESTART, "restart", "cradvise_restart"),
    ];
    for (source, name, in_c) in functions {
        let (before, _) = source.split_once(&format!("\npub fn {name}(")).expect(name);
        let (_, errors) = before.rsplit_once("/// # Errors\n").expect(name);
        found.insert(in_c, errnos(errors.split("/// ```").next().expect("text")));
    }
    found
}

/// Those of the pages, by their ERRORS.
fn errors_of_the_pages() -> BTreeMap<&'static str, Names<'static>> {
    let mut found: BTreeMap<&str, Names> = BTreeMap::new();
    let pages = [
        (
            CALLS,
            ["cradvise", "cradvise_query", "cradvise_reset"].as_slice(),
        ),
        (
            LIBRARY,
            &["cradvise_exec", "cradvise_restart", "cradvise_status"],
        ),
    ];
    for (page, functions) in pages {
        for entry in between(page, "\n.SH ERRORS\n", "\n.SH ")
            .split("\n.TP\n")
            .skip(1)
        {
            let mut lines = entry.lines();
            let tag = lines.next().expect("a tag");
            if tag.contains("others") {
                continue;
            }
            let limited = lines
                .next()
                .filter(|line| line.starts_with(".RB ( cradvise"));
            for &function in functions {
                let meant = limited.is_none_or(|line| {
                    line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                        .any(|word| word == function)
                });
                if meant {
                    found.entry(function).or_default().extend(errnos(tag));
                }
            }
        }
    }
    found
}

#[test]
fn every_function_has_the_same_errors_everywhere() {
    let mut pages = errors_of_the_pages();
    assert_eq!(errors_of_the_header(), pages);
    // In Rust the one cannot fail, and the other is std's.
    pages.remove("cradvise_status");
    pages.remove("cradvise_exec");
    assert_eq!(errors_of_the_crate(), pages);
}

#[test]
fn flags_are_the_same_everywhere() {
    let constants = |line: &'static str| line.strip_prefix("pub const ")?.split(": c_int").next();
    let flags: Names = CRATE
        .lines()
        .filter(|line| line.contains(": c_int"))
        .filter_map(constants)
        .collect();
    let prefixes = ["CR_ADV_", "FD_CR_"];
    assert_eq!(starting(HEADER, &prefixes), flags);
    assert_eq!(starting(CALLS, &prefixes), flags);
    for page in [LIBRARY, OTHERS[0], OTHERS[1], OTHERS[2]] {
        assert!(starting(page, &prefixes).is_subset(&flags));
    }
    let of_the_status = ["CR_BACKEND_", "CR_REASON_"];
    assert_eq!(
        starting(LIBRARY, &of_the_status),
        starting(HEADER, &of_the_status)
    );
}

#[test]
fn variables_are_the_same_everywhere() {
    let prefixes = ["CRADVISE_", "CKPT_"];
    let quoted = ENVIRONMENT
        .split("c\"")
        .skip(1)
        .filter_map(|text| text.split('"').next());
    let read: Names = quoted
        .filter(|name| starting(name, &prefixes).contains(name))
        .collect();
    let tags = |page: &'static str| -> Names<'static> {
        between(page, "\n.SH ENVIRONMENT\n", "\n.SH ")
            .split(".TP\n")
            .skip(1)
            .flat_map(|entry| starting(entry.lines().next().expect("a tag"), &prefixes))
            .collect()
    };
    let described: Names = tags(CALLS).union(&tags(LIBRARY)).copied().collect();
    assert_eq!(described, read);
    let known: Names = read.into_iter().chain(VARIABLES.iter().copied()).collect();
    for text in [CALLS, LIBRARY, OTHERS[0], OTHERS[1], OTHERS[2], HEADER] {
        let mut named = starting(text, &prefixes);
        named.remove("CRADVISE_H");
        assert!(named.is_subset(&known), "{named:?}");
    }
}
