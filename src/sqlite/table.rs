//! The outbox as statements name it: its tables, and the columns of the outbox as expressions. No statement names a column
//! of the outbox in any other way, but for `enqueue` and what makes the tables.

use std::fmt;

use crate::outbox::Table;
use crate::sqlite::quote::quoted;

/// The tables of an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutboxTable {
    /// As the operator calls it.
    named: Table,
}

impl OutboxTable {
    /// The table that is called so.
    pub(super) fn named(table: &Table) -> Self {
        Self { named: table.clone() }
    }

    /// As the operator calls it.
    pub(super) fn as_named(&self) -> &Table {
        &self.named
    }

    /// The outbox's name, as SQLite keeps it.
    pub(super) fn name(&self) -> &str {
        self.named.name()
    }

    /// The outbox itself.
    pub(super) fn outbox(&self) -> String {
        self.beside("")
    }

    /// Where the checkpoint is stored.
    pub(super) fn checkpoint(&self) -> String {
        self.beside("_checkpoint")
    }

    /// Where held lanes are remembered.
    pub(super) fn held(&self) -> String {
        self.beside("_held")
    }

    /// The lease.
    pub(super) fn lease(&self) -> String {
        self.beside("_lease")
    }

    /// The dead letters.
    pub(super) fn dead(&self) -> String {
        self.beside("_dead")
    }

    /// What operators changed.
    pub(super) fn audit_log(&self) -> String {
        self.beside("_audit")
    }

    /// What is paused.
    pub(super) fn pause(&self) -> String {
        self.beside("_pause")
    }

    /// What the leader is to carry out.
    pub(super) fn operation(&self) -> String {
        self.beside("_operation")
    }

    /// Which relays are standby.
    pub(super) fn standby(&self) -> String {
        self.beside("_standby")
    }

    /// Which migrations were applied.
    pub(super) fn migrations(&self) -> String {
        self.beside("_migrations")
    }

    /// What is called as the outbox with a suffix: a table, an index, a trigger.
    pub(super) fn beside(&self, suffix: &str) -> String {
        quoted(&format!("{}{suffix}", self.name()))
    }

    /// The columns of a row of the outbox.
    pub(super) fn columns(&self) -> Columns {
        Columns::of("")
    }

    /// The columns of a row of the outbox that the statement calls so.
    pub(super) fn columns_of(&self, alias: &str) -> Columns {
        Columns::of(&format!("{alias}."))
    }
}

/// As people read what they wrote.
impl fmt::Display for OutboxTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.fmt(f)
    }
}

/// Expressions over a row of the outbox, or of the dead letters, which have the same columns but for the last three.
pub(super) struct Columns {
    pub(super) id: String,
    pub(super) event_id: String,
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) payload: String,
    pub(super) headers: String,
    pub(super) partition: String,
    pub(super) created_at: String,
    /// When it was marked as sent; null until then.
    pub(super) sent_at: String,
    /// The partition of its record, and the offset there, where that was recorded.
    pub(super) sent_partition: String,
    pub(super) sent_offset: String,
}

impl Columns {
    /// The columns of a dead letter.
    pub(super) fn of_dead() -> Self {
        Self::of("")
    }

    fn of(prefix: &str) -> Self {
        let column = |name: &str| format!("{prefix}{name}");
        Self {
            id: column("id"),
            event_id: column("event_id"),
            topic: column("topic"),
            key: column("key"),
            payload: column("payload"),
            headers: column("headers"),
            partition: column("partition"),
            created_at: column("created_at"),
            sent_at: column("sent_at"),
            sent_partition: column("sent_partition"),
            sent_offset: column("sent_offset"),
        }
    }

    /// The condition that the row is not marked as sent.
    pub(super) fn unsent(&self) -> String {
        format!("{} is null", self.sent_at)
    }

    /// What is selected of a row, for [`Rows`](crate::sqlite::reading::rows::Rows) to read. Payloads may have been inserted as
    /// text, and times in any form that SQLite knows. Key, payload or headers of more than 8 KiB are left out at first, and
    /// the size of what was left out told: rows wait for the reader in memory, which no row may fill. SQLite knows sizes
    /// without loading what has them.
    pub(super) fn selected(&self) -> String {
        let Self { id, event_id, topic, key, payload, headers, partition, created_at, .. } = self;
        format!(
            "{id}, \
             case when octet_length({event_id}) <= 36 then {event_id} end, \
             case when octet_length({topic}) <= 249 then {topic} end, \
             case when octet_length({key}) <= 8192 then {key} end, \
             case when octet_length({payload}) <= 8192 then cast({payload} as blob) end, \
             case when octet_length({headers}) <= 8192 then {headers} end, \
             {partition}, \
             cast(round((julianday({created_at}) - 2440587.5) * 86400000) as integer), \
             coalesce(octet_length({key}), 0) + coalesce(octet_length({payload}), 0) + coalesce(octet_length({headers}), 0), \
             max(coalesce(octet_length({key}), 0), coalesce(octet_length({payload}), 0), coalesce(octet_length({headers}), 0)) > 8192"
        )
    }

    /// What is selected of a row of which something was left out.
    pub(super) fn wide(&self) -> String {
        let Self { key, payload, headers, .. } = self;
        format!("{key}, cast({payload} as blob), {headers}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let table = OutboxTable::named(&"Outbox_2".parse().expect("a name"));
        assert_eq!(table.outbox(), "\"Outbox_2\"");
        assert_eq!(table.held(), "\"Outbox_2_held\"");
        assert_eq!(table.to_string(), "Outbox_2");
    }
}
