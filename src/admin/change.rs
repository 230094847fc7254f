//! What every change of an operator goes through: who asks, saying what would be done, and asking whether to do it.

use std::io::{BufRead, IsTerminal, Write};

use crate::outbox::Intent;

/// How a change is made.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Nothing is changed; what would be is said.
    pub dry_run: bool,
    /// It is not asked whether to do it.
    pub yes: bool,
    /// Why, for the audit log.
    pub reason: Option<String>,
}

/// What is to become of a change once it is known what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is made.
    Make,
    /// It is not: it was a dry run, or the operator does not want it.
    Leave,
}

impl Change {
    /// What the audit log is told of the change.
    pub fn intent(&self, command: &'static str, subject: impl ToString) -> Intent {
        Intent { command, subject: subject.to_string(), reason: self.reason.clone(), actor: local_actor() }
    }

    /// Says what would be done, such as "release 3 lanes", and decides: on a terminal by asking.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    pub fn decide(&self, what: &str) -> std::io::Result<Decision> {
        if self.dry_run {
            println!("would {what}; nothing was changed");
            return Ok(Decision::Leave);
        }
        let input = std::io::stdin();
        if self.yes || !input.is_terminal() {
            return Ok(Decision::Make);
        }
        let mut output = std::io::stderr();
        write!(output, "{what}? [y/N] ")?;
        output.flush()?;
        let mut answer = String::new();
        input.lock().read_line(&mut answer)?;
        if means_yes(&answer) {
            return Ok(Decision::Make);
        }
        println!("nothing was changed");
        Ok(Decision::Leave)
    }
}

fn means_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The user and the host at which the command was typed. The database's own role is what can be relied upon.
fn local_actor() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let host = host.unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_is_one() {
        assert!(means_yes("y\n") && means_yes(" Yes "));
        assert!(!means_yes("") && !means_yes("n") && !means_yes("yep"));
    }

    #[test]
    fn a_dry_run_changes_nothing_and_a_yes_asks_nothing() {
        let dry = Change { dry_run: true, yes: true, reason: None };
        assert_eq!(dry.decide("release 3 lanes").expect("nothing is asked"), Decision::Leave);
        let sure = Change { yes: true, reason: Some("topic raised".to_owned()), ..Change::default() };
        assert_eq!(sure.decide("release 3 lanes").expect("nothing is asked"), Decision::Make);
        let intent = sure.intent("held release", "--topic orders");
        assert_eq!((intent.command, intent.subject.as_str()), ("held release", "--topic orders"));
        assert_eq!(intent.reason.as_deref(), Some("topic raised"));
        assert!(intent.actor.contains('@'), "{}", intent.actor);
    }
}
