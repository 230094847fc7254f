//! Doing the faults, and undoing them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::Mutex;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

use crate::support::kafka::Topic;
use crate::support::ledger::Ledger;
use crate::support::proxy::Mode;
use crate::support::throwaway::Postgres;
use crate::support::wait::PATIENCE;
use crate::support::wire;
use crate::torture::history::{TakenBack, take_back};
use crate::torture::rig::aside;
use crate::torture::script::{Fault, Kind, Script};
use crate::torture::stage::{Relay, Stage, USUAL_LIMIT};
use crate::torture::{commands, operator, rows};

/// How long a takeover is waited for before it is left uncounted, since something else is broken too.
const TAKEOVER: Duration = Duration::from_secs(8);

/// A broker hangs so many times longer than other faults last.
const FROZEN: u32 = 10;

/// A limit that a few records fill.
const LOW_LIMIT: &str = "2000";

/// What the faults of a round did.
#[derive(Default)]
pub(crate) struct Deeds {
    /// Faults that were felt, and how long until they were undone.
    done: Mutex<Vec<(Kind, Duration)>>,
    /// How long the other relay took to lead, where nothing else was broken.
    takeovers: Mutex<Vec<(Kind, Duration)>>,
    /// The latest time at which a topic was created again.
    renewed: Mutex<Option<Renewed>>,
    /// When and where to the database was taken back.
    taken_back: Mutex<Option<TakenBack>>,
    /// Faults of relays that hit the leader.
    leaders_hit: AtomicUsize,
    /// Faults under way, and faults that have begun.
    active: AtomicUsize,
    begun: AtomicUsize,
}

/// The same, when all is over.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) faults: Vec<(Kind, Duration)>,
    pub(crate) takeovers: Vec<(Kind, Duration)>,
    pub(crate) renewed: Option<Renewed>,
    pub(crate) taken_back: Option<TakenBack>,
    pub(crate) leaders_hit: u64,
}

/// What an audit needs to know of a topic that was created again.
#[derive(Clone)]
pub(crate) struct Renewed {
    /// A time from which on the new one took everything.
    pub(crate) at: DateTime<Utc>,
    /// What had committed for it when the new one took everything.
    pub(crate) before: Ledger,
}

impl Deeds {
    /// Does a fault when its time has come, and undoes it.
    ///
    /// # Errors
    /// When a relay ends otherwise than it should.
    pub(crate) async fn commit(&self, stage: &Stage<'_>, script: &Script, fault: Fault) -> Result<(), String> {
        sleep(fault.at).await;
        let began = Instant::now();
        // Nothing else that operators do has to do with who leads.
        let breaks = usize::from(!fault.kind.is_deed() || fault.kind == Kind::StepDown);
        self.begun.fetch_add(breaks, Ordering::SeqCst);
        self.active.fetch_add(breaks, Ordering::SeqCst);
        let done = self.act(stage, script, fault).await;
        self.active.fetch_sub(breaks, Ordering::SeqCst);
        if done? {
            self.done.lock().await.push((fault.kind, began.elapsed()));
        }
        Ok(())
    }

    /// What was done.
    pub(crate) fn over(self) -> Done {
        let Self { done, takeovers, renewed, taken_back, leaders_hit, .. } = self;
        let leaders_hit = leaders_hit.into_inner() as u64;
        Done {
            faults: done.into_inner(),
            takeovers: takeovers.into_inner(),
            renewed: renewed.into_inner(),
            taken_back: taken_back.into_inner(),
            leaders_hit,
        }
    }

    /// Says whether it had an effect.
    async fn act(&self, stage: &Stage<'_>, script: &Script, fault: Fault) -> Result<bool, String> {
        let relay = &stage.relays[fault.whom % stage.relays.len()];
        match fault.kind {
            Kind::KillRelay | Kind::StopRelay | Kind::PauseRelay => return self.hit(stage, script, fault).await,
            Kind::KillBroker | Kind::StopBroker => break_broker(stage, fault).await,
            Kind::FreezeBroker => freeze_broker(stage, fault).await,
            Kind::MoveLeaders => return Ok(move_leaders(stage, fault).await),
            Kind::RestartDatabase => {
                let postgres = Arc::clone(&stage.rig.postgres).lock_owned().await;
                drop(aside(postgres, Postgres::restart).await);
            }
            Kind::KillDatabase => kill_database(stage, fault).await,
            Kind::SeverDatabase => carry(relay, Mode::Sever, fault.lasting).await,
            Kind::StallDatabase => carry(relay, Mode::Stall, fault.lasting).await,
            Kind::SlowDatabase => carry(relay, Mode::Slow(fault.lasting / 50), fault.lasting).await,
            // The writers do that.
            Kind::OversizedRecords => {}
            Kind::LowerLimit => lower_limit(stage, fault).await,
            Kind::RecreateTopic => *self.renewed.lock().await = Some(recreate_topic(stage, fault).await),
            Kind::RevokeRight => return operator::revoke_right(stage, script, fault).await,
            Kind::StepClock => {
                let begun = self.begun.load(Ordering::SeqCst);
                let is_alone = self.active.load(Ordering::SeqCst) == 1;
                let stays_alone = || is_alone && self.begun.load(Ordering::SeqCst) == begun;
                return operator::step_clock(stage, fault, stays_alone).await;
            }
            Kind::LockRows => return Ok(operator::lock_rows(stage, fault).await),
            Kind::CrowdOfTopics => return Ok(rows::crowd(stage, fault).await),
            Kind::UnreadableRows => return Ok(rows::come_unreadable(stage, script, fault).await),
            Kind::RebuildClient => return Ok(rows::outgrow(stage, fault).await),
            Kind::LateRows => return Ok(rows::come_late(stage, fault).await),
            Kind::CorrectRows => return Ok(rows::correct(stage, fault).await),
            Kind::MoveRows => return Ok(rows::move_out_and_back(stage, fault).await),
            Kind::RestoreBackup | Kind::PromoteStandby => {
                let taken_back = take_back(stage, fault).await?;
                let forgets = taken_back.forgets();
                *self.taken_back.lock().await = Some(taken_back);
                return Ok(forgets);
            }
            deed => return Ok(commands::type_in(stage, script, fault, deed).await),
        }
        Ok(true)
    }

    /// Kills, stops or pauses a relay, and takes the time that the other needs to lead. One that refuses to go on with a
    /// database that was taken back is left alone.
    async fn hit(&self, stage: &Stage<'_>, script: &Script, fault: Fault) -> Result<bool, String> {
        let mut number = fault.whom % stage.relays.len();
        if !fault.whom.is_multiple_of(3) && stage.partner(number).leads().await {
            number ^= 1;
        }
        let relay = &stage.relays[number];
        if script.may_refuse() && relay.refuses().await {
            return Ok(false);
        }
        let led = relay.leads().await;
        self.leaders_hit.fetch_add(usize::from(led), Ordering::SeqCst);
        let mut running = relay.running.lock().await;
        if let Some(ended) = running.exited() {
            return Err(format!("a relay ended by itself: {ended}\n{}", running.log()));
        }
        let began = Instant::now();
        let (is_alone, begun) = (self.active.load(Ordering::SeqCst) == 1, self.begun.load(Ordering::SeqCst));
        let takeover = async {
            if led && timeout(TAKEOVER, leading(stage.partner(number))).await.is_ok() {
                let (took, is_alone) = (began.elapsed(), is_alone && self.begun.load(Ordering::SeqCst) == begun);
                // A short pause ends before the lease does, and then no standby need take over.
                if is_alone && (fault.kind != Kind::PauseRelay || took < fault.lasting) {
                    self.takeovers.lock().await.push((fault.kind, took));
                }
            }
        };
        let deed = async {
            match fault.kind {
                Kind::KillRelay => {
                    running.kill();
                    sleep(fault.lasting).await;
                    let _rights = stage.starting.read().await;
                    *running = relay.again();
                }
                Kind::PauseRelay => {
                    running.signal("STOP");
                    sleep(fault.lasting).await;
                    running.signal("CONT");
                }
                _ => {
                    let code = running.stop().await;
                    // One that had just been started may end before it listens to signals; and with something else
                    // broken the drain may be cut off.
                    if !matches!(code, Some(0 | 3)) && !running.log().is_empty() {
                        return Err(format!("a relay that was asked to stop exited with {code:?}:\n{}", running.log()));
                    }
                    let _rights = stage.starting.read().await;
                    *running = relay.again();
                }
            }
            Ok(true)
        };
        tokio::join!(deed, takeover).0
    }
}

async fn leading(relay: &Relay) {
    while !relay.leads().await {
        sleep(Duration::from_millis(10)).await;
    }
}

async fn carry(relay: &Relay, mode: Mode, lasting: Duration) {
    relay.proxy.all(mode);
    sleep(lasting).await;
    relay.proxy.all(Mode::Flow);
}

async fn break_broker(stage: &Stage<'_>, fault: Fault) {
    let (kafka, broker) = (Arc::clone(&stage.rig.kafka).lock_owned().await, fault.whom % 3 + 1);
    let kafka = aside(kafka, move |kafka| match fault.kind {
        Kind::KillBroker => kafka.kill_broker(broker),
        _ => kafka.stop_broker(broker),
    });
    let kafka = kafka.await;
    sleep(fault.lasting).await;
    // Two brokers suffice: only the next round needs to wait for the third.
    let back = aside(kafka, move |kafka| kafka.restart_broker(broker));
    stage.recovering.lock().await.spawn(async move { drop(back.await) });
}

/// Lets a broker hang for longer than it takes until others lead its partitions, or for less.
async fn freeze_broker(stage: &Stage<'_>, fault: Fault) {
    let (kafka, broker) = (Arc::clone(&stage.rig.kafka).lock_owned().await, fault.whom % 3 + 1);
    let kafka = aside(kafka, move |kafka| kafka.pause_broker(broker)).await;
    sleep(fault.lasting * FROZEN).await;
    drop(aside(kafka, move |kafka| kafka.resume_broker(broker)).await);
}

/// Says whether any partition got another leader.
async fn move_leaders(stage: &Stage<'_>, fault: Fault) -> bool {
    // While a broker is on its way back, leaders move by themselves.
    let Ok(_kafka) = stage.rig.kafka.try_lock() else { return false };
    let (topics, mut has_moved) = (stage.topics(), false);
    for turn in 0..3 {
        let topic = topics[(fault.whom + turn) % topics.len()];
        let before = topic.leaders();
        let turn = (fault.whom + turn) as i32;
        let asked = wire::move_leaders(stage.rig.broker(fault.whom), topic.name(), topic.partitions(), turn).await;
        has_moved |= asked.is_ok() && before.ok() != topic.leaders().ok();
        sleep(fault.lasting / 3).await;
    }
    has_moved
}

/// Kills the postmaster right after inserts were rolled back, whose transaction ids are then handed out again.
async fn kill_database(stage: &Stage<'_>, fault: Fault) {
    let postgres = Arc::clone(&stage.rig.postgres).lock_owned().await;
    for outbox in &stage.outboxes {
        // In vain when the database is away already.
        let _ = timeout(Duration::from_secs(2), roll_back(stage.database.url(), &outbox.table)).await;
    }
    let postgres = aside(postgres, Postgres::kill).await;
    sleep(fault.lasting / 4).await;
    aside(postgres, Postgres::restart).await;
}

async fn roll_back(url: &str, table: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    for _ in 0..20 {
        let insert = format!("begin; insert into {table} (topic, key) values ('never', 'k'); rollback");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await?;
    }
    Ok(())
}

async fn lower_limit(stage: &Stage<'_>, fault: Fault) {
    let topics = stage.topics();
    let topic = topics[fault.whom % topics.len()];
    topic.set("max.message.bytes", LOW_LIMIT).await;
    sleep(fault.lasting).await;
    topic.set("max.message.bytes", USUAL_LIMIT).await;
}

/// Deletes a topic under load and creates it again.
async fn recreate_topic(stage: &Stage<'_>, fault: Fault) -> Renewed {
    let _kafka = stage.rig.kafka.lock().await;
    let topics = stage.topics();
    let number = fault.whom % topics.len();
    let topic = topics[number];
    topic.disappear().await;
    sleep(fault.lasting / 4).await;
    topic.appear().await;
    probe(&stage.rig.brokers, topic).await;
    let at = Utc::now();
    let committed = stage.outbox_of(number).ledger().await;
    let mut before = Ledger::default();
    for (of, key, last) in committed.lanes().filter(|(of, _, _)| *of == topic.name()) {
        before.committed(of, key, last);
    }
    Renewed { at, before }
}

/// Waits until the leader of every partition takes records of the new topic: of the old one it knows no more then.
async fn probe(brokers: &str, topic: &Topic) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("acks", "all").set("message.timeout.ms", "60000");
    let producer: BaseProducer = config.create().expect("a producer can be set up");
    for partition in 0..topic.partitions() {
        let record = BaseRecord::<str, str>::to(topic.name()).partition(partition).payload("probe");
        producer.send(record).map_err(|(error, _)| error).expect("the client takes a record");
    }
    block_in_place(|| producer.flush(PATIENCE)).expect("every probe is reported");
    topic.holds(topic.partitions() as u64).await;
}
