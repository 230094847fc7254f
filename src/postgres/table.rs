//! The outbox as statements name it: its tables, and the columns of the outbox as expressions. No statement names a column
//! of the outbox in any other way, but for `enqueue` and what makes the tables.

use std::fmt;

use crate::outbox::Table;
use crate::postgres::quote::{qualified, quoted};

/// The tables of an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutboxTable {
    /// As the operator calls it.
    named: Table,
    /// The schema that the name gave, or in which the table was found, which may be called anything.
    schema: Option<String>,
}

impl OutboxTable {
    /// The table that is called so.
    pub(super) fn named(table: &Table) -> Self {
        Self { named: table.clone(), schema: table.schema().map(str::to_owned) }
    }

    /// The table that is called so and was found in a schema: names in SQL tell it from here on.
    pub(super) fn found_in(table: &Table, schema: String) -> Self {
        Self { named: table.clone(), schema: Some(schema) }
    }

    /// The schema, if it is known.
    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The schema, quoted.
    pub(super) fn quoted_schema(&self) -> Option<String> {
        self.schema().map(quoted)
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

    /// What is called as the outbox with a suffix: a table, a function, a sequence.
    pub(super) fn beside(&self, suffix: &str) -> String {
        qualified(self.schema(), &format!("{}{suffix}", self.named.name()))
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

/// What is needed of a column of the outbox.
pub(super) struct NeededColumn {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) not_null: bool,
}

/// What is needed of the columns.
pub(super) const NEEDED: [NeededColumn; 12] = [
    NeededColumn { name: "id", kind: "bigint", not_null: true },
    NeededColumn { name: "event_id", kind: "uuid", not_null: true },
    NeededColumn { name: "topic", kind: "text", not_null: true },
    NeededColumn { name: "key", kind: "text", not_null: false },
    NeededColumn { name: "payload", kind: "bytea", not_null: false },
    NeededColumn { name: "headers", kind: "jsonb", not_null: true },
    NeededColumn { name: "partition", kind: "integer", not_null: false },
    NeededColumn { name: "created_at", kind: "timestamp with time zone", not_null: true },
    NeededColumn { name: "xid", kind: "xid8", not_null: true },
    NeededColumn { name: MARK, kind: "timestamp with time zone", not_null: false },
    NeededColumn { name: SENT_PARTITION, kind: "integer", not_null: false },
    NeededColumn { name: SENT_OFFSET, kind: "bigint", not_null: false },
];

/// The column that marks a row as sent.
pub(super) const MARK: &str = "sent_at";

/// The columns that tell where the record of a row that was sent is.
const SENT_PARTITION: &str = "sent_partition";
const SENT_OFFSET: &str = "sent_offset";

/// The columns that the relay updates.
pub(super) const UPDATED: [&str; 3] = [MARK, SENT_PARTITION, SENT_OFFSET];

/// Expressions over a row of the outbox, or of the dead letters, which have the same columns but for the last four.
pub(super) struct Columns {
    pub(super) id: String,
    pub(super) event_id: String,
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) payload: String,
    pub(super) headers: String,
    pub(super) partition: String,
    pub(super) created_at: String,
    /// The transaction that wrote the row.
    pub(super) xid: String,
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
            xid: column("xid"),
            sent_at: column(MARK),
            sent_partition: column(SENT_PARTITION),
            sent_offset: column(SENT_OFFSET),
        }
    }

    /// The condition that the row is not marked as sent.
    pub(super) fn unsent(&self) -> String {
        format!("{} is null", self.sent_at)
    }

    /// The name of the row's lane: its partition where it names one, and else its key; null where it has neither. Topics
    /// hold neither blanks nor colons.
    pub(super) fn lane(&self) -> String {
        let Self { topic, key, partition, .. } = self;
        format!("case when {partition} is null then {topic} || ' ' || {key} else {topic} || ':' || {partition} end")
    }

    /// What is selected of a row, for [`Page`](crate::postgres::reading::rows::Page) to read. Key, payload or headers of more
    /// than 8 KiB are left out at first, and their size told: how many rows fit into the limit of bytes is known only when
    /// their sizes are, and no row takes more memory than it may. Headers of at most 5 bytes are left out too, which an empty
    /// object takes: to write it as text costs a tenth of all that the database does for a row. That text can be far larger
    /// than what is stored, so it is measured itself, and its size told in its place after a `#`.
    pub(super) fn selected(&self) -> String {
        let Self { id, event_id, topic, key, payload, headers, partition, created_at, .. } = self;
        format!(
            "{id}, {event_id}, left({topic}, 250), \
             case when octet_length({key}) <= 8192 then {key} end, \
             case when octet_length({key}) > 8192 then octet_length({key}) end, \
             case when octet_length({payload}) > 8192 then octet_length({payload}) end, \
             case when octet_length({payload}) <= 8192 then {payload} end, \
             case when pg_column_size({headers}) > 5 then ( \
                 select case when octet_length(json) <= 8192 then json else '#' || octet_length(json) end \
                 from (select {headers}::text as json offset 0) as measured) end, \
             {partition}, {created_at}"
        )
    }

    /// What is selected of a row that lacks a part.
    pub(super) fn wide(&self) -> String {
        let Self { id, event_id, key, payload, headers, .. } = self;
        format!("{id}, {event_id}, {key}, {payload}, {headers}::text")
    }
}

/// As many columns as [`Columns::selected`], for a row that says something else.
pub(super) const NO_COLUMNS: &str = "null::bigint as id, null::uuid, null::text, null::text, null::int, null::int, null::bytea, null::text, null::int, null::timestamptz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_keep_their_schema() {
        let table = OutboxTable::named(&"shop.Outbox_2".parse().expect("a name"));
        assert_eq!(table.outbox(), "\"shop\".\"Outbox_2\"");
        assert_eq!(table.held(), "\"shop\".\"Outbox_2_held\"");
        assert_eq!(table.to_string(), "shop.Outbox_2");
        assert_eq!(OutboxTable::named(&Table::default()).lease(), "\"outbox_lease\"");
    }

    #[test]
    fn a_table_that_was_found_names_its_schema_in_sql_whatever_that_is_called() {
        let table = OutboxTable::found_in(&Table::default(), "a \"b\"".to_owned());
        assert_eq!(table.held(), "\"a \"\"b\"\"\".\"outbox_held\"");
        assert_eq!(table.to_string(), "outbox", "people read what they wrote");
    }
}
