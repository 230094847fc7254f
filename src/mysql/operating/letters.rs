//! Moving single messages, as operators ask: back from the dead letters, out of these, and to them.

use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};
use uuid::Uuid;

use crate::contract::{Overtaken, RowName, SEARCHED_ROWS, StoreError};
use crate::mysql::errors::{classify, not_now};
use crate::mysql::leading::lease;
use crate::mysql::operating::audit_log;
use crate::mysql::reading::holds::covered;
use crate::mysql::reading::position::is_read;
use crate::mysql::session::{ask, id_list, sql};
use crate::mysql::settling::{checkpoint, dead, held};
use crate::mysql::table::{Columns, OutboxTable};
use crate::outbox::{DeadLetter, Held, HoldCause, Intent, REQUEUED_HEADER, SKIPPED, Settle};

/// Of these letters' lanes, how many have later rows: letters that go back get the next ids, and come after all of them.
pub(crate) async fn overtaken(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    letters: &[RowName],
) -> Result<Overtaken, StoreError> {
    let doing = "looking for later messages of the lanes";
    let Some(lowest) = letters.iter().map(|letter| letter.id).min() else { return Ok(Overtaken::default()) };
    let columns = table.columns();
    let id = &columns.id;
    let text = format!(
        "/* outboxd: overtaken */
         select count(distinct letter.lane), count(distinct later.id), max(is_older.is_older), max(looked.looked_at)
         from (select exists (select 1 from {outbox} where {id} < {lowest}) as is_older) is_older
         cross join (select count(*) as looked_at from (
             select {id} from {outbox} force index (primary) where {id} > {lowest} order by {id} limit {SEARCHED_ROWS}) l) looked
         left join (
             select {lane} as lane, {id} as id from {outbox} force index (primary)
             where {id} > {lowest} order by {id} limit {SEARCHED_ROWS}) later on true
         left join (
             select {lane} as lane, min({id}) as id from {dead} where {id} in ({list}) group by 1) letter
             on letter.lane = later.lane and later.id > letter.id",
        outbox = table.outbox(),
        dead = table.dead(),
        lane = lane(&columns),
        list = id_list(letters.iter().map(|letter| letter.id))
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
    let read = || -> Result<(i64, bool, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(2)?, row.try_get(3)?)) };
    let (lanes, is_older, looked_at) = read().map_err(|error| classify(doing, error))?;
    // Rows that are not there any more may have been sent.
    let is_whole = is_older && settle != Settle::Delete;
    Ok(Overtaken { lanes: lanes.unsigned_abs(), is_floor: !is_whole || looked_at >= i64::from(SEARCHED_ROWS) })
}

/// The name of a row's lane; null where it has none. Topics hold neither blanks nor colons.
fn lane(Columns { topic, key, partition, .. }: &Columns) -> String {
    format!("case when {partition} is null then concat({topic}, ' ', {key}) else concat({topic}, ':', {partition}) end")
}

/// Puts letters back under the next ids: no reader would come to their old ones. Their first ids are told in a header.
pub(crate) async fn requeue(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    letters: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = "putting dead letters back";
    let Columns { event_id, topic, key, payload, headers, partition, created_at, .. } = table.columns();
    let columns = format!("{event_id}, {topic}, {key}, {payload}, {headers}, {partition}, {created_at}");
    let path = format!("'$.\"{REQUEUED_HEADER}\"'");
    let first_id =
        format!("coalesce(json_unquote(json_extract({headers}, '$.\"{REQUEUED_HEADER}\".id')), cast(id as char))");
    let iso = |time: &str| format!("date_format({time}, '%Y-%m-%dT%H:%i:%s.%fZ')");
    let put_back = format!(
        "/* outboxd: put_back */ insert into {outbox} ({columns})
         select {event_id}, {topic}, {key}, {payload}, json_set({headers}, {path}, json_object(
                 'id', {first_id}, 'code', code, 'died_at', {died_at}, 'at', {now})), {partition}, {created_at}
         from {dead} where id = ? and {event_id} = ? and {IS_MESSAGE}",
        outbox = table.outbox(),
        dead = table.dead(),
        died_at = iso("died_at"),
        now = iso("utc_timestamp(6)")
    );
    let mut transaction = ask(doing, conn.begin()).await?;
    let mut requeued = 0;
    for letter in in_order(letters) {
        let Some(event_id) = letter.event_id.map(|event_id| event_id.to_string()) else { continue };
        let query = sqlx::query(sql(put_back.clone())).bind(letter.id).bind(event_id);
        if ask(doing, query.execute(&mut *transaction)).await?.rows_affected() > 0 {
            requeued += remove(&mut transaction, table, &letter, doing).await?;
        }
    }
    audit_log::note(&mut transaction, table, intent, requeued).await?;
    ask(doing, transaction.commit()).await?;
    Ok(requeued)
}

/// The condition that a letter is one that the outbox takes back: what could not be read as a message stays.
const IS_MESSAGE: &str = "case when json_valid(headers) then json_type(headers) = 'OBJECT' else false end
    and event_id <> '00000000-0000-0000-0000-000000000000' and created_at > '1000-01-01'
    and length(topic) between 1 and 249 and topic not regexp '[^A-Za-z0-9._-]' and topic not in ('.', '..')
    and (`partition` is null or `partition` >= 0)";

/// Letters by their ids, each once.
fn in_order(letters: &[RowName]) -> Vec<RowName> {
    let mut letters = letters.to_vec();
    letters.sort_by_key(|letter| (letter.id, letter.event_id));
    letters.dedup();
    letters
}

/// Deletes letters.
pub(crate) async fn discard(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    letters: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = "deleting dead letters";
    let mut transaction = ask(doing, conn.begin()).await?;
    let mut discarded = 0;
    for letter in in_order(letters) {
        discarded += remove(&mut transaction, table, &letter, doing).await?;
    }
    audit_log::note(&mut transaction, table, intent, discarded).await?;
    ask(doing, transaction.commit()).await?;
    Ok(discarded)
}

async fn remove(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    letter: &RowName,
    doing: &'static str,
) -> Result<u64, StoreError> {
    let named = if letter.event_id.is_some() { "event_id = ?" } else { "? is null" };
    let text = format!("/* outboxd: remove_letter */ delete from {} where id = ? and {named}", table.dead());
    let event_id = letter.event_id.map(|event_id| event_id.to_string());
    let query = sqlx::query(sql(text)).bind(letter.id).bind(event_id);
    Ok(ask(doing, query.execute(transaction)).await?.rows_affected())
}

/// Gives up rows that wait and are certainly not in flight. The rows are locked first and the lease last, so that no renewal
/// waits with us for anybody else.
pub(crate) async fn skip(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    rows: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = "giving messages up";
    let mut transaction = ask(doing, conn.begin()).await?;
    let is_led = lease::leader(&mut transaction, table).await?.is_some();
    let kept_back = if is_led { Some(kept_back(&mut transaction, table).await?) } else { None };
    let waiting = waiting(&mut transaction, table, settle, rows, kept_back.as_deref()).await?;
    if waiting.is_empty() {
        return ask(doing, transaction.rollback()).await.map(|()| 0);
    }
    let letter = |name: &RowName| DeadLetter {
        id: name.id,
        event_id: name.event_id,
        code: SKIPPED.to_owned(),
        message: intent.reason.clone().unwrap_or_default(),
        topic: None,
    };
    let letters: Vec<DeadLetter> = waiting.iter().map(letter).collect();
    dead::bury(&mut transaction, table, &letters).await?;
    audit_log::note(&mut transaction, table, intent, letters.len() as u64).await?;
    if !is_led {
        refuse_leader(&mut transaction, table).await?;
    }
    ask(doing, transaction.commit()).await?;
    Ok(letters.len() as u64)
}

/// The lanes that wait for an operator, which stay so until this transaction ends: a release that is asked for waits for it.
async fn kept_back(transaction: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<Held>, StoreError> {
    let text = format!(
        "/* outboxd: lock_lanes_kept_back */ select lane from {} where cause = '{}' and not release_requested for update",
        table.held(),
        HoldCause::Rejected.as_str()
    );
    ask("looking for held lanes", sqlx::raw_sql(sql(text)).fetch_all(&mut *transaction)).await?;
    let lanes = held::list(transaction, table).await?.into_iter();
    let waits = |held: &Held| held.cause == HoldCause::Rejected;
    Ok(lanes.filter(|lane| !lane.release_requested).map(|lane| lane.held).filter(waits).collect())
}

/// Locks those of the rows that wait, and are left to one of the lanes, or to any or none where no lanes are given.
async fn waiting(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    rows: &[RowName],
    lanes: Option<&[Held]>,
) -> Result<Vec<RowName>, StoreError> {
    let doing = "looking for what waits";
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let stored = checkpoint::load(transaction, table).await?;
    let columns = table.columns();
    let id = &columns.id;
    let wanted = match lanes {
        Some(lanes) => covered(lanes, &columns),
        None => format!("({} or not {})", covered(&stored.held, &columns), is_read(stored.settling(settle), id)),
    };
    let text = format!(
        "/* outboxd: waiting */ select {id}, cast({event_id} as char) from {outbox} force index (primary)
         where {id} in ({list}) and {unsent} and {wanted} order by {id} limit {most} for update skip locked",
        event_id = columns.event_id,
        outbox = table.outbox(),
        list = id_list(rows.iter().map(|name| name.id)),
        unsent = columns.unsent(),
        most = rows.len()
    );
    let found = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(transaction)).await?;
    let read = |row: &MySqlRow| -> Result<RowName, sqlx::Error> {
        let event_id: Option<String> = row.try_get(1)?;
        Ok(RowName { id: row.try_get(0)?, event_id: event_id.and_then(|text| Uuid::try_parse(&text).ok()) })
    };
    let found: Result<Vec<RowName>, sqlx::Error> = found.iter().map(read).collect();
    let found = found.map_err(|error| classify(doing, error))?;
    Ok(found.into_iter().filter(|name| rows.contains(name)).collect())
}

/// Makes sure that nobody leads until this transaction has ended.
async fn refuse_leader(transaction: &mut MySqlConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let text = format!("/* outboxd: share_lease */ select term from {} lock in share mode", table.lease());
    ask("looking who leads", sqlx::raw_sql(sql(text)).fetch_all(&mut *transaction)).await?;
    match lease::leader(transaction, table).await? {
        None => Ok(()),
        Some(_) => Err(not_now("giving messages up", "a relay leads by now: what waits may be in flight")),
    }
}
