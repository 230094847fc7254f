//! Values written out in statements that are sent as text, and times as they come back.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::mysql::MySqlRow;
use uuid::Uuid;

/// A time, for a column of times.
pub(super) fn time(time: DateTime<Utc>) -> String {
    format!("cast('{}' as datetime(6))", time.format("%Y-%m-%d %H:%M:%S%.6f"))
}

/// The expression of a time as [`read_time`] reads it: microseconds since 1970, null of what is no time. What is put together from
/// times has a type that depends on the server.
pub(super) fn micros(time: &str) -> String {
    format!("timestampdiff(microsecond, '1970-01-01', {time})")
}

/// Reads a column that is [`micros`] of a time.
pub(super) fn read_time(row: &MySqlRow, column: usize) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.and_then(DateTime::from_timestamp_micros))
}

/// Event ids, as a list.
pub(super) fn event_ids(event_ids: &[Uuid]) -> String {
    event_ids.iter().map(|event_id| format!("'{event_id}'")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_the_microsecond() {
        let epoch = DateTime::UNIX_EPOCH + chrono::TimeDelta::microseconds(1_500_000);
        assert_eq!(time(epoch), "cast('1970-01-01 00:00:01.500000' as datetime(6))");
    }
}
