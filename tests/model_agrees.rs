//! The model of the restart call says what the kernel said, image by image.

use harness::linux_cr::{Feed, Outcome, Restart, Verdict, image, table};
use harness::report;

/// Scenarios with sockets.
const UNKNOWN: [&str; 10] = [
    "inet-listen",
    "socketpair",
    "socketpair-dgram",
    "socketpair-half",
    "tcp-conn",
    "tcp-listen",
    "unix-conn",
    "unix-conn-nolisten",
    "unix-dgram",
    "unix-listen",
];

/// Edits of these scenarios that the model can judge all the same: it fails, or meets nothing unknown.
const KNOWN_ALL_THE_SAME: [&str; 1] = ["inet-listen-drop"];

fn judge(name: &str, scenario: &str, feed: Feed) -> Outcome {
    let restart = Restart::new(&image(name)).scenario(scenario).feed(feed);
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
