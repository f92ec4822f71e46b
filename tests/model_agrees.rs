//! The model of the restart call says what the kernel said, image by image.

use harness::edit;
use harness::linux_cr::{Feed, Outcome, Restart, Verdict, image, table};
use harness::report;

/// Scenarios with internet sockets.
const UNKNOWN: [&str; 3] = ["inet-listen", "tcp-conn", "tcp-listen"];

/// Edits of these scenarios that the model can judge all the same: it fails, or meets nothing unknown.
const KNOWN_ALL_THE_SAME: [&str; 1] = ["inet-listen-drop"];

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

fn assert_unsupported(name: &str, outcome: &Outcome) -> Result<(), String> {
    match &outcome.verdict {
        Verdict::Unsupported(_) => Ok(()),
        other => Err(format!("{name}: not known to the model, and yet {other:?}")),
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
        let result = if UNKNOWN.contains(&name.as_str()) {
            assert_unsupported(name, &outcome)
        } else {
            assert_same_descriptors(name, &outcome, expected)
        };
        failures.extend(result.err());
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
        let known =
            !UNKNOWN.contains(&scenario.as_str()) || KNOWN_ALL_THE_SAME.contains(&name.as_str());
        let result = if !known {
            assert_unsupported(name, &outcome)
        } else if result == "restarted" {
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
