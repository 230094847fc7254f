//! What a contestant costs the application: commits a second of many writers, each of one row after the other.

use sqlx::AssertSqlSafe;
use tokio::time::{Duration, Instant, sleep};

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::Writers;
use crate::results::Figures;
use crate::rig::Rig;
use crate::steady::insert;
use crate::topic::Topics;

/// How long everything runs before it counts.
const WARM_UP: Duration = Duration::from_secs(3);

pub(crate) async fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, load: &Writers) -> Fallible<Figures> {
    let name = rig.fresh_name();
    contestant.make_table(rig, mode, &name).await?;
    let topics = Topics::create(rig, &name, 1).await?;
    let running = if mode.alone { None } else { Some(contestant.start(rig, mode, &name)?) };
    sleep(WARM_UP).await;
    let (from, until) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + load.lasting);
    let mut tasks = Vec::new();
    for writer in 0..load.writers {
        let (mut connection, insert, name) = (rig.connect().await?, insert(rig, contestant, 1), name.clone());
        tasks.push(tokio::spawn(async move {
            let (mut committed, mut number) = (0_u64, writer as i64);
            while Instant::now() < until {
                sqlx::query(AssertSqlSafe(insert.as_str())).bind(&name).bind(number).execute(&mut connection).await?;
                committed += u64::from(Instant::now() >= from);
                number += 1;
            }
            Ok::<_, sqlx::Error>(committed)
        }));
    }
    sleep(WARM_UP).await;
    let before = rig.wal_bytes().await?;
    let mut committed = 0;
    for task in tasks {
        committed += task.await??;
    }
    let wal = rig.wal_bytes().await? - before;
    if let Some(running) = running {
        running.stop()?;
    }
    contestant.tear_down(rig).await?;
    topics.delete().await?;
    Ok(Figures::from([
        ("transactions_per_second", committed as f64 / load.lasting.as_secs_f64()),
        ("wal_bytes_per_row", wal / committed as f64),
    ]))
}
