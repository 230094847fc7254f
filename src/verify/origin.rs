//! Which committed row a record comes from: the one of its id, its event, its topic and its partition, and no other.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::contract::{Audit, KnownRow, StoreError};
use crate::outbox::Settle;
use crate::verify::read::Record;
use crate::verify::report::Where;
use crate::verify::settings::Settings;

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From a committed row that is there.
    Row {
        /// Whether the row names its partition, which is its lane then.
        names_partition: bool,
    },
    /// From a row that may have been removed since.
    Gone,
    /// From no committed row.
    Unexpected,
}

/// Where each of these records of one partition comes from, in their order.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn origins(
    audit: &mut dyn Audit,
    settings: &Settings,
    records: &[Record],
    at: &Where,
) -> Result<Vec<Origin>, StoreError> {
    if settings.settle == Settle::Delete {
        return Ok(vec![Origin::Gone; records.len()]);
    }
    let ids: Vec<i64> = records.iter().map(|record| record.id).collect();
    let known = audit.known(&ids).await?;
    let rows: HashMap<_, _> = known.iter().map(|row| ((row.id, row.event_id), row)).collect();
    let origin = |record: &Record| match rows.get(&(record.id, record.event_id)) {
        Some(row) if is_place_of(row, at) => Origin::Row { names_partition: row.partition.is_some() },
        Some(_elsewhere) => Origin::Unexpected,
        None => Origin::Gone,
    };
    let mut origins: Vec<Origin> = records.iter().map(origin).collect();
    if origins.contains(&Origin::Gone) {
        // Asked after the look-up, so that what was removed before it is covered.
        let removable = audit.removable(settings.retention).await?;
        let oldest = removable.written_before.timestamp_millis();
        let stays = |record: &Record| record.id > removable.up_to && record.written >= oldest;
        for (record, origin) in records.iter().zip(&mut origins) {
            if *origin == Origin::Gone && stays(record) {
                *origin = Origin::Unexpected;
            }
        }
    }
    Ok(origins)
}

/// Whether a row's record belongs here. A dead letter may have been published elsewhere.
fn is_place_of(row: &KnownRow, at: &Where) -> bool {
    let here = *row.topic == *at.topic && row.partition.is_none_or(|partition| partition == at.partition);
    here || row.is_dead
}

/// A hash of the lane of a record: its partition where its row names it, else its key; none without either. Records that an
/// operator put back together are a lane of their own: they come after what was sent of theirs before, and in order.
pub(crate) fn lane_of(record: &Record, origin: Origin, at: &Where) -> Option<u64> {
    let names_partition = origin == Origin::Row { names_partition: true };
    let mut hasher = DefaultHasher::new();
    match (&record.key, names_partition) {
        (_, true) => at.partition.hash(&mut hasher),
        (Some(key), false) => key.hash(&mut hasher),
        (None, false) => return None,
    }
    record.requeued.hash(&mut hasher);
    Some(hasher.finish())
}
