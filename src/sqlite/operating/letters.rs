//! Moving single messages, as operators ask: back from the dead letters, out of these, and to them.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Overtaken, RowName, SEARCHED_ROWS, StoreError};
use crate::outbox::{DeadLetter, Intent, REQUEUED_HEADER, SKIPPED, Settle};
use crate::sqlite::errors::classify;
use crate::sqlite::leading::lease;
use crate::sqlite::operating::audit_log;
use crate::sqlite::reading::holds::covered_by;
use crate::sqlite::settling::dead;
use crate::sqlite::table::{Columns, OutboxTable};

/// Of these letters' lanes, how many have later rows: letters that go back get the next ids, and come after all of them.
pub(crate) async fn overtaken(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    letters: &[RowName],
) -> Result<Overtaken, StoreError> {
    let columns = table.columns();
    let sql = format!(
        "/* outboxd: overtaken */
         with letter as materialized (
             select {dead_lane} as lane, min(id) as id from {dead}
             where id in (select value from json_each(?)) and {dead_lane} is not null group by 1
         ),
         later as materialized (
             select {id} as id, {lane} as lane from {outbox} not indexed
             where {id} > (select min(id) from letter) order by {id} limit {SEARCHED_ROWS}
         )
         select count(distinct letter.lane), (select count(*) from later),
             exists (select 1 from {outbox} where {id} < (select min(id) from letter))
         from later cross join letter on letter.lane = later.lane where later.id > letter.id",
        dead_lane = lane(&Columns::of_dead()),
        dead = table.dead(),
        id = columns.id,
        lane = lane(&columns),
        outbox = table.outbox()
    );
    let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
    let ids = serde_json::to_string(&ids).expect("numbers are always JSON");
    let counted = sqlx::query_as::<_, (i64, i64, bool)>(AssertSqlSafe(sql)).bind(ids).fetch_one(connection).await;
    let counted = counted.map_err(|error| classify("looking for later messages of the lanes", error));
    let (lanes, looked_at, is_older) = counted?;
    // Rows that are not there any more may have been sent.
    let is_whole = is_older && settle != Settle::Delete;
    Ok(Overtaken { lanes: lanes.unsigned_abs(), is_floor: !is_whole || looked_at >= i64::from(SEARCHED_ROWS) })
}

/// The name of a row's lane; null where it has none. Topics hold neither blanks nor colons.
fn lane(Columns { topic, key, partition, .. }: &Columns) -> String {
    format!("case when {partition} is null then {topic} || ' ' || {key} else {topic} || ':' || {partition} end")
}

/// Puts letters back under the next ids: no reader would come to their old ones. Their first ids are told in a header.
pub(crate) async fn requeue(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    letters: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = |error| classify("putting dead letters back", error);
    let Columns { event_id, topic, key, payload, headers, partition, created_at, .. } = table.columns();
    let first_id = format!("coalesce(json_extract(headers, '$.\"{REQUEUED_HEADER}\".id'), cast(id as text))");
    let put_back = format!(
        "/* outboxd: put_back */
         insert into {outbox} ({event_id}, {topic}, {key}, {payload}, {headers}, {partition}, {created_at})
         select event_id, topic, key, payload, json_set(headers, '$.\"{REQUEUED_HEADER}\"', json_object(
                 'id', {first_id}, 'code', code, 'died_at', died_at, 'at', ?3)), partition, created_at
         from {dead} where id = ?1 and event_id = ?2 collate nocase and {IS_MESSAGE}",
        outbox = table.outbox(),
        dead = table.dead()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let now = "/* outboxd: now */ select strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    let at: String = sqlx::query_scalar(now).fetch_one(&mut *transaction).await.map_err(doing)?;
    let mut requeued = 0;
    for letter in letters {
        let Some(event_id) = letter.event_id.map(|event_id| event_id.to_string()) else { continue };
        let query = sqlx::query(AssertSqlSafe(put_back.clone())).bind(letter.id).bind(event_id).bind(&at);
        if query.execute(&mut *transaction).await.map_err(doing)?.rows_affected() > 0 {
            requeued += remove(&mut transaction, table, letter).await.map_err(doing)?;
        }
    }
    audit_log::note(&mut transaction, table, intent, requeued).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(requeued)
}

/// The condition that a letter is one that the outbox takes back: what could not be read as a message stays.
const IS_MESSAGE: &str = "topic <> '' and created_at <> '' and julianday(created_at) is not null
    and case when json_valid(headers) then json_type(headers) = 'object' else 0 end
    and length(topic) between 1 and 249 and topic not glob '*[^A-Za-z0-9._-]*' and topic not in ('.', '..')
    and (key is null or typeof(key) = 'text') and (partition is null or (typeof(partition) = 'integer' and partition >= 0))";

/// Deletes letters.
pub(crate) async fn discard(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    letters: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = |error| classify("deleting dead letters", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let mut discarded = 0;
    for letter in letters {
        discarded += remove(&mut transaction, table, letter).await.map_err(doing)?;
    }
    audit_log::note(&mut transaction, table, intent, discarded).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(discarded)
}

async fn remove(connection: &mut SqliteConnection, table: &OutboxTable, letter: &RowName) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "/* outboxd: remove_letter */ delete from {} where id = ?1 and (?2 is null or event_id = ?2 collate nocase)",
        table.dead()
    );
    let event_id = letter.event_id.map(|event_id| event_id.to_string());
    Ok(sqlx::query(AssertSqlSafe(sql)).bind(letter.id).bind(event_id).execute(connection).await?.rows_affected())
}

/// Gives up rows that wait and are certainly not in flight. While nothing else can be written nobody can begin to lead.
pub(crate) async fn skip(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    rows: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = |error| classify("giving messages up", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let o = table.columns_of("o");
    let is_led = lease::leader(&mut transaction, table).await?.is_some();
    let wanted = if is_led {
        covered_by(table, "h.cause = 'rejected' and not h.release_requested and not h.settled")
    } else {
        let settled_to = if settle == Settle::Checkpoint { "position" } else { "settled_to" };
        format!("({} or {} > (select {settled_to} from {}))", covered_by(table, "true"), o.id, table.checkpoint())
    };
    let sql = format!(
        "/* outboxd: is_waiting */ select exists (select 1 from {outbox} as o
             where {id} = ?1 and (?2 is null or {event_id} = ?2 collate nocase) and {unsent} and {wanted})",
        outbox = table.outbox(),
        id = o.id,
        event_id = o.event_id,
        unsent = o.unsent()
    );
    let mut letters = Vec::new();
    for RowName { id, event_id } in rows.iter().copied() {
        let query =
            sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(id).bind(event_id.map(|event_id| event_id.to_string()));
        if query.fetch_one(&mut *transaction).await.map_err(doing)? {
            let message = intent.reason.clone().unwrap_or_default();
            letters.push(DeadLetter { id, event_id, code: SKIPPED.to_owned(), message, topic: None });
        }
    }
    dead::bury(&mut transaction, table, &letters).await?;
    audit_log::note(&mut transaction, table, intent, letters.len() as u64).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(letters.len() as u64)
}
