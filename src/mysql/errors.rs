//! What the driver's errors mean. Nothing else in this wing classifies.

use std::time::Duration;

use sqlx::mysql::MySqlDatabaseError;

use crate::contract::StoreError;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorClass {
    /// Waiting helps.
    Transient,
    /// Waiting does not help; this would.
    Repair(&'static str),
}

const MIGRATE: &str = "run `outboxd migrate` with a user that may create tables, or check `outbox.table` and the database that the URL names";
const GRANT: &str = "grant it; `outboxd migrate --print --grants APP,RELAY` prints what the two users need";
const TRIGGER: &str = "a trigger or procedure of the database's owner raised it: mend or drop that";
const LOGIN: &str = "check user, password and host in `database.url`, and from where the server lets the user connect";
const PLUGIN: &str = "outboxd speaks mysql_native_password, caching_sha2_password and sha256_password: create the user with one of these (`identified with` on MySQL, `identified via` on MariaDB)";
const ENCRYPT: &str = "caching_sha2_password and sha256_password hand over the password itself: connect by TLS (`?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE`, or at least REQUIRED), or create the user with mysql_native_password";
const TLS: &str = "give the server a certificate, or connect with `?ssl-mode=DISABLED` where nobody else can listen";
const CONFIGURE: &str = "check `database.url`";
const REPORT: &str = "this is no state that waiting changes: read the cause, and check `outboxd migrate --check`";

/// A lock that was not to be had in time.
pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// A transaction that was undone because two waited for each other, or, in a cluster, because another node was first.
pub(super) const DEADLOCK: u16 = 1213;

/// A table that is not there.
pub(super) const NO_SUCH_TABLE: u16 = 1146;

/// A right for the whole server that a user has not.
pub(super) const ACCESS_DENIED: u16 = 1227;

/// What a statement creates is there already: a table, a column, an index, a procedure, a trigger.
pub(super) const EXISTS: [u16; 5] = [1050, 1060, 1061, 1304, 1359];

/// Sorts what the driver said while the store was `doing` something.
pub(super) fn classify(doing: &'static str, error: sqlx::Error) -> StoreError {
    let class = match &error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<MySqlDatabaseError>() {
            Some(database) => of_number(database.number(), database.code(), database.message()),
            None => ErrorClass::Transient,
        },
        sqlx::Error::Configuration(cause) if cause.to_string().starts_with("RSA auth") => ErrorClass::Repair(ENCRYPT),
        sqlx::Error::Configuration(_) => ErrorClass::Repair(CONFIGURE),
        sqlx::Error::Tls(cause) if cause.to_string().contains("does not support") => ErrorClass::Repair(TLS),
        sqlx::Error::Protocol(words) if words.contains("authentication plugin") => ErrorClass::Repair(PLUGIN),
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
            problem: format!("the server refused while {doing}"),
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

/// The number that the server gave an error.
pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    let sqlx::Error::Database(database) = error else { return None };
    database.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Whether the server gave one of these numbers.
pub(super) fn has_number(error: &StoreError, numbers: &[u16]) -> bool {
    let source = match error {
        StoreError::Unavailable { source, .. } => source,
        StoreError::Unusable { source: Some(source), .. } => source,
        _ => return false,
    };
    source.downcast_ref().and_then(number).is_some_and(|number| numbers.contains(&number))
}

/// Whether the error says that a user may not do this.
pub(super) fn is_denied(error: &sqlx::Error) -> bool {
    number(error).is_some_and(|number| matches!(number, 1044 | 1142 | 1143 | ACCESS_DENIED | 1370))
}

fn of_number(number: u16, sqlstate: Option<&str>, message: &str) -> ErrorClass {
    match number {
        // Locks, deadlocks, a server that turned read only or is going down, limits on sessions and on time, a full disk, a
        // node that is not in its cluster, a table that is being altered: all pass.
        LOCK_WAIT_TIMEOUT | DEADLOCK | 1836 | 1792 | 1040 | 1203 | 1226 | 1053 | 1317 | 1927 | 3024 | 1969 | 1021
        | 1114 | 1047 | 1412 | 1615 | 1020 => ErrorClass::Transient,
        // Of the options that prevent a statement only the one that makes a server a replica passes.
        1290 if message.contains("read-only") || message.contains("read_only") => ErrorClass::Transient,
        NO_SUCH_TABLE | 1054 | 1305 => ErrorClass::Repair(MIGRATE),
        1049 => ErrorClass::Repair(CONFIGURE),
        1251 | 1275 | 1524 => ErrorClass::Repair(PLUGIN),
        3159 => ErrorClass::Repair(ENCRYPT),
        1045 | 1129 | 1130 | 1698 | 1820 | 1862 | 3118 | 4151 => ErrorClass::Repair(LOGIN),
        1044 | 1142 | 1143 | ACCESS_DENIED | 1370 => ErrorClass::Repair(GRANT),
        1442 | 1644 => ErrorClass::Repair(TRIGGER),
        1290 => ErrorClass::Repair(REPORT),
        _ => match sqlstate.and_then(|code| code.get(..2)).unwrap_or_default() {
            "45" => ErrorClass::Repair(TRIGGER),
            "28" => ErrorClass::Repair(LOGIN),
            "0A" | "21" | "22" | "23" | "42" => ErrorClass::Repair(REPORT),
            _ => of_general(number),
        },
    }
}

/// Errors whose SQLSTATE is `HY000`, which says nothing.
fn of_general(number: u16) -> ErrorClass {
    match number {
        // A column without a default, a value of the wrong kind, a constraint that is violated.
        1364 | 1366 | 3140 | 3819 | 4025 => ErrorClass::Repair(REPORT),
        _ => ErrorClass::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(number: u16, sqlstate: &str) -> ErrorClass {
        of_number(number, Some(sqlstate), "")
    }

    #[test]
    fn a_server_that_restarts_or_is_short_of_something_is_waited_for() {
        for number in [1205, 1213, 1836, 1040, 1053, 1114, 1317, 1927, 3024, 1969, 1180, 1047, 2013] {
            assert_eq!(class(number, "HY000"), ErrorClass::Transient, "{number}");
        }
        let words = "The MySQL server is running with the --read-only option so it cannot execute this statement";
        assert_eq!(of_number(1290, Some("HY000"), words), ErrorClass::Transient);
    }

    #[test]
    fn what_waiting_does_not_change_names_its_repair() {
        assert_eq!(class(1146, "42S02"), ErrorClass::Repair(MIGRATE));
        assert_eq!(class(1142, "42000"), ErrorClass::Repair(GRANT));
        assert_eq!(class(1045, "28000"), ErrorClass::Repair(LOGIN));
        assert_eq!(class(1062, "23000"), ErrorClass::Repair(REPORT));
        assert_eq!(class(3819, "HY000"), ErrorClass::Repair(REPORT));
        assert_eq!(class(1644, "45000"), ErrorClass::Repair(TRIGGER));
    }

    #[test]
    fn a_lost_connection_is_waited_for() {
        let lost = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(classify("reading", lost).is_transient());
    }

    #[test]
    fn a_password_that_needs_tls_is_told_how_to_get_it() {
        let said = "RSA auth backend disabled; enable feature `mysql-rsa`";
        let told = classify("connecting", sqlx::Error::Configuration(said.into()));
        assert!(told.to_string().contains("ssl-mode=VERIFY_IDENTITY"), "{told}");
    }
}
