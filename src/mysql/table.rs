//! The outbox as statements name it: its tables, and the columns of the outbox as expressions. No statement names a column
//! of the outbox in any other way, but for `enqueue` and what makes the tables.

use std::fmt;

use crate::mysql::quote::qualified;
use crate::mysql::values;
use crate::outbox::Table;

/// The tables of an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutboxTable {
    /// As the operator calls it.
    named: Table,
    /// The schema that the name gave, or else the database that the URL names, which may be called anything.
    schema: Option<String>,
}

impl OutboxTable {
    /// The table that is called so, where the connection's database is.
    pub(super) fn named(table: &Table) -> Self {
        Self { named: table.clone(), schema: table.schema().map(str::to_owned) }
    }

    /// The table that is called so, in a schema.
    pub(super) fn found_in(table: &Table, schema: String) -> Self {
        Self { named: table.clone(), schema: Some(schema) }
    }

    /// The schema, which is what a database is called here; nothing before it is known.
    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The outbox's name, without its schema.
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
    pub(super) fn lanes(&self) -> String {
        self.beside("_lane")
    }

    /// Where operators see them, and ask for their release.
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

    /// What is called as the outbox with a suffix: a table, a procedure, a trigger.
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
    /// Types that will do, as `information_schema.columns.data_type` calls them.
    pub(super) kinds: &'static [&'static str],
    pub(super) not_null: bool,
}

/// What is needed of the columns. MariaDB calls JSON longtext.
pub(super) const NEEDED: [NeededColumn; 11] = [
    NeededColumn { name: "id", kinds: &["bigint"], not_null: true },
    NeededColumn { name: "event_id", kinds: &["char"], not_null: true },
    NeededColumn { name: "topic", kinds: &["varchar"], not_null: true },
    NeededColumn { name: "key", kinds: &["longtext", "mediumtext", "text", "varchar"], not_null: false },
    NeededColumn { name: "payload", kinds: &["longblob", "mediumblob", "blob", "varbinary"], not_null: false },
    NeededColumn { name: "headers", kinds: &["longtext", "json"], not_null: true },
    NeededColumn { name: "partition", kinds: &["int"], not_null: false },
    NeededColumn { name: "created_at", kinds: &["datetime"], not_null: true },
    NeededColumn { name: MARK, kinds: &["datetime"], not_null: true },
    NeededColumn { name: SENT_PARTITION, kinds: &["int"], not_null: true },
    NeededColumn { name: SENT_OFFSET, kinds: &["bigint"], not_null: true },
];

/// The column that marks a row as sent.
pub(super) const MARK: &str = "sent_at";

/// The columns that tell where the record of a row that was sent is.
const SENT_PARTITION: &str = "sent_partition";
const SENT_OFFSET: &str = "sent_offset";

/// The mark of a row that was not sent. It is never null, so that marking leaves the row's length as it is, and InnoDB
/// changes it where it stands.
pub(super) const NOT_SENT: &str = "'1000-01-01'";

/// Where the record is of a row of which that was not recorded. Never null, for the same reason.
pub(super) const NOWHERE: i64 = -1;

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
    /// When it was marked as sent; [`NOT_SENT`] until then.
    pub(super) sent_at: String,
    /// The partition of its record, and the offset there; [`NOWHERE`] where that was not recorded.
    pub(super) sent_partition: String,
    pub(super) sent_offset: String,
}

impl Columns {
    /// The columns of a dead letter.
    pub(super) fn of_dead() -> Self {
        Self::of("")
    }

    fn of(prefix: &str) -> Self {
        let column = |name: &str| format!("{prefix}`{name}`");
        Self {
            id: column("id"),
            event_id: column("event_id"),
            topic: column("topic"),
            key: column("key"),
            payload: column("payload"),
            headers: column("headers"),
            partition: column("partition"),
            created_at: column("created_at"),
            sent_at: column(MARK),
            sent_partition: column(SENT_PARTITION),
            sent_offset: column(SENT_OFFSET),
        }
    }

    /// The condition that the row is not marked as sent.
    pub(super) fn unsent(&self) -> String {
        format!("{} = {NOT_SENT}", self.sent_at)
    }

    /// The condition that the row is marked as sent.
    pub(super) fn sent(&self) -> String {
        format!("{} <> {NOT_SENT}", self.sent_at)
    }

    /// What is selected of a row, for [`Rows`](crate::mysql::reading::rows::Rows) to read, in ten columns: id, event id, topic,
    /// key, payload, headers (as text), partition, the time of writing in microseconds since 1970 (null if it is none), the
    /// bytes of key, payload and headers together, and whether one of these was left out. What has more than 8 KiB is left
    /// out at first: rows wait for the reader in memory, which no row may fill.
    pub(super) fn selected(&self) -> String {
        let Self { id, event_id, topic, key, payload, headers, partition, created_at, .. } = self;
        format!(
            "{id}, {event_id}, {topic}, \
             case when octet_length({key}) <= 8192 then {key} end, \
             case when octet_length({payload}) <= 8192 then {payload} end, \
             case when octet_length({headers}) <= 8192 then cast({headers} as char) end, \
             {partition}, \
             {micros}, \
             coalesce(octet_length({key}), 0) + coalesce(octet_length({payload}), 0) + coalesce(octet_length({headers}), 0), \
             coalesce(octet_length({key}) > 8192, 0) or coalesce(octet_length({payload}) > 8192, 0) \
                 or coalesce(octet_length({headers}) > 8192, 0)",
            micros = values::micros(created_at)
        )
    }

    /// What is selected of a row of which something was left out: key, payload, headers as text.
    pub(super) fn wide(&self) -> String {
        let Self { key, payload, headers, .. } = self;
        format!("{key}, {payload}, cast({headers} as char)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_keep_their_schema() {
        let table = OutboxTable::named(&"shop.Outbox_2".parse().expect("a name"));
        assert_eq!(table.outbox(), "`shop`.`Outbox_2`");
        assert_eq!(table.held(), "`shop`.`Outbox_2_held`");
        assert_eq!(table.to_string(), "shop.Outbox_2");
    }

    #[test]
    fn a_table_in_the_urls_database_names_it_in_sql_whatever_that_is_called() {
        let table = OutboxTable::found_in(&Table::default(), "a `b`".to_owned());
        assert_eq!(table.held(), "`a ``b```.`outbox_held`");
        assert_eq!(table.to_string(), "outbox", "people read what they wrote");
    }
}
