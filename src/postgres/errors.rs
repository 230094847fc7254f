//! What the driver's errors mean. Nothing else in this wing classifies.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use crate::contract::StoreError;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorClass {
    /// Waiting helps.
    Transient,
    /// Waiting does not help; this would.
    Repair(&'static str),
}

const MIGRATE: &str =
    "run `outboxd migrate` with a role that owns the schema, or check `outbox.table` and the search_path";
const GRANT: &str = "grant it; `outboxd migrate --print --grants APP,RELAY` prints what the two roles need";
const POLICY: &str = "`alter role RELAY bypassrls`, or make it the table's owner without `force row level security`, or `alter table … disable row level security`";
const TRIGGER: &str = "a trigger or rule of the database's owner raised it: mend or drop that";
const LOGIN: &str = "check user, password and pg_hba.conf for `database.url`";
const POOLER: &str = "connect to PostgreSQL directly, or through a pooler in session mode";
const PARAMETER: &str =
    "connect to PostgreSQL directly, or let the pooler ignore it (PgBouncer: ignore_startup_parameters)";
const REPORT: &str = "this is no state that waiting changes: read the cause, and check `outboxd migrate --check`";
const CONFIGURE: &str = "check `database.url`";

/// Sorts what the driver said while the store was `doing` something.
pub(super) fn classify(doing: &'static str, error: sqlx::Error) -> StoreError {
    let class = match &error {
        sqlx::Error::Database(database) => of_database(database.as_ref()),
        sqlx::Error::Configuration(_) => ErrorClass::Repair(CONFIGURE),
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_) => ErrorClass::Repair(REPORT),
        _ => ErrorClass::Transient,
    };
    match class {
        ErrorClass::Transient => StoreError::Unavailable { doing, source: Box::new(error) },
        ErrorClass::Repair(repair) => StoreError::Unusable {
            problem: format!("PostgreSQL refused while {doing}"),
            repair: repair.to_owned(),
            source: Some(Box::new(error)),
        },
    }
}

/// The database gave no answer in time; the session is of no use any more.
pub(super) fn silent(doing: &'static str, waited: Duration) -> StoreError {
    StoreError::Unavailable { doing, source: format!("no answer within {} ms", waited.as_millis()).into() }
}

/// A state that waiting changes, in our own words.
pub(super) fn not_now(doing: &'static str, cause: impl Into<String>) -> StoreError {
    StoreError::Unavailable { doing, source: cause.into().into() }
}

/// What only an operator changes, in our own words.
pub(super) fn unusable(problem: impl Into<String>, repair: impl Into<String>) -> StoreError {
    StoreError::Unusable { problem: problem.into(), repair: repair.into(), source: None }
}

/// What only another process can work with, in our own words.
pub(super) fn incompatible(problem: impl Into<String>, repair: impl Into<String>) -> StoreError {
    StoreError::Incompatible { problem: problem.into(), repair: repair.into(), source: None }
}

/// What the server says when a lock was not to be had in time.
pub(super) const NO_LOCK: &str = "55P03";

/// What it says when a statement took too long.
pub(super) const CANCELLED: &str = "57014";

/// Whether the server gave one of these codes.
pub(super) fn has_code(error: &StoreError, codes: &[&str]) -> bool {
    let StoreError::Unavailable { source, .. } = error else { return false };
    let Some(sqlx::Error::Database(database)) = source.downcast_ref() else { return false };
    database.code().is_some_and(|code| codes.contains(&&*code))
}

/// Whether the error says that a role may not do this.
pub(super) fn is_denied(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.code().as_deref() == Some("42501"))
}

fn of_database(error: &dyn DatabaseError) -> ErrorClass {
    match error.code().as_deref() {
        // The code stands for much that passes; only the words of PgBouncer tell.
        Some("08P01") if error.message().starts_with("unsupported startup parameter") => ErrorClass::Repair(PARAMETER),
        // Messages are translated; the names of the server's functions are not. A column's type was changed below a
        // statement that was prepared before: another session prepares it anew.
        Some("0A000") if routine(error) == Some("RevalidateCachedQuery") => ErrorClass::Transient,
        Some("42501") if routine(error) == Some("check_enable_rls") => ErrorClass::Repair(POLICY),
        Some(code) => of_sqlstate(code),
        None => ErrorClass::Transient,
    }
}

/// The function of the server that raised the error.
fn routine(error: &dyn DatabaseError) -> Option<&str> {
    error.try_downcast_ref::<PgDatabaseError>()?.routine()
}

fn of_sqlstate(code: &str) -> ErrorClass {
    match code {
        // A query that was cancelled, a lock that was not to be had, a server that turned read only: all pass.
        NO_LOCK | "25006" => ErrorClass::Transient,
        // Prepared statements that are gone or already there: someone swaps the session below us.
        "26000" | "42P05" => ErrorClass::Repair(POOLER),
        "42501" => ErrorClass::Repair(GRANT),
        "42P01" | "42703" | "42883" | "3F000" | "42704" => ErrorClass::Repair(MIGRATE),
        "3D000" => ErrorClass::Repair(CONFIGURE),
        _ => match code.get(..2).unwrap_or_default() {
            "28" => ErrorClass::Repair(LOGIN),
            "P0" => ErrorClass::Repair(TRIGGER),
            "0A" | "21" | "22" | "23" | "42" | "44" => ErrorClass::Repair(REPORT),
            _ => ErrorClass::Transient,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_restarts_or_is_short_of_something_is_waited_for() {
        for code in [
            "57P01", "57P02", "57P03", "57P05", NO_LOCK, CANCELLED, "53300", "40001", "40P01", "08006", "25006",
            "XX000",
        ] {
            assert_eq!(of_sqlstate(code), ErrorClass::Transient, "{code}");
        }
    }

    #[test]
    fn what_waiting_does_not_change_names_its_repair() {
        assert_eq!(of_sqlstate("42P01"), ErrorClass::Repair(MIGRATE));
        assert_eq!(of_sqlstate("42501"), ErrorClass::Repair(GRANT));
        assert_eq!(of_sqlstate("28P01"), ErrorClass::Repair(LOGIN));
        assert_eq!(of_sqlstate("26000"), ErrorClass::Repair(POOLER));
        assert_eq!(of_sqlstate("23505"), ErrorClass::Repair(REPORT));
        assert_eq!(of_sqlstate("P0001"), ErrorClass::Repair(TRIGGER));
    }

    #[test]
    fn a_lost_connection_is_waited_for() {
        let lost = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(classify("reading", lost).is_transient());
    }
}
