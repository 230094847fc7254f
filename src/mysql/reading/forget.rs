//! Which gaps are forgotten: those of which it is known that nothing fills them any more.
//!
//! A row that is there and not committed is seen by a session that reads uncommitted rows. One that is not seen was rolled
//! back, or its id was reserved by a statement that still runs: those that insert many rows reserve ids before the rows are
//! there, and no transaction keeps one between its statements. So a gap is forgotten once no statement runs that ran when it
//! was seen first, and no row of it is there. The list of statements is asked for *first*: what ends after that has its rows in
//! place when they are looked for.
//!
//! `information_schema.innodb_trx` would not do: it is renewed only when nobody has read it for a while.

use std::ops::RangeInclusive;
use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;

use crate::contract::StoreError;
use crate::mysql::address::Address;
use crate::mysql::errors::classify;
use crate::mysql::reading::page;
use crate::mysql::reading::position::is_among;
use crate::mysql::session::{Flavor, Job, KEPT_AT_MOST, Session, ask, connect, sql};
use crate::mysql::settings::Settings;
use crate::mysql::settling::checkpoint;
use crate::mysql::table::{Columns, OutboxTable};
use crate::reading::GapList;

/// How often gaps are looked at, and how old they have to be.
const EVERY: Duration = Duration::from_millis(100);

/// Rows that are looked for at once.
const ROWS_PER_PROBE: usize = 10_000;

/// How long a statement may take from reserving an id to inserting its row, where it is not known which statements run.
const ONE_SERVER: Duration = Duration::from_secs(10);

/// How long a transaction may take where several servers write: none shows what is not committed on another.
const SEVERAL_SERVERS: Duration = Duration::from_secs(600);

/// How often it is looked whether ids go on where they were.
const IDS_LOOKED_AT_EVERY: Duration = Duration::from_secs(10);

/// How it is known that nothing fills a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The server tells which statements run.
    Statements,
    /// By time, and no row of the gap is there.
    Time(Duration),
}

/// A session that sees what is not committed.
pub(crate) struct Prober {
    session: Session,
    rule: Rule,
    /// The reader's session, as the server knows it.
    reader: u64,
    used_at: Instant,
    next_at: Instant,
    ids_next_at: Instant,
    /// Where the next look begins: higher, where the last one found more rows than it looks at.
    from: i64,
}

/// Gaps that were seen before may be forgotten.
#[derive(Debug, Clone, Copy)]
struct Since {
    /// All but the ids of rows that are there.
    each: Option<Instant>,
    /// Those of which no row is there.
    whole: Option<Instant>,
}

impl Since {
    fn latest(self) -> Option<Instant> {
        self.each.max(self.whole)
    }
}

impl Prober {
    /// Opens the session beside the reader's.
    pub(crate) async fn open(address: &Address, reader: u64) -> Result<Self, StoreError> {
        let session = begin(address).await?;
        let mut prober = Self {
            session,
            rule: Rule::Time(SEVERAL_SERVERS),
            reader,
            used_at: Instant::now(),
            next_at: Instant::now(),
            ids_next_at: Instant::now() + IDS_LOOKED_AT_EVERY,
            from: 0,
        };
        prober.rule = prober.find_rule().await?;
        tracing::debug!(rule = ?prober.rule, "how gaps are forgotten");
        Ok(prober)
    }

    async fn find_rule(&mut self) -> Result<Rule, StoreError> {
        if Settings::of(&mut self.session.conn).await?.several_primaries().is_some() {
            return Ok(Rule::Time(SEVERAL_SERVERS));
        }
        let tells = self.own_grants().await?.iter().any(|grant| lets_see_statements(grant));
        Ok(if tells { Rule::Statements } else { Rule::Time(ONE_SERVER) })
    }

    async fn own_grants(&mut self) -> Result<Vec<String>, StoreError> {
        let doing = "looking at the user's rights";
        let statement = "/* outboxd: own_grants */ show grants";
        let rows = ask(doing, sqlx::raw_sql(statement).fetch_all(&mut self.session.conn)).await?;
        rows.iter()
            .map(|row| row.try_get_unchecked(0))
            .collect::<Result<_, _>>()
            .map_err(|error| classify(doing, error))
    }

    /// Forgets gaps that nothing fills any more, if it is time to look.
    pub(crate) async fn forget(&mut self, address: &Address, list: &mut GapList) -> Result<(), StoreError> {
        let now = Instant::now();
        if list.has_no_gaps() || now < self.next_at {
            return Ok(());
        }
        self.keep_open(address).await?;
        let since = self.since(now).await?;
        let old: Vec<_> = match since.latest() {
            Some(since) => list.gaps_before(since).filter_map(|gap| from_id(gap, self.from)).collect(),
            None => Vec::new(),
        };
        if old.is_empty() {
            self.from = 0;
        } else {
            let there = self.rows_that_are_there(address.table(), &old).await?;
            // A full answer tells nothing of what is beyond: the next look begins there.
            let end = there.last().copied().filter(|_| there.len() >= ROWS_PER_PROBE);
            let probed = self.from..=end.unwrap_or(i64::MAX);
            if let Some(since) = since.each {
                list.forget(probed.clone(), &there, since);
            }
            if let Some(since) = since.whole {
                list.forget_whole(probed, &there, since);
            }
            self.from = end.map_or(0, |end| end.saturating_add(1));
        }
        self.next_at = Instant::now() + EVERY.max(now.elapsed() * 10);
        Ok(())
    }

    /// Whether ids go on above this one, the highest that was read. Where they do not, the table was truncated, or the server
    /// forgot what was committed. Looks now and then.
    pub(crate) async fn do_ids_go_on(&mut self, address: &Address, last: i64) -> Result<bool, StoreError> {
        if Instant::now() < self.ids_next_at {
            return Ok(true);
        }
        self.keep_open(address).await?;
        let next = checkpoint::next_id(&mut self.session.conn, address.table()).await?;
        self.ids_next_at = Instant::now() + IDS_LOOKED_AT_EVERY;
        Ok(next.is_none_or(|next| next > last))
    }

    async fn keep_open(&mut self, address: &Address) -> Result<(), StoreError> {
        if self.used_at.elapsed() > KEPT_AT_MOST {
            self.session = begin(address).await?;
        }
        self.used_at = Instant::now();
        Ok(())
    }

    /// Which gaps nothing fills any more, but for rows that are there, at `now`.
    async fn since(&mut self, now: Instant) -> Result<Since, StoreError> {
        if let Rule::Time(patience) = self.rule {
            return Ok(Since { each: None, whole: now.checked_sub(patience) });
        }
        let [all, writing] = self.running().await?;
        // A query is known by how it begins, and may still insert by calling a function; a procedure that runs for hours must
        // not keep all gaps.
        let queries = now.checked_sub(writing.max(ONE_SERVER));
        let any = now.checked_sub(SEVERAL_SERVERS);
        Ok(Since { each: now.checked_sub(all.max(EVERY)), whole: queries.max(any) })
    }

    /// For how long the statement has run that runs longest, of all and of those that are no queries.
    async fn running(&mut self) -> Result<[Duration; 2], StoreError> {
        let doing = "looking for statements that run";
        let milliseconds = match self.session.flavor {
            Flavor::MySql => "(time + 1) * 1000",
            Flavor::MariaDb => "ceiling(time_ms) + 1",
        };
        let text = format!(
            "/* outboxd: running_statements */ select
                 cast(coalesce(max({milliseconds}), 0) as signed),
                 cast(coalesce(max(case when substring(info, 1, 1000) regexp '^[[:space:]]*(/[*][^*]*[*]/)?[[:space:]]*select'
                     then 0 else {milliseconds} end), 0) as signed)
             from information_schema.processlist
             where id not in ({reader}, {own}) and command not in ('Sleep', 'Daemon', 'Binlog Dump', 'Binlog Dump GTID')
                 and user <> 'system user'",
            reader = self.reader,
            own = self.session.id
        );
        let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(&mut self.session.conn)).await?;
        let time = |column: usize| -> Result<Duration, StoreError> {
            let time: i64 = row.try_get_unchecked(column).map_err(|error| classify(doing, error))?;
            Ok(Duration::from_millis(u64::try_from(time).unwrap_or_default()))
        };
        Ok([time(0)?, time(1)?])
    }

    /// The ids of the rows in these gaps, committed or not.
    async fn rows_that_are_there(
        &mut self,
        table: &OutboxTable,
        gaps: &[RangeInclusive<i64>],
    ) -> Result<Vec<i64>, StoreError> {
        let Columns { id, .. } = table.columns();
        let text = format!(
            "/* outboxd: probe_gaps */ select {id} from {outbox} force index (primary)
             where {is_in_one} order by {id} limit {ROWS_PER_PROBE}",
            outbox = table.outbox(),
            is_in_one = is_among(gaps.iter().cloned(), &id)
        );
        page::ids(&mut self.session.conn, "looking for rows that are not committed", text).await
    }
}

/// The part of a gap that is not below an id.
fn from_id(gap: RangeInclusive<i64>, from: i64) -> Option<RangeInclusive<i64>> {
    (*gap.end() >= from).then(|| from.max(*gap.start())..=*gap.end())
}

async fn begin(address: &Address) -> Result<Session, StoreError> {
    let mut session = connect(address.options(), Job::Inspect).await?;
    let statement = "/* outboxd: see_uncommitted */ set session transaction isolation level read uncommitted";
    ask("configuring a session", sqlx::raw_sql(statement).execute(&mut session.conn)).await?;
    Ok(session)
}

/// Whether a grant lets its user see the statements of others.
fn lets_see_statements(grant: &str) -> bool {
    let rights = grant.split_once(" ON *.* ").and_then(|(rights, _)| rights.strip_prefix("GRANT "));
    rights.is_some_and(|rights| {
        rights.split(',').any(|right| matches!(right.trim(), "PROCESS" | "ALL PRIVILEGES" | "ALL"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_see_statements_is_found_among_grants() {
        for grant in ["GRANT PROCESS ON *.* TO `a`@`%`", "GRANT SELECT, PROCESS ON *.* TO `a`@`%`"] {
            assert!(lets_see_statements(grant), "{grant}");
        }
        assert!(lets_see_statements(
            "GRANT ALL PRIVILEGES ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD 'x' WITH GRANT OPTION"
        ));
        for grant in ["GRANT ALL PRIVILEGES ON `shop`.* TO `a`@`%`", "GRANT USAGE ON *.* TO `PROCESS`@`%`"] {
            assert!(!lets_see_statements(grant), "{grant}");
        }
    }
}
