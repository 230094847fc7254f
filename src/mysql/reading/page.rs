//! The statements that read, each of so many rows at most, by id; and a batch being filled.
//!
//! They are sent as text: what varies are numbers, names that were checked, and lanes written as bytes.

use sqlx::{MySqlConnection, Row};

use crate::contract::StoreError;
use crate::mysql::errors::classify;
use crate::mysql::reading::holds::of_lane;
use crate::mysql::reading::position::is_among;
use crate::mysql::reading::rows::Read;
use crate::mysql::session::{BACKLOG_TIMEOUT, ask_within, id_list, sql};
use crate::mysql::table::{Columns, OutboxTable};
use crate::outbox::{Lane, Limit, Record, Unreadable};
use crate::reading::{Filling, Fit, GapList};

/// Rows in gaps that may have been read already. Each statement finds them again: where there are more, nothing new is
/// asked for before gaps are forgotten.
const READ_AGAIN_AT_MOST: u64 = 1_000_000;

/// A batch being filled.
pub(crate) struct Page {
    filling: Filling,
    rows: Vec<Read>,
}

impl Page {
    pub(crate) fn new(limit: Limit) -> Self {
        Self { filling: Filling::of(limit), rows: Vec::new() }
    }

    /// Takes a row, if there is room for it.
    pub(crate) fn take(&mut self, row: Read) -> Fit {
        let fit = self.filling.take(row.footprint());
        if fit == Fit::Fits {
            self.rows.push(row);
        }
        fit
    }

    /// How many rows were taken.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Loads what was left out of large rows. One that is gone by now was settled.
    pub(crate) async fn load(
        self,
        conn: &mut MySqlConnection,
        table: &OutboxTable,
    ) -> Result<(Vec<Record>, Vec<Unreadable>), StoreError> {
        let (outbox, columns) = (table.outbox(), table.columns());
        let mut records = Vec::with_capacity(self.rows.len());
        let mut unreadable = Vec::new();
        for row in self.rows {
            match row.load(conn, &outbox, &columns).await? {
                Some(Ok(record)) => records.push(record),
                Some(Err(row)) => unreadable.push(row),
                None => {}
            }
        }
        Ok((records, unreadable))
    }
}

/// What is selected of each row: the columns of a record, and whether it is not marked as sent. Rows that are marked are
/// read like others and left out then: as long as their ids are missing, nobody can tell whether something is there.
fn selected(columns: &Columns) -> String {
    format!("{}, {}", columns.selected(), columns.unsent())
}

/// The condition on rows that were not read. All of them are asked for in one statement, which has one view of the table: no
/// row of a lane comes without those that were committed before it began.
fn is_new(columns: &Columns, list: &GapList) -> String {
    let id = &columns.id;
    let gaps = is_among(list.gaps(), id);
    if list.read_again() >= READ_AGAIN_AT_MOST {
        return gaps;
    }
    match list.has_no_gaps() {
        true => format!("{id} > {}", list.last()),
        false => format!("({id} > {} or {gaps})", list.last()),
    }
}

/// Reads what is new, where every row found is.
pub(crate) fn new_rows(table: &OutboxTable, list: &GapList, rows: usize) -> String {
    let columns = table.columns();
    format!(
        "/* outboxd: read_new */ select {selected} from {outbox} force index (primary) where {new} order by {id} limit {rows}",
        selected = selected(&columns),
        outbox = table.outbox(),
        new = is_new(&columns, list),
        id = columns.id
    )
}

/// Looks for the ids of what is new, among so many of rows that were read already.
pub(crate) fn new_ids(table: &OutboxTable, list: &GapList, rows: usize) -> String {
    let columns = table.columns();
    format!(
        "/* outboxd: look_for_new */ select {id} from {outbox} force index (primary) where {new} order by {id} limit {rows}",
        outbox = table.outbox(),
        new = is_new(&columns, list),
        id = columns.id
    )
}

/// Reads rows by their ids, of which there is one at least.
pub(crate) fn by_ids(table: &OutboxTable, ids: &[i64]) -> String {
    let columns = table.columns();
    format!(
        "/* outboxd: read_by_id */ select {selected} from {outbox} force index (primary)
         where {id} in ({ids}) order by {id}",
        selected = selected(&columns),
        outbox = table.outbox(),
        ids = id_list(ids.iter().copied()),
        id = columns.id
    )
}

/// Reads a lane's rows that are not sent, after an id and up to another.
pub(crate) fn rows_of_lane(table: &OutboxTable, lane: &Lane, after: i64, upto: i64, rows: usize) -> String {
    let columns = table.columns();
    format!(
        "/* outboxd: read_left_out */ select {selected} from {outbox} force index (primary)
         where {id} > {after} and {id} <= {upto} and {unsent} and {of_lane} order by {id} limit {rows}",
        selected = selected(&columns),
        outbox = table.outbox(),
        unsent = columns.unsent(),
        of_lane = of_lane(lane, &columns),
        id = columns.id
    )
}

/// The first id after one, if there is any.
pub(crate) async fn first_after(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    after: i64,
) -> Result<Option<i64>, StoreError> {
    let Columns { id, .. } = table.columns();
    let text = format!(
        "/* outboxd: next_id */ select {id} from {outbox} force index (primary) where {id} > {after} order by {id} limit 1",
        outbox = table.outbox()
    );
    Ok(ids(conn, "looking for the next id", text).await?.first().copied())
}

/// The ids that a statement finds.
pub(crate) async fn ids(conn: &mut MySqlConnection, doing: &'static str, text: String) -> Result<Vec<i64>, StoreError> {
    let rows = ask_within(doing, BACKLOG_TIMEOUT, sqlx::raw_sql(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| row.try_get_unchecked(0)).collect::<Result<_, _>>().map_err(|error| classify(doing, error))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn what_is_new_and_every_gap_are_asked_for_in_one_statement() {
        let table = OutboxTable::found_in(&"t".parse().expect("a name"), "s".to_owned());
        let text = |list: &GapList| new_ids(&table, list, 9);
        let mut list = GapList::restore(4, [2..=2], Instant::now());
        list.take([6, 9], Instant::now());
        let expected = "/* outboxd: look_for_new */ select `id` from `s`.`t` force index (primary) \
             where (`id` > 9 or (`id` in (2,5) or `id` between 7 and 8)) order by `id` limit 9";
        assert_eq!(text(&list), expected);
        list.take([2, 5, 7, 8], Instant::now());
        assert!(text(&list).contains("where `id` > 9 order"), "{}", text(&list));
    }
}
