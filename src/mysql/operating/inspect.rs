//! Looking at the table: how much waits, how old it is, and whether anything was forgotten. Every statement looks at
//! a bounded number of rows, whatever the table holds, and none locks any.

use std::time::Duration;

use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};

use crate::contract::{Backlog, StoreError, TopicBacklog};
use crate::mysql::errors::classify;
use crate::mysql::reading::holds::covered;
use crate::mysql::reading::position::{is_among, is_read};
use crate::mysql::session::{ask, id_list, sql};
use crate::mysql::settling::checkpoint::{self, Stored};
use crate::mysql::settling::dead;
use crate::mysql::table::{Columns, OutboxTable};
use crate::outbox::Settle;

/// Rows that a walk looks at beyond those it may count.
const ROWS_BEYOND_COUNT: u64 = 50_000;

/// Rows that one call looks at in search of forgotten ones.
const ROWS_PER_SWEEP: i64 = 5_000;

/// How far the round is that looks for forgotten rows, a bite a call: the last id that was looked at.
#[derive(Debug)]
pub(crate) struct Sweep(i64);

impl Default for Sweep {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

/// What waits: rows above the stored position, those in its gaps that have come, and rows of held lanes.
pub(crate) async fn backlog(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    count_limit: u64,
) -> Result<Backlog, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let limit = count_limit.saturating_add(ROWS_BEYOND_COUNT);
    let mut parts = Vec::new();
    for (rows, waits) in waiting(table, &stored) {
        parts.push(counted(conn, table, &rows, &waits, limit).await?);
    }
    let dead_letters = dead::count(conn, table, i64::try_from(count_limit).unwrap_or(i64::MAX)).await?;
    let looked_at = |part: &[Seen]| part.iter().map(|seen| seen.looked_at).sum::<u64>();
    let cut = parts.iter().any(|part| looked_at(part) >= limit);
    let topics: Vec<TopicBacklog> = parts.into_iter().flatten().filter_map(Seen::of_topic).collect();
    let unsent: u64 = topics.iter().map(|topic| topic.unsent).sum();
    Ok(Backlog {
        unsent: unsent.min(count_limit),
        capped: cut || unsent > count_limit,
        oldest: topics.iter().map(|topic| topic.oldest).max().unwrap_or_default(),
        topics: TopicBacklog::longest(topics),
        oldest_snapshot: None,
        sessions: None,
        dead_letters,
    })
}

/// The parts of the table in which something may wait, as a condition by which rows are found and one that those meet which
/// wait. No row is in two of them.
fn waiting(table: &OutboxTable, stored: &Stored) -> Vec<(String, String)> {
    let columns = table.columns();
    let (id, unsent) = (&columns.id, columns.unsent());
    let Some(at) = &stored.at else { return vec![("true".to_owned(), unsent)] };
    let mut parts = vec![(format!("{id} > {}", at.last), unsent.clone())];
    if !at.gaps.is_empty() {
        parts.push((is_among(at.gaps.iter().cloned(), id), unsent.clone()));
    }
    if let Some(lowest) = stored.held.iter().map(|held| held.from_id).min() {
        let left = format!("{unsent} and {} and {}", is_read(Some(at), id), covered(&stored.held, &columns));
        parts.push((format!("{id} >= {lowest} and {id} <= {}", at.last), left));
    }
    parts
}

/// What was seen of a topic.
struct Seen {
    topic: String,
    looked_at: u64,
    waiting: u64,
    oldest: Duration,
}

impl Seen {
    fn of_topic(self) -> Option<TopicBacklog> {
        (self.waiting > 0).then_some(TopicBacklog { topic: self.topic, unsent: self.waiting, oldest: self.oldest })
    }
}

/// Counts rows by topic, of which no more is loaded than Kafka takes.
async fn counted(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    rows: &str,
    waits: &str,
    limit: u64,
) -> Result<Vec<Seen>, StoreError> {
    let doing = "counting the backlog";
    let Columns { id, topic, created_at, .. } = table.columns();
    let text = format!(
        "/* outboxd: count_waiting */
         select left(topic, 250), count(*), count(case when waits then 1 end), max(case when waits then age end) from (
             select {topic} as topic, timestampdiff(microsecond, {created_at}, utc_timestamp(6)) as age, {waits} as waits
             from {outbox} force index (primary) where {rows} order by {id} limit {limit}
         ) looked_at group by 1",
        outbox = table.outbox()
    );
    let found = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(conn)).await?;
    let read = |row: &MySqlRow| -> Result<Seen, sqlx::Error> {
        // As bytes: text may be anything.
        let topic: Option<Vec<u8>> = row.try_get(0)?;
        Ok(Seen {
            topic: String::from_utf8_lossy(&topic.unwrap_or_default()).into_owned(),
            looked_at: row.try_get::<i64, _>(1)?.unsigned_abs(),
            waiting: row.try_get::<i64, _>(2)?.unsigned_abs(),
            oldest: micros(row.try_get(3)?),
        })
    };
    found.iter().map(|row| read(row).map_err(|error| classify(doing, error))).collect()
}

/// Clocks of writers can make an age negative.
pub(super) fn micros(age: Option<i64>) -> Duration {
    Duration::from_micros(u64::try_from(age.unwrap_or_default()).unwrap_or_default())
}

/// Brings back rows that became due behind the reader, and says how many they were.
pub(crate) async fn bring_back_late(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    Sweep(after): &mut Sweep,
) -> Result<u64, StoreError> {
    if settle == Settle::Checkpoint {
        // Nothing tells a row that was read from one that became due since.
        return Ok(0);
    }
    let stored = checkpoint::load(conn, table).await?;
    let Some(at) = &stored.at else { return Ok(0) };
    let columns = table.columns();
    let id = &columns.id;
    let is_late = format!(
        "{unsent} and {is_read} and not {is_settled} and not {covered}",
        unsent = columns.unsent(),
        is_read = is_read(Some(at), id),
        is_settled = is_read(stored.settling(settle), id),
        covered = covered(&stored.held, &columns)
    );
    let rows = format!(
        "select {id} as id, {is_late} as is_late from {outbox} force index (primary)
         where {id} > {after} and {id} <= {last} order by {id} limit {ROWS_PER_SWEEP}",
        outbox = table.outbox(),
        last = at.last
    );
    let doing = "looking for late rows";
    let text = format!(
        "/* outboxd: look_for_late */ select count(*), max(id), count(case when is_late then 1 end) from ({rows}) looked_at"
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(&mut *conn)).await?;
    let read =
        || -> Result<(i64, Option<i64>, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)) };
    let (looked_at, last, late) = read().map_err(|error| classify(doing, error))?;
    let brought_back = if late > 0 {
        let text = format!("/* outboxd: late */ select id from ({rows}) looked_at where is_late order by id");
        let found = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(&mut *conn)).await?;
        let ids: Result<Vec<i64>, sqlx::Error> = found.iter().map(|row| row.try_get(0)).collect();
        renumber(conn, table, &ids.map_err(|error| classify(doing, error))?).await?
    } else {
        0
    };
    *after = last.filter(|_| looked_at >= ROWS_PER_SWEEP).unwrap_or(i64::MIN);
    Ok(brought_back)
}

/// Gives rows the next ids, in their order, by which the reader finds them; all or none of them. An operator who moves rows
/// back by hand, or takes their mark away, leaves such rows, and so does a transaction that took longer than a missing id was
/// waited for.
async fn renumber(conn: &mut MySqlConnection, table: &OutboxTable, ids: &[i64]) -> Result<u64, StoreError> {
    let doing = "bringing late rows back";
    let outbox = table.outbox();
    let columns = table.columns();
    let Columns { id, event_id, topic, key, payload, headers, partition, created_at, .. } = &columns;
    let copied = format!("{event_id}, {topic}, {key}, {payload}, {headers}, {partition}, {created_at}");
    let meant =
        format!("where {id} in ({list}) and {unsent}", list = id_list(ids.iter().copied()), unsent = columns.unsent());
    let copy = format!(
        "/* outboxd: renumber_late */ insert into {outbox} ({copied})
         select {copied} from {outbox} force index (primary) {meant} order by {id}"
    );
    let remove = format!("/* outboxd: remove_late */ delete from {outbox} {meant} order by {id} limit {}", ids.len());
    let mut transaction = ask(doing, conn.begin()).await?;
    let copied = ask(doing, sqlx::raw_sql(sql(copy)).execute(&mut *transaction)).await?.rows_affected();
    let removed = ask(doing, sqlx::raw_sql(sql(remove)).execute(&mut *transaction)).await?.rows_affected();
    if copied != removed {
        // Somebody changed one of them in between: the next round looks again.
        ask(doing, transaction.rollback()).await?;
        return Ok(0);
    }
    ask(doing, transaction.commit()).await?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::reading::position::ReadPosition;
    use crate::outbox::Table;

    #[test]
    fn what_waits_is_above_the_position_and_in_its_gaps() {
        let table = OutboxTable::named(&Table::default());
        let at = ReadPosition { last: 10, gaps: vec![3..=3, 7..=8], proof: None };
        let stored = Stored { at: Some(at), ..Stored::default() };
        let rows: Vec<String> = waiting(&table, &stored).into_iter().map(|(rows, _)| rows).collect();
        assert_eq!(rows, ["`id` > 10", "(`id` in (3) or `id` between 7 and 8)"]);
        assert_eq!(waiting(&table, &Stored::default()).len(), 1, "without a position everything waits");
    }
}
