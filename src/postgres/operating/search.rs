//! Looking for single messages: a bounded walk by an index, and those rows of it that meet the conditions.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::contract::{Carried, Death, Found, FoundMessage, LetterSearch, RowName, SEARCHED_ROWS, Search, StoreError};
use crate::outbox::{MessageFilter, MessageState, RecordMetadata, Settle};
use crate::postgres::errors::classify;
use crate::postgres::reading::holds::{Holds, left_to_a_lane};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::reading::told;
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::checkpoint::{self, Stored};
use crate::postgres::table::{Columns, OutboxTable};
use crate::postgres::values::{Bound, Values};
use crate::reading::FirstSince;

const DOING: &str = "looking for messages";

/// How far a row's time may be from what its id tells: rows are written at once by many, and clocks are set.
const SLACK: TimeDelta = TimeDelta::minutes(1);

/// Looks for messages in the outbox. The rows that were looked at lead: a plan that began with the table's order would walk all
/// of it where few of them meet the conditions.
pub(crate) async fn search(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    search: &Search,
) -> Result<Found, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let holds = Holds::new(&stored.held);
    let mut bound = Bound::default();
    let Some(walk) = Walk::of(conn, table, &stored, &holds, search).await? else { return Ok(Found::default()) };
    let o = table.columns_of("o");
    let state = state(&o, &holds, &stored, settle, &mut bound);
    let mut wanted = conditions(&o, &search.filter, &mut bound);
    wanted.extend(search.state.map(|wanted| format!("{state} = {}", bound.text(wanted.as_str().to_owned()))));
    let text = format!(
        "/* outboxd: search */
         with looked_at as materialized ({rows}),
         found as materialized (
             select {selected}, {state} as state, {sent_at} as sent_at, {sent_partition}, {sent_offset}
             from looked_at l cross join lateral (select * from {outbox} where {id} = l.id offset 0) o where {wanted} order by {o_id} {direction} limit {limit}
         )
         select (select count(*) from looked_at), (select {last}(id) from looked_at), f.*
         from (select 1) one left join found f on true order by f.id {direction}",
        rows = walk.rows(table, &mut bound),
        selected = selected(&o),
        sent_at = finite(&o.sent_at),
        sent_partition = o.sent_partition,
        sent_offset = o.sent_offset,
        outbox = table.outbox(),
        id = table.columns().id,
        o_id = o.id,
        wanted = wanted.join(" and "),
        direction = walk.direction(),
        last = walk.last(),
        limit = bound.number(search.limit.into())
    );
    let rows = ask(DOING, sqlx::query_with(sql(text), bound.arguments).fetch_all(conn)).await?;
    found(&rows, search.limit, |row| {
        let state: &str = row.try_get(AFTER_SELECTED)?;
        let state = state.parse::<MessageState>().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let (partition, offset) = (row.try_get(AFTER_SELECTED + 2)?, row.try_get(AFTER_SELECTED + 3)?);
        let metadata = Option::zip(partition, offset).map(|(partition, offset)| RecordMetadata { partition, offset });
        Ok(Rest { state, sent_at: row.try_get(AFTER_SELECTED + 1)?, metadata, death: None })
    })
}

/// Looks for dead letters.
pub(crate) async fn dead_letters(
    conn: &mut PgConnection,
    table: &OutboxTable,
    search: &LetterSearch,
) -> Result<Found, StoreError> {
    let mut bound = Bound::default();
    let d = table.columns_of("d");
    let (direction, last) = if search.oldest_first { ("asc", "max") } else { ("desc", "min") };
    let rows = match (&*search.filter.ids, search.oldest_first) {
        ([], true) => format!("id > {}", bound.number(search.from.unwrap_or(i64::MIN))),
        ([], false) => format!("id < {}", bound.number(search.from.unwrap_or(i64::MAX))),
        (ids, true) => {
            format!("id = any({}) and id > {}", bound.bind(ids), bound.number(search.from.unwrap_or(i64::MIN)))
        }
        (ids, false) => format!("id = any({})", bound.bind(ids)),
    };
    let mut wanted = conditions(&d, &search.filter, &mut bound);
    wanted.extend(search.cause.as_ref().map(|cause| format!("d.code = {}", bound.text(cause.clone()))));
    let text = format!(
        "/* outboxd: search_dead_letters */
         with looked_at as materialized (
             select id, event_id from {dead} where {rows} order by id {direction}, event_id {direction} limit {SEARCHED_ROWS}
         ),
         found as materialized (
             select {selected}, d.code, d.message, {died_at}, d.dead_letter_topic, {published_at}
             from looked_at l
             cross join lateral (select * from {dead} where id = l.id and event_id = l.event_id offset 0) d
             where {wanted} order by d.id {direction}, d.event_id {direction} limit {limit}
         )
         select (select count(*) from looked_at), (select {last}(id) from looked_at), f.*
         from (select 1) one left join found f on true order by f.id {direction}, f.event_id {direction}",
        dead = table.dead(),
        selected = selected(&d),
        died_at = finite("d.died_at"),
        published_at = finite("d.published_at"),
        wanted = wanted.join(" and "),
        limit = bound.number(search.limit.into())
    );
    let rows = ask("looking for dead letters", sqlx::query_with(sql(text), bound.arguments).fetch_all(conn)).await?;
    found(&rows, search.limit, |row| {
        let [code, message, died_at, topic, published_at] = [0, 1, 2, 3, 4].map(|at| AFTER_SELECTED + at);
        let death = Death {
            code: row.try_get(code)?,
            message: row.try_get(message)?,
            died_at: row.try_get(died_at)?,
            topic: row.try_get(topic)?,
            published_at: row.try_get(published_at)?,
        };
        Ok(Rest { state: MessageState::Dead, sent_at: None, metadata: None, death: Some(death) })
    })
}

/// What a message carries.
pub(crate) async fn carried(
    conn: &mut PgConnection,
    table: &OutboxTable,
    message: &FoundMessage,
    most: u32,
) -> Result<Option<Carried>, StoreError> {
    let Columns { id, event_id, payload, headers, .. } = table.columns();
    let text = format!(
        "/* outboxd: carried */ select substring({payload} for $3), left({headers}::text, $3) from {rows}
         where {id} = $1 and {event_id} is not distinct from $2",
        rows = if message.death.is_some() { table.dead() } else { table.outbox() }
    );
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let statement = sqlx::query(sql(text)).bind(message.name.id).bind(message.name.event_id).bind(most);
    let row = ask("reading a message", statement.fetch_optional(conn)).await?;
    let read = |row: PgRow| {
        let headers: Option<String> = row.try_get(1)?;
        Ok(Carried { payload: row.try_get(0)?, headers: headers.unwrap_or_default() })
    };
    row.map(read).transpose().map_err(|error| classify("reading a message", error))
}

/// Which rows are looked at, in which order.
enum Walk {
    /// Those of these ids, the highest first.
    Named(Vec<i64>),
    /// Those between two ids, the highest first.
    Newest { above: i64, below: i64 },
    /// Those from an id on.
    From(i64),
    /// Those that the reader has not read.
    Unread(ReadPosition),
}

impl Walk {
    /// What a search looks at; nothing, if nothing can be there.
    async fn of(
        conn: &mut PgConnection,
        table: &OutboxTable,
        stored: &Stored,
        holds: &Holds,
        Search { filter, state, .. }: &Search,
    ) -> Result<Option<Self>, StoreError> {
        if !filter.ids.is_empty() {
            return Ok(Some(Walk::Named(filter.ids.clone())));
        }
        Ok(match state {
            Some(MessageState::Held) => holds.lowest().map(Walk::From),
            Some(MessageState::Unsent | MessageState::InFlight) => {
                Some(stored.at.clone().map_or(Walk::From(i64::MIN), Walk::Unread))
            }
            _ => between(conn, table, filter).await?.map(|(above, below)| Walk::Newest { above, below }),
        })
    }

    /// The ids of the rows.
    fn rows(&self, table: &OutboxTable, bound: &mut Bound) -> String {
        let Columns { id, xid, .. } = table.columns();
        let outbox = table.outbox();
        let from = |id_: &str, rows: String| {
            format!("select {id} as id from {outbox} where {rows} order by {id_} limit {SEARCHED_ROWS}")
        };
        match self {
            Walk::Named(ids) => from(&format!("{id} desc"), format!("{id} = any({})", bound.bind(ids))),
            Walk::Newest { above, below } => {
                let (above, below) = (bound.number(*above), bound.number(*below));
                from(&format!("{id} desc"), format!("{id} > {above} and {id} < {below}"))
            }
            Walk::From(first) => from(&id, format!("{id} >= {}", bound.number(*first))),
            Walk::Unread(at) => {
                let boundary = at.boundary();
                let (xmax, open) = (bound.xid(boundary.xmax), bound.xids(&boundary.open));
                let new = from(&xid, format!("{xid} >= {xmax}"));
                let was_open = from(&xid, format!("{xid} = any({open}) and {xid} < {xmax}"));
                let rest = at.frozen.as_ref().map(|frozen| from(&id, format!("{id} > {}", bound.number(frozen.last))));
                [Some(new), Some(was_open), rest]
                    .into_iter()
                    .flatten()
                    .map(|part| format!("({part})"))
                    .collect::<Vec<_>>()
                    .join(" union ")
            }
        }
    }

    fn is_newest_first(&self) -> bool {
        matches!(self, Walk::Named(_) | Walk::Newest { .. })
    }

    fn direction(&self) -> &'static str {
        if self.is_newest_first() { "desc" } else { "asc" }
    }

    /// The aggregate that tells where the walk ended.
    fn last(&self) -> &'static str {
        if self.is_newest_first() { "min" } else { "max" }
    }
}

/// The ids between which rows of the filter's times are; nothing, where the table is empty.
async fn between(
    conn: &mut PgConnection,
    table: &OutboxTable,
    filter: &MessageFilter,
) -> Result<Option<(i64, i64)>, StoreError> {
    if filter.since.is_none() && filter.until.is_none() {
        return Ok(Some((i64::MIN, i64::MAX)));
    }
    let Columns { id, .. } = table.columns();
    let outbox = table.outbox();
    let text = format!(
        "/* outboxd: ends */ select (select {id} from {outbox} order by {id} limit 1),
             (select {id} from {outbox} order by {id} desc limit 1)"
    );
    let ends = sqlx::query_as::<_, (Option<i64>, Option<i64>)>(sql(text)).fetch_one(&mut *conn);
    let (Some(low), Some(high)) = ask(DOING, ends).await? else { return Ok(None) };
    let ids = FirstSince::between(low, high);
    let above = match filter.since.and_then(|since| since.checked_sub_signed(SLACK)) {
        Some(since) => first_since(conn, table, ids, since).await?.saturating_sub(1),
        None => i64::MIN,
    };
    let below = match filter.until.and_then(|until| until.checked_add_signed(SLACK)) {
        Some(until) => first_since(conn, table, ids, until).await?,
        None => i64::MAX,
    };
    Ok(Some((above, below)))
}

async fn first_since(
    conn: &mut PgConnection,
    table: &OutboxTable,
    mut search: FirstSince,
    time: DateTime<Utc>,
) -> Result<i64, StoreError> {
    let Columns { id, created_at, .. } = table.columns();
    let text = format!(
        "/* outboxd: is_since */ select coalesce(
             (select {created_at} >= $2 from {outbox} where {id} >= $1 order by {id} limit 1), true)",
        outbox = table.outbox()
    );
    while let Some(from) = search.next() {
        let asked = sqlx::query_scalar::<_, bool>(sql(text.clone())).bind(from).bind(time).fetch_one(&mut *conn);
        search.told(from, ask(DOING, asked).await?);
    }
    Ok(search.found())
}

/// Where a row of the outbox is, in SQL.
fn state(o: &Columns, holds: &Holds, stored: &Stored, settle: Settle, bound: &mut Bound) -> String {
    let held = bound.bind(holds.to_told_json().map(Json));
    let mut is_read = |at| told::is_read(o, told::bind_values(bound, at));
    let (settled, checkpoint) = (is_read(stored.settling(settle)), is_read(stored.at.as_ref()));
    let read = is_read(stored.read_to.as_ref());
    format!(
        "case when not {unsent} then 'sent' when {left} then 'held' when {settled} then 'sent'
             when {read} and not {checkpoint} then 'in-flight' else 'unsent' end",
        unsent = o.unsent(),
        left = left_to_a_lane(o, &held),
    )
}

/// What a message meets, in SQL.
fn conditions(columns: &Columns, filter: &MessageFilter, bound: &mut Bound) -> Vec<String> {
    let MessageFilter { topic, key, partition, since, until, ids: _, event_ids } = filter;
    let mut conditions = vec!["true".to_owned()];
    let mut add = |condition: Option<String>| conditions.extend(condition);
    add(topic.as_ref().map(|topic| format!("{} = {}", columns.topic, bound.text(topic.clone()))));
    add(key.as_ref().map(|key| format!("{} = {}", columns.key, bound.text(key.clone()))));
    add(partition.map(|partition| format!("{} = {}", columns.partition, bound.int(partition))));
    add(since.map(|since| format!("{} >= {}", columns.created_at, bound.bind(since))));
    add(until.map(|until| format!("{} < {}", columns.created_at, bound.bind(until))));
    add((!event_ids.is_empty()).then(|| format!("{} = any({})", columns.event_id, bound.bind(event_ids))));
    conditions
}

/// What is selected of a message of either table, in the order in which [`found`] reads it.
fn selected(columns: &Columns) -> String {
    let Columns { id, event_id, topic, key, payload, partition, created_at, .. } = columns;
    format!(
        "{id} as id, {event_id} as event_id, left({topic}, 250), left({key}, 1000), {partition}, {created_at}, octet_length({payload})",
        created_at = finite(created_at)
    )
}

/// Where a statement goes on after what is [`selected`].
const AFTER_SELECTED: usize = 9;

/// A time that can be told.
fn finite(time: &str) -> String {
    format!("case when isfinite({time}) then {time} end")
}

/// Where the message of a row is, and what is known of its end.
struct Rest {
    state: MessageState,
    sent_at: Option<DateTime<Utc>>,
    metadata: Option<RecordMetadata>,
    death: Option<Death>,
}

/// Reads what was found.
fn found(rows: &[PgRow], limit: u32, rest: impl Fn(&PgRow) -> Result<Rest, sqlx::Error>) -> Result<Found, StoreError> {
    let read = || -> Result<Found, sqlx::Error> {
        let mut messages = Vec::new();
        for row in rows {
            let Some(id) = row.try_get::<Option<i64>, _>(2)? else { continue };
            let Rest { state, sent_at, metadata, death } = rest(row)?;
            messages.push(FoundMessage {
                name: RowName { id, event_id: row.try_get::<Option<Uuid>, _>(3)? },
                topic: row.try_get::<Option<String>, _>(4)?.unwrap_or_default(),
                key: row.try_get(5)?,
                partition: row.try_get(6)?,
                created_at: row.try_get(7)?,
                payload_bytes: row.try_get::<Option<i32>, _>(8)?.map(|bytes| u64::from(bytes.unsigned_abs())),
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
    };
    read().map_err(|error| classify(DOING, error))
}
