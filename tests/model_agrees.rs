//! The model of the restart call says what the kernel said, image by image.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::edit;
use harness::linux_cr::{Feed, Outcome, Restart, Verdict, image, table};
use harness::report;

fn judge(name: &str, scenario: &str, feed: Feed) -> Outcome {
    judge_image(&image(name), scenario, feed)
}

fn judge_image(image: &[u8], scenario: &str, feed: Feed) -> Outcome {
    let restart = Restart::new(image).scenario(scenario).feed(feed);
    if scenario == "pty-ctty" {
        // The foreground group of a terminal is a number that only the saved pids fit.
        restart.own_pids().args(["--pids"]).run()
    } else {
        restart.run()
    }
}

fn assert_same_descriptors(name: &str, outcome: &Outcome, expected: &str) -> Result<(), String> {
    if outcome.verdict != Verdict::Restarted {
        return Err(format!(
            "{name}: {:?}\n{}",
            outcome.verdict,
            outcome.stderr()
        ));
    }
    let report = outcome.report();
    // The program that reported on the kernel's side broke off in the middle of this one.
    let broken_off = name == "many" && report.starts_with(expected);
    let same = broken_off || report::agree(&report, expected);
    if same {
        Ok(())
    } else {
        Err(format!("{name}:\n  kernel {expected}\n  model  {report}"))
    }
}

fn assert_none(failures: Vec<String>) {
    assert!(
        failures.is_empty(),
        "{} rows differ\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_image_restarts_to_what_it_held() {
    if !harness::is_root() {
        return;
    }
    let mut failures = Vec::new();
    for row in table("outcomes.tsv") {
        let (name, expected) = (&row[0], &row[3]);
        let outcome = judge(name, name, Feed::Pipe);
        failures.extend(assert_same_descriptors(name, &outcome, expected).err());
    }
    assert_none(failures);
}

#[test]
fn every_edit_gets_the_verdict_of_the_kernel() {
    if !harness::is_root() {
        return;
    }
    let mut failures = Vec::new();
    for row in table("edited.tsv") {
        let (name, scenario, result, complaint, descriptors) =
            (&row[0], &row[1], &row[2], &row[3], &row[4]);
        let outcome = judge(&format!("edited/{name}"), scenario, Feed::Pipe);
        let result = if result == "restarted" {
            assert_same_descriptors(name, &outcome, descriptors)
        } else {
            match &outcome.verdict {
                Verdict::Failed {
                    errno,
                    complaint: said,
                    ..
                } if errno == result && said == complaint => Ok(()),
                other => Err(format!(
                    "{name}: kernel {result} {complaint:?}, model {other:?}"
                )),
            }
        };
        failures.extend(result.err());
    }
    assert_none(failures);
}

/// The image without these descriptors, but with all their files: the last one that stays is moved behind them.
fn unlisted(whole: &[u8], numbers: &[u32]) -> Vec<u8> {
    const FILE_TABLE: u32 = 301;
    const FILE_DESC: u32 = 302;
    let mut image = whole.to_owned();
    let table = edit::first(whole, FILE_TABLE);
    let count = edit::u32_at(whole, table.at + 8) - numbers.len() as u32;
    edit::set_u32(&mut image, table.at + 8, count);
    let descriptors = edit::places(whole)
        .into_iter()
        .filter(|place| place.kind == FILE_DESC);
    let (gone, kept): (Vec<_>, Vec<_>) =
        descriptors.partition(|place| numbers.contains(&edit::u32_at(whole, place.at + 12)));
    assert_eq!(gone.len(), numbers.len());
    let last = *kept.last().expect("a descriptor that stays");
    let moved = whole[last.at..last.at + last.length].to_owned();
    for place in gone.iter().rev() {
        let is_last = place.at > last.at && Some(place.at) == gone.last().map(|gone| gone.at);
        let inserted = if is_last { &moved[..] } else { &[] };
        image = edit::splice(&image, place.at, place.length, inserted);
    }
    if gone.iter().any(|place| place.at > last.at) {
        let before = gone.iter().filter(|place| place.at < last.at).count();
        image = edit::splice(&image, last.at - before * last.length, last.length, &[]);
    }
    image
}

/// The image without the files of terminals that no descriptor has: opening and closing a slave would be noticed.
fn without_terminal_files(whole: &[u8]) -> Vec<u8> {
    const OBJREF: u32 = 6;
    const FILE: u32 = 304;
    const FILE_DESC: u32 = 302;
    const FILE_OBJECT: u32 = 3;
    const TERMINAL: u32 = 5;
    let places = edit::places(whole);
    let field = |place: &edit::Place, at: usize| edit::u32_at(whole, place.at + at);
    let is_used = |objref| {
        places
            .iter()
            .any(|place| place.kind == FILE_DESC && field(place, 8) == objref)
    };
    let mut gone = Vec::new();
    for (i, place) in places.iter().enumerate() {
        if place.kind == OBJREF && field(place, 8) == FILE_OBJECT && !is_used(field(place, 12)) {
            let body = places[i..].iter().find(|place| place.kind == FILE);
            let body = body.expect("a body");
            if field(body, 8) == TERMINAL {
                gone.extend([place.at, body.at]);
            }
        }
    }
    let kept = places.iter().filter(|place| !gone.contains(&place.at));
    kept.flat_map(|place| whole[place.at..place.at + place.length].to_owned())
        .collect()
}

#[test]
fn a_file_that_no_descriptor_has_ends_as_it_did() {
    if !harness::is_root() {
        return;
    }
    let mut failures = Vec::new();
    let mut same = 0;
    for row in table("ignored.tsv") {
        let (name, ignored, expected) = (&row[0], &row[1], &row[3]);
        let numbers: Result<Vec<u32>, _> = ignored.split(',').map(str::parse).collect();
        let is_meant = ["socketpair", "unix-", "pty"]
            .iter()
            .any(|kind| name.starts_with(kind));
        let (true, Ok(numbers)) = (is_meant, numbers) else {
            continue;
        };
        let mut edited = unlisted(&image(name), &numbers);
        if name.starts_with("pty") {
            edited = without_terminal_files(&edited);
        }
        let mut outcome = judge_image(&edited, name, Feed::Pipe);
        let title = format!("{name} without {ignored}");
        let result = if expected.is_empty() {
            assert_hung_up(&title, &mut outcome)
        } else {
            assert_same_descriptors(&title, &outcome, expected)
        };
        same += usize::from(result.is_ok());
        failures.extend(result.err());
    }
    assert_none(failures);
    assert!(same >= 36, "only {same} rows");
}

/// The restart succeeds, and then its terminal ends every task.
fn assert_hung_up(name: &str, outcome: &mut Outcome) -> Result<(), String> {
    if outcome.verdict != Verdict::Restarted {
        return Err(format!("{name}: {:?}", outcome.verdict));
    }
    // Waits for the root task.
    outcome.wait();
    Ok(())
}

#[test]
fn what_the_model_does_not_know_gets_no_verdict() {
    if !harness::is_root() {
        return;
    }
    const SOCKET: u32 = 701;
    const FAMILY: usize = 32;
    const KIND: usize = 92;
    let whole = image("tcp-listen");
    let socket = edit::first(&whole, SOCKET).at;
    for (field, value) in [(KIND, libc::SOCK_DGRAM), (FAMILY, libc::AF_INET6)] {
        let value = (value as u16).to_le_bytes();
        let edited = edit::splice(&whole, socket + field, value.len(), &value);
        let outcome = judge_image(&edited, "tcp-listen", Feed::Pipe);
        let no_verdict = matches!(outcome.verdict, Verdict::Unsupported(_));
        assert!(no_verdict, "{:?}", outcome.verdict);
    }
}

#[test]
fn a_socket_without_its_file_never_tells_its_peer() {
    if !harness::is_root() {
        return;
    }
    const OBJREF: u32 = 6;
    const FILE: u32 = 304;
    const FILE_OBJECT: u32 = 3;
    let whole = unlisted(&image("socketpair"), &[3]);
    let places = edit::places(&whole);
    let is_socket =
        |place: &&edit::Place| place.kind == FILE && edit::u32_at(&whole, place.at + 8) == 4;
    let body = places.iter().find(is_socket).expect("a socket");
    let before = places.iter().rfind(|place| {
        place.at < body.at
            && place.kind == OBJREF
            && edit::u32_at(&whole, place.at + 8) == FILE_OBJECT
    });
    let before = before.expect("its announcement");
    let edited = edit::splice(&whole, body.at, body.length, &[]);
    let edited = edit::splice(&edited, before.at, before.length, &[]);
    let outcome = judge_image(&edited, "socketpair", Feed::Pipe);
    assert_eq!(outcome.verdict, Verdict::Restarted);
    let report = outcome.report();
    assert!(report.ends_with("recv 6 \"onetwo\" recv -11"), "{report}");
}

#[test]
fn both_ends_of_a_connection_work() {
    if !harness::is_root() {
        return;
    }
    let outcome = judge("tcp-conn", "tcp-conn", Feed::Pipe);
    assert_eq!(outcome.verdict, Verdict::Restarted);
    let end = |number| TcpStream::from(outcome.take(243, number));
    let ends = [end(4), end(5)];
    for (from, to) in [(0, 1), (1, 0)] {
        let (mut from, mut to) = (&ends[from], &ends[to]);
        let mut bytes = [0; 5];
        from.write_all(b"hello").expect("a connection");
        to.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        to.read_exact(&mut bytes).expect("a connection");
        assert_eq!(&bytes, b"hello");
    }
}
