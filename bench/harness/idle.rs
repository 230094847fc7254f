//! Nothing to do: what it costs to wait.

use tokio::time::sleep;

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::Idle;
use crate::results::Figures;
use crate::rig::Rig;
use crate::steady::{Watch, begin};
use crate::topic::Topics;

/// How long a contestant that has just worked may take to come to rest.
const REST: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) async fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, idle: &Idle) -> Fallible<Figures> {
    let name = rig.fresh_name();
    contestant.make_table(rig, mode, &name).await?;
    let topics = Topics::create(rig, &name, 1).await?;
    let mut running = contestant.start(rig, mode, &name)?;
    {
        let watch = Watch::begin(topics.consumer()?);
        begin(rig, contestant, &name, &watch, &mut running).await?;
    }
    sleep(REST).await;
    let (transactions, cpu) = (rig.transactions().await?, running.cpu_seconds());
    sleep(idle.lasting).await;
    let (transactions, cpu) = (rig.transactions().await? - transactions, running.cpu_seconds() - cpu);
    running.is_alive()?;
    let (resident, peak) = (running.resident_mib(), running.peak_mib());
    running.stop()?;
    contestant.tear_down(rig).await?;
    topics.delete().await?;

    let seconds = idle.lasting.as_secs_f64();
    Ok(Figures::from([
        ("cpu_percent", 100.0 * cpu / seconds),
        ("resident_mib", resident),
        ("peak_mib", peak),
        ("transactions_per_second", transactions as f64 / seconds),
    ]))
}
