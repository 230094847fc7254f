//! The statements that read, each a page of at most `limit` rows in id order.
//!
//! There are two ways to a window's rows. *By xid*: the index on `xid` leads to what is new, however large the
//! table; the rows are then sorted, so each page costs the whole window. *By id*: the primary key is walked from the
//! last id read; a page costs what it walks over. Windows that fit one page take the first way, larger
//! ones begin with it and go on with the second.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use crate::contract::StoreError;
use crate::outbox::{Lane, Limit, Record, Unreadable};
use crate::postgres::errors::classify;
use crate::postgres::reading::copy::Message;
use crate::postgres::reading::holds::{Holds, not_held};
use crate::postgres::reading::position::{ReadPosition, Snapshot};
use crate::postgres::reading::rows::{Page, READING, unreadable};
use crate::postgres::session::{BACKLOG_TIMEOUT, ask, bounded, sql};
use crate::postgres::table::{Columns, NO_COLUMNS, OutboxTable};
use crate::postgres::values::{Bound, Preset, Values};

/// What to read of a window, besides where it is.
#[derive(Debug)]
pub(crate) struct RowSelection<'a> {
    /// The held lanes, whose rows are left out.
    pub holds: &'a Holds,
    /// Only what is left of a held lane.
    pub left: Option<Left<'a>>,
    /// Rows that are larger are not loaded.
    pub most: usize,
}

impl RowSelection<'_> {
    /// The held lane whose rows are not left out, but wanted.
    fn wanted(&self) -> Option<&Lane> {
        self.left.map(|left| left.lane)
    }

    /// Whether a row that was read is left out after all, because its statement was not told of the held lanes.
    pub(crate) fn leaves_out(&self, row: &Result<Record, Unreadable>) -> bool {
        if self.holds.are_told() {
            return false;
        }
        let (id, topic, lane) = match row {
            Ok(record) => (record.id, &record.topic, record.lane()),
            Err(row) => (row.id, &row.topic, row.lane.clone()),
        };
        self.holds.leave_out(id, &Lane::Topic { topic: Arc::clone(topic) }, lane.as_ref(), self.wanted())
    }
}

/// What is left of a held lane, up to where the main flow is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    pub lane: &'a Lane,
    pub from_id: i64,
    /// What one of these calls read is no part of it.
    pub without: [Option<&'a ReadPosition>; 2],
    /// Only what this calls read.
    pub upto: &'a ReadPosition,
}

/// What one snapshot does not show and a later one does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    pub since: &'a Snapshot,
    pub until: &'a Snapshot,
}

/// A part of a window, to be walked by id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// The last id that was read.
    pub after: i64,
    /// The last id to look at, which bounds what a statement costs.
    pub upto: i64,
}

/// Reads what became visible since `prev`, with the snapshot that saw it.
pub(crate) async fn new_rows(
    conn: &mut PgConnection,
    table: &OutboxTable,
    prev: &Snapshot,
    which: &RowSelection<'_>,
    limit: Limit,
) -> Result<Page, StoreError> {
    let mut statement = Statement::<Bound>::on(table);
    let newest = statement.by_xid(table, prev, Upto::Now, which, limit);
    // One statement, one snapshot. It is told by a row of its own, first, because it can be long.
    let text = format!(
        "/* outboxd: read_new */ with s as materialized (select pg_current_snapshot() as cur)
         select cur::text, {NO_COLUMNS} from s
         union all
         {newest}
         order by id nulls first"
    );
    statement.read(conn, text, which, limit).await
}

/// Reads the rows of a window after an id, led by the index on xid.
pub(crate) async fn window_by_xid(
    conn: &mut PgConnection,
    table: &OutboxTable,
    window: Window<'_>,
    after: i64,
    which: &RowSelection<'_>,
    limit: Limit,
) -> Result<Page, StoreError> {
    let mut statement = Statement::<Bound>::on(table);
    let rows = statement.by_xid(table, window.since, Upto::Window { cur: window.until, after }, which, limit);
    let id = &statement.columns.id;
    let text = format!("/* outboxd: read_window_by_xid */ {rows} order by {id}");
    statement.read(conn, text, which, limit).await
}

/// Reads the rows of a window in a span of ids, walking the primary key.
pub(crate) async fn window_by_id(
    conn: &mut PgConnection,
    table: &OutboxTable,
    window: Window<'_>,
    span: Span,
    which: &RowSelection<'_>,
    limit: Limit,
) -> Result<Page, StoreError> {
    let mut statement = Statement::<Preset>::on(table);
    let (after, upto) = (statement.values.number(span.after), statement.values.number(span.upto));
    let rest = statement.rest(which);
    let new = statement.unseen_in(window.since);
    let seen = statement.seen_in(window.until);
    let rows = statement.values.number(rows_of(limit));
    let Columns { id, .. } = &statement.columns;
    let selected = statement.columns.selected();
    let text = format!(
        "select null::text, {selected} from {outbox}
         where {id} > {after} and {id} <= {upto} {new} {seen} {rest} order by {id} limit {rows}",
        outbox = table.outbox()
    );
    let text = format!("/* outboxd: read_window */ copy ({text}) to stdout (format binary)");
    statement.copy(conn, &text, which, limit).await
}

/// Fills in what was left out, from the table of the outbox or of the dead letters, and its columns. Records whose rows are gone by now are
/// left out too: another session settled them.
pub(crate) async fn load_wide(
    conn: &mut PgConnection,
    table: &str,
    columns: &Columns,
    page: &mut Page,
) -> Result<(), StoreError> {
    if page.wide.is_empty() {
        return Ok(());
    }
    let name = |record: &Record| (record.id, record.event_id);
    let mut missing: HashMap<_, usize> = page.wide.drain(..).map(|at| (name(&page.records[at]), at)).collect();
    let ids: Vec<i64> = missing.keys().map(|(id, _)| *id).collect();
    let Columns { id, .. } = columns;
    let wide = columns.wide();
    let text = format!("/* outboxd: read_wide */ select {wide} from {table} where {id} = any($1)");
    let doing = "reading large rows";
    let mut faults = HashMap::new();
    let mut rows = sqlx::query(sql(text)).bind(ids).fetch(conn);
    while let Some(row) = ask(doing, rows.try_next()).await? {
        let name = (row.get(0), row.get(1));
        if let Some(at) = missing.remove(&name)
            && let Err(fault) = page.complete(at, &row)
        {
            faults.insert(name, fault);
        }
    }
    for record in std::mem::take(&mut page.records) {
        match faults.remove(&name(&record)) {
            Some(fault) => page.unreadable.push(record.refused(fault)),
            None if missing.contains_key(&name(&record)) => {}
            None => page.records.push(record),
        }
    }
    page.unreadable.sort_by_key(|row| row.id);
    Ok(())
}

/// The driver counts rows as PostgreSQL does, in `bigint`.
fn rows_of(limit: Limit) -> i64 {
    i64::try_from(limit.records).unwrap_or(i64::MAX)
}

/// Where a window ends that is led by the index on xid.
enum Upto<'a> {
    /// At the snapshot that the statement itself tells.
    Now,
    /// At a snapshot of before, of which rows are read after an id.
    Window { cur: &'a Snapshot, after: i64 },
}

/// A statement in the making.
struct Statement<V> {
    columns: Columns,
    values: V,
}

impl<V: Values + Default> Statement<V> {
    /// One that reads rows of this outbox.
    fn on(table: &OutboxTable) -> Self {
        Self { columns: table.columns(), values: V::default() }
    }

    /// The select that is led by the index on xid.
    fn by_xid(
        &mut self,
        table: &OutboxTable,
        prev: &Snapshot,
        upto: Upto<'_>,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> String {
        let (xmax, open) = (self.values.xid(prev.xmax), self.values.xids(&prev.open));
        let mut rest = self.rest(which);
        // Beyond the end there are only rows that were moved here, with ids of another cluster's transactions.
        let end = match upto {
            Upto::Now => "(select pg_snapshot_xmax(cur) from s)".to_owned(),
            Upto::Window { cur, after } => {
                // The sum keeps the planner from the primary key, as below.
                let after = self.values.number(after);
                rest = format!("{seen} and {id} + 0 > {after} {rest}", seen = self.seen_in(cur), id = self.columns.id);
                self.values.xid(cur.xmax)
            }
        };
        let rows = self.values.number(rows_of(limit));
        let outbox = table.outbox();
        let Columns { id, xid, .. } = &self.columns;
        let selected = self.columns.selected();
        // Sorted by a sum, which the primary key cannot serve: on a table that was never analysed the planner
        // would walk it, filtering every row by xid. Only ids are sorted: the window may be large.
        format!(
            "select null::text, {selected} from (
                 select u.{id} from (
                     select {id} from {outbox} where {xid} >= {xmax} and {xid} < {end} {rest}
                     union all
                     select {id} from {outbox} where {xid} = any({open}) and {xid} < {xmax} {rest}
                 ) u order by u.{id} + 0 limit {rows}
             ) page join {outbox} using ({id})"
        )
    }

    fn unseen_in(&mut self, snapshot: &Snapshot) -> String {
        if snapshot.is_nothing() {
            return String::new();
        }
        let (xmax, open) = (self.values.xid(snapshot.xmax), self.values.xids(&snapshot.open));
        format!(" and ({xid} >= {xmax} or {xid} = any({open}))", xid = self.columns.xid)
    }

    /// The inner select makes it read the snapshot's text once instead of once a row.
    fn seen_in(&mut self, snapshot: &Snapshot) -> String {
        let (xid, text) = (&self.columns.xid, self.values.text(snapshot.to_string()));
        format!("and pg_visible_in_snapshot({xid}, (select {text}::pg_snapshot))")
    }

    /// A condition on rows that a position does not call read.
    fn unread_at(&mut self, at: &ReadPosition) -> String {
        let mut unread = self.unseen_in(&at.prev);
        if let Some(frozen) = &at.frozen {
            let (last, seen) = (self.values.number(frozen.last), self.seen_in(&frozen.cur));
            unread = format!("{unread} and not ({id} + 0 <= {last} {seen})", id = self.columns.id);
        }
        unread
    }

    /// A condition on rows that a position calls read, besides being visible where its window ends.
    fn read_at(&mut self, at: &ReadPosition) -> String {
        let Some(frozen) = &at.frozen else { return String::new() };
        let last = self.values.number(frozen.last);
        let before = if at.prev.is_nothing() { "and false".to_owned() } else { self.seen_in(&at.prev) };
        format!(" and ({id} + 0 <= {last} or true {before})", id = self.columns.id)
    }

    /// Rows that are marked as sent are left out in every mode, so that changing it publishes nothing again.
    fn rest(&mut self, which: &RowSelection<'_>) -> String {
        let mut rest = format!("and {}", self.columns.unsent());
        if let Some(held) = which.holds.to_leave_out(which.wanted()) {
            rest = format!("{rest} and {}", not_held(&self.columns, &self.values.json(&held)));
        }
        if let Some(Left { lane, from_id, without, upto }) = which.left {
            let (topic, from_id) = (self.values.text(lane.topic().to_owned()), self.values.number(from_id));
            let Columns { id, topic: its_topic, key: its_key, partition: its_partition, .. } = &self.columns;
            rest = format!("{rest} and {its_topic} = {topic} and {id} + 0 >= {from_id}");
            if let Some(key) = lane.key() {
                let key = self.values.text(key.to_owned());
                rest = format!("{rest} and {its_key} = {key} and {its_partition} is null");
            }
            if let Some(partition) = lane.partition() {
                rest = format!("{rest} and {its_partition} = {}", self.values.int(partition));
            }
            rest.push_str(&self.read_at(upto));
            without.into_iter().flatten().for_each(|at| rest.push_str(&self.unread_at(at)));
        }
        rest
    }
}

impl Statement<Bound> {
    /// Keeps what fits and lets the rest of the rows pass by, so that memory is bounded.
    async fn read(
        self,
        conn: &mut PgConnection,
        text: String,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        bounded(READING, BACKLOG_TIMEOUT, async {
            let mut page = Page::new(limit, which.most);
            let mut rows = sqlx::query_with(sql(text), self.values.arguments).fetch(conn);
            while let Some(row) = rows.try_next().await.map_err(|error| classify(READING, error))? {
                page.take(&row, |row| which.leaves_out(row))?;
            }
            Ok(page)
        })
        .await
    }
}

impl Statement<Preset> {
    /// Reads many rows by copying them, which costs the driver less. Keeps what fits, as
    /// [`read`](Statement::read) does.
    async fn copy(
        self,
        conn: &mut PgConnection,
        text: &str,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let failed = |error| classify(READING, error);
        bounded(READING, BACKLOG_TIMEOUT, async {
            self.values.set(conn).await.map_err(failed)?;
            let mut page = Page::new(limit, which.most);
            let mut messages = conn.copy_out_raw(text).await.map_err(failed)?;
            while let Some(bytes) = messages.try_next().await.map_err(failed)? {
                let mut message = Message::new(&bytes).map_err(unreadable)?;
                while let Some(row) = message.next().map_err(unreadable)? {
                    page.take(&row, |row| which.leaves_out(row))?;
                }
            }
            Ok(page)
        })
        .await
    }
}
