//! `ckptadv run`, end to end: with a real criu and with the model of the Linux-CR restart call.

use harness::build::{self, product};
use harness::criu::{self, Image, Outcome, World};
use harness::linux_cr::FILES;
use harness::linux_cr::{self, Feed, Restart, Verdict, exit_code};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// `ckptadv run` with these options, and a criu that restores.
fn restore(image: &Image<'_>, options: &[&str]) -> Outcome {
    image.restore().run_as(criu_by(options, image, &["-d"]))
}

fn criu_by(options: &[&str], image: &Image<'_>, more: &[&str]) -> Command {
    let mut command = Command::new(product("ckptadv"));
    command
        .arg("run")
        .args(options)
        .arg("--")
        .arg(criu::program());
    command
        .arg("restore")
        .args(more)
        .arg("-D")
        .arg(&image.directory);
    command
}

/// What is said last.
fn last(said: &str) -> &str {
    said.lines().last().unwrap_or_default()
}

fn report(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a report")).expect("JSON")
}

#[test]
fn criu_obeys_and_it_is_told() {
    let Some(world) = World::new() else { return };
    let (f, g) = (world.path("f"), world.path("g"));
    let image = world
        .hold(&[&format!("7=reg:{f}"), &format!("8=reg:{g}")])
        .dump();
    let given = world.open("given");
    let place = world.path("report");
    let options = ["--ignore", "7,12", "--preserve", "1", "--report", &place];
    let outcome = image.restore().fd(1, &given);
    let outcome = outcome.run_as(criu_by(&options, &image, &["-d"]));
    let line = "ckptadv: restarted: 2 descriptors as advised; 1 item matched nothing";
    assert_eq!(last(&outcome.said), line);
    let restored = outcome.restored();
    assert!(restored.shares(image.root, 1, &given));
    // 0, 1, 2 and 8, and nothing of ours.
    let numbers: Vec<i32> = restored.links(image.root).into_keys().collect();
    assert_eq!(numbers, [0, 1, 2, 8]);
    let environment = fs::read(format!("/proc/{}/environ", image.root)).expect("it runs");
    assert_eq!(String::from_utf8_lossy(&environment), "");

    let told = report(&place);
    assert_eq!(
        (&told["version"], &told["status"], &told["exit_status"]),
        (&json!(1), &json!(0), &json!(0))
    );
    let [restart] = told["restarts"].as_array().expect("a list").as_slice() else {
        panic!("{told}");
    };
    // It may be a script that starts it.
    let process = json!({"pid": restart["pid"], "program": "criu"});
    let loaded = told["loaded"].as_array().expect("a list");
    assert!(loaded.contains(&process), "{told}");
    assert_eq!(restart["report"]["outcome"], "restarted");
    assert_eq!(restart["report"]["engine"], "criu");
    assert_eq!(
        restart["report"]["changes"].as_array().map(Vec::len),
        Some(2)
    );
    let unmatched = restart["report"]["unmatched"][0].as_str().expect("text");
    assert!(unmatched.starts_with("CKPT_IGNORE=12: "), "{unmatched}");
}

#[test]
fn a_refusal_by_criu_has_a_status_of_its_own() {
    let Some(world) = World::new() else { return };
    let image = world.hold(&["7=eventfd"]).dump();
    for (options, word) in [
        (&["--strict", "--ignore", "12"][..], "no task has 12"),
        (&["--preserve", "99"], "not open"),
    ] {
        let outcome = restore(&image, options);
        assert_eq!(outcome.status, Some(121), "{}", outcome.said);
        assert!(!outcome.began);
        let line = last(&outcome.said);
        assert!(
            line.starts_with("ckptadv: refused: ") && line.contains(word),
            "{line}"
        );
    }
    let outcome = restore(&image, &["--dry-run", "--ignore", "7"]);
    assert_eq!(outcome.status, Some(1), "{}", outcome.said);
    assert_eq!(
        last(&outcome.said),
        "ckptadv: dry run, and nothing was done: 1 descriptor would be as advised"
    );
    drop(restore(&image, &["--ignore", "7"]).restored());
}

#[test]
fn criu_without_advice_and_without_an_image_is_told_apart() {
    let Some(world) = World::new() else { return };
    let image = world.hold(&["7=eventfd"]).dump();
    let outcome = restore(&image, &[]);
    assert_eq!(
        last(&outcome.said),
        "ckptadv: restarted: every descriptor as it was"
    );
    drop(outcome.restored());
    let mut command = Command::new(product("ckptadv"));
    command
        .args(["run", "--ignore", "7", "--"])
        .arg(criu::program())
        .arg("--version");
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(120));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        last(&said).starts_with("ckptadv: no restart was seen: "),
        "{said}"
    );
}

#[test]
fn a_dump_is_told_as_well() {
    let Some(world) = World::new() else { return };
    let held = world.hold(&["7=eventfd", "8=eventfd"]);
    let checkpoint = held.checkpoint("image");
    let mut command = Command::new(product("ckptadv"));
    command
        .args(["run", "--ignore", "7", "--"])
        .arg(criu::program());
    command
        .args(["dump", "-t", &held.root().to_string(), "-D"])
        .arg(checkpoint.directory());
    let dumped = checkpoint.run_as(command);
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    assert_eq!(
        last(&dumped.said),
        "ckptadv: dumped: 1 descriptor as advised"
    );
    held.end();
}

/// A restart of the files of an image by `ckptadv run` with these options, under the model.
fn restart(options: &[&str]) -> Restart {
    let restart = Restart::new(&linux_cr::image("files")).scenario("files");
    let restart = restart
        .program(product("ckptadv"))
        .args(["run"])
        .args(options.iter().copied());
    restart.args(["--"]).args([build::program("restart")])
}

#[test]
fn a_linux_cr_restart_obeys_and_it_is_told() {
    if !harness::is_root() {
        return;
    }
    let place = std::env::temp_dir().join(format!("ckptadv-run-{}", std::process::id()));
    let place = place.to_str().expect("text");
    for feed in [Feed::File, Feed::Pipe, Feed::Option] {
        let mut outcome = restart(&["--ignore", "3", "--report", place])
            .feed(feed)
            .run();
        assert_eq!(outcome.verdict, Verdict::Restarted, "{}", outcome.stderr());
        let numbers = outcome.numbers(FILES);
        assert!(!numbers.contains(&3) && numbers.len() == 10, "{numbers:?}");
        for number in numbers {
            let link = outcome.link(FILES, number);
            assert!(!link.contains("memfd"), "{number} is {link}");
        }
        let status = outcome.finish();
        let line = "ckptadv: restarted: 1 descriptor as advised";
        assert_eq!(last(&outcome.stderr()), line);
        let told = report(place);
        let restart = &told["restarts"][0]["report"];
        assert_eq!(
            (&restart["engine"], &restart["outcome"]),
            (&json!("linux-cr"), &json!("restarted"))
        );
        assert_eq!(told["exit_status"], exit_code(status));
    }
    fs::remove_file(place).expect("a report");
}

#[test]
fn a_linux_cr_restart_that_is_refused_or_not_seen() {
    if !harness::is_root() {
        return;
    }
    for feed in [Feed::File, Feed::Pipe] {
        let mut outcome = restart(&["--strict", "--ignore", "12"]).feed(feed).run();
        assert_ne!(outcome.verdict, Verdict::Restarted);
        assert_eq!(exit_code(outcome.wait()), 121, "{}", outcome.stderr());
        let said = outcome.stderr();
        assert!(last(&said).contains("no task has 12"), "{said}");
    }
    // At a chroot, by a child.
    for root in ["--root", "--root-task"] {
        let bare = restart(&["--preserve", "20"]);
        let bare = bare.prepare(|| fs::create_dir_all("/mnt/bare").unwrap());
        let zero = fs::File::open("/dev/zero").unwrap();
        let mut outcome = bare.args([root, "/mnt/bare"]).descriptor(20, zero).run();
        assert_eq!(exit_code(outcome.wait()), 121, "{}", outcome.stderr());
    }
    // The library does not know the call.
    let mut outcome = restart(&["--ignore", "3"]).number(399).run();
    assert_eq!(outcome.verdict, Verdict::Restarted);
    assert_eq!(exit_code(outcome.finish()), 120, "{}", outcome.stderr());
    let mut outcome = restart(&["--ignore", "3", "--restart-nr", "399"])
        .number(399)
        .run();
    assert!(!outcome.numbers(FILES).contains(&3));
    outcome.finish();
    assert_eq!(
        last(&outcome.stderr()),
        "ckptadv: restarted: 1 descriptor as advised"
    );
}

#[test]
fn a_restart_program_of_another_user_is_not_heard_and_says_so() {
    if !harness::is_root() {
        return;
    }
    let other = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let asked = Restart::new(&linux_cr::image("files")).scenario("files");
    let asked = asked
        .program(product("ckptadv"))
        .args(["run", "--strict", "--ignore", "12", "--"])
        .args(other)
        .args([build::program("restart")]);
    let mut outcome = asked.run();
    assert_ne!(outcome.verdict, Verdict::Restarted);
    assert_eq!(exit_code(outcome.wait()), 120);
    let said = outcome.stderr();
    assert!(said.contains("restart refused: "), "{said}");
    assert!(
        said.contains("warning: ckptadv run cannot be told of this: "),
        "{said}"
    );
    assert!(last(&said).contains("loaded into setpriv"), "{said}");
}

#[test]
fn a_program_that_becomes_the_restarted_one_was_told_before() {
    if !harness::is_root() {
        return;
    }
    let outcome = restart(&["--ignore", "3"])
        .args(["--self"])
        .feed(Feed::Option);
    let mut outcome = outcome.run();
    assert_eq!(outcome.verdict, Verdict::Restarted, "{}", outcome.stderr());
    let status = outcome.finish();
    assert_eq!(exit_code(status), 128 + libc::SIGKILL);
    let said = outcome.stderr();
    assert!(
        last(&said).starts_with("ckptadv: restarted, and how it ended was not told: 1 descriptor"),
        "{said}"
    );
}

#[test]
fn two_restarts_of_one_run() {
    let Some(world) = World::new() else { return };
    let image = world.hold(&["7=eventfd"]).dump();
    let place = world.path("report");
    let criu = criu::program();
    let line = format!(
        "CKPT_STRICT=strict {0} restore -d -D {1}; {0} restore -d -D {1}",
        criu.display(),
        image.directory.display()
    );
    let mut command = Command::new(product("ckptadv"));
    command.args([
        "run", "--ignore", "7,12", "--report", &place, "--", "sh", "-c", &line,
    ]);
    let outcome = image.restore().run_as(command);
    assert_eq!(outcome.status, Some(121), "{}", outcome.said);
    let line = "ckptadv: 2 restarts: 1 restarted, 1 refused";
    assert_eq!(last(&outcome.said), line);
    let told = report(&place);
    let statuses = (&told["status"], &told["exit_status"]);
    assert_eq!(statuses, (&json!(0), &json!(121)));
    let restarts = told["restarts"].as_array().expect("a list").iter();
    let outcomes: Vec<&Value> = restarts.map(|it| &it["report"]["outcome"]).collect();
    assert_eq!(outcomes, ["refused", "restarted"]);
}
