//! One round: load and faults, then peace, then the audit.

use std::fmt;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::audit::{GivenUp, Verdict};
use crate::support::ledger::Ledger;
use crate::support::seed::Seed;
use crate::support::workload::Writers;
use crate::torture::deed::{Deeds, Done};
use crate::torture::rig::Rig;
use crate::torture::script::{Kind, Script};
use crate::torture::stage::Stage;
use crate::torture::verify::verify;
use crate::torture::watch::Watch;
use crate::torture::{commands, operator};

/// How long a round may take to publish everything once nothing is broken any more.
const PEACE: Duration = Duration::from_secs(60);

/// How long what was published may take to be visible to a new consumer: a new leader of a partition learns last.
const VISIBLE: Duration = Duration::from_secs(15);

/// How long the writers go on after the database was taken back.
const AFTERWARDS: Duration = Duration::from_millis(700);

/// What came of a round.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Rows that committed.
    pub(crate) rows: u64,
    /// Records that Kafka holds.
    pub(crate) records: u64,
    pub(crate) duplicates: u64,
    /// Records that Kafka held when the faults began.
    pub(crate) began_with: u64,
    /// Faults of relays that hit the leader.
    pub(crate) leaders_hit: u64,
    pub(crate) given_up: u64,
    /// Records of rows that the database forgot when it was taken back.
    pub(crate) forgotten: u64,
    /// Outboxes whose relays refused to go on, and were helped.
    pub(crate) repaired: usize,
    pub(crate) faults: Vec<(Kind, Duration)>,
    pub(crate) takeovers: Vec<(Kind, Duration)>,
    pub(crate) took: Duration,
    /// What is wrong, if anything is.
    pub(crate) failure: Option<String>,
}

/// Plays a round.
pub(crate) async fn play(rig: &Rig, script: &Script) -> Outcome {
    let began = Instant::now();
    let mut outcome = Outcome::default();
    let stage = Stage::set(rig, script).await;
    outcome.failure = act(&stage, script, &mut outcome).await.err();
    if outcome.failure.is_some() {
        stage.show_logs().await;
    }
    stage.whole().await;
    outcome.took = began.elapsed();
    outcome
}

async fn act(stage: &Stage<'_>, script: &Script, outcome: &mut Outcome) -> Result<(), String> {
    let (ledger, done) = load(stage, script, outcome).await?;
    outcome.faults = done.faults;
    outcome.takeovers = done.takeovers;
    outcome.leaders_hit = done.leaders_hit;
    let topics = stage.audited();
    let names: Vec<&str> = topics.iter().map(|topic| topic.name()).collect();
    outcome.rows = names.iter().map(|name| ledger.rows_of(name)).sum();
    let Done { renewed, taken_back, .. } = done;
    if script.takes_back() {
        commands::resume_again(stage, script).await;
    }
    let since = renewed.as_ref().map(|it| it.at).or(taken_back.as_ref().map(|it| it.at));
    let before = renewed.map(|renewed| renewed.before).unwrap_or_default();
    let mut watch = Watch::begin(&topics, before, taken_back);
    let draining = async {
        watch.until_all(&ledger, &names, async || stage.given_up().await, PEACE).await
            // A fault can have kept the leader from recording what it published; the next one publishes that again first.
            // What had committed before a topic was created again may be in the old one only, so no consumer waits for
            // it; and a database that was taken back does not know what it had published.
            && stage.settles(script.mode, PEACE).await
            && commands::replays_end(stage, PEACE).await
    };
    let (drained, repaired) = with_operators(stage, script, draining).await?;
    outcome.repaired = repaired;
    let stopped = if drained { stop(stage).await } else { Ok(()) };
    let audited = verify(stage, script.mode, since);
    let (verdict, audited) = tokio::join!(judge(stage, watch, &names, &ledger), audited);
    outcome.records = verdict.records;
    outcome.duplicates = verdict.duplicates;
    outcome.forgotten = verdict.forgotten.0;
    outcome.given_up = stage.dead_letters().await.len() as u64;
    if !verdict.complaints().is_empty() {
        let shown: Vec<&str> = verdict.complaints().iter().take(10).map(String::as_str).collect();
        return Err(format!("{} complaints: {}", verdict.complaints().len(), shown.join("; ")));
    }
    if !drained {
        return Err(format!("not everything was published and recorded within {PEACE:?} of peace"));
    }
    stopped?;
    stage.only_large_were_given_up().await?;
    if !script.takes_back() {
        commands::are_told(stage, &outcome.faults).await?;
    }
    judge_counts(script, outcome, &verdict)?;
    stage.settled(script.mode).await?;
    audited
}

/// Waits for the end of this while operators do what the round needs of them. Says what came of it, and how many outboxes
/// were repaired.
async fn with_operators(
    stage: &Stage<'_>,
    script: &Script,
    draining: impl Future<Output = bool>,
) -> Result<(bool, usize), String> {
    if script.mode.blocks() && script.has_oversized_records() {
        tokio::select! {
            drained = draining => return Ok((drained, 0)),
            () = stage.mend() => unreachable!("it never ends"),
        }
    }
    if !script.may_refuse() {
        return Ok((draining.await, 0));
    }
    let is_over = CancellationToken::new();
    let draining = async {
        let drained = draining.await;
        is_over.cancel();
        drained
    };
    // A repair that has begun is done.
    let (drained, repaired) = tokio::join!(draining, operator::repair(stage, &is_over));
    Ok((drained, repaired?))
}

/// Whether there are as many dead letters as the round must have, and no more duplicates.
fn judge_counts(script: &Script, outcome: &Outcome, verdict: &Verdict) -> Result<(), String> {
    if script.has_oversized_records() && !script.mode.blocks() && outcome.given_up == 0 && outcome.rows > 3_000 {
        return Err("no oversized record was given up".to_owned());
    }
    // The repair publishes again what may or may not have been; what the database forgot it does not.
    let twice = verdict.forgotten.1 + if outcome.repaired == 0 { verdict.duplicates } else { 0 };
    if script.mode.is_exact() && twice > 0 {
        return Err(format!("{twice} records twice, in a mode that shows each once"));
    }
    Ok(())
}

/// Lets the writers write while things break, until all is whole again. Says what committed.
async fn load(stage: &Stage<'_>, script: &Script, outcome: &mut Outcome) -> Result<(Ledger, Done), String> {
    let mut writers = stage.write(&Seed::of(script.seed)).await;
    stage.flows().await;
    outcome.began_with = stage.topics().iter().filter_map(|topic| topic.count().ok()).sum();
    let deeds = Deeds::default();
    let is_over = CancellationToken::new();
    let faults = async {
        let done = join_all(script.faults.iter().map(|fault| deeds.commit(stage, script, *fault))).await;
        is_over.cancel();
        done
    };
    let writing = async {
        sleep(script.writing).await;
        if script.takes_back() {
            is_over.cancelled().await;
            sleep(AFTERWARDS).await;
        }
        join_all(writers.iter_mut().map(Writers::rest)).await;
    };
    let ((), done) = tokio::join!(writing, faults);
    let ledger = stage.ledger().await;
    done.into_iter().collect::<Result<(), String>>()?;
    Ok((ledger, deeds.over()))
}

/// Asks all relays to stop, in peace.
async fn stop(stage: &Stage<'_>) -> Result<(), String> {
    try_join_all(stage.relays.iter().map(async |relay| {
        let mut running = relay.running.lock().await;
        if let Some(ended) = running.exited() {
            return Err(format!("a relay ended by itself: {ended}\n{}", running.log()));
        }
        match running.stop().await {
            Some(0) => Ok(()),
            code => Err(format!("a relay that was asked to stop in peace exited with {code:?}")),
        }
    }))
    .await
    .map(drop)
}

/// Reads on to the end, now that nothing changes any more. The other audit reads everything once more.
async fn judge(stage: &Stage<'_>, mut watch: Watch, names: &[&str], ledger: &Ledger) -> Verdict {
    let given_up = async || -> GivenUp { stage.given_up().await };
    watch.until_all(ledger, names, given_up, VISIBLE).await;
    let mut complaints = watch.judge_replays(ledger);
    let auditor = watch.into_auditor();
    let arrived = auditor.seen_of(&stage.discarded.lock().await);
    complaints.extend((arrived > 0).then(|| format!("{arrived} dead letters arrived that were deleted")));
    auditor.judge_without(ledger, names, &stage.given_up().await).and(complaints)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, records, duplicates, given_up, faults, takeovers, took, failure, .. } = self;
        let word = if failure.is_some() { "FAILED" } else { "fine" };
        write!(f, "{word} after {:.1} s: {rows} rows, {records} records, {duplicates} duplicates", took.as_secs_f64())?;
        if *given_up > 0 {
            write!(f, ", {given_up} dead letters")?;
        }
        if self.forgotten > 0 {
            write!(f, ", {} that the database forgot, {} outboxes repaired", self.forgotten, self.repaired)?;
        }
        write!(f, "; {} records when faults began, {} leaders hit, felt:", self.began_with, self.leaders_hit)?;
        for (kind, took) in faults {
            write!(f, " {kind:?} for {:.1} s", took.as_secs_f64())?;
        }
        for (kind, took) in takeovers {
            write!(f, ", {kind:?} taken over in {} ms", took.as_millis())?;
        }
        Ok(())
    }
}
