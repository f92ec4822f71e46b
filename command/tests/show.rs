//! What `ckptadv inspect` and `ckptadv plan` show: what is in the lines, and not
//! where.

use serde_json::Value;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};

fn image(name: &str) -> String {
    format!("{}/../tests/images/{name}.ckpt", env!("CARGO_MANIFEST_DIR"))
}

fn ckptadv(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckptadv"));
    command
        .args(arguments)
        .env_remove("COLUMNS")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    ckptadv(arguments).output().unwrap()
}

/// An image that comes through a pipe, which holds all of it.
fn piped(name: &str) -> PipeReader {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer
        .write_all(&std::fs::read(image(name)).unwrap())
        .unwrap();
    reader
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// The words of the line that begins with a word.
fn line(text: &str, first: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let mut lines = text.lines().map(words);
    let found = lines.find(|words: &Vec<String>| words.first().is_some_and(|word| word == first));
    found.unwrap_or_else(|| panic!("no line of {first} in:\n{text}"))
}

#[test]
fn inspect_has_a_line_for_each_task_and_description() {
    let shown = text(&run(&["inspect", &image("shared-table")]));
    assert!(shown.starts_with("Linux-CR v20, x86_64, Linux 2.6.33\n"));
    assert_eq!(line(&shown, "861"), ["861", "130", "crh"]);
    assert!(
        line(&shown, "863")
            .join(" ")
            .ends_with("(shares the file table of 861)")
    );
    let log = line(&shown, "9");
    assert_eq!(
        log[..7],
        [
            "9",
            "reg",
            "w,append",
            "0",
            "861:1-2",
            "863:1-2",
            "/mnt/shared-table/log"
        ]
    );
    let pipe = line(&shown, "11").join(" ");
    assert!(
        pipe.contains("other end 13") && pipe.contains("7 bytes queued"),
        "{pipe}"
    );
}

#[test]
fn lines_fit_the_terminal_and_lose_nothing() {
    for name in [
        "many",
        "fifo",
        "eventfd-epoll",
        "tcp-conn",
        "unix-conn-nolisten",
        "example-v20",
    ] {
        let whole = text(&run(&["inspect", &image(name)]));
        let fitted = ckptadv(&["inspect", &image(name)])
            .env("COLUMNS", "80")
            .output()
            .unwrap();
        let fitted = text(&fitted);
        for line in fitted.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let words = |text: &str| {
            let text = text.replace(['(', ')'], "");
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(words(&whole), words(&fitted), "{name}");
    }
}

#[test]
fn inspect_gives_json_also_of_what_comes_through_a_pipe() {
    let of_file = json(&run(&["inspect", "--json", &image("pipe")]));
    let cat = piped("pipe");
    let mut command = ckptadv(&["inspect", "--json", "-"]);
    command.stdin(cat);
    assert_eq!(json(&command.output().unwrap()), of_file);
    assert_eq!(of_file["version"], 1);
    assert_eq!(of_file["descriptions"][2]["queued"], 10);
}

#[test]
fn what_an_image_names_does_not_reach_the_terminal() {
    let bytes = std::fs::read(image("files")).unwrap();
    let (from, to) = (b"/mnt/files/a\0", b"/mnt/\x1b[2Jes\0");
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut evil = bytes.clone();
    evil[at..at + to.len()].copy_from_slice(to);
    let path = std::env::temp_dir().join(format!("ckptadv-evil-{}", std::process::id()));
    std::fs::write(&path, evil).unwrap();
    let path = path.to_str().unwrap();
    for arguments in [
        &["inspect", path][..],
        &["inspect", "--json", path],
        &["plan", "--ignore", "3", path],
        &["plan", "--ignore", "3", "--json", path],
    ] {
        let output = run(arguments);
        let shown = text(&output);
        assert!(
            shown.contains("[2Jes") && !shown.contains('\x1b'),
            "{arguments:?}: {shown}"
        );
        if arguments.contains(&"--json") {
            assert!(json(&output).to_string().contains("\\u001b[2Jes"));
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_plan_tells_what_becomes_of_each_descriptor_and_why() {
    let shown = text(&run(&["plan", "--ignore", "3,77", &image("fork-shared")]));
    for descriptor in ["886:3", "888:3"] {
        let line = line(&shown, descriptor).join(" ");
        assert!(
            line.contains("dropped --ignore=3 reg /mnt/fork-shared/a"),
            "{line}"
        );
    }
    assert!(!shown.contains("888:30"), "{shown}");
    let unmatched = line(&shown, "unmatched:").join(" ");
    assert!(
        unmatched.contains("--ignore=77") && unmatched.contains("open are"),
        "{unmatched}"
    );
    let kept = text(&run(&["plan", &image("fork-shared")]));
    assert!(kept.contains("comes back as it was"), "{kept}");
}

#[test]
fn a_plan_shows_what_takes_the_place_and_warns() {
    let scratch = std::env::temp_dir().join(format!("ckptadv-plan-{}", std::process::id()));
    let log = File::create(&scratch).unwrap();
    let mut command = ckptadv(&["plan", "--preserve", "2", "--json", &image("files")]);
    let planned = json(&command.stderr(log).output().unwrap());
    std::fs::remove_file(&scratch).unwrap();
    let [change] = planned["changes"].as_array().unwrap().as_slice() else {
        panic!("{planned}");
    };
    assert_eq!(planned["outcome"], "planned");
    assert_eq!(
        (&change["task"], &change["number"]),
        (&534.into(), &2.into())
    );
    assert_eq!(
        (&change["fate"], &change["from"]),
        (&"replaced".into(), &2.into())
    );
    assert_eq!(change["was"], "reg /mnt/files/log");
    assert_eq!(change["item"], "--preserve=2");
    let gives = change["gives"].as_str().unwrap();
    assert!(
        gives.contains(scratch.to_str().unwrap()) && gives.contains("not shared"),
        "{gives}"
    );
    assert_eq!(
        planned["warnings"].as_array().unwrap().len(),
        1,
        "no O_APPEND: {planned}"
    );
}

#[test]
fn a_refusal_is_the_one_of_the_restart() {
    for (arguments, errno, words) in [
        (&["--ignore", "1"][..], libc::EINVAL, "4242:0,4242:2"),
        (&["--ignore", "3x"], libc::EINVAL, "column 2"),
        (
            &["--strict", "--ignore", "99"],
            libc::EINVAL,
            "no task has 99",
        ),
        (&["--preserve", "77"], libc::EBADF, "not open here"),
    ] {
        let image = image("example-v20");
        let output = run(&[&["plan", "--json"], arguments, &[&image]].concat());
        assert_eq!(output.status.code(), Some(121), "{output:?}");
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        let message = said
            .strip_prefix("ckptadv: restart refused: ")
            .unwrap_or_else(|| panic!("{said}"));
        assert_eq!(message.lines().count(), 1);
        assert!(message.contains(words), "{message}");
        let refused = json(&output);
        assert_eq!(refused["outcome"], "refused");
        assert_eq!(refused["error"]["errno"], errno);
        assert_eq!(refused["error"]["message"], message.trim_end());
    }
}

#[test]
fn a_directory_that_is_no_image_is_named() {
    let here = env!("CARGO_MANIFEST_DIR");
    let output = run(&["inspect", here]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(here), "{said}");
}

#[test]
fn what_cannot_be_read_is_no_refusal() {
    for verb in ["inspect", "plan"] {
        let output = run(&[verb, "/nonexistent/image"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_plan_is_made_of_what_comes_through_a_pipe() {
    let cat = piped("unix-conn");
    let mut command = ckptadv(&["plan", "--ignore", "3,9", "-"]);
    let shown = text(&command.stdin(cat).output().unwrap());
    assert!(line(&shown, "557:3").contains(&"dropped".to_owned()));
    assert!(line(&shown, "unmatched:").join(" ").contains("--ignore=9"));
}

#[test]
fn output_that_is_closed_is_an_error() {
    let close = "exec \"$@\" >&-";
    for verb in ["inspect", "plan", "rewrite"] {
        let mut command = Command::new("sh");
        command.args(["-c", close, "sh", env!("CARGO_BIN_EXE_ckptadv"), verb]);
        let output = command.arg(image("files")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("standard output: Bad file descriptor"),
            "{said}"
        );
    }
}

#[test]
fn a_picture_has_every_task_table_and_description_and_what_they_lead_to() {
    let drawn = text(&run(&["inspect", "--dot", &image("eventfd-epoll")]));
    for line in [
        "digraph image {",
        "  task373 [shape=box, label=\"373 crh\"];",
        "  file10 [label=\"id=10 eventfd rw\"];",
        "  file11 -> file13 [dir=none, style=bold];",
        "  file14 -> file10 [style=dashed, label=\"watches 3\"];",
        "  task373 -> file16 [style=dotted, label=\"executable\"];",
        "}",
    ] {
        assert!(drawn.lines().any(|it| it == line), "{line} in {drawn}");
    }
    assert!(drawn.contains("-> file11 [label=\"4,8\"];"), "{drawn}");
    assert!(drawn.contains("-> file9 [label=\"1-2\"];"), "{drawn}");
    let both = run(&["inspect", "--dot", "--json", &image("files")]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn names_are_quoted_in_a_picture() {
    let bytes = std::fs::read(image("files")).unwrap();
    let (from, to) = (b"/mnt/files/a\0", b"/m\"];\\\n\x1b[2Jx\0");
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut evil = bytes.clone();
    evil[at..at + to.len()].copy_from_slice(to);
    let path = std::env::temp_dir().join(format!("ckptadv-quoted-{}", std::process::id()));
    std::fs::write(&path, evil).unwrap();
    let drawn = text(&run(&["inspect", "--dot", path.to_str().unwrap()]));
    std::fs::remove_file(&path).unwrap();
    assert!(drawn.contains("\\n/m\\\"];\\\\\\n?[2Jx\"];"), "{drawn}");
}

/// What is written to a terminal of so many columns.
fn on_terminal(columns: u16, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let (mut master, mut slave) = (-1, -1);
    let (none, size) = (std::ptr::null_mut(), [24, columns, 0, 0]);
    // SAFETY: there is room for two descriptors, and the size is a winsize.
    let opened = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            none,
            none.cast(),
            size.as_ptr().cast(),
        )
    };
    assert_eq!(opened, 0);
    // SAFETY: they were made just now, for nobody else.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let mut command = ckptadv(arguments);
    command
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied());
    let mut child = command.stdout(slave).spawn().unwrap();
    drop(command);
    let mut text = Vec::new();
    // It ends with EIO.
    let _ = File::from(master).read_to_end(&mut text);
    child.wait().unwrap();
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let plan = ["plan", "--ignore", "3", &image("files")];
    let coloured = on_terminal(80, &plan, &[]);
    assert!(coloured.contains("\x1b[1mDESCRIPTOR"), "{coloured:?}");
    assert!(
        coloured.contains("\x1b[31m534:3 ") && coloured.contains("a\x1b[0m\n"),
        "{coloured:?}"
    );
    let plain = text(&run(&plan));
    assert_eq!(on_terminal(80, &plan, &[("NO_COLOR", "1")]), plain);
    assert_eq!(on_terminal(80, &plan, &[("TERM", "dumb")]), plain);
    assert!(!plain.contains('\x1b'));
    let narrow = on_terminal(40, &["inspect", &image("tcp-conn")], &[("NO_COLOR", "1")]);
    assert!(narrow.lines().count() > 12, "{narrow}");
    for line in narrow.lines().skip(1) {
        assert!(line.chars().count() <= 40, "{line}");
    }
}
