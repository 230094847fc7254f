//! Rows that come in ways of their own: late, corrected, moved out and back, and too large for the client at hand.
//!
//! Each way has keys of its own, whose aggregates are in the table of the writers', so that the ledger counts them.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::{sleep, timeout};

use crate::support::kafka::Topic;
use crate::support::ledger::FIRST;
use crate::support::proxy::Mode;
use crate::support::wait;
use crate::torture::operator;
use crate::torture::script::{Fault, Script};
use crate::torture::stage::{Outbox, Relay, Stage, TTL};

/// Events of a key at once: together more than what a relay reads at once while it is not behind.
const MANY: i64 = 300;

/// Topics that do not exist, in a crowd.
const CROWD: i64 = 2_000;

/// How long a lane may take to be held. With something else broken it may take too long for a round.
const HELD: Duration = Duration::from_secs(10);

/// Bytes of padding that outgrow a client that was set up for records as they usually are.
const OUTGROWING: i32 = 1_200_000;

/// What a topic must take for that.
const WIDE_LIMIT: &str = "4000000";

/// An outbox whose rows a fault writes.
pub(crate) struct Hand<'a> {
    pub(crate) stage: &'a Stage<'a>,
    pub(crate) outbox: &'a Outbox,
    fault: Fault,
}

pub(crate) type Written = Result<(), sqlx::Error>;

/// Leaves rows uncommitted that have lower ids than those for which their topic is held, and commits some of them before
/// it appears and some after.
pub(crate) async fn come_late(stage: &Stage<'_>, fault: Fault) -> bool {
    let hand = Hand::of(stage, fault);
    let topic = hand.outbox.late.as_ref().expect("the stage has thought of one");
    let mut has_appeared = false;
    let written = hand.write_late(topic, &mut has_appeared).await;
    if !has_appeared {
        hand.appear(topic).await;
    }
    written.is_ok()
}

/// Corrects the topic of rows that wait for one that was misspelt, and releases their lane.
pub(crate) async fn correct(stage: &Stage<'_>, fault: Fault) -> bool {
    let hand = Hand::of(stage, fault);
    let right = hand.topic().name();
    let wrong = Topic::missing(&stage.rig.brokers, 1);
    let keys = ["misspelt-0", "misspelt-1", "misspelt-2"];
    let written = hand.write_misspelt(&keys, wrong.name()).await;
    let was_held = hand.is_held(wrong.name()).await;
    sleep(fault.lasting).await;
    let Outbox { table, workload, .. } = hand.outbox;
    let correct = format!(
        "begin; update {aggregates} set topic = '{right}' where topic = '{wrong}';
         update {table} set topic = '{right}' where topic = '{wrong}' and sent_at is null; commit",
        aggregates = workload.aggregates(),
        wrong = wrong.name(),
    );
    hand.surely("rows are corrected", async |connection| connection.execute(AssertSqlSafe(&*correct)).await.map(drop))
        .await;
    let followed = hand.follow(&keys).await;
    let release = async || operator::release_all(stage.database.url(), table).is_ok();
    wait::until_true("the lane is released", wait::PATIENCE, release).await;
    written.is_ok() && was_held && followed.is_ok()
}

/// Writes rows for thousands of topics that do not exist, and deletes them again once some are held.
pub(crate) async fn crowd(stage: &Stage<'_>, fault: Fault) -> bool {
    let hand = Hand::of(stage, fault);
    let missing = Topic::missing(&stage.rig.brokers, 1);
    let (table, name) = (&hand.outbox.table, missing.name());
    let write =
        format!("insert into {table} (topic, key) select '{name}.' || n, 'k' from generate_series(1, {CROWD}) n");
    let written = hand.run(&write).await;
    let was_held = hand.has_set_aside(&format!("select count(*) from {table}_held where topic like '{name}.%'")).await;
    sleep(fault.lasting).await;
    hand.think_better(&format!("topic like '{name}.%'")).await;
    written.is_ok() && was_held
}

/// Writes rows that are no records, whatever a table's checks say, and deletes those that are not dead letters by then.
pub(crate) async fn come_unreadable(stage: &Stage<'_>, script: &Script, fault: Fault) -> bool {
    let hand = Hand::of(stage, fault);
    let (table, topic) = (&hand.outbox.table, hand.topic().name());
    let write = format!(
        "begin; alter table {table} drop constraint if exists headers_are_an_object,
             drop constraint if exists partition_is_not_negative;
         insert into {table} (topic, key, headers) select '{topic}', 'unreadable-' || n, '[1]' from generate_series(1, 20) n;
         insert into {table} (topic, key, partition) select '{topic}', 'unreadable-' || n, -n from generate_series(1, 20) n;
         commit"
    );
    let written = hand.run(&write).await;
    let set_aside = match script.mode.blocks() {
        true => format!("select count(*) from {table}_held where key like 'unreadable-%'"),
        false => format!("select count(*) from {table}_dead where code = 'unreadable'"),
    };
    let was_set_aside = hand.has_set_aside(&set_aside).await;
    sleep(fault.lasting).await;
    hand.think_better("key like 'unreadable-%'").await;
    written.is_ok() && was_set_aside
}

/// Moves rows into an archive in the transaction that wrote them, and back once the reader has passed them.
pub(crate) async fn move_out_and_back(stage: &Stage<'_>, fault: Fault) -> bool {
    let hand = Hand::of(stage, fault);
    let keys = ["moved-0", "moved-1"];
    let written = hand.write_moved(&keys).await;
    sleep(fault.lasting).await;
    let Outbox { table, .. } = hand.outbox;
    let back = format!(
        "begin; create table if not exists archive_of_{table} (like {table});
         insert into {table} overriding system value select * from archive_of_{table} order by id;
         delete from archive_of_{table}; commit"
    );
    hand.surely("rows are moved back", async |connection| connection.execute(AssertSqlSafe(&*back)).await.map(drop))
        .await;
    let followed = hand.follow(&keys).await;
    written.is_ok() && followed.is_ok()
}

/// Has a record published that outgrows the leader's client, and stalls the leader's link to the database past its
/// lease while that is replaced.
pub(crate) async fn outgrow(stage: &Stage<'_>, fault: Fault) -> bool {
    let hand = Hand::of(stage, fault);
    hand.topic().set("max.message.bytes", WIDE_LIMIT).await;
    let first = hand.number() * 2;
    let leader = if stage.relays[first].leads().await { first } else { first + 1 };
    let written = hand.write_outgrowing().await;
    sleep(fault.lasting / 8).await;
    let proxy = &stage.relays[leader].proxy;
    proxy.all(if fault.whom.is_multiple_of(2) { Mode::Stall } else { Mode::Slow(Duration::from_millis(TTL / 2)) });
    sleep(Duration::from_millis(TTL) + fault.lasting).await;
    proxy.all(Mode::Flow);
    written.is_ok()
}

impl<'a> Hand<'a> {
    pub(crate) fn of(stage: &'a Stage<'_>, fault: Fault) -> Self {
        Self { stage, outbox: &stage.outboxes[fault.whom % stage.outboxes.len()], fault }
    }

    fn number(&self) -> usize {
        self.fault.whom % self.stage.outboxes.len()
    }

    /// The relays of the outbox.
    pub(crate) fn relays(&self) -> &'a [Relay] {
        &self.stage.relays[self.number() * 2..][..2]
    }

    pub(crate) fn topic(&self) -> &'a Topic {
        &self.outbox.topics[self.fault.whom / 2 % self.outbox.topics.len()]
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(self.stage.database.url()).await
    }

    /// Writes events of a key, whose aggregate is made if it is missing, in the transaction under way.
    pub(crate) async fn events(&self, connection: &mut PgConnection, key: &str, topic: &str, count: i64) -> Written {
        let aggregates = self.outbox.workload.aggregates();
        let make = format!("insert into {aggregates} values ($1, $2, 0) on conflict do nothing");
        sqlx::query(AssertSqlSafe(make)).bind(key).bind(topic).execute(&mut *connection).await?;
        let padding = self.outbox.workload.padding;
        self.outbox.workload.events(connection, key, count, (FIRST, padding)).await
    }

    async fn write_late(&self, topic: &Topic, has_appeared: &mut bool) -> Written {
        let name = topic.name();
        let (mut early, mut later, mut others) = (self.connect().await?, self.connect().await?, self.connect().await?);
        early.execute("begin").await?;
        self.events(&mut early, "late-0", name, MANY).await?;
        later.execute("begin").await?;
        self.events(&mut later, "late-1", name, MANY).await?;
        self.events(&mut others, "late-2", name, 3).await?;
        self.is_held(name).await;
        early.execute("commit").await?;
        self.events(&mut others, "late-0", name, MANY).await?;
        self.events(&mut others, "late-2", name, MANY).await?;
        sleep(self.fault.lasting).await;
        self.appear(topic).await;
        *has_appeared = true;
        later.execute("commit").await?;
        self.events(&mut others, "late-1", name, MANY).await
    }

    async fn write_misspelt(&self, keys: &[&str], wrong: &str) -> Written {
        let mut connection = self.connect().await?;
        for key in keys {
            self.events(&mut connection, key, wrong, 4).await?;
        }
        Ok(())
    }

    async fn write_moved(&self, keys: &[&str]) -> Written {
        let Outbox { table, .. } = self.outbox;
        let mut connection = self.connect().await?;
        let make = format!("create table if not exists archive_of_{table} (like {table})");
        connection.execute(AssertSqlSafe(make)).await?;
        for key in keys {
            let remove = format!(
                "with gone as (delete from {table} where key = '{key}' returning *)
                 insert into archive_of_{table} select * from gone"
            );
            connection.execute("begin").await?;
            self.events(&mut connection, key, self.topic().name(), 4).await?;
            connection.execute(AssertSqlSafe(remove)).await?;
            connection.execute("commit").await?;
        }
        Ok(())
    }

    async fn write_outgrowing(&self) -> Written {
        let mut connection = self.connect().await?;
        let name = self.topic().name();
        self.events(&mut connection, "large", name, 2).await?;
        self.outbox.workload.events(&mut connection, "large", 1, (FIRST, OUTGROWING)).await?;
        self.events(&mut connection, "large", name, 2).await
    }

    /// What follows of these keys goes straight to the topic.
    pub(crate) async fn follow(&self, keys: &[&str]) -> Written {
        let mut connection = self.connect().await?;
        for key in keys {
            self.events(&mut connection, key, self.topic().name(), 3).await?;
        }
        Ok(())
    }

    async fn run(&self, text: &str) -> Written {
        self.connect().await?.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map(drop)
    }

    /// Deletes unsent rows that were not meant, and lets go whatever waited with them.
    async fn think_better(&self, which: &str) {
        let Outbox { table, .. } = self.outbox;
        let delete = format!("delete from {table} where sent_at is null and {which}");
        let deleted = async |connection: &mut PgConnection| connection.execute(AssertSqlSafe(&*delete)).await.map(drop);
        self.surely("the rows are deleted", deleted).await;
        let release = async || operator::release_all(self.stage.database.url(), table).is_ok();
        wait::until_true("what waited is released", wait::PATIENCE, release).await;
    }

    /// Says whether the topic is held, having waited for that.
    async fn is_held(&self, topic: &str) -> bool {
        self.has_set_aside(&format!("select count(*) from {}_held where topic = '{topic}'", self.outbox.table)).await
    }

    /// Says whether the relay has set something aside, as this counts, having waited for that.
    async fn has_set_aside(&self, count: &str) -> bool {
        let set_aside = wait::until_true("something is set aside", wait::PATIENCE, async || {
            let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(count));
            count.fetch_one(self.stage.database.pool()).await.is_ok_and(|count| count > 0)
        });
        timeout(HELD, set_aside).await.is_ok()
    }

    /// Creates a topic that was thought of, while no broker is on its way.
    async fn appear(&self, topic: &Topic) {
        let _kafka = self.stage.rig.kafka.lock().await;
        topic.appear().await;
    }

    /// Does again and again what can be done twice, until the database has done it.
    async fn surely(&self, what: &str, act: impl AsyncFn(&mut PgConnection) -> Written) {
        wait::until_true(what, wait::PATIENCE, async || match self.connect().await {
            Ok(mut connection) => act(&mut connection).await.is_ok(),
            Err(_) => false,
        })
        .await;
    }
}
