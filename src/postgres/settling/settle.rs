//! Recording deliveries.

use std::ops::RangeInclusive;
use std::time::Duration;

use sqlx::postgres::PgQueryResult;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use crate::contract::StoreError;
use crate::outbox::{ReadToken, RecordMetadata, Settle, Settlement};
use crate::postgres::address::Address;
use crate::postgres::errors::{NO_LOCK, classify, has_code, unusable};
use crate::postgres::session::{Guc, INDEX_ONLY_PLANS, ask, missing, sql, table_oid};
use crate::postgres::table::{Columns, OutboxTable};
use crate::postgres::values::{Bound, Values};

/// Settlements need no flush of their own: the next stored checkpoint flushes the log up to itself. What a crash of
/// the database forgets in between is delivered again, and nothing after it is settled before that: see [`SettlingSlot`].
const UNFLUSHED: Guc = ("synchronous_commit", "off");

/// How long a settlement may wait for a row that another session has locked: all others wait behind it.
const HURRIED: Guc = ("lock_timeout", "500ms");

/// How long rows are settled without waiting for any, after one was locked.
const WARY_FOR: Duration = Duration::from_secs(10);

/// The session that settles.
pub(crate) struct Settling {
    pub(crate) conn: PgConnection,
    /// Ends with the session: a crash, after which ids may come again, takes it along.
    generation: u64,
    table: Relation,
    /// Until when no row is waited for.
    wary_until: Option<Instant>,
}

/// A table and the file it is in, by which one that was truncated or made anew is told from what it was.
#[derive(Clone, Copy)]
struct Relation {
    oid: i64,
    filenode: i64,
}

/// Where the settling session is kept while no call uses it.
#[derive(Default)]
pub(crate) struct SettlingSlot {
    session: Option<Settling>,
    /// Sessions begun so far.
    generations: u64,
    /// The row that was settled last since a reader was opened. A crash forgets commits from the end: while this one is
    /// remembered, so are all.
    last: Option<(i64, Uuid)>,
}

impl SettlingSlot {
    /// A reader is opened, which sees what has been forgotten.
    pub(crate) fn reader_opens(&mut self) {
        self.last = None;
    }

    /// Works with the session. It leaves its place meanwhile, so that one that failed or was cut short never comes back.
    pub(crate) async fn with<T>(
        &mut self,
        address: &Address,
        how: Settle,
        work: impl AsyncFnOnce(&mut Settling) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let table = address.table().await?;
                let mut session = Settling::begin(address, table, self.generations).await?;
                self.generations += 1;
                if let Some(last) = self.last
                    && session.has_forgotten(table, how, last).await?
                {
                    return Err(StoreError::Forgotten);
                }
                session
            }
        };
        let done = work(&mut session).await?;
        self.session = Some(session);
        Ok(done)
    }

    /// Remembers what was settled last.
    pub(crate) fn settled(&mut self, settlement: &Settlement) {
        self.last = settlement.last().or(self.last);
    }
}

impl Settling {
    async fn begin(address: &Address, table: &OutboxTable, generation: u64) -> Result<Self, StoreError> {
        let settings: Vec<Guc> = INDEX_ONLY_PLANS.into_iter().chain([UNFLUSHED, HURRIED]).collect();
        let mut conn = address.connect("settle", &settings).await?;
        let oid = table_oid(&mut conn, table).await?;
        let statement = "/* outboxd: filenode */ select pg_relation_filenode($1::bigint::oid::regclass)::bigint";
        let filenode = sqlx::query_scalar::<_, Option<i64>>(statement).bind(oid).fetch_one(&mut conn);
        let filenode = ask("looking for the outbox table", filenode).await?.ok_or_else(|| missing(table))?;
        Ok(Self { conn, generation, table: Relation { oid, filenode }, wary_until: None })
    }

    /// The token of its generation, if the server is still there.
    pub(crate) async fn token(&mut self) -> Result<ReadToken, StoreError> {
        ask("settling", self.conn.ping()).await.map(|()| ReadToken::new(self.generation))
    }

    /// Whether a row that was settled is there as if it never had been.
    async fn has_forgotten(&mut self, table: &OutboxTable, how: Settle, last: (i64, Uuid)) -> Result<bool, StoreError> {
        let columns = table.columns();
        let Columns { id, event_id, .. } = &columns;
        let unsettled = as_if_never_settled(how, &columns);
        let text = format!(
            "/* outboxd: has_forgotten */ select exists (
                 select from {outbox} where {id} = $1 and {event_id} = $2 {unsettled})",
            outbox = table.outbox()
        );
        let forgotten = sqlx::query_scalar(sql(text)).bind(last.0).bind(last.1).fetch_one(&mut self.conn);
        ask("looking for what was settled last", forgotten).await
    }

    /// Carries out a settlement. A row whose event id differs is another row than the one that was delivered.
    ///
    /// Comparing it takes as long as everything else, so rows that were read in this session's generation are looked up by
    /// their ids alone. When not all were found that way, they are compared, and those that another session has locked are
    /// left out.
    pub(crate) async fn settle(
        &mut self,
        table: &OutboxTable,
        how: Settle,
        settlement: &Settlement,
    ) -> Result<(), StoreError> {
        if how == Settle::Checkpoint {
            return Ok(());
        }
        let is_wary = self.wary_until.is_some_and(|until| Instant::now() < until);
        if settlement.token() == Some(ReadToken::new(self.generation))
            && !is_wary
            && self.by_id(table, how, settlement).await? == settlement.len() as u64
        {
            return Ok(());
        }
        settle(&mut self.conn, table, how, settlement).await
    }

    /// Settles by ids alone, and returns how many rows there were.
    async fn by_id(&mut self, table: &OutboxTable, how: Settle, settlement: &Settlement) -> Result<u64, StoreError> {
        let outbox = table.outbox();
        let unsent = table.columns_of("o").unsent();
        let mut bound = Bound::default();
        let Relation { oid, filenode } = self.table;
        let (oid, filenode) = (bound.number(oid), bound.number(filenode));
        let ById { from, is_named, set } = ById::of(settlement, how, table, &mut bound);
        let with = |word: &str| from.as_ref().map_or_else(String::new, |from| format!("{word} {from}"));
        let by_id = match how {
            Settle::Delete => format!("delete from {outbox} o {} where {is_named}", with("using")),
            _ => format!("update {outbox} o set {set} {} where {is_named} and {unsent}", with("from")),
        };
        let text = format!(
            "/* outboxd: settle_by_id */ {by_id} and pg_relation_filenode({oid}::bigint::oid::regclass)::bigint = {filenode}"
        );
        let statement = sqlx::query_with(sql(text), bound.arguments);
        let done: Result<PgQueryResult, StoreError> = ask("settling", statement.execute(&mut self.conn)).await;
        match done {
            Err(error) if has_code(&error, &[NO_LOCK]) => {
                self.wary_until = Some(Instant::now() + WARY_FOR);
                Ok(0)
            }
            done => Ok(done?.rows_affected()),
        }
    }
}

/// Which rows a settlement by ids alone is of, in SQL, and what is set of each.
struct ById {
    from: Option<String>,
    is_named: String,
    set: String,
}

impl ById {
    /// Ids without a gap are named by their ends: a statement of forty kilobytes can take forty milliseconds longer, since the
    /// driver does not switch Nagle's algorithm off.
    fn of(settlement: &Settlement, how: Settle, table: &OutboxTable, bound: &mut Bound) -> Self {
        let id = table.columns_of("o").id;
        let set = |tells_where| set(&table.columns(), tells_where);
        if let Some(metadata) = settlement.metadata().filter(|_| how == Settle::Mark) {
            let ids = bound.bind(settlement.ids());
            let (partitions, offsets) = apart(metadata);
            let (partitions, offsets) = (bound.bind(partitions), bound.bind(offsets));
            return Self {
                from: Some(format!("unnest({ids}, {partitions}, {offsets}) s (id, sent_partition, sent_offset)")),
                is_named: format!("{id} = s.id"),
                set: set(true),
            };
        }
        let runs = settlement.runs();
        if runs.len() > settlement.len() / 2 {
            let is_named = format!("{id} = any({})", bound.bind(settlement.ids()));
            return Self { from: None, is_named, set: set(false) };
        }
        let (firsts, lasts): (Vec<i64>, Vec<i64>) = runs.into_iter().map(RangeInclusive::into_inner).unzip();
        let (firsts, lasts) = (bound.bind(firsts), bound.bind(lasts));
        Self {
            from: Some(format!("unnest({firsts}, {lasts}) run (first, last)")),
            is_named: format!("{id} between run.first and run.last"),
            set: set(false),
        }
    }
}

/// What is set of a row that is marked; where its record is, if `s` tells.
fn set(columns: &Columns, tells_where: bool) -> String {
    let Columns { sent_at, sent_partition, sent_offset, .. } = columns;
    match tells_where {
        true => format!("{sent_at} = now(), {sent_partition} = s.sent_partition, {sent_offset} = s.sent_offset"),
        false => format!("{sent_at} = now()"),
    }
}

/// Partitions and offsets, as arrays.
fn apart(metadata: &[Option<RecordMetadata>]) -> (Vec<Option<i32>>, Vec<Option<i64>>) {
    metadata.iter().map(|known| known.map(|RecordMetadata { partition, offset }| (partition, offset)).unzip()).unzip()
}

/// Carries out a settlement, comparing event ids. Rows that are settled or gone already are no matter.
pub(crate) async fn settle(
    conn: &mut PgConnection,
    table: &OutboxTable,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let metadata = settlement.metadata().filter(|_| how == Settle::Mark);
    let text = match how {
        Settle::Checkpoint if !settlement.is_out_of_line() => return Ok(()),
        Settle::Checkpoint | Settle::Mark => mark(table, metadata.is_some()),
        Settle::Delete => delete(table),
    };
    // A row that was left out because it was locked may be free by the time that its lock is looked for.
    for _ in 0..2 {
        let statement = sqlx::query(sql(text.clone())).bind(settlement.ids()).bind(settlement.event_ids());
        let statement = match metadata.map(apart) {
            Some((partitions, offsets)) => statement.bind(partitions).bind(offsets),
            None => statement,
        };
        let done = ask("settling", statement.execute(&mut *conn)).await?;
        if done.rows_affected() == settlement.len() as u64 {
            return Ok(());
        }
        let Some(id) = kept(conn, table, how, settlement).await? else { return Ok(()) };
        if is_locked(conn, table, id).await? {
            return Err(locked(id));
        }
    }
    refuse_swallowed(conn, table, how, settlement).await
}

/// A row that is there as if nothing had happened, though no other session has locked it, was kept by a trigger that returns
/// null, or by a rule.
pub(crate) async fn refuse_swallowed(
    conn: &mut PgConnection,
    table: &OutboxTable,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    match kept(conn, table, how, settlement).await? {
        None => Ok(()),
        Some(id) => Err(unusable(
            format!("PostgreSQL settled row {id} and kept it as it was"),
            format!("drop the trigger or rule on {table} that swallows what the relay records"),
        )),
    }
}

/// The first row of a settlement that is there as if nothing had happened.
async fn kept(
    conn: &mut PgConnection,
    table: &OutboxTable,
    how: Settle,
    settlement: &Settlement,
) -> Result<Option<i64>, StoreError> {
    let columns = table.columns_of("o");
    let Columns { id, event_id, .. } = &columns;
    let unsettled = as_if_never_settled(how, &columns);
    let text = format!(
        "/* outboxd: look_for_kept */ select min({id})
         from {outbox} o join unnest($1::bigint[], $2::uuid[]) s (id, event_id)
             on {id} = s.id and {event_id} = s.event_id {unsettled}",
        outbox = table.outbox()
    );
    let statement = sqlx::query_scalar(sql(text)).bind(settlement.ids()).bind(settlement.event_ids());
    ask("settling", statement.fetch_one(conn)).await
}

/// A row that is to be settled is locked.
pub(crate) fn locked(id: i64) -> StoreError {
    unusable(
        format!("row {id} is locked by another session"),
        "end the transaction that holds it: pg_stat_activity shows those that have been open for long",
    )
}

/// Whether another session has locked a row.
pub(crate) async fn is_locked(conn: &mut PgConnection, table: &OutboxTable, id: i64) -> Result<bool, StoreError> {
    let text = format!(
        "/* outboxd: is_locked */ with free as materialized (select from {outbox} where {id} = $1 for update skip locked)
         select exists (select from {outbox} where {id} = $1) and not exists (select from free)",
        outbox = table.outbox(),
        id = table.columns().id
    );
    ask("settling", sqlx::query_scalar(sql(text)).bind(id).fetch_one(conn)).await
}

/// The condition that a row is there as if it had not been settled so.
fn as_if_never_settled(how: Settle, columns: &Columns) -> String {
    if how == Settle::Delete { String::new() } else { format!("and {}", columns.unsent()) }
}

/// Those of the rows given that are as they were delivered, and that no other session has locked.
fn free(table: &OutboxTable, how: Settle) -> String {
    let columns = table.columns_of("o");
    let Columns { id, event_id, .. } = &columns;
    let unsettled = as_if_never_settled(how, &columns);
    format!(
        "with free as materialized (
             select {id} from {outbox} o join unnest($1::bigint[], $2::uuid[]) s (id, event_id)
                 on {id} = s.id and {event_id} = s.event_id {unsettled} for update of o skip locked
         )",
        outbox = table.outbox()
    )
}

/// As [`settle`], flushed whatever the session's `synchronous_commit`.
pub(crate) async fn settle_flushed(
    conn: &mut PgConnection,
    table: &OutboxTable,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let doing = "settling";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    let flush = sqlx::query("/* outboxd: flush */ set local synchronous_commit = on");
    ask(doing, flush.execute(&mut *transaction)).await?;
    settle(&mut transaction, table, how, settlement).await?;
    ask(doing, transaction.commit()).await
}

fn mark(table: &OutboxTable, tells_where: bool) -> String {
    let places = match tells_where {
        true => "join unnest($1::bigint[], $3::int[], $4::bigint[]) s (id, sent_partition, sent_offset) using (id)",
        false => "",
    };
    format!(
        "/* outboxd: mark */ {free} update {outbox} o set {set} from free {places} where o.{id} = free.{id}",
        free = free(table, Settle::Mark),
        outbox = table.outbox(),
        set = set(&table.columns(), tells_where),
        id = table.columns().id
    )
}

fn delete(table: &OutboxTable) -> String {
    format!(
        "/* outboxd: delete */ {free} delete from {outbox} o using free where o.{id} = free.{id}",
        free = free(table, Settle::Delete),
        outbox = table.outbox(),
        id = table.columns().id
    )
}
