//! Advice that travels with the program: an application marks its own descriptors while it
//! runs, and a real criu under the library, without a variable of ours, finds the marks when
//! it dumps and when it restores.

use harness::build::product;
use harness::criu::{Dumped, Held, Image, World};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A device that criu cannot dump, which shall be left out, and the program's log, for
/// which whoever restores it may give theirs.
const APPLICATION: &str = "open 7 /dev/fuse set 7 2 open 5 @log set 5 1 hold";

const PRESERVE: u64 = 1;
const IGNORE: u64 = 2;

fn dump<'w>(held: &Held<'w>, name: &str) -> Dumped<'w> {
    held.checkpoint(name).library().run()
}

fn dumped<'w>(held: Held<'w>, name: &str) -> Image<'w> {
    let dumped = dump(&held, name);
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    held.end();
    dumped.image
}

fn record(image: &Image<'_>) -> Option<serde_json::Value> {
    let text = fs::read(image.directory.join("ckptadv.json")).ok()?;
    Some(serde_json::from_slice(&text).expect("JSON"))
}

/// The numbers that a part of the record has.
fn recorded(image: &Image<'_>, part: &str) -> Vec<i64> {
    let record = record(image).expect("a record");
    let entries = record[part].as_array().cloned().unwrap_or_default();
    let numbers = entries.iter().map(|entry| entry["fd"].as_i64());
    numbers.map(|number| number.expect("a number")).collect()
}

/// What `ckptadv show` tells: number to advice and state.
fn shown(pid: i32) -> BTreeMap<i64, (u64, String)> {
    let output = Command::new(product("ckptadv"))
        .args(["show", "--json", &pid.to_string()])
        .output()
        .expect("ckptadv runs");
    assert!(output.status.success(), "{output:?}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&shown["version"], &shown["pid"]), (&1.into(), &pid.into()));
    let mark = |mark: &serde_json::Value| {
        let advice = mark["advice"].as_array().expect("a list").iter();
        let bits = advice.map(|name| match name.as_str() {
            Some("preserve") => PRESERVE,
            Some("ignore") => IGNORE,
            other => panic!("{other:?}"),
        });
        let state = mark["state"].as_str().expect("a state").to_owned();
        (
            mark["number"].as_i64().expect("a number"),
            (bits.sum(), state),
        )
    };
    shown["marks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(mark)
        .collect()
}

fn in_force(advice: u64) -> Option<(u64, String)> {
    Some((advice, "in force".to_owned()))
}

#[test]
fn a_device_is_left_out_and_a_log_is_the_restorers_if_that_is_offered() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let held = world.advise(false, APPLICATION);
    let root = held.root();
    let marks = shown(root);
    assert_eq!(
        (marks.get(&5), marks.get(&7)),
        (in_force(1).as_ref(), in_force(2).as_ref())
    );
    let plain = held.checkpoint("plain").run();
    assert!(plain.said.contains("Can't dump file 7"), "{}", plain.said);
    let image = dumped(held, "image");
    assert_eq!(
        (recorded(&image, "left_out"), recorded(&image, "asks")),
        (vec![7], vec![5])
    );

    let log = world.path("log");
    let mine = world.open("mine");
    let of_number =
        |restored: &harness::criu::Restored, number| restored.links(root).get(&number).cloned();
    // Nothing is offered, and what else the restorer has is its own.
    let outcome = image.restore().library().fd(5, &mine).run();
    assert!(outcome.said.contains("CKPT_ACCEPT=5"), "{}", outcome.said);
    let restored = outcome.restored();
    assert_eq!(of_number(&restored, 7), None);
    assert_eq!(of_number(&restored, 5), Some(log.clone()));
    drop(restored);
    let quiet = image
        .restore()
        .advice("STRICT", "best-effort")
        .fd(5, &mine)
        .run();
    assert!(!quiet.said.contains("ckptadv"), "{}", quiet.said);
    drop(quiet);
    let other = image
        .restore()
        .advice("ACCEPT", "6,100-")
        .fd(5, &mine)
        .fd(6, &mine)
        .run();
    assert_eq!(of_number(&other.restored(), 5), Some(log.clone()));
    // Neither is what is given in another's place.
    let substitute = image
        .restore()
        .advice("SUBSTITUTE", "0=5")
        .fd(5, &mine)
        .run()
        .restored();
    assert_eq!(of_number(&substitute, 5), Some(log.clone()));
    assert!(substitute.shares(root, 0, &mine));
    drop(substitute);
    // Without the library the image is what it is.
    assert_eq!(of_number(&image.restore().run().restored(), 5), Some(log));

    for accepted in ["5", "3-6", "0-"] {
        let offered = image
            .restore()
            .advice("ACCEPT", accepted)
            .advice("STRICT", "strict");
        let restored = offered.fd(5, &mine).run().restored();
        assert!(restored.shares(root, 5, &mine), "{accepted}");
        assert_eq!(of_number(&restored, 7), None);
    }
    // The restorer's own advice wins.
    let wins = image.restore().advice("PRESERVE", "5").fd(5, &mine).run();
    assert!(!wins.said.contains("asks"), "{}", wins.said);
    assert!(wins.restored().shares(root, 5, &mine));
    let restore = || image.restore().advice("ACCEPT", "5").fd(5, &mine);
    let ignored = restore().advice("IGNORE", "5").run().restored();
    assert_eq!(of_number(&ignored, 5), None);
    drop(ignored);
    let theirs = world.open("theirs");
    let substituted = restore()
        .advice("SUBSTITUTE", "5=9")
        .fd(9, &theirs)
        .run()
        .restored();
    assert!(substituted.shares(root, 5, &theirs));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let image = dumped(world.advise(false, APPLICATION), "image");
    let strict = image.restore().advice("STRICT", "strict").run().refused();
    assert!(
        strict.contains("mark=") && strict.contains("CKPT_ACCEPT=5"),
        "{strict}"
    );
    let place = world.path("report");
    let strict = image.restore().advice("STRICT", "strict");
    let message = strict.advice("REPORT", &place).run().refused();
    let report = fs::read(&place).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report["outcome"], "refused", "{message}: {report}");
    let closed = image.restore().advice("ACCEPT", "5").run().refused();
    assert!(closed.contains("CKPT_ACCEPT=5"), "{closed}");
    let reads = File::open(world.path("log")).expect("a file");
    let access = image
        .restore()
        .advice("ACCEPT", "5")
        .fd(5, &reads)
        .run()
        .refused();
    assert!(access.contains("writing"), "{access}");
    let task = image.restore().advice("ACCEPT", "root:5").run().refused();
    assert!(task.contains("CKPT_ACCEPT"), "{task}");
}

/// What the program asks for, and what it left out, nobody loses by PRESERVE alone.
#[test]
fn preserve_alone_is_enough_where_the_program_asks_or_left_it_out() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let words = "open 5 @log set 5 1 open 6 @log set 6 3 open 7 @log set 7 2 open 8 @log hold";
    let image = dumped(world.advise(false, words), "image");
    let mine = world.open("mine");
    let directory = image.directory.display().to_string();
    let criu = harness::criu::program().display().to_string();
    let restore = |number: i32| {
        let mut command = Command::new(harness::build::binary("advised"));
        let (n, one) = (number.to_string(), "1".to_owned());
        command.args([
            "set", &n, &one, "exec", &criu, "restore", "-d", "-D", &directory,
        ]);
        image.restore().library().fd(number, &mine).run_as(command)
    };
    for number in [5, 6, 7] {
        let outcome = restore(number);
        assert!(
            !outcome.said.contains(&format!("CKPT_ACCEPT={number}")),
            "{}",
            outcome.said
        );
        assert!(
            outcome.restored().shares(image.root, number, &mine),
            "{number}"
        );
    }
    let refused = restore(8).refused();
    assert!(
        refused.contains("has a descriptor 8 in the image"),
        "{refused}"
    );
    // Where nothing is offered, what happens is said.
    let nothing = image.restore().library().run();
    assert!(
        nothing
            .said
            .contains(&format!("it gets the image's (reg {})", world.path("log")))
    );
    assert!(
        nothing.said.contains("it is without one"),
        "{}",
        nothing.said
    );
    let links = nothing.restored().links(image.root);
    assert!(links.contains_key(&5) && !links.contains_key(&6));
    let other = image.restore().advice("ACCEPT", "5").fd(5, &mine).run();
    assert!(other.said.contains("it is without one"), "{}", other.said);
}

#[test]
fn marks_go_on_from_restore_to_restore() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let held = world.advise(
        false,
        "open 7 /dev/fuse set 7 2 open 5 @log set 5 1 pipe 20 21 set 20 1 eventfd 22 set 22 1 \
         open 23 /dev/fuse set 23 3 hold",
    );
    let root = held.root();
    let image = dumped(held, "first");
    assert_eq!(recorded(&image, "asks"), [5, 20, 22, 23]);
    assert_eq!(recorded(&image, "left_out"), [7, 23]);

    let (mine, device) = (world.open("mine"), world.open("device"));
    let accept = |image: &Image<'_>| {
        let restore = image
            .restore()
            .advice("ACCEPT", "5,23")
            .fd(5, &mine)
            .fd(23, &device);
        restore.run().restored()
    };
    let restored = accept(&image);
    assert!(restored.shares(root, 5, &mine) && restored.shares(root, 23, &device));
    let marks = shown(root);
    for (number, advice) in [(5, 1), (20, 1), (22, 1), (23, 3)] {
        assert_eq!(
            marks.get(&number).cloned(),
            in_force(advice),
            "{number}: {marks:?}"
        );
    }

    let image = dumped(restored.hold(&world), "second");
    assert_eq!(recorded(&image, "asks"), [5, 20, 22, 23]);
    assert_eq!(recorded(&image, "left_out"), [23]);
    let restored = accept(&image);
    assert!(restored.shares(root, 5, &mine) && restored.shares(root, 23, &device));
    assert!(!restored.links(root).contains_key(&7));
}

/// As after close(2), so that a number that is used anew is not marked.
#[test]
fn a_mark_of_what_is_dropped_is_for_its_number_only() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let words = "open 7 /dev/fuse set 7 2 open 8 /dev/fuse set 8 3 open 5 @log set 5 1 \
                 open 6 @log set 6 3 hold";
    let held = world.advise(true, words);
    let root = held.root();
    let before = shown(root);
    // Whoever goes on goes on as it was.
    let running = held
        .checkpoint("running")
        .library()
        .options(&["--leave-running"])
        .run();
    assert_eq!(running.status, Some(0), "{}", running.said);
    assert_eq!(shown(root), before);
    let image = dumped(held, "image");
    assert_eq!(recorded(&image, "left_out"), [6, 7, 8]);

    let number_only = Some((IGNORE, "number".to_owned()));
    let restored = image.restore().library().run().restored();
    let marks = shown(root);
    for number in [6, 7, 8] {
        assert_eq!(
            marks.get(&number).cloned(),
            number_only,
            "{number}: {marks:?}"
        );
    }
    assert_eq!(marks.get(&5).cloned(), in_force(1));
    drop(restored);
    // What the restorer drops, too.
    let restored = image.restore().advice("IGNORE", "5,7").run().restored();
    let marks = shown(root);
    assert_eq!(marks.get(&5), None, "{marks:?}");
    assert_eq!(marks.get(&7).cloned(), number_only);
    drop(restored);
    // What is given for it is what it is for.
    let mine = world.open("mine");
    let restored = image
        .restore()
        .advice("ACCEPT", "6")
        .fd(6, &mine)
        .run()
        .restored();
    assert_eq!(shown(root).get(&6).cloned(), in_force(3));
    drop(restored);
}

#[test]
fn a_mark_goes_over_exec_with_the_library_and_ends_without() {
    let Some(world) = World::new() else { return };
    let program = harness::build::binary("advised");
    let words = format!(
        "open 7 /dev/fuse set 7 2 open 8 /dev/null set 8 1 exec {} hold",
        program.display()
    );
    let held = world.advise(true, &words);
    let marks = shown(held.root());
    assert_eq!(
        (marks.get(&7).cloned(), marks.get(&8).cloned()),
        (in_force(2), in_force(1))
    );
    let image = dumped(held, "image");
    assert_eq!(
        (recorded(&image, "left_out"), recorded(&image, "asks")),
        (vec![7], vec![8])
    );
    let held = world.advise(false, &words);
    assert_eq!(shown(held.root()), BTreeMap::new());
}

#[test]
fn a_task_that_shares_memory_is_looked_at_as_it_is() {
    let Some(world) = World::new() else { return };
    let words = "open 7 /dev/fuse set 7 2 open 8 /dev/fuse set 8 2 vfork open 8 /dev/null hold end";
    let held = world.advise(false, words);
    // The parent waits for the child.
    let child = held.pids()[0];
    assert_eq!(shown(child)[&7], (2, "in force".to_owned()));
    assert_eq!(
        shown(child)[&8],
        (2, "stale".to_owned()),
        "its own file table"
    );
}

#[test]
fn each_process_has_its_own() {
    let Some(world) = World::new() else { return };
    let held = world.advise(
        false,
        "open 50 /dev/fuse open 51 /dev/fuse set 50 2 set 51 2 open 52 /dev/null \
         beside set 52 2 open 51 /dev/null hold end hold",
    );
    let (root, child) = (held.pids()[0], held.pids()[1]);
    let image = dumped(held, "image");
    let mut left_out: Vec<(i64, i64)> = record(&image).expect("a record")["left_out"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| (e["task"].as_i64().unwrap(), e["fd"].as_i64().unwrap()))
        .collect();
    left_out.sort_unstable();
    let expected = [(root, 50), (root, 51), (child, 50), (child, 52)];
    assert_eq!(left_out, expected.map(|(task, n)| (i64::from(task), n)));
    let restored = image.restore().library().run().restored();
    let numbers = |pid| {
        restored
            .links(pid)
            .into_keys()
            .filter(|&n| n > 2)
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(root), [52]);
    assert_eq!(
        numbers(child),
        [51],
        "another file on a number that its parent marked"
    );
}

#[test]
fn a_number_that_is_used_anew_is_not_marked() {
    let Some(world) = World::new() else { return };
    world.open("log");
    for (preload, state) in [(false, "stale"), (true, "number")] {
        // Replaced; and IGNORE of a number, then PRESERVE of another file there.
        let words = "open 7 /dev/fuse set 7 2 open 7 @log \
                     set 8 2 open 8 @log set 9 2 open 9 @log setfd 9 2 hold";
        let held = world.advise(preload, words);
        let marks = shown(held.root());
        assert_eq!(marks[&7], (2, state.to_owned()));
        assert_eq!(marks[&8], (2, "number".to_owned()));
        let image = dumped(held, &format!("image-{state}"));
        match preload {
            false => assert_eq!(record(&image), None),
            true => {
                assert_eq!(recorded(&image, "left_out"), [0_i64; 0]);
                assert_eq!(recorded(&image, "asks"), [9]);
            }
        }
        let links = image.restore().library().run().restored().links(image.root);
        for number in [7, 8, 9] {
            assert_eq!(links.get(&number), Some(&world.path("log")), "{number}");
        }
    }
}

#[test]
fn advice_of_the_dump_and_marks_come_together() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let held = world.advise(
        false,
        "open 8 /dev/fuse open 7 /dev/fuse set 7 2 open 5 @log set 5 1 hold",
    );
    let both = held
        .checkpoint("image")
        .options(&["--leave-running"])
        .advice("IGNORE", "8,5")
        .advice("STRICT", "strict")
        .run();
    assert_eq!(both.status, Some(0), "{}", both.said);
    assert_eq!(recorded(&both.image, "left_out"), [5, 7, 8]);
    assert_eq!(recorded(&both.image, "asks"), [5]);
    held.end();
    let mine = world.open("mine");
    let restored = both
        .image
        .restore()
        .advice("ACCEPT", "5")
        .fd(5, &mine)
        .run()
        .restored();
    assert!(
        restored.shares(restored.root, 5, &mine),
        "left out, and asked for"
    );
}

#[test]
fn without_marks_nothing_happens() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let held = world.advise(false, "open 5 @log pipe 6 7 set 900 2 hold");
    let running = ["--leave-running"];
    let plain = held.checkpoint("plain").options(&running).run();
    // Of an image that is overwritten.
    fs::create_dir(world.path("image")).expect("a directory");
    fs::write(world.path("image/ckptadv.json"), "{}").expect("a file");
    let advised = held.checkpoint("image").options(&running).library().run();
    assert_eq!(
        (plain.status, advised.status),
        (Some(0), Some(0)),
        "{}",
        advised.said
    );
    assert!(!advised.said.contains("ckptadv"), "{}", advised.said);
    held.end();
    let (plain, advised) = (plain.image.files(), advised.image.files());
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&plain), names(&advised));
    for (name, bytes) in &plain {
        // What changes from dump to dump: when it was, and how long it took.
        let same = name.starts_with("files") || name.starts_with("fdinfo");
        assert!(!same || bytes == &advised[name], "{name}");
    }
}

#[test]
fn a_forged_record_gets_nothing_that_is_not_offered() {
    let Some(world) = World::new() else { return };
    world.open("log");
    let image = dumped(world.advise(false, APPLICATION), "image");
    let root = image.root;
    let path = image.directory.join("ckptadv.json");
    let mine = world.open("mine");
    let write = |asks: &str| {
        fs::write(&path, format!("{{\"ckptadv\":1,\"asks\":[{asks}]}}")).expect("written");
    };
    let ask = |task: i32, fd: i32, file: &str| {
        format!("{{\"task\":{task},\"fd\":{fd},\"mark\":9,\"kind\":\"reg\",\"file\":\"{file}\"}}")
    };
    // A path is told, and never opened; tasks and numbers that are not there get nothing.
    let secret = world.path("secret");
    write(
        &[
            ask(root, 5, &secret),
            ask(root, 900, "/x"),
            ask(1, 5, "/x"),
            ask(root, 0, "/x"),
        ]
        .join(","),
    );
    let restored = image
        .restore()
        .advice("ACCEPT", "900")
        .fd(5, &mine)
        .fd(900, &mine)
        .run()
        .restored();
    assert_eq!(restored.links(root).get(&5), Some(&world.path("log")));
    assert!(!restored.links(root).contains_key(&900));
    assert!(!Path::new(&secret).exists());
    drop(restored);
    // Damaged, huge: said, and of no effect; refused where something depends on it.
    let huge = format!("{{\"ckptadv\":1,\"a\":\"{}\"}}", "x".repeat(17 << 20));
    for text in [
        "{\"ckptadv\":1,\"asks\":[{\"task\":1}]}",
        "[",
        "{\"ckptadv\":2}",
        &huge,
    ] {
        fs::write(&path, text).expect("written");
        let outcome = image.restore().library().fd(5, &mine).run();
        assert!(outcome.said.contains("ckptadv.json"), "{}", outcome.said);
        assert_eq!(
            outcome.restored().links(root).get(&5),
            Some(&world.path("log"))
        );
        let accept = image.restore().advice("ACCEPT", "5").fd(5, &mine).run();
        assert!(accept.refused().contains("ckptadv.json"));
    }
}

#[test]
fn forged_memory_marks_nothing() {
    let Some(world) = World::new() else { return };
    world.open("log");
    for what in ["beyond", "version", "words"] {
        let held = world.advise(false, &format!("open 5 @log forge {what} hold"));
        let dumped = dump(&held, what);
        assert_eq!(dumped.status, Some(0), "{}", dumped.said);
        // What claims more tables than there can be is told of, and does not count.
        assert_eq!(
            dumped.said.contains("do not count"),
            what == "words",
            "{}",
            dumped.said
        );
        assert_eq!(record(&dumped.image), None, "{what}");
        held.end();
        let links = dumped
            .image
            .restore()
            .library()
            .run()
            .restored()
            .links(dumped.image.root);
        assert_eq!(links.get(&5), Some(&world.path("log")));
    }
}

#[test]
fn marks_are_shown_to_root_and_the_owner() {
    let Some(world) = World::new() else { return };
    let held = world.advise(false, "open 5 /dev/null set 5 1 set 9 2 mute hold");
    let pid = held.root().to_string();
    assert_eq!(shown(held.root()).len(), 2);
    let text = Command::new(product("ckptadv"))
        .args(["show", &pid])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("/dev/null") && text.contains("in force"),
        "{text}"
    );

    let copy = world.path("ckptadv");
    // By a process of its own: a file that is open for writing here cannot be run.
    let copied = Command::new("cp")
        .arg(product("ckptadv"))
        .arg(&copy)
        .status();
    assert!(copied.expect("cp runs").success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("for everybody");
    let other = Command::new(&copy)
        .args(["show", &pid])
        .uid(65534)
        .gid(65534)
        .output();
    let other = other.expect("it runs");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert_eq!(other.status.code(), Some(1));
    assert!(
        said.starts_with("ckptadv: ") && said.lines().count() == 1,
        "{said}"
    );
    held.end();
    let program = world.path("advised");
    let copied = Command::new("cp")
        .arg(harness::build::binary("advised"))
        .arg(&program)
        .status();
    assert!(copied.expect("cp runs").success());
    fs::create_dir(world.path("open")).expect("a directory");
    fs::set_permissions(world.path("open"), Permissions::from_mode(0o777)).expect("a mode");
    for words in [&["set", "9", "2"][..], &["set", "9", "2", "mute"]] {
        let ready = world.path("open/ready");
        let mut owned = Command::new(&program)
            .args(words)
            .args(["hold", &ready])
            .uid(65534)
            .gid(65534)
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        let is_told = || !fs::read_to_string(&ready).unwrap_or_default().is_empty();
        harness::wait_until("a pid", is_told);
        fs::remove_file(&ready).expect("told");
        let own = Command::new(&copy)
            .args(["show", &owned.id().to_string()])
            .uid(65534)
            .gid(65534)
            .output();
        owned.kill().and_then(|()| owned.wait()).expect("ended");
        let own = own.expect("it runs");
        assert_eq!(
            own.status.code(),
            Some(i32::from(words.len() > 3)),
            "{words:?}: {own:?}"
        );
    }
    let gone = Command::new(&copy)
        .args(["show", "999999999"])
        .output()
        .expect("it runs");
    assert_eq!(gone.status.code(), Some(1));
}
