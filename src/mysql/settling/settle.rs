//! Recording deliveries.
//!
//! By lists of ids, in statements that lock no row but these, on both servers: under `read committed`, with the primary key
//! forced, or sorted by it, and never by a range. A row is named by its id and its event id, since ids may be given out anew;
//! comparing each would cost about as much as all the rest. So what is settled together is compared by a checksum of its
//! event ids first, in the same transaction, which keeps the table from being truncated in between; and one by one only
//! where that differs, or another session has locked a row. No lock is waited for: others wait behind a settlement.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::contract::StoreError;
use crate::mysql::address::Address;
use crate::mysql::errors::{LOCK_WAIT_TIMEOUT, classify, has_number, unusable};
use crate::mysql::reading::page;
use crate::mysql::session::{Job, KEPT_AT_MOST, Session, ask, id_list, sql};
use crate::mysql::table::{Columns, NOT_SENT, OutboxTable};
use crate::outbox::{RecordMetadata, Settle, Settlement};

const SETTLING: &str = "settling";

/// Rows that a statement settles.
const ROWS_PER_STATEMENT: usize = 1_000;

/// The same where each is told its place: the server looks it up in a list.
const PLACED_ROWS_PER_STATEMENT: usize = 250;

/// How long a row that another session has locked is left to it before it counts as locked.
const LOCKED_FOR: Duration = Duration::from_millis(300);

/// A lock that was not to be had at once, where it is not waited for. MariaDB says the same as after a wait.
const NOT_AT_ONCE: [u16; 2] = [3572, LOCK_WAIT_TIMEOUT];

/// Where the settling session is kept while no call uses it.
#[derive(Debug, Default)]
pub(crate) struct SettlingSlot {
    session: Option<(Session, Instant)>,
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
        work: impl AsyncFnOnce(&mut Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let kept = self.session.take().filter(|(_, since)| since.elapsed() < KEPT_AT_MOST);
        let mut session = match kept {
            Some((session, _)) => session,
            None => address.connect(Job::Settle).await?,
        };
        let done = work(&mut session).await?;
        self.session = Some((session, Instant::now()));
        Ok(done)
    }

    /// Carries out a settlement.
    ///
    /// # Errors
    /// [`StoreError::Forgotten`], and nothing is done, when the session is a new one and what was settled last through the one
    /// before is there as if it never had been.
    pub(crate) async fn settle(
        &mut self,
        address: &Address,
        how: Settle,
        settlement: &Settlement,
    ) -> Result<(), StoreError> {
        let table = address.table();
        let is_new = self.session.as_ref().is_none_or(|(_, since)| since.elapsed() >= KEPT_AT_MOST);
        let last = self.last.filter(|_| is_new);
        self.with(address, async |session| {
            if let Some(last) = last
                && has_forgotten(&mut session.conn, table, how, last).await?
            {
                return Err(StoreError::Forgotten);
            }
            settle(&mut session.conn, table, how, settlement).await
        })
        .await?;
        if !settlement.is_out_of_line() {
            self.last = settlement.last().or(self.last);
        }
        Ok(())
    }
}

/// Whether a row that was settled is there as if it never had been.
async fn has_forgotten(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    how: Settle,
    (id, event_id): (i64, Uuid),
) -> Result<bool, StoreError> {
    let rows = NamedRows { rows: vec![NamedRow { id, event_id, place: None }] };
    Ok(rows.first_unsettled(conn, table, how).await?.is_some())
}

/// Carries out a settlement: in several transactions, where it is large.
pub(crate) async fn settle(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let rows = NamedRows::of(settlement, how);
    let most = if rows.are_placed() { PLACED_ROWS_PER_STATEMENT } else { ROWS_PER_STATEMENT };
    for rows in rows.rows.chunks(most) {
        NamedRows { rows: rows.to_vec() }.settle(conn, table, how).await?;
    }
    Ok(())
}

/// Settles rows by their ids alone, which the caller knows to be those that are meant.
pub(crate) async fn settle_ids(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    how: Settle,
    ids: &[i64],
) -> Result<(), StoreError> {
    if ids.is_empty() || how == Settle::Checkpoint {
        return Ok(());
    }
    let rows = ids.iter().map(|id| NamedRow { id: *id, event_id: Uuid::nil(), place: None }).collect();
    NamedRows { rows }.change(conn, table, how).await
}

/// A row that is to be settled.
#[derive(Debug, Clone)]
struct NamedRow {
    id: i64,
    event_id: Uuid,
    place: Option<RecordMetadata>,
}

/// Rows that are to be settled together, by id.
#[derive(Debug)]
struct NamedRows {
    rows: Vec<NamedRow>,
}

impl NamedRows {
    fn of(settlement: &Settlement, how: Settle) -> Self {
        let metadata = settlement.metadata().filter(|_| how == Settle::Mark);
        let place = |at: usize| metadata.and_then(|metadata| metadata[at]);
        let names = settlement.ids().iter().zip(settlement.event_ids()).enumerate();
        let mut rows: Vec<_> =
            names.map(|(at, (id, event_id))| NamedRow { id: *id, event_id: *event_id, place: place(at) }).collect();
        rows.sort_by_key(|row| (row.id, row.event_id));
        rows.dedup_by_key(|row| (row.id, row.event_id));
        Self { rows }
    }

    fn are_placed(&self) -> bool {
        self.rows.iter().any(|row| row.place.is_some())
    }

    fn ids(&self) -> String {
        id_list(self.rows.iter().map(|row| row.id))
    }

    async fn settle(&self, conn: &mut MySqlConnection, table: &OutboxTable, how: Settle) -> Result<(), StoreError> {
        match self.settle_together(conn, table, how).await {
            Ok(true) => Ok(()),
            Ok(false) => self.settle_what_is_free(conn, table, how).await,
            Err(error) if has_number(&error, &NOT_AT_ONCE) => self.settle_what_is_free(conn, table, how).await,
            Err(error) => Err(error),
        }
    }

    /// Settles all of them, if all of them are there.
    async fn settle_together(
        &self,
        conn: &mut MySqlConnection,
        table: &OutboxTable,
        how: Settle,
    ) -> Result<bool, StoreError> {
        let mut transaction = conn.begin().await.map_err(|error| classify(SETTLING, error))?;
        if !self.are_there(&mut transaction, table).await? {
            ask(SETTLING, transaction.rollback()).await?;
            return Ok(false);
        }
        self.change(&mut transaction, table, how).await?;
        let kept = self.first_kept(&mut transaction, table, how).await?;
        ask(SETTLING, transaction.commit()).await?;
        kept.map_or(Ok(true), |id| Err(swallowed(table, id)))
    }

    /// Whether rows of all these names are there, settled or not, as their checksum says. They are ours from here on.
    async fn are_there(&self, transaction: &mut MySqlConnection, table: &OutboxTable) -> Result<bool, StoreError> {
        let Columns { id, event_id, .. } = table.columns();
        let text = format!(
            "/* outboxd: compare */ select cast(bit_xor(crc32(lower({event_id}))) as signed), count(*)
             from {outbox} force index (primary) where {id} in ({ids}) for update nowait",
            outbox = table.outbox(),
            ids = self.ids()
        );
        let row = ask(SETTLING, sqlx::raw_sql(sql(text)).fetch_one(transaction)).await?;
        let number = |column: usize| row.try_get_unchecked::<i64, _>(column).map_err(|error| classify(SETTLING, error));
        let sum = self.rows.iter().fold(0, |sum, row| sum ^ crc32(row.event_id.to_string().as_bytes()));
        Ok((number(0)?, number(1)?) == (i64::from(sum), self.rows.len() as i64))
    }

    /// Settles these rows, by their ids alone.
    async fn change(
        &self,
        transaction: &mut MySqlConnection,
        table: &OutboxTable,
        how: Settle,
    ) -> Result<(), StoreError> {
        let columns = table.columns();
        let Columns { id, sent_at, .. } = &columns;
        let (outbox, ids) = (table.outbox(), self.ids());
        let text = match how {
            Settle::Delete => format!(
                "/* outboxd: delete */ delete from {outbox} where {id} in ({ids}) order by {id} limit {}",
                self.rows.len()
            ),
            Settle::Mark | Settle::Checkpoint => format!(
                "/* outboxd: mark */ update {outbox} force index (primary) set {sent_at} = utc_timestamp(6){places}
                 where {id} in ({ids}) and {unsent}",
                places = self.places(&columns),
                unsent = columns.unsent()
            ),
        };
        ask(SETTLING, sqlx::raw_sql(sql(text)).execute(transaction)).await.map(drop)
    }

    /// What is set besides of rows of which it is known where their records are.
    fn places(&self, Columns { id, sent_partition, sent_offset, .. }: &Columns) -> String {
        if !self.are_placed() {
            return String::new();
        }
        let placed = || self.rows.iter().filter_map(|row| Some((row.id, row.place?)));
        let partitions: String = placed().map(|(id, place)| format!(" when {id} then {}", place.partition)).collect();
        let offsets: String = placed().map(|(id, place)| format!(" when {id} then {}", place.offset)).collect();
        format!(
            ", {sent_partition} = case {id}{partitions} else {sent_partition} end, \
             {sent_offset} = case {id}{offsets} else {sent_offset} end"
        )
    }

    /// A row that is there as it was, though it was settled: a trigger kept it.
    async fn first_kept(
        &self,
        transaction: &mut MySqlConnection,
        table: &OutboxTable,
        how: Settle,
    ) -> Result<Option<i64>, StoreError> {
        if how == Settle::Delete {
            return Ok(None);
        }
        let columns = table.columns();
        let text = format!(
            "/* outboxd: look_for_kept */ select {id} from {outbox} force index (primary)
             where {id} in ({ids}) and {unsent} order by {id} limit 1",
            id = columns.id,
            outbox = table.outbox(),
            ids = self.ids(),
            unsent = columns.unsent()
        );
        Ok(page::ids(transaction, SETTLING, text).await?.first().copied())
    }

    /// Settles those that no other session has locked, comparing event ids.
    ///
    /// # Errors
    /// When a row is left: it is locked, or a trigger keeps it.
    async fn settle_what_is_free(
        &self,
        conn: &mut MySqlConnection,
        table: &OutboxTable,
        how: Settle,
    ) -> Result<(), StoreError> {
        let mut left = None;
        for attempt in 0..2 {
            if attempt > 0 {
                sleep(LOCKED_FOR).await;
            }
            let mut transaction = conn.begin().await.map_err(|error| classify(SETTLING, error))?;
            let free = self.matching(&mut transaction, table, how, "for update skip locked").await?;
            let ids: HashSet<i64> = free.iter().copied().collect();
            if !ids.is_empty() {
                let rows = self.rows.iter().filter(|row| ids.contains(&row.id)).cloned().collect();
                Self { rows }.change(&mut transaction, table, how).await?;
            }
            ask(SETTLING, transaction.commit()).await?;
            left = self.first_unsettled(conn, table, how).await?;
            match left {
                None => return Ok(()),
                Some(id) if ids.contains(&id) => return Err(swallowed(table, id)),
                Some(_) => {}
            }
        }
        left.map_or(Ok(()), |id| Err(locked(id)))
    }

    /// The first of them that is there as if it had never been settled.
    async fn first_unsettled(
        &self,
        conn: &mut MySqlConnection,
        table: &OutboxTable,
        how: Settle,
    ) -> Result<Option<i64>, StoreError> {
        Ok(self.matching(conn, table, how, "").await?.first().copied())
    }

    /// The ids of those that are not settled, by id.
    async fn matching(
        &self,
        conn: &mut MySqlConnection,
        table: &OutboxTable,
        how: Settle,
        locking: &str,
    ) -> Result<Vec<i64>, StoreError> {
        let names = self.rows.iter().map(|row| (row.id, row.event_id));
        let unsettled = if how == Settle::Delete { None } else { Some(NOT_SENT) };
        let found = names_of(conn, table, &self.ids(), unsettled, locking).await?;
        Ok(names.filter(|(id, event_id)| found.get(id) == Some(event_id)).map(|(id, _)| id).collect())
    }
}

/// The event ids of rows, by their ids; without those that have none that can be read.
async fn names_of(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    ids: &str,
    mark: Option<&str>,
    locking: &str,
) -> Result<HashMap<i64, Uuid>, StoreError> {
    let Columns { id, event_id, sent_at, .. } = table.columns();
    let marked = mark.map_or_else(String::new, |mark| format!("and {sent_at} = {mark}"));
    let text = format!(
        "/* outboxd: look_for_rows */ select {id}, {event_id} from {outbox} force index (primary)
         where {id} in ({ids}) {marked} order by {id} {locking}",
        outbox = table.outbox()
    );
    let rows = ask(SETTLING, sqlx::raw_sql(sql(text)).fetch_all(conn)).await?;
    let name = |row: &MySqlRow| -> Result<(i64, Option<Uuid>), sqlx::Error> {
        let event_id = row.try_get_unchecked::<&[u8], _>(1)?;
        Ok((row.try_get_unchecked(0)?, Uuid::try_parse_ascii(event_id).ok()))
    };
    let names = rows.iter().map(name).collect::<Result<Vec<_>, _>>().map_err(|error| classify(SETTLING, error))?;
    Ok(names.into_iter().filter_map(|(id, event_id)| Some((id, event_id?))).collect())
}

/// A row that is to be settled is locked.
fn locked(id: i64) -> StoreError {
    unusable(
        format!("row {id} is locked by another session"),
        "end the transaction that holds it: information_schema.innodb_trx shows those that have been open for long",
    )
}

/// A row was settled, and is there as it was.
fn swallowed(table: &OutboxTable, id: i64) -> StoreError {
    unusable(
        format!("the server settled row {id} and kept it as it was"),
        format!("drop the trigger on {table} that undoes what the relay records"),
    )
}

/// The checksum that the server's function of this name makes.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_server() {
        assert_eq!(crc32(b"abc"), 891_568_578);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn rows_are_settled_by_id_each_once_with_their_places() {
        let mut settlement = Settlement::default();
        settlement.push_row(9, Uuid::nil());
        settlement.push_with_metadata(2, Uuid::nil(), RecordMetadata { partition: 3, offset: 40 });
        settlement.push_row(9, Uuid::nil());
        let rows = NamedRows::of(&settlement, Settle::Mark);
        assert_eq!(rows.ids(), "2,9");
        let places = rows.places(&Columns::of_dead());
        let expected = ", `sent_partition` = case `id` when 2 then 3 else `sent_partition` end, \
             `sent_offset` = case `id` when 2 then 40 else `sent_offset` end";
        assert_eq!(places, expected);
        assert_eq!(NamedRows::of(&settlement, Settle::Delete).places(&Columns::of_dead()), "");
    }
}
