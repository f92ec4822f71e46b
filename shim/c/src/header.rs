//! `cradvise.h` and the Rust definitions are the same, as a C and a C++ compiler see it.

use crate::status::*;
use cradvise::{CR_ADV_IGNORE, CR_ADV_NORMAL, CR_ADV_PRESERVE, FD_CR_PRESERVE};
use std::collections::BTreeSet;
use std::io::Write;
use std::mem::offset_of;
use std::process::{Command, Stdio};

const HEADER: &str = include_str!("../../include/cradvise.h");

/// Every constant of the crate that C has, with its value.
macro_rules! constants {
    ($($name:ident)*) => { &[$((stringify!($name), $name as usize)),*] };
}

const CONSTANTS: &[(&str, usize)] = constants! {
    CR_ADV_NORMAL CR_ADV_PRESERVE CR_ADV_IGNORE
    FD_CR_PRESERVE
    CR_BACKEND_NONE CR_BACKEND_TABLE CR_BACKEND_KERNEL
    CR_REASON_NOT_CONFIGURED CR_REASON_CONFIGURED CR_REASON_NO_SUCH_CALL
    CR_REASON_FORCED CR_REASON_BAD_VARIABLE
};

macro_rules! fields {
    ($($name:ident)*) => { &[$((stringify!($name), offset_of!(CStatus, $name))),*] };
}

const FIELDS: &[(&str, usize)] = fields!(backend reason error number text);

/// Has a compiler judge a source that includes the header.
fn compiles(compiler: &[&str], source: &str) -> Result<(), String> {
    let mut child = Command::new(compiler[0])
        .args(&compiler[1..])
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"])
        .args([
            "-I",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../include"),
            "-",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{compiler:?}: {error}"));
    let mut input = child.stdin.take().unwrap();
    input.write_all(source.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

const C11: &[&str] = &["cc", "-x", "c", "-std=c11"];
const CXX17: &[&str] = &["c++", "-x", "c++", "-std=c++17"];

#[test]
fn the_header_stands_alone_in_c_and_cxx() {
    for compiler in [
        C11,
        CXX17,
        &["cc", "-x", "c", "-std=c99"],
        &["c++", "-x", "c++"],
    ] {
        compiles(compiler, "#include <cradvise.h>\n#include <cradvise.h>\n").unwrap();
    }
}

#[test]
fn values_layout_and_prototypes_are_those_of_the_crate() {
    let mut source = String::from(
        "#include <cradvise.h>\n\
         #ifndef __cplusplus\n#define static_assert _Static_assert\n#endif\n\
         struct aligned { char c; struct cradvise_status s; };\n",
    );
    let mut same = |what: String, value: usize| {
        source += &format!("static_assert({what} == {value}, \"{value}\");\n");
    };
    for &(name, value) in CONSTANTS {
        same(name.to_owned(), value);
    }
    for &(name, offset) in FIELDS {
        same(format!("offsetof(struct cradvise_status, {name})"), offset);
    }
    same(
        "sizeof(struct cradvise_status)".into(),
        size_of::<CStatus>(),
    );
    same("offsetof(struct aligned, s)".into(), align_of::<CStatus>());
    // A declaration that differs from the header's is an error.
    source += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\
        int cradvise(int, int);\nint cradvise_query(int);\nint cradvise_reset(void);\n\
        int cradvise_status(struct cradvise_status *, size_t);\n\
        long cradvise_restart(int, int, unsigned long, int);\n\
        int cradvise_exec(const char *, const char *, char *const *);\n\
        #ifdef __cplusplus\n}\n#endif\n";
    for compiler in [C11, CXX17] {
        compiles(compiler, &source).unwrap();
        let wrong = source.replacen("CR_ADV_IGNORE == 2", "CR_ADV_IGNORE == 3", 1);
        assert!(compiles(compiler, &wrong).is_err(), "the compiler judges");
    }
}

#[test]
fn the_header_has_every_constant_field_and_function_and_no_other() {
    let defined: BTreeSet<&str> = HEADER
        .lines()
        .filter_map(|line| line.strip_prefix("#define "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(defined, CONSTANTS.iter().map(|(name, _)| *name).collect());

    let (_, body) = HEADER.split_once("struct cradvise_status {\n").unwrap();
    let (body, _) = body.split_once("\n};").unwrap();
    let fields: Vec<&str> = body
        .lines()
        .map(|line| {
            let (declaration, _) = line.split_once(';').unwrap();
            let name = declaration.split_whitespace().last().unwrap();
            name.split('[').next().unwrap()
        })
        .collect();
    assert_eq!(
        fields,
        FIELDS.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );

    let declared: BTreeSet<&str> = HEADER
        .lines()
        .filter(|line| line.ends_with(");") && line.starts_with(char::is_alphabetic))
        .map(|line| line.split_once('(').unwrap().0)
        .map(|line| line.split_whitespace().last().unwrap())
        .collect();
    assert_eq!(declared, include_str!("../symbols").lines().collect());
}
