//! The demo, and that its check can fail.

use std::process::Output;

use crate::daemon::{ran, stderr, stdout};

fn demo(arguments: &[&str]) -> Output {
    ran(&[&["demo", "--seed", "1", "--http", ""], arguments].concat())
}

/// The number in the summary's line that begins with this.
fn counted(output: &Output, what: &str) -> u64 {
    let text = stdout(output);
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix(what)).unwrap_or_else(|| panic!("no {what}: {text}"));
    line.trim().replace(',', "").parse().unwrap_or_else(|_| panic!("no number of {what}: {text}"))
}

fn everything_arrived(output: &Output, messages: u64) {
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(output), stderr(output));
    for (what, expected) in [
        ("committed", messages),
        ("received", messages),
        ("lost", 0),
        ("order violations", 0),
        ("rolled back, and received all the same", 0),
    ] {
        assert_eq!(counted(output, what), expected, "{what}: {}", stdout(output));
    }
}

#[test]
fn the_demo_loses_and_reorders_nothing() {
    let output = demo(&["--messages", "5000"]);
    everything_arrived(&output, 5_000);
    assert_eq!(counted(&output, "duplicates"), 0);
    assert!(stdout(&output).contains("written") && stdout(&output).contains("lag"), "{}", stdout(&output));
}

#[test]
fn a_relay_killed_in_the_middle_loses_and_reorders_nothing() {
    let output = demo(&["--messages", "10000", "--kill"]);
    everything_arrived(&output, 10_000);
    assert!(stdout(&output).contains("killed the relay"), "{}", stdout(&output));
}

#[test]
fn a_relay_that_loses_records_is_found_out() {
    let output = demo(&["--messages", "2000", "--sabotage", "lose"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(counted(&output, "lost") > 0);
    assert!(stdout(&output).contains("The promise was broken."), "{}", stdout(&output));
}

#[test]
fn a_relay_that_reorders_records_is_found_out() {
    let output = demo(&["--messages", "5000", "--sabotage", "reorder"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(counted(&output, "order violations") > 0);
}
