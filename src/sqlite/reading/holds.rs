//! The condition that leaves the rows of held lanes out, in SQL.

use crate::sqlite::table::{Columns, OutboxTable};

/// Whether a stored held lane keeps the row `o` back, in SQL.
pub(crate) fn covered(table: &OutboxTable) -> String {
    covered_by(table, "true")
}

/// Whether a stored held lane `h` that meets a condition keeps the row `o` back, in SQL.
pub(crate) fn covered_by(table: &OutboxTable, lanes: &str) -> String {
    let Columns { id, topic, key, partition, .. } = table.columns_of("o");
    format!(
        "exists (select 1 from {} as h where {lanes} and h.topic = {topic} and {id} >= h.from_id and case
            when h.partition is not null then h.partition is {partition}
            when h.key is not null then h.key is {key} and {partition} is null
            else true end)",
        table.held()
    )
}
