//! Looking for single messages: a bounded walk by the primary key, and those rows of it that meet the conditions.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};
use uuid::Uuid;

use crate::contract::{Carried, Death, Found, FoundMessage, LetterSearch, RowName, SEARCHED_ROWS, Search, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::reading::holds::{bytes, covered};
use crate::mysql::reading::position::is_read;
use crate::mysql::session::{ask, id_list, sql};
use crate::mysql::settling::checkpoint::{self, Stored};
use crate::mysql::table::{Columns, NOWHERE, OutboxTable};
use crate::mysql::values;
use crate::outbox::{MessageFilter, MessageState, RecordMetadata, Settle};
use crate::reading::FirstSince;

/// How far a row's time may be from what its id tells: clocks are set.
const SLACK: TimeDelta = TimeDelta::minutes(1);

/// Looks for messages in the outbox.
pub(crate) async fn search(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    search: &Search,
) -> Result<Found, StoreError> {
    let doing = "looking for messages";
    let stored = checkpoint::load(conn, table).await?;
    let walk = Walk::of(conn, table, &stored, search).await?;
    let looked_at = walk.looked_at(conn).await?;
    let o = table.columns_of("o");
    let state = state(&o, &stored, settle);
    let mut wanted = conditions(&o, &search.filter);
    wanted.extend(search.state.map(|wanted| format!("{state} = '{}'", wanted.as_str())));
    let text = format!(
        "/* outboxd: search */
         select {selected}, {state}, {sent}, {sent_partition}, {sent_offset}
         from ({rows}) l straight_join {outbox} o on {id} = l.id
         where {wanted} order by {id} {direction} limit {limit}",
        selected = selected(&o),
        sent = format_args!("case when {} then {} end", o.sent(), values::micros(&o.sent_at)),
        sent_partition = o.sent_partition,
        sent_offset = o.sent_offset,
        rows = walk.rows,
        outbox = table.outbox(),
        id = o.id,
        wanted = wanted.join(" and "),
        direction = walk.direction,
        limit = search.limit
    );
    let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(conn)).await?;
    let rest = |row: &MySqlRow| -> Result<Rest, sqlx::Error> {
        let state: String = row.try_get(AFTER_SELECTED)?;
        let state = state.parse::<MessageState>().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let (partition, offset): (i32, i64) = (row.try_get(AFTER_SELECTED + 2)?, row.try_get(AFTER_SELECTED + 3)?);
        let metadata = (i64::from(partition) != NOWHERE).then_some(RecordMetadata { partition, offset });
        Ok(Rest { state, sent_at: values::read_time(row, AFTER_SELECTED + 1)?, metadata, death: None })
    };
    found(&rows, search.limit, looked_at, rest).map_err(|error| classify(doing, error))
}

/// Looks for dead letters.
pub(crate) async fn dead_letters(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    search: &LetterSearch,
) -> Result<Found, StoreError> {
    let doing = "looking for dead letters";
    let d = table.columns_of("d");
    let direction = if search.oldest_first { "asc" } else { "desc" };
    let mut rows = match (search.oldest_first, search.from) {
        (true, from) => format!("id > {}", from.unwrap_or(i64::MIN)),
        (false, from) => format!("id < {}", from.unwrap_or(i64::MAX)),
    };
    if !search.filter.ids.is_empty() {
        rows = format!("{rows} and id in ({})", id_list(search.filter.ids.iter().copied()));
    }
    let rows = format!(
        "select id, event_id from {dead} where {rows} order by id {direction}, event_id {direction} limit {SEARCHED_ROWS}",
        dead = table.dead()
    );
    let walk = Walk { rows, direction };
    let looked_at = walk.looked_at(conn).await?;
    let mut wanted = conditions(&d, &search.filter);
    wanted.extend(search.cause.as_ref().map(|cause| format!("d.code <=> {}", bytes(cause))));
    let text = format!(
        "/* outboxd: search_dead_letters */
         select {selected}, d.code, d.message, {died_at}, d.dead_letter_topic, {published_at}
         from ({rows}) l straight_join {dead} d on d.id = l.id and d.event_id = l.event_id
         where {wanted} order by d.id {direction}, d.event_id {direction} limit {limit}",
        selected = selected(&d),
        died_at = values::micros("d.died_at"),
        published_at = values::micros("d.published_at"),
        rows = walk.rows,
        dead = table.dead(),
        wanted = wanted.join(" and "),
        limit = search.limit
    );
    let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(conn)).await?;
    let rest = |row: &MySqlRow| -> Result<Rest, sqlx::Error> {
        let [code, message, died_at, topic, published_at] = [0, 1, 2, 3, 4].map(|at| AFTER_SELECTED + at);
        let death = Death {
            code: row.try_get(code)?,
            message: row.try_get(message)?,
            died_at: values::read_time(row, died_at)?,
            topic: row.try_get(topic)?,
            published_at: values::read_time(row, published_at)?,
        };
        Ok(Rest { state: MessageState::Dead, sent_at: None, metadata: None, death: Some(death) })
    };
    found(&rows, search.limit, looked_at, rest).map_err(|error| classify(doing, error))
}

/// What a message carries.
pub(crate) async fn carried(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    message: &FoundMessage,
    most: u32,
) -> Result<Option<Carried>, StoreError> {
    let doing = "reading a message";
    let Columns { id, event_id, payload, headers, .. } = table.columns();
    let RowName { id: number, event_id: event } = message.name;
    let named = event.map_or(String::new(), |event| format!("and {event_id} = '{event}'"));
    let text = format!(
        "/* outboxd: carried */ select substr({payload}, 1, {most}), substr(cast({headers} as char), 1, {most}) from {rows}
         where {id} = {number} {named} limit 1",
        rows = if message.death.is_some() { table.dead() } else { table.outbox() }
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_optional(conn)).await?;
    let read = |row: MySqlRow| -> Result<Carried, sqlx::Error> {
        let headers: Option<String> = row.try_get(1)?;
        Ok(Carried { payload: row.try_get(0)?, headers: headers.unwrap_or_default() })
    };
    row.map(read).transpose().map_err(|error| classify(doing, error))
}

/// Which rows are looked at, in which order.
struct Walk {
    /// A query of their ids.
    rows: String,
    direction: &'static str,
}

impl Walk {
    async fn of(
        conn: &mut MySqlConnection,
        table: &OutboxTable,
        stored: &Stored,
        Search { filter, state, .. }: &Search,
    ) -> Result<Self, StoreError> {
        let columns = table.columns();
        let (id, unsent) = (&columns.id, columns.unsent());
        let (rows, direction) = if !filter.ids.is_empty() {
            (format!("{id} in ({})", id_list(filter.ids.iter().copied())), "desc")
        } else {
            match state {
                Some(MessageState::Held) => {
                    let lowest = stored.held.iter().map(|held| held.from_id).min().unwrap_or(i64::MAX);
                    (format!("{id} >= {lowest} and {unsent}"), "asc")
                }
                Some(MessageState::Unsent | MessageState::InFlight) => {
                    let floor = stored.at.as_ref().map_or(i64::MIN, |at| at.floor());
                    (format!("{id} > {floor} and {unsent}"), "asc")
                }
                _ => {
                    let (above, below) = between(conn, table, filter).await?;
                    (format!("{id} > {above} and {id} < {below}"), "desc")
                }
            }
        };
        let rows = format!(
            "select {id} as id from {outbox} force index (primary) where {rows} order by {id} {direction} limit {SEARCHED_ROWS}",
            outbox = table.outbox()
        );
        Ok(Self { rows, direction })
    }

    /// How many rows there are, and the last id.
    async fn looked_at(&self, conn: &mut MySqlConnection) -> Result<(u64, Option<i64>), StoreError> {
        let doing = "looking for messages";
        let last = if self.direction == "asc" { "max" } else { "min" };
        let text = format!("/* outboxd: looked_at */ select count(*), {last}(id) from ({}) looked_at", self.rows);
        let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
        let read = || -> Result<(u64, Option<i64>), sqlx::Error> {
            Ok((row.try_get::<i64, _>(0)?.unsigned_abs(), row.try_get(1)?))
        };
        read().map_err(|error| classify(doing, error))
    }
}

/// The ids between which rows of the filter's times are.
async fn between(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    filter: &MessageFilter,
) -> Result<(i64, i64), StoreError> {
    const EVERYWHERE: (i64, i64) = (i64::MIN, i64::MAX);
    let doing = "looking for messages";
    if filter.since.is_none() && filter.until.is_none() {
        return Ok(EVERYWHERE);
    }
    let Columns { id, .. } = table.columns();
    let text = format!("/* outboxd: ends */ select min({id}), max({id}) from {}", table.outbox());
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(&mut *conn)).await?;
    let read = || -> Result<(Option<i64>, Option<i64>), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
    let (Some(low), Some(high)) = read().map_err(|error| classify(doing, error))? else { return Ok(EVERYWHERE) };
    let ids = FirstSince::between(low, high);
    let above = match filter.since.and_then(|since| since.checked_sub_signed(SLACK)) {
        Some(since) => first_since(conn, table, ids, since).await?.saturating_sub(1),
        None => EVERYWHERE.0,
    };
    let below = match filter.until.and_then(|until| until.checked_add_signed(SLACK)) {
        Some(until) => first_since(conn, table, ids, until).await?,
        None => EVERYWHERE.1,
    };
    Ok((above, below))
}

async fn first_since(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    mut search: FirstSince,
    time: DateTime<Utc>,
) -> Result<i64, StoreError> {
    let Columns { id, created_at, .. } = table.columns();
    let text = format!(
        "/* outboxd: is_since */ select coalesce((select {created_at} >= ?
             from {outbox} force index (primary) where {id} >= ? order by {id} limit 1), 1)",
        outbox = table.outbox()
    );
    while let Some(from) = search.next() {
        let asked = sqlx::query_scalar::<_, bool>(sql(text.clone())).bind(time).bind(from);
        search.told(from, ask("looking for messages", asked.fetch_one(&mut *conn)).await?);
    }
    Ok(search.found())
}

/// Where the row of the outbox is, in SQL.
fn state(o: &Columns, stored: &Stored, settle: Settle) -> String {
    let read = is_read(stored.at.as_ref(), &o.id);
    format!(
        "case when {sent} then 'sent' when {covered} then 'held' when {settled} then 'sent'
             when not {read} and {read_to} then 'in-flight' else 'unsent' end",
        sent = o.sent(),
        covered = covered(&stored.held, o),
        settled = is_read(stored.settling(settle), &o.id),
        read_to = is_read(stored.read_to.as_ref(), &o.id)
    )
}

/// What a message meets, in SQL.
fn conditions(columns: &Columns, filter: &MessageFilter) -> Vec<String> {
    let MessageFilter { topic, key, partition, since, until, ids: _, event_ids } = filter;
    let mut conditions = vec!["true".to_owned()];
    let mut add = |condition: Option<String>| conditions.extend(condition);
    let time = &columns.created_at;
    add(topic.as_ref().map(|topic| format!("{} <=> {}", columns.topic, bytes(topic))));
    add(key.as_ref().map(|key| format!("{} <=> {}", columns.key, bytes(key))));
    add(partition.map(|partition| format!("{} <=> {partition}", columns.partition)));
    add(since.map(|since| format!("{time} >= {}", values::time(since))));
    add(until.map(|until| format!("{time} < {}", values::time(until))));
    let listed = values::event_ids(event_ids);
    add((!listed.is_empty()).then(|| format!("{} in ({listed})", columns.event_id)));
    conditions
}

/// What is selected of a message of either table, in the order in which [`found`] reads it.
fn selected(columns: &Columns) -> String {
    let Columns { id, event_id, topic, key, payload, partition, created_at, .. } = columns;
    format!(
        "{id}, cast({event_id} as char), left({topic}, 250), left({key}, 1000), {partition}, {created_at},
         cast(octet_length({payload}) as signed)",
        created_at = values::micros(created_at)
    )
}

/// Where a statement goes on after what is [`selected`].
const AFTER_SELECTED: usize = 7;

/// Where the message of a row is, and what is known of its end.
struct Rest {
    state: MessageState,
    sent_at: Option<DateTime<Utc>>,
    metadata: Option<RecordMetadata>,
    death: Option<Death>,
}

fn found(
    rows: &[MySqlRow],
    limit: u32,
    (looked_at, last): (u64, Option<i64>),
    rest: impl Fn(&MySqlRow) -> Result<Rest, sqlx::Error>,
) -> Result<Found, sqlx::Error> {
    let mut messages = Vec::with_capacity(rows.len());
    for row in rows {
        let Rest { state, sent_at, metadata, death } = rest(row)?;
        let event_id: Option<String> = row.try_get(1)?;
        messages.push(FoundMessage {
            name: RowName { id: row.try_get(0)?, event_id: event_id.and_then(|text| Uuid::try_parse(&text).ok()) },
            topic: row.try_get::<Option<String>, _>(2)?.unwrap_or_default(),
            key: row.try_get(3)?,
            partition: row.try_get(4)?,
            created_at: values::read_time(row, 5)?,
            payload_bytes: row.try_get::<Option<i64>, _>(6)?.map(i64::unsigned_abs),
            state,
            sent_at,
            metadata,
            death,
        });
    }
    Ok(Found::of(messages, limit, looked_at, last))
}
