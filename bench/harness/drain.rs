//! A backlog that drains: how many records a second, from the first one that the broker appends until all are appended
//! and settled. The broker's clock and the benchmark's are one host's.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::Drain;
use crate::results::Figures;
use crate::rig::{CpuSeconds, Meter, Rig};
use crate::topic::Topics;

/// How long nothing may arrive before the contestant counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How often the topic's end is looked at while it drains.
const LOOK: Duration = Duration::from_millis(200);

/// How often the table is asked whether all is settled.
const ASK: Duration = Duration::from_millis(20);

pub(crate) async fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, drain: &Drain) -> Fallible<Figures> {
    let name = rig.fresh_name();
    contestant.make_table(rig, mode, &name).await?;
    rig.fill(&contestant.insert, &name, drain).await?;
    let topics = Topics::create(rig, &name, drain.topics).await?;
    let (wal, meter) = (rig.wal_bytes().await?, rig.meter()?);
    let services = meter.read();
    let mut running = contestant.start(rig, mode, &name)?;
    let mut settled = tokio::spawn(settled(rig.connect().await?, contestant.settled(rig, mode), meter));
    let watcher = topics.watcher()?;
    let (mut seen, mut seen_at, mut took) = (0, Instant::now(), services);
    loop {
        // Some end once they are done: what they had appended is to be seen after that.
        let alive = running.is_alive();
        let appended = block_in_place(|| topics.appended(&watcher))?;
        if appended != seen {
            (seen, seen_at, took) = (appended, Instant::now(), meter.read());
        }
        let is_quiet = seen_at.elapsed() > Duration::from_secs(1) || alive.is_err();
        if appended >= drain.rows && is_quiet && settled.is_finished() {
            break;
        }
        if seen_at.elapsed() > STUCK {
            settled.abort();
            return Err(format!("stuck: {appended} of {} records, or not settled", drain.rows).into());
        }
        if appended < drain.rows {
            alive?;
        }
        sleep(LOOK).await;
    }
    let (cpu, peak) = (running.cpu_seconds(), running.peak_mib());
    running.stop()?;
    let settled = (&mut settled).await??;
    let wal = rig.wal_bytes().await? - wal;
    let contents = block_in_place(|| topics.read(drain.rows, Duration::from_secs(10)))?;
    contestant.tear_down(rig).await?;
    topics.delete().await?;

    let appended = &contents.appended;
    if contents.distinct < drain.rows {
        return Err(format!("{} of {} rows did not arrive", drain.rows - contents.distinct, drain.rows).into());
    }
    let (half, last) = (appended.len() / 2, appended[appended.len() - 1]);
    let rate = |from: usize, end: i64| {
        let millis = (end - appended[from]).max(1);
        (appended.len() - from) as f64 * 1_000.0 / millis as f64
    };
    let (over, took) = settled.map_or((last, took), |(settled_at, took)| (settled_at.max(last), took));
    let millions = drain.rows as f64 / 1e6;
    Ok(Figures::from([
        ("rows_per_second", rate(0, over)),
        ("second_half_rows_per_second", rate(half, over)),
        ("published_per_second", rate(0, last)),
        ("cpu_seconds_per_million_rows", cpu / millions),
        ("database_cpu_seconds_per_million_rows", (took.database - services.database) / millions),
        ("broker_cpu_seconds_per_million_rows", (took.broker - services.broker) / millions),
        ("peak_mib", peak),
        ("wal_bytes_per_row", wal / drain.rows as f64),
        ("duplicates", appended.len() as f64 - contents.distinct as f64),
        ("out_of_order", contents.out_of_order as f64),
    ]))
}

/// Waits until the statement says that everything is settled. Returns when, in milliseconds, and what the services had
/// taken by then; nothing is said where nothing is settled row by row.
async fn settled(
    mut connection: PgConnection,
    statement: Option<String>,
    meter: Meter,
) -> Fallible<Option<(i64, CpuSeconds)>> {
    let Some(statement) = statement else { return Ok(None) };
    loop {
        // Before it is asked: where all rows are gone, the answer takes the database a while.
        let asked = (chrono::Utc::now().timestamp_millis(), meter.read());
        if sqlx::query_scalar(AssertSqlSafe(statement.as_str())).fetch_one(&mut connection).await? {
            return Ok(Some(asked));
        }
        sleep(ASK).await;
    }
}
