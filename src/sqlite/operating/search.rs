//! Looking for single messages: a bounded walk by an index, and those rows of it that meet the conditions.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Encode, Row, Sqlite, SqliteConnection, Type};
use uuid::Uuid;

use crate::contract::{Carried, Death, Found, FoundMessage, LetterSearch, RowName, SEARCHED_ROWS, Search, StoreError};
use crate::outbox::{MessageFilter, MessageState, RecordMetadata, Settle};
use crate::reading::FirstSince;
use crate::sqlite::errors::classify;
use crate::sqlite::reading::holds::covered;
use crate::sqlite::table::{Columns, OutboxTable};

/// How far a row's time may be from what its id tells: clocks are set.
const SLACK: TimeDelta = TimeDelta::minutes(1);

/// Values that are bound, numbered in their order.
#[derive(Default)]
struct Bound(SqliteArguments);

impl Bound {
    fn bind<'q>(&mut self, value: impl Encode<'q, Sqlite> + Type<Sqlite>) -> String {
        self.0.add(value).expect("numbers and text can always be encoded");
        format!("?{}", self.0.len())
    }
}

/// Looks for messages in the outbox.
pub(crate) async fn search(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    search: &Search,
) -> Result<Found, StoreError> {
    let doing = |error| classify("looking for messages", error);
    let walk = Walk::of(connection, table, settle, search).await.map_err(doing)?;
    let mut bound = Bound::default();
    let o = table.columns_of("o");
    let state = state(table, settle);
    let mut wanted = conditions(&o, &search.filter, &mut bound);
    wanted.extend(search.state.map(|wanted| format!("{state} = {}", bound.bind(wanted.as_str()))));
    let (direction, last) = if walk.is_newest_first { ("desc", "min") } else { ("asc", "max") };
    let sql = format!(
        "/* outboxd: search */
         with looked_at as materialized (
             select {id} as id from {outbox} {index} where {rows} order by {id} {direction} limit {SEARCHED_ROWS}
         ),
         found as materialized (
             select {selected}, {state} as state, {sent_at} as sent_at, {sent_partition}, {sent_offset}
             from looked_at as l cross join {outbox} as o on {o_id} = l.id
             where {wanted} order by {o_id} {direction} limit {limit}
         )
         select (select count(*) from looked_at), (select {last}(id) from looked_at), f.*
         from (select 1) as one left join found as f on true order by f.id {direction}",
        id = table.columns().id,
        rows = walk.rows,
        index = walk.index,
        selected = selected(&o),
        sent_at = millis(&o.sent_at),
        sent_partition = o.sent_partition,
        sent_offset = o.sent_offset,
        outbox = table.outbox(),
        o_id = o.id,
        wanted = wanted.join(" and "),
        limit = search.limit
    );
    let rows = sqlx::query_with(AssertSqlSafe(sql), bound.0).fetch_all(connection).await.map_err(doing)?;
    let found = found(&rows, search.limit, |row| {
        let state: &str = row.try_get(AFTER_SELECTED)?;
        let state = state.parse::<MessageState>().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let (partition, offset) = (row.try_get(AFTER_SELECTED + 2)?, row.try_get(AFTER_SELECTED + 3)?);
        let metadata = Option::zip(partition, offset).map(|(partition, offset)| RecordMetadata { partition, offset });
        Ok(Rest { state, sent_at: time(row, AFTER_SELECTED + 1), metadata, death: None })
    });
    found.map_err(doing)
}

/// Looks for dead letters.
pub(crate) async fn dead_letters(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    search: &LetterSearch,
) -> Result<Found, StoreError> {
    let doing = |error| classify("looking for dead letters", error);
    let mut bound = Bound::default();
    let d = table.columns_of("d");
    let (direction, last) = if search.oldest_first { ("asc", "max") } else { ("desc", "min") };
    let mut rows = match (search.oldest_first, search.from) {
        (true, from) => format!("id > {}", from.unwrap_or(i64::MIN)),
        (false, from) => format!("id < {}", from.unwrap_or(i64::MAX)),
    };
    if !search.filter.ids.is_empty() {
        rows = format!("{rows} and id in ({})", listed(&search.filter.ids));
    }
    let mut wanted = conditions(&d, &search.filter, &mut bound);
    wanted.extend(search.cause.as_ref().map(|cause| format!("d.code = {}", bound.bind(cause.clone()))));
    let sql = format!(
        "/* outboxd: search_dead_letters */
         with looked_at as materialized (
             select id, event_id from {dead} where {rows} order by id {direction}, event_id {direction} limit {SEARCHED_ROWS}
         ),
         found as materialized (
             select {selected}, d.code, d.message, {died_at}, d.dead_letter_topic, {published_at}
             from looked_at as l cross join {dead} as d on d.id = l.id and d.event_id = l.event_id
             where {wanted} order by d.id {direction}, d.event_id {direction} limit {limit}
         )
         select (select count(*) from looked_at), (select {last}(id) from looked_at), f.*
         from (select 1) as one left join found as f on true order by f.id {direction}, f.event_id {direction}",
        dead = table.dead(),
        selected = selected(&d),
        died_at = millis("d.died_at"),
        published_at = millis("d.published_at"),
        wanted = wanted.join(" and "),
        limit = search.limit
    );
    let rows = sqlx::query_with(AssertSqlSafe(sql), bound.0).fetch_all(connection).await.map_err(doing)?;
    let found = found(&rows, search.limit, |row| {
        let [code, message, died_at, topic, published_at] = [0, 1, 2, 3, 4].map(|at| AFTER_SELECTED + at);
        let death = Death {
            code: row.try_get(code)?,
            message: row.try_get(message)?,
            died_at: time(row, died_at),
            topic: row.try_get(topic)?,
            published_at: time(row, published_at),
        };
        Ok(Rest { state: MessageState::Dead, sent_at: None, metadata: None, death: Some(death) })
    });
    found.map_err(doing)
}

/// What a message carries.
pub(crate) async fn carried(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    message: &FoundMessage,
    most: u32,
) -> Result<Option<Carried>, StoreError> {
    let doing = |error| classify("reading a message", error);
    let Columns { id, event_id, payload, headers, .. } = table.columns();
    let sql = format!(
        "/* outboxd: carried */ select substr(cast({payload} as blob), 1, ?3), substr(cast({headers} as text), 1, ?3) from {rows}
         where {id} = ?1 and (?2 is null or {event_id} = ?2 collate nocase)",
        rows = if message.death.is_some() { table.dead() } else { table.outbox() }
    );
    let RowName { id, event_id } = message.name;
    let query = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(event_id.map(|event_id| event_id.to_string())).bind(most);
    let row = query.fetch_optional(connection).await.map_err(doing)?;
    let read = |row: SqliteRow| {
        let headers: Option<String> = row.try_get(1)?;
        Ok(Carried { payload: row.try_get(0)?, headers: headers.unwrap_or_default() })
    };
    row.map(read).transpose().map_err(doing)
}

/// Which rows are looked at, in which order, and by which index if not by the primary key.
struct Walk {
    rows: String,
    is_newest_first: bool,
    index: &'static str,
}

impl Walk {
    async fn of(
        connection: &mut SqliteConnection,
        table: &OutboxTable,
        settle: Settle,
        Search { filter, state, .. }: &Search,
    ) -> Result<Self, sqlx::Error> {
        let columns = table.columns();
        let (id, unsent) = (&columns.id, columns.unsent());
        if !filter.ids.is_empty() {
            let rows = format!("{id} in ({})", listed(&filter.ids));
            return Ok(Self { rows, is_newest_first: true, index: "" });
        }
        Ok(match state {
            Some(MessageState::Held) => {
                let rows = format!("{unsent} and {id} >= (select min(from_id) from {})", table.held());
                Self { rows, is_newest_first: false, index: "" }
            }
            Some(MessageState::Unsent | MessageState::InFlight) => {
                let rows = format!("{unsent} and {id} > {}", settled_to(table, settle));
                Self { rows, is_newest_first: false, index: "" }
            }
            _ => {
                let (above, below) = between(connection, table, filter).await?;
                Self { rows: format!("{id} > {above} and {id} < {below}"), is_newest_first: true, index: "not indexed" }
            }
        })
    }
}

/// The ids between which rows of the filter's times are.
async fn between(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    filter: &MessageFilter,
) -> Result<(i64, i64), sqlx::Error> {
    const EVERYWHERE: (i64, i64) = (i64::MIN, i64::MAX);
    if filter.since.is_none() && filter.until.is_none() {
        return Ok(EVERYWHERE);
    }
    let Columns { id, .. } = table.columns();
    let outbox = table.outbox();
    let sql = format!("/* outboxd: ends */ select (select min({id}) from {outbox}), (select max({id}) from {outbox})");
    let ends = sqlx::query_as::<_, (Option<i64>, Option<i64>)>(AssertSqlSafe(sql)).fetch_one(&mut *connection);
    let (Some(low), Some(high)) = ends.await? else { return Ok(EVERYWHERE) };
    let ids = FirstSince::between(low, high);
    let above = match filter.since.and_then(|since| since.checked_sub_signed(SLACK)) {
        Some(since) => first_since(connection, table, ids, since).await?.saturating_sub(1),
        None => EVERYWHERE.0,
    };
    let below = match filter.until.and_then(|until| until.checked_add_signed(SLACK)) {
        Some(until) => first_since(connection, table, ids, until).await?,
        None => EVERYWHERE.1,
    };
    Ok((above, below))
}

async fn first_since(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    mut search: FirstSince,
    time: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    let Columns { id, created_at, .. } = table.columns();
    let sql = format!(
        "/* outboxd: is_since */ select coalesce((select julianday({created_at}) >= julianday(?2)
             from {outbox} where {id} >= ?1 order by {id} limit 1), true)",
        outbox = table.outbox()
    );
    while let Some(from) = search.next() {
        let asked = sqlx::query_scalar::<_, bool>(AssertSqlSafe(sql.clone())).bind(from).bind(time);
        search.told(from, asked.fetch_one(&mut *connection).await?);
    }
    Ok(search.found())
}

/// Up to which id rows count as sent that no held lane covers, marked or not.
fn settled_to(table: &OutboxTable, settle: Settle) -> String {
    let column = match settle {
        Settle::Mark | Settle::Delete => "settled_to",
        Settle::Checkpoint => "position",
    };
    format!("(select {column} from {})", table.checkpoint())
}

/// Where the row `o` of the outbox is, in SQL.
fn state(table: &OutboxTable, settle: Settle) -> String {
    let o = table.columns_of("o");
    format!(
        "case when not {unsent} then 'sent' when {covered} then 'held' when {id} <= {settled_to} then 'sent'
             when {id} > (select position from {checkpoint}) and {id} <= (select read_position from {checkpoint}) then 'in-flight'
             else 'unsent' end",
        checkpoint = table.checkpoint(),
        unsent = o.unsent(),
        covered = covered(table),
        id = o.id,
        settled_to = settled_to(table, settle)
    )
}

/// What a message meets, in SQL.
fn conditions(columns: &Columns, filter: &MessageFilter, bound: &mut Bound) -> Vec<String> {
    let MessageFilter { topic, key, partition, since, until, ids: _, event_ids } = filter;
    let mut conditions = vec!["true".to_owned()];
    let mut add = |condition: Option<String>| conditions.extend(condition);
    let time = &columns.created_at;
    add(topic.as_ref().map(|topic| format!("{} = {}", columns.topic, bound.bind(topic.clone()))));
    add(key.as_ref().map(|key| format!("{} = {}", columns.key, bound.bind(key.clone()))));
    add(partition.map(|partition| format!("{} = {}", columns.partition, bound.bind(partition))));
    add(since.map(|since| format!("julianday({time}) >= julianday({})", bound.bind(since))));
    add(until.map(|until| format!("julianday({time}) < julianday({})", bound.bind(until))));
    let texts = event_ids.iter().map(|event_id| bound.bind(event_id.to_string())).collect::<Vec<_>>().join(", ");
    add((!texts.is_empty()).then(|| format!("{} collate nocase in ({texts})", columns.event_id)));
    conditions
}

fn listed(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

/// What is selected of a message of either table, in the order in which [`found`] reads it.
fn selected(columns: &Columns) -> String {
    let Columns { id, event_id, topic, key, payload, partition, created_at, .. } = columns;
    format!(
        "{id} as id, {event_id} as event_id, substr({topic}, 1, 250), substr({key}, 1, 1000), {partition}, {created_at}, octet_length({payload})",
        created_at = millis(created_at)
    )
}

/// Where a statement goes on after what is [`selected`].
const AFTER_SELECTED: usize = 9;

/// Milliseconds since 1970, of a time in any form that SQLite knows.
fn millis(time: &str) -> String {
    format!("cast(round((julianday({time}) - 2440587.5) * 86400000) as integer)")
}

fn time(row: &SqliteRow, column: usize) -> Option<DateTime<Utc>> {
    row.try_get::<Option<i64>, _>(column).ok().flatten().and_then(DateTime::from_timestamp_millis)
}

/// Where the message of a row is, and what is known of its end.
struct Rest {
    state: MessageState,
    sent_at: Option<DateTime<Utc>>,
    metadata: Option<RecordMetadata>,
    death: Option<Death>,
}

/// Reads what was found. What SQLite keeps in a column though it is no text there is left out.
fn found(
    rows: &[SqliteRow],
    limit: u32,
    rest: impl Fn(&SqliteRow) -> Result<Rest, sqlx::Error>,
) -> Result<Found, sqlx::Error> {
    let text = |row: &SqliteRow, column: usize| row.try_get::<Option<String>, _>(column).ok().flatten();
    let mut messages = Vec::new();
    for row in rows {
        let Some(id) = row.try_get::<Option<i64>, _>(2)? else { continue };
        let Rest { state, sent_at, metadata, death } = rest(row)?;
        let event_id = text(row, 3).and_then(|text| Uuid::try_parse(&text).ok());
        let payload_bytes = row.try_get::<Option<i64>, _>(8)?.map(i64::unsigned_abs);
        messages.push(FoundMessage {
            name: RowName { id, event_id },
            topic: text(row, 4).unwrap_or_default(),
            key: text(row, 5),
            partition: row.try_get(6).ok().flatten(),
            created_at: time(row, 7),
            payload_bytes,
            state,
            sent_at,
            metadata,
            death,
        });
    }
    let (looked_at, last) = match rows.first() {
        Some(row) => (row.try_get::<i64, _>(0)?.unsigned_abs(), row.try_get::<Option<i64>, _>(1)?),
        None => (0, None),
    };
    Ok(Found::of(messages, limit, looked_at, last))
}
