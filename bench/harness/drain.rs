//! A backlog that drains: how many records a second, by the broker's clock.

use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::Drain;
use crate::results::Figures;
use crate::rig::Rig;
use crate::topic::Topics;

/// How long nothing may arrive before the contestant counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How often the topic's end is looked at while it drains.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, drain: &Drain) -> Fallible<Figures> {
    let name = rig.fresh_name();
    contestant.make_table(rig, mode, &name).await?;
    rig.fill(&contestant.insert, &name, drain).await?;
    let topics = Topics::create(rig, &name, drain.topics).await?;
    let wal = rig.wal_bytes().await?;
    let mut running = contestant.start(rig, mode, &name)?;
    let watcher = topics.watcher()?;
    let mut last = (0, Instant::now());
    loop {
        let appended = block_in_place(|| topics.appended(&watcher))?;
        if appended != last.0 {
            last = (appended, Instant::now());
        }
        if appended >= drain.rows && (last.1.elapsed() > Duration::from_secs(1) || running.has_ended()) {
            break;
        }
        if last.1.elapsed() > STUCK {
            return Err(format!("stuck: {appended} of {} records", drain.rows).into());
        }
        if appended < drain.rows {
            running.is_alive()?;
        }
        sleep(LOOK).await;
    }
    let (cpu, peak) = (running.cpu_seconds(), running.peak_mib());
    running.stop()?;
    let wal = rig.wal_bytes().await? - wal;
    let contents = block_in_place(|| topics.read(drain.rows, Duration::from_secs(10)))?;
    contestant.tear_down(rig).await?;
    topics.delete().await?;

    let appended = &contents.appended;
    if contents.distinct < drain.rows {
        return Err(format!("{} of {} rows did not arrive", drain.rows - contents.distinct, drain.rows).into());
    }
    let seconds = |from: usize| (appended[appended.len() - 1] - appended[from]).max(1) as f64 / 1_000.0;
    let half = appended.len() / 2;
    let millions = drain.rows as f64 / 1e6;
    Ok(Figures::from([
        ("rows_per_second", appended.len() as f64 / seconds(0)),
        ("second_half_rows_per_second", (appended.len() - half) as f64 / seconds(half)),
        ("cpu_seconds_per_million_rows", cpu / millions),
        ("peak_mib", peak),
        ("wal_bytes_per_row", wal / drain.rows as f64),
        ("duplicates", appended.len() as f64 - contents.distinct as f64),
        ("out_of_order", contents.out_of_order as f64),
    ]))
}
