//! `ckptadv check` against a real criu: what it blesses restores, what it condemns does not or comes back cut off,
//! and what it says cures it does.

use harness::build;
use harness::criu::{Image, Outcome, World};
use harness::terminal;
use serde_json::Value;
use std::any::Any;
use std::fs::{self, File, Permissions};
use std::io::pipe;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Holds and dumps; words may name the test's directory `@`. `None` where this criu
/// cannot dump it.
fn dump<'w>(world: &'w World, words: &[&str], options: &[&str]) -> Option<Image<'w>> {
    let at = world.path("");
    let words: Vec<String> = words.iter().map(|w| w.replace('@', &at)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match world.hold(&words).dump_with(options) {
        Ok(image) => Some(image),
        Err(said) => {
            assert!(
                said.contains("Can't get 1:16 opt"),
                "criu dump of {words:?}: {said}"
            );
            eprintln!("SKIPPED: this criu cannot dump {words:?}");
            None
        }
    }
}

fn run(verb: &str, image: &Image<'_>, advice: &[&str], criu: &[&str]) -> Output {
    said(
        &mut Command::new(build::command()),
        verb,
        image,
        advice,
        criu,
    )
}

fn said(
    command: &mut Command,
    verb: &str,
    image: &Image<'_>,
    advice: &[&str],
    criu: &[&str],
) -> Output {
    command
        .args([verb, "--json"])
        .args(advice)
        .arg(&image.directory);
    if !criu.is_empty() {
        command.arg("--").args(criu);
    }
    // What a restart program has there is judged as well.
    let null = || File::options().read(true).write(true).open("/dev/null");
    command
        .stdin(null().expect("/dev/null"))
        .stderr(null().expect("/dev/null"));
    command.output().expect("ckptadv runs")
}

/// What `ckptadv check` says, with advice and the options that criu will have.
fn check(image: &Image<'_>, advice: &[&str], criu: &[&str]) -> Value {
    let output = run("check", image, advice, criu);
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let expected = match found["findings"].as_array().expect("findings").is_empty() {
        true => 0,
        false => 3,
    };
    assert_eq!(output.status.code(), Some(expected), "{output:?}");
    found
}

/// Verdict and word of each finding.
fn verdicts(found: &Value) -> Vec<(String, String)> {
    let text = |it: &Value| it.as_str().expect("text").to_owned();
    let findings = found["findings"].as_array().expect("findings").iter();
    findings
        .map(|it| (text(&it["verdict"]), text(&it["what"])))
        .collect()
}

/// A restore with the advice of a cure, whose numbers to preserve are a file's.
fn restore(image: &Image<'_>, given: &File, advice: &[(String, String)], criu: &[&str]) -> Outcome {
    let mut restore = image.restore().options(criu);
    for number in [0, 1, 2] {
        if advice.iter().any(|(option, _)| option == "--preserve") {
            restore = restore.fd(number, given);
        }
    }
    for (option, list) in advice {
        let name = option.trim_start_matches("--").to_uppercase();
        restore = restore.advice(&name, list);
    }
    restore.run()
}

/// Has a shell do what an operator is told to do; `false` for what is only said.
fn done(action: &str) -> bool {
    let commands = ["mkdir ", "mkfifo ", "chmod ", "rm "];
    let is_command = commands.iter().any(|command| action.starts_with(command));
    if is_command {
        let status = Command::new("sh").args(["-c", action]).status();
        assert!(status.expect("sh").success(), "{action}");
    }
    is_command
}

/// A situation. What makes it gives what must live as long.
type Situation = fn(&World) -> Box<dyn Any>;

struct Row {
    words: &'static [&'static str],
    dump: &'static [&'static str],
    situation: Situation,
    verdict: &'static str,
    what: &'static str,
}

const fn row(
    words: &'static [&'static str],
    situation: Situation,
    verdict: &'static str,
    what: &'static str,
) -> Row {
    Row {
        words,
        dump: &[],
        situation,
        verdict,
        what,
    }
}

const TCP: &[&str] = &["--tcp-established", "--network-lock", "skip"];

fn nothing(_: &World) -> Box<dyn Any> {
    Box::new(())
}
fn grown(world: &World) -> Box<dyn Any> {
    fs::write(world.path("f"), "more than there was").expect("written");
    Box::new(())
}
fn gone(world: &World) -> Box<dyn Any> {
    let path = world.path("f");
    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    Box::new(())
}
fn private(world: &World) -> Box<dyn Any> {
    fs::set_permissions(world.path("f"), Permissions::from_mode(0o600)).expect("mode");
    Box::new(())
}
fn directory(world: &World) -> Box<dyn Any> {
    gone(world);
    fs::create_dir(world.path("f")).expect("a directory");
    Box::new(())
}
fn regular(world: &World) -> Box<dyn Any> {
    gone(world);
    fs::write(world.path("f"), "").expect("a file");
    Box::new(())
}
fn no_directory(world: &World) -> Box<dyn Any> {
    let _ = fs::remove_dir_all(world.path("d"));
    Box::new(())
}
fn file_for_directory(world: &World) -> Box<dyn Any> {
    no_directory(world);
    fs::write(world.path("d"), "").expect("a file");
    Box::new(())
}
fn listener(world: &World) -> Box<dyn Any> {
    gone(world);
    Box::new(UnixListener::bind(world.path("f")).expect("bound"))
}

/// What was seen to go wrong, and that it is said; then, that each cure cures it.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(&["1=reg:@f", "1=write:text"], grown, "fails", "size"),
    row(&["7=ro:@f"], grown, "fails", "size"),
    row(&["1=reg:@f", "1=write:text", "2=dup:1", "fork"], grown, "fails", "size"),
    row(&["1=append:@f", "2=dup:1", "fork", "7=dup:1"], gone, "fails", "missing"),
    row(&["7=reg:@f"], gone, "fails", "missing"),
    row(&["7=ro:@f"], gone, "fails", "missing"),
    row(&["7=reg:@f"], private, "fails", "mode"),
    row(&["7=append:@f"], private, "fails", "mode"),
    row(&["7=ro:@f"], directory, "fails", "kind"),
    row(&["7=fifo:@f"], gone, "fails", "missing"),
    row(&["7=fifo:@f"], regular, "fails", "kind"),
    row(&["7=fifo:@f"], private, "fails", "mode"),
    row(&["7=map:@f"], grown, "fails", "size"),
    row(&["7=dir:@d"], no_directory, "fails", "missing"),
    row(&["7=reg:@d/f"], no_directory, "fails", "missing"),
    row(&["7=deleted:@d/f"], file_for_directory, "fails", "directory"),
    row(&["7=listen:@d/f"], no_directory, "fails", "directory"),
    row(&["7=listen:@f"], listener, "lost", "name"),
    row(&["7=bound:@f"], listener, "lost", "name"),
    row(&["7=listen:@f"], regular, "fails", "name"),
    Row { words: &["7=flock:@f"], dump: &["--file-locks"], situation: nothing, verdict: "lost", what: "lock" },
    Row { words: &["7=posix:@f"], dump: &["--file-locks"], situation: nothing, verdict: "lost", what: "lock" },
    Row { words: &["7=tcp:8"], dump: TCP, situation: nothing, verdict: "fails", what: "connection" },
    row(&["7=pipe:8", "8=close"], nothing, "lost", "other end"),
    row(&["7=pipe:8", "7=close"], nothing, "lost", "other end"),
    row(&["1=pipe:8", "8=close"], nothing, "lost", "other end"),
];

#[test]
fn what_it_condemns_goes_wrong_and_what_cures_it_does() {
    let Some(world) = World::new() else { return };
    for row in ROWS {
        proven(&world, row);
    }
}

fn proven(world: &World, row: &Row) {
    let _ = fs::create_dir(world.path("d"));
    let Some(image) = dump(world, row.words, row.dump) else {
        return;
    };
    let given = world.open("given");
    let keep = (row.situation)(world);
    let found = check(&image, &[], &[]);
    let expected = (row.verdict.to_owned(), row.what.to_owned());
    assert!(
        verdicts(&found).iter().all(|it| *it == expected),
        "{:?}: {found:#}",
        row.words
    );
    assert!(
        !verdicts(&found).is_empty(),
        "{:?}: nothing found",
        row.words
    );
    let plain = image.restore().run();
    assert_eq!(
        plain.status == Some(0),
        row.verdict == "lost",
        "{:?}: {}",
        row.words,
        plain.said
    );
    drop((plain, keep));
    let finding = &found["findings"][0];
    for cure in finding["cures"].as_array().expect("cures") {
        let keep = (row.situation)(world);
        let (mut advice, mut criu) = (Vec::new(), Vec::new());
        if let Some(options) = cure["advice"].as_array() {
            let text = |it: &'_ Value, name: &str| it[name].as_str().expect("text").to_owned();
            advice.extend(
                options
                    .iter()
                    .map(|it| (text(it, "option"), text(it, "list"))),
            );
        } else if let Some(option) = cure["criu"].as_str() {
            if option.contains("fd[N]") {
                continue;
            }
            criu.push(option);
        } else if !done(cure["action"].as_str().expect("an action")) {
            continue;
        }
        let words: Vec<&str> = advice
            .iter()
            .flat_map(|(option, list)| [&**option, list])
            .collect();
        let left = check(&image, &words, &criu);
        let mut ids = left["findings"].as_array().expect("findings").iter();
        let cured = ids.all(|it| it["description"] != finding["description"]);
        assert!(cured, "{:?} with {cure}: {left:#}", row.words);
        if !verdicts(&left).is_empty() {
            continue;
        }
        let restored = restore(&image, &given, &advice, &criu);
        assert_eq!(
            restored.status,
            Some(0),
            "{:?} with {cure}: {}",
            row.words,
            restored.said
        );
        drop((restored, keep));
    }
    for name in ["f", "d"] {
        let path = world.path(name);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    let _ = fs::remove_dir_all(&image.directory);
}

/// What nothing is wrong with, whatever has happened here.
#[rustfmt::skip]
const BLESSED: &[(&[&str], &[&str], Situation)] = &[
    (&["7=reg:@f", "8=ro:@f", "9=dir:@d", "10=dev:/dev/zero", "11=fifo:@p", "fork"], &[], nothing),
    (&["7=append:@f", "1=dup:7"], &[], grown),
    (&["7=deleted:@d/f"], &[], no_directory),
    (&["7=deleted:@f"], &[], grown),
    (&["7=gone:@f"], &[], nothing),
    (&["7=pipe:8", "8=write:data", "9=pair:10", "11=dgram:12", "13=seq:14"], &[], nothing),
    (&["7=listen:@s", "8=connect:@s", "9=accept:7"], &[], nothing),
    (&["7=listen:@d/s", "8=connect:@d/s", "9=accept:7", "7=close"], &[], no_directory),
    (&["7=bound:@s", "8=to:@s"], &[], nothing),
    (&["7=stream:8"], &[], nothing),
    (&["7=inet", "8=udp"], &[], nothing),
    (&["7=tcp:8"], TCP, nothing),
    (&["7=pty:8"], &[], nothing),
    (&["7=eventfd", "8=timerfd", "9=signalfd", "10=inotify", "11=memfd", "12=epoll:7,8"], &[], nothing),
    (&["7=flock:@f", "8=ofd:@g", "9=lease:@l"], &["--file-locks"], nothing),
    (&["7=pair:8", "9=reg:@f", "7=send:9", "9=close"], &[], nothing),
    (&["7=dev:/proc/self/maps", "thread"], &[], nothing),
];

#[test]
fn what_it_blesses_restores() {
    let Some(world) = World::new() else { return };
    for (words, options, situation) in BLESSED {
        let _ = fs::create_dir(world.path("d"));
        let Some(image) = dump(&world, words, options) else {
            continue;
        };
        let keep = situation(&world);
        let found = check(&image, &[], options);
        assert_eq!(verdicts(&found), [], "{words:?}: {found:#}");
        let restored = image.restore().options(options).run();
        assert_eq!(restored.status, Some(0), "{words:?}: {}", restored.said);
        drop((restored, keep));
        for name in ["f", "g", "l", "d", "s", "p", "image"] {
            let path = world.path(name);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
}

/// The number of the port of an image's only socket of the internet.
fn port(image: &Image<'_>) -> u16 {
    let found = run("inspect", image, &[], &[]);
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    let mut all = found["descriptions"]
        .as_array()
        .expect("descriptions")
        .iter();
    let inet = all.find(|it| it["kind"] == "inet").expect("a socket");
    let name = inet["name"].as_str().expect("an address");
    name.rsplit_once(':')
        .expect("a port")
        .1
        .parse()
        .expect("a number")
}

/// One finding, of this verdict and word, which dropping 7 cures.
fn only(image: &Image<'_>, criu: &[&str], verdict: &str, what: &str) {
    let found = check(image, &[], criu);
    let expected = [(verdict.to_owned(), what.to_owned())];
    assert_eq!(verdicts(&found), expected, "{found:#}");
    assert_eq!(verdicts(&check(image, &["--ignore", "7"], criu)), []);
}

#[test]
fn ports_that_are_taken() {
    let Some(world) = World::new() else { return };
    for words in [["7=inet"], ["7=udp"]] {
        let Some(image) = dump(&world, &words, &[]) else {
            continue;
        };
        let port = port(&image);
        for (address, fails) in [("127.0.0.1", true), ("0.0.0.0", true), ("127.0.0.2", false)] {
            let taken: Box<dyn Any> = match words {
                ["7=inet"] => Box::new(TcpListener::bind((address, port)).expect("bound")),
                _ => Box::new(UdpSocket::bind((address, port)).expect("bound")),
            };
            match fails {
                true => only(&image, &[], "fails", "port"),
                false => assert_eq!(verdicts(&check(&image, &[], &[])), []),
            }
            let restored = image.restore().run();
            assert_eq!(
                restored.status != Some(0),
                fails,
                "{words:?} {address}: {}",
                restored.said
            );
            if fails {
                assert_eq!(image.restore().advice("IGNORE", "7").run().status, Some(0));
            }
            drop((restored, taken));
        }
        let _ = fs::remove_dir_all(&image.directory);
    }
}

#[test]
fn names_that_are_taken() {
    let Some(world) = World::new() else { return };
    let name = format!("ckptadv-check-{}", std::process::id());
    let Some(image) = dump(&world, &[&format!("7=abstract:{name}")], &[]) else {
        return;
    };
    assert_eq!(verdicts(&check(&image, &[], &[])), []);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let taken = UnixListener::bind_addr(&address).expect("bound");
    only(&image, &[], "fails", "name");
    assert_ne!(image.restore().run().status, Some(0));
    assert_eq!(image.restore().advice("IGNORE", "7").run().status, Some(0));
    drop(taken);
    assert_eq!(image.restore().run().status, Some(0));
}

#[test]
fn sockets_of_others_that_are_gone() {
    let Some(world) = World::new() else { return };
    let place = world.path("log");
    let outside = UnixDatagram::bind(&place).expect("bound");
    let held = world.hold(&[&format!("7=to:{place}")]);
    let image = held.dump_with(&["--ext-unix-sk"]).expect("criu dump");
    assert_eq!(verdicts(&check(&image, &[], &["--ext-unix-sk"])), []);
    let restored = image.restore().options(&["--ext-unix-sk"]).run();
    assert_eq!(restored.status, Some(0), "{}", restored.said);
    drop((restored, outside));
    // First nobody listens there, then it is not there.
    for _ in 0..2 {
        only(&image, &["--ext-unix-sk"], "fails", "peer");
        assert_ne!(
            image.restore().options(&["--ext-unix-sk"]).run().status,
            Some(0)
        );
        assert_eq!(image.restore().advice("IGNORE", "7").run().status, Some(0));
        let _ = fs::remove_file(&place);
    }
}

#[test]
fn a_task_that_still_runs() {
    let Some(world) = World::new() else { return };
    let held = world.hold(&["7=eventfd"]);
    let dumped = held.checkpoint("image").options(&["--leave-running"]).run();
    assert_eq!(dumped.status, Some(0), "{}", dumped.said);
    let image = dumped.image;
    let found = check(&image, &[], &[]);
    assert_eq!(verdicts(&found), [("fails".to_owned(), "pid".to_owned())]);
    assert!(
        found["findings"][0]["why"]
            .as_str()
            .expect("text")
            .contains(&held.root().to_string())
    );
    held.end();
    assert_eq!(verdicts(&check(&image, &[], &[])), []);
    assert_eq!(image.restore().run().status, Some(0));
}

#[test]
fn a_job_whose_terminal_is_gone() {
    let Some(world) = World::new() else { return };
    let (master, slave) = terminal::pair();
    let held = world.hold_on(&slave, &["ctty", "7=dup:0", "fork"]);
    let image = held.dump_with(&["--shell-job"]).expect("criu dump");
    drop((master, slave));
    let given = world.open("given");
    for criu in [&[][..], &["--shell-job"]] {
        let found = check(&image, &[], criu);
        let expected = ("fails".to_owned(), "terminal".to_owned());
        assert_eq!(verdicts(&found), [expected], "{found:#}");
        assert_ne!(image.restore().options(criu).run().status, Some(0));
        let advice = &found["findings"][0]["cures"][0]["advice"];
        let text = |index: usize| advice[index]["list"].as_str().expect("a list");
        let words = ["--preserve", text(0), "--substitute", text(1)];
        assert_eq!(verdicts(&check(&image, &words, criu)), []);
        let mut restore = image.restore().options(criu);
        for number in 0..3 {
            restore = restore.fd(number, &given);
        }
        let restore = restore
            .advice("PRESERVE", text(0))
            .advice("SUBSTITUTE", text(1));
        let restored = restore.run();
        assert_eq!(restored.status, Some(0), "{}", restored.said);
    }
}

#[test]
fn a_shell_has_its_terminal_on_255_as_well() {
    let Some(world) = World::new() else { return };
    let (master, slave) = terminal::pair();
    let link = fs::read_link(format!("/proc/self/fd/{}", slave.as_raw_fd()));
    let again = format!("255=dev:{}", link.expect("a terminal").display());
    let held = world.hold_on(&slave, &["ctty", &again]);
    let image = held.dump_with(&["--shell-job"]).expect("criu dump");
    drop((master, slave));
    let found = check(&image, &[], &[]);
    let findings = found["findings"].as_array().expect("findings");
    let first = |finding: &Value, option: &str| {
        let advice = finding["cures"][0]["advice"].clone();
        let advice = advice.as_array().expect("advice").clone();
        let of_option = advice.into_iter().find(|it| it["option"] == option);
        of_option.expect(option)["list"]
            .as_str()
            .expect("a list")
            .to_owned()
    };
    let preserved = first(&findings[0], "--preserve");
    let substituted = first(&findings[1], "--substitute");
    assert_eq!((&*preserved, &*substituted), ("0,1,2", "255=2"));
    let words = ["--preserve", &*preserved, "--substitute", &substituted];
    assert_eq!(verdicts(&check(&image, &words, &[])), []);
    let given = world.open("given");
    let mut restore = image.restore();
    for number in 0..3 {
        restore = restore.fd(number, &given);
    }
    let restore = restore
        .advice("PRESERVE", &preserved)
        .advice("SUBSTITUTE", &substituted);
    let restored = restore.run().restored();
    assert_eq!(restored.links(image.root)[&255], world.path("given"));
}

#[test]
fn a_terminal_whose_number_is_taken() {
    let Some(world) = World::new() else { return };
    let Some(image) = dump(&world, &["7=pty:8"], &[]) else {
        return;
    };
    free_terminal();
    let taken = terminal::pair();
    let found = check(&image, &[], &[]);
    assert_eq!(
        verdicts(&found),
        [("fails".to_owned(), "terminal".to_owned())]
    );
    assert_ne!(image.restore().run().status, Some(0));
    drop(taken);
    free_terminal();
    assert_eq!(verdicts(&check(&image, &[], &[])), []);
    assert_eq!(image.restore().run().status, Some(0));
}

/// Waits until the first number is free, as it is a moment after its programs end.
fn free_terminal() {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new("/dev/pts/0").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// criu takes a lock that another holds only when it is free: it is not tried.
#[test]
fn locks_that_are_held() {
    let Some(world) = World::new() else { return };
    let words = [format!("7=flock:{}", world.path("f"))];
    let image = world
        .hold(&[&words[0]])
        .dump_with(&["--file-locks"])
        .expect("criu dump");
    let taken = world.open("f");
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::flock(taken.as_raw_fd(), libc::LOCK_EX) }, 0);
    only(&image, &["--file-locks"], "fails", "locked");
    drop(taken);
    assert_eq!(verdicts(&check(&image, &[], &["--file-locks"])), []);
}

#[test]
fn a_job_whose_shell_is_not_in_the_image() {
    let Some(world) = World::new() else { return };
    // SAFETY: integers only.
    if unsafe { libc::getsid(0) } == 0 {
        // The shell has no pid here: a container runs the tests. criu dumps no job of such a shell.
        // SAFETY: no arguments.
        assert!(unsafe { libc::setsid() } > 0);
    }
    let image = world.hold(&["job", "7=eventfd"]);
    let image = image.dump_with(&["--shell-job"]).expect("criu dump");
    let elsewhere = |options: &[&str]| {
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(harness::criu::program());
        command.args(["restore", "-d", "-D"]).arg(&image.directory);
        image.restore().run_as({
            command.args(options);
            command
        })
    };
    // In the session of that shell, here, it is not missed.
    assert_eq!(verdicts(&check(&image, &[], &[])), []);
    let restored = image.restore().run();
    assert_eq!(restored.status, Some(0), "{}", restored.said);
    drop(restored);
    // Elsewhere criu makes a task of its pid, where it can.
    let found = said(
        Command::new("setsid").arg("--wait").arg(build::command()),
        "check",
        &image,
        &[],
        &[],
    );
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    assert_eq!(
        verdicts(&found),
        [("fails".to_owned(), "session".to_owned())]
    );
    assert_eq!(found["findings"][0]["cures"][0]["criu"], "--shell-job");
    assert_ne!(elsewhere(&[]).status, Some(0));
    assert_eq!(verdicts(&check(&image, &[], &["-j"])), []);
    let restored = elsewhere(&["-j"]);
    assert_eq!(restored.status, Some(0), "{}", restored.said);
}

#[test]
fn what_criu_must_be_given() {
    let Some(world) = World::new() else { return };
    let file = world.open("f");
    let held = world.hold(&[&format!("7=reg:{}", world.path("f"))]);
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/7", held.root())).expect("it runs");
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount: u64 = mount.expect("a mount").trim().parse().expect("a number");
    let inode = file.metadata().expect("a file").ino();
    let name = format!("file[{mount:x}:{inode:x}]");
    let image = held.dump_with(&["--external", &name]).expect("criu dump");
    only(&image, &[], "fails", "external");
    assert_ne!(image.restore().run().status, Some(0));
    assert_eq!(image.restore().advice("IGNORE", "7").run().status, Some(0));
    let given = format!("fd[9]:{name}");
    let option = ["--inherit-fd", &given];
    assert_eq!(verdicts(&check(&image, &[], &option)), []);
    let restored = image.restore().options(&option).fd(9, &file).run();
    assert_eq!(restored.status, Some(0), "{}", restored.said);
}

#[test]
fn a_file_that_criu_is_given_by_its_path() {
    let Some(world) = World::new() else { return };
    let path = world.path("f");
    let image = world.hold(&[&format!("1=reg:{path}"), "2=dup:1"]).dump();
    fs::remove_file(&path).expect("it was there");
    let given = world.open("given");
    for (name, works) in [(&path[1..], true), (&path[..], false)] {
        let name = format!("fd[9]:{name}");
        let option = ["--inherit-fd", &name];
        let found = check(&image, &[], &option);
        let restored = image.restore().options(&option).fd(9, &given).run();
        assert_eq!(restored.status == Some(0), works, "{}", restored.said);
        assert_eq!(verdicts(&found).is_empty(), works, "{found:#}");
        if !works {
            let why = found["findings"][0]["why"].as_str().expect("text");
            assert!(why.contains("without the first slash"), "{why}");
        }
    }
}

#[test]
fn the_other_end_of_a_pipe_is_given() {
    let Some(world) = World::new() else { return };
    let (reader, writer) = pipe().expect("a pipe");
    let image = world.hold_on(&writer, &[]).dump();
    let found = check(&image, &[], &[]);
    assert_eq!(
        verdicts(&found),
        [("lost".to_owned(), "other end".to_owned())]
    );
    let option = found["findings"][0]["cures"][1]["criu"]
        .as_str()
        .expect("an option");
    let given = option.replace("fd[N]", "fd[9]").replace('\'', "");
    let option: Vec<&str> = given.split(' ').collect();
    assert_eq!(verdicts(&check(&image, &[], &option)), []);
    let restored = image
        .restore()
        .options(&option)
        .fd(9, &writer)
        .run()
        .restored();
    // What it has is the pipe again.
    let number = fs::metadata(format!("/proc/self/fd/{}", reader.as_raw_fd()))
        .expect("open")
        .ino();
    let there = fs::metadata(format!("/proc/{}/fd/1", image.root))
        .expect("open")
        .ino();
    assert_eq!(number, there);
    drop(restored);
}

#[test]
fn connections_that_are_to_be_closed() {
    let Some(world) = World::new() else { return };
    let options = ["--tcp-close", "--network-lock", "skip"];
    let Some(image) = dump(&world, &["7=tcp:8"], &options) else {
        return;
    };
    let found = check(&image, &[], &[]);
    assert_eq!(
        verdicts(&found),
        [("fails".to_owned(), "option".to_owned())]
    );
    assert_ne!(image.restore().run().status, Some(0));
    assert_eq!(verdicts(&check(&image, &[], &options)), []);
    let restored = image.restore().options(&options).run();
    assert_eq!(restored.status, Some(0), "{}", restored.said);
}

/// What `ckptadv check` says of this machine, with a PATH.
fn machine(path: &str) -> Value {
    let mut command = Command::new(build::command());
    command.args(["check", "--json"]).env("PATH", path);
    let output = command.output().expect("ckptadv runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = if found["ready"] == true { 0 } else { 3 };
    assert_eq!(output.status.code(), Some(expected), "{output:?}");
    found
}

/// The item of a name.
fn item<'v>(found: &'v Value, name: &str) -> &'v Value {
    let mut items = found["items"].as_array().expect("items").iter();
    let item = items.find(|item| item["name"] == name);
    item.unwrap_or_else(|| panic!("no {name} in {found:#}"))
}

#[test]
fn what_works_on_this_machine() {
    let Some(world) = World::new() else { return };
    let criu = harness::criu::program();
    let directory = criu.parent().expect("a directory").to_str().expect("text");
    let found = machine(directory);
    assert_eq!(found["ready"], true, "{found:#}");
    let text = item(&found, "criu")["text"].as_str().expect("text");
    assert!(text.ends_with(": criu check passes"), "{text}");

    // One that is not there, and one that loads nothing.
    let found = machine(&world.path("nowhere"));
    assert_eq!(item(&found, "criu")["ok"], false);
    let front = world.path("criu");
    let script = format!(
        "#!/bin/sh\nunset LD_PRELOAD\nexec {} \"$@\"\n",
        criu.display()
    );
    fs::write(&front, script).expect("written");
    fs::set_permissions(&front, Permissions::from_mode(0o755)).expect("mode");
    let found = machine(world.path("").trim_end_matches('/'));
    assert_eq!(item(&found, "criu")["ok"], true, "{found:#}");
    assert_eq!(item(&found, "preload")["ok"], false, "{found:#}");
}
