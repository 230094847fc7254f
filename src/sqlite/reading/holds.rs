//! The condition that leaves the rows of held lanes out, in SQL.

use crate::outbox::Table;

/// Whether a stored held lane keeps the row `o` back, in SQL.
pub(crate) fn covered(table: &Table) -> String {
    format!(
        "exists (select 1 from {} as h where h.topic = o.topic and o.id >= h.from_id and case
            when h.partition is not null then h.partition is o.partition
            when h.key is not null then h.key is o.key and o.partition is null
            else true end)",
        table.held()
    )
}
