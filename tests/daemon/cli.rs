//! What the commands say of themselves, and how they exit when they are used wrongly.

use std::path::Path;

use crate::daemon::{ran, stderr, stdout};

/// Compares a help text with its fixture. `UPDATE_FIXTURES=1` writes the fixture instead.
fn help_is_the_fixture(arguments: &[&str], fixture: &str) {
    let output = ran(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let help: String = stdout(&output).lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/help").join(fixture);
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &help).expect("the fixture can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the fixture is there: UPDATE_FIXTURES=1 writes it");
    assert_eq!(help, expected, "{fixture} differs: UPDATE_FIXTURES=1 writes it anew");
}

#[test]
fn the_help_of_every_command_is_as_reviewed() {
    help_is_the_fixture(&["--help"], "outboxd.txt");
    let operating =
        ["run", "migrate", "status", "ls", "show", "trace", "skip", "purge", "audit-log", "support-bundle", "doctor"];
    for command in operating.into_iter().chain(["verify", "bench", "config", "demo", "completions", "man"]) {
        help_is_the_fixture(&[command, "--help"], &format!("{command}.txt"));
    }
    for command in ["pause", "resume", "step-down", "replay"] {
        help_is_the_fixture(&[command, "--help"], &format!("{command}.txt"));
    }
    for (command, part) in [
        ("dead", "ls"),
        ("dead", "show"),
        ("dead", "requeue"),
        ("dead", "discard"),
        ("held", "ls"),
        ("held", "release"),
        ("operations", "ls"),
        ("operations", "cancel"),
    ] {
        help_is_the_fixture(&[command, part, "--help"], &format!("{command}-{part}.txt"));
    }
}

#[test]
fn completions_and_man_pages_know_every_command() {
    for (arguments, own_words, mentioned) in [
        (&["completions", "bash"][..], "complete -F _outboxd", "doctor"),
        (&["completions", "zsh"], "#compdef outboxd", "doctor"),
        (&["completions", "fish"], "complete -c outboxd", "doctor"),
        (&["man"], ".TH outboxd 1", "doctor"),
        (&["man", "held", "release"], ".TH outboxd-held-release 1", "\\fBoutboxd held release\\fR"),
    ] {
        let output = ran(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        let said = stdout(&output);
        assert!(said.contains(own_words) && said.contains(mentioned), "{arguments:?}: {said}");
    }
    assert_eq!(ran(&["completions", "csh"]).status.code(), Some(2));
    let missing = ran(&["man", "fly"]);
    assert_eq!((missing.status.code(), missing.stdout.is_empty()), (Some(1), true));
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(stdout(&ran(&["--version"])), concat!("outboxd ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn wrong_usage_exits_2_and_says_what_would_do() {
    for arguments in [
        &["migrate", "--grants", "app"][..],
        &["run", "-X", "linger.ms"],
        &["migrate", "--print", "--check"],
        &["demo", "--messages", "0"],
        &["rnu"],
        &[],
    ] {
        let output = ran(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("Usage") || stderr(&output).contains("--help"), "{arguments:?}");
    }
    assert!(stderr(&ran(&["migrat"])).contains("'migrate'"));
}

#[test]
fn a_configuration_that_cannot_be_used_exits_2_before_anything_starts() {
    let output = ran(&["run", "--http", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    let complaints = stderr(&output);
    for setting in ["database.url", "kafka.bootstrap.servers", "http.listen (flag --http)"] {
        assert!(complaints.contains(setting), "{setting} is missing: {complaints}");
    }
}
