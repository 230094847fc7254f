//! An operator of the tests.

use outboxd::outbox::Intent;

/// Some change.
pub(crate) fn intent() -> Intent {
    let (command, subject, actor) = ("held release", "--all".to_owned(), "tester@here".to_owned());
    Intent { command, subject, reason: None, actor }
}
