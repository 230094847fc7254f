//! What the driver's errors mean. Nothing else in this wing classifies.

use crate::contract::StoreError;

const MIGRATE: &str = "run `outboxd migrate`, or check `outbox.table`";
const CONFIGURE: &str = "check `database.url`: sqlite:PATH names a file";
const ACCESS: &str = "let the relay write to the file and to its directory";
const REPORT: &str = "this is no state that waiting changes: read the cause, and check `outboxd migrate --check`";

/// Sorts what the driver said while the store was `doing` something.
pub(super) fn classify(doing: &'static str, error: sqlx::Error) -> StoreError {
    match repair(&error) {
        None => StoreError::Unavailable { doing, source: Box::new(error) },
        Some(repair) => StoreError::Unusable {
            problem: format!("SQLite refused while {doing}"),
            repair: repair.to_owned(),
            source: Some(Box::new(error)),
        },
    }
}

/// What only an operator changes, in our own words.
pub(super) fn unusable(problem: impl Into<String>, repair: impl Into<String>) -> StoreError {
    StoreError::Unusable { problem: problem.into(), repair: repair.into(), source: None }
}

/// What only another process can work with, in our own words.
pub(super) fn incompatible(problem: impl Into<String>, repair: impl Into<String>) -> StoreError {
    StoreError::Incompatible { problem: problem.into(), repair: repair.into(), source: None }
}

/// What would do about the error; `None` where waiting helps.
fn repair(error: &sqlx::Error) -> Option<&'static str> {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse().ok()).unwrap_or_default();
            of_code(code, database.message())
        }
        sqlx::Error::Configuration(_) => Some(CONFIGURE),
        sqlx::Error::RowNotFound => Some(MIGRATE),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_) => Some(REPORT),
        _ => None,
    }
}

const ERROR: i32 = 1;
const PERM: i32 = 3;
const READONLY: i32 = 8;
const CORRUPT: i32 = 11;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const AUTH: i32 = 23;
const NOT_A_DATABASE: i32 = 26;
/// The file was moved or replaced below an open connection: a new one may find it.
const READONLY_DBMOVED: i32 = 1032;

/// By SQLite's result code; the extended ones keep the primary code in their low byte.
fn of_code(code: i32, message: &str) -> Option<&'static str> {
    match (code, code & 0xff) {
        (READONLY_DBMOVED, _) => None,
        (_, ERROR) if message.starts_with("no such ") || message.contains("has no column") => Some(MIGRATE),
        (_, PERM | READONLY | AUTH) => Some(ACCESS),
        (_, ERROR | CORRUPT | CONSTRAINT | MISMATCH | NOT_A_DATABASE) => Some(REPORT),
        // Busy, locked, out of memory or of disk, not to be opened right now, interrupted: all pass.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_waited_for() {
        for code in [5, 6, 7, 9, 10, 13, 14, 15, 261, 517, 266, 1032] {
            assert_eq!(of_code(code, "database is locked"), None, "{code}");
        }
    }

    #[test]
    fn a_missing_table_is_answered_with_the_command_that_makes_it() {
        assert_eq!(of_code(1, "no such table: outbox"), Some(MIGRATE));
        assert_eq!(of_code(1, "no such column: sent_at"), Some(MIGRATE));
        assert_eq!(of_code(1, "near \"slect\": syntax error"), Some(REPORT));
        assert_eq!(of_code(8, "attempt to write a readonly database"), Some(ACCESS));
        assert_eq!(of_code(26, "file is not a database"), Some(REPORT));
    }
}
