//! Rights that are missing, taken and given back, and policies that hide rows: nothing is lost, and little is repeated.

use outboxd::outbox::Table;
use outboxd::postgres::grants_sql;

use crate::support::daemon::{Daemon, Running};
use crate::support::kafka::{Topic, text};
use crate::support::scene::Scene;
use crate::support::services::{self, Server};
use crate::support::{machine, wait};

/// Records that a start may publish before one of them was recorded.
const PROBE: u64 = 100;

/// A scene whose relay connects as a role with the least rights.
struct Guarded {
    scene: Scene,
    role: String,
}

impl Guarded {
    async fn set(server: &Server, name: &str) -> Self {
        let scene = Scene::set_on(server).await;
        let role = format!("outboxd_test_{name}");
        let create =
            "do $$ begin create role RELAY login password 'secret'; exception when duplicate_object then null; end $$;
            alter role RELAY nobypassrls";
        let guarded = Self { scene, role };
        guarded.run(create).await;
        let grants = grants_sql(&Table::default(), &guarded.role, &guarded.role).expect("a role's name");
        guarded.run(&grants).await;
        guarded
    }

    /// Runs statements in which `RELAY` stands for the role.
    async fn run(&self, statements: &str) {
        self.scene.database.run(&statements.replace("RELAY", &self.role)).await;
    }

    /// A relay of this role, not started yet.
    fn relay(&self) -> Daemon {
        let url = self.scene.database.url();
        Daemon::new(&url.replacen("outboxd:outboxd@", &format!("{}:secret@", self.role), 1), &self.scene.brokers)
    }

    async fn insert(&self, rows: std::ops::RangeInclusive<i32>) {
        let insert = "insert into outbox (topic, key, payload)
            select $1, 'k' || i % 10, convert_to(i::text, 'UTF8') from generate_series($2, $3) i order by i";
        let insert = sqlx::query(insert).bind(self.scene.topic.name()).bind(*rows.start()).bind(*rows.end());
        insert.execute(self.scene.database.pool()).await.expect("rows are inserted");
    }

    fn published(&self) -> u64 {
        self.scene.topic.count().expect("the broker answers")
    }
}

/// Waits until the relay is not ready and says this.
async fn waits_for(relay: &Running, what: &str) {
    wait::until_true(&format!("the relay waits for an operator: {what}"), wait::PATIENCE, async || {
        relay.get("/readyz").await.is_ok_and(|answer| answer.status == 503 && answer.body.contains(what))
    })
    .await;
}

/// The payloads that a topic holds, sorted as numbers.
async fn numbers(topic: &Topic) -> Vec<i32> {
    let mut found = Vec::new();
    topic.read(|record| found.push(text(record).parse().expect("a number"))).await;
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_policy_hides_while_the_relay_runs_are_published_once_it_is_gone_or_passed_by() {
    let _machine = machine::shared().await;
    for server in [services::postgres(), services::postgres_13()] {
        for (settle, mend) in [
            ("mark", "alter table outbox disable row level security"),
            ("checkpoint", "drop policy nothing on outbox; alter table outbox disable row level security"),
            ("delete", "alter role RELAY bypassrls"),
        ] {
            let guarded = Guarded::set(&server, "policy").await;
            let mut relay = guarded.relay().with("outbox.settle", settle).start().await;
            guarded.insert(1..=200).await;
            guarded.scene.topic.holds(200).await;
            guarded
                .run("create policy nothing on outbox using (false); alter table outbox enable row level security")
                .await;
            guarded.insert(201..=500).await;
            waits_for(&relay, "bypassrls").await;
            guarded.insert(501..=600).await;
            assert_eq!(guarded.published(), 200, "settle = {settle}");
            guarded.run(mend).await;
            guarded.scene.topic.holds(600).await;
            relay.ready().await;
            assert_eq!(relay.stop().await, Some(0), "settle = {settle}");
            let found = numbers(&guarded.scene.topic).await;
            assert!((1..=600).all(|row| found.binary_search(&row).is_ok()), "settle = {settle}: a row is lost");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_record_is_refused_at_each_start_and_publishes_nothing() {
    let _machine = machine::shared().await;
    let guarded = Guarded::set(&services::postgres(), "start").await;
    guarded.insert(1..=1_000).await;
    for revoked in ["update on outbox", "insert on outbox_dead", "update on outbox_checkpoint"] {
        guarded.run(&format!("revoke {revoked} from RELAY")).await;
        let mut relay = guarded.relay().spawn();
        assert_eq!(relay.ended().await.code(), Some(1));
        assert!(relay.log().contains("grant "), "{}", relay.log());
        guarded.run(&format!("grant {revoked} to RELAY")).await;
    }
    assert_eq!(guarded.published(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_cannot_record_for_a_cause_that_none_foresees_publish_no_more_than_the_probe() {
    const STARTS: u64 = 4;
    let _machine = machine::shared().await;
    for settle in ["mark", "delete"] {
        let guarded = Guarded::set(&services::postgres(), "loop").await;
        guarded.insert(1..=1_000).await;
        guarded
            .run(
                "create function no() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
                 create trigger no before update or delete on outbox for each row execute function no()",
            )
            .await;
        for start in 1..=STARTS {
            let mut relay = guarded.relay().with("outbox.settle", settle).spawn();
            waits_for(&relay, "not now").await;
            relay.kill();
            assert!(guarded.published() <= start * PROBE, "{} after {start} starts", guarded.published());
        }
        println!("settle = {settle}: {} records after {STARTS} starts", guarded.published());
        guarded.run("drop trigger no on outbox").await;
        let mut relay = guarded.relay().with("outbox.settle", settle).start().await;
        guarded.scene.all_settled().await;
        assert_eq!(relay.stop().await, Some(0));
        assert!(guarded.published() <= 1_000 + STARTS * PROBE, "{}", guarded.published());
        let mut found = numbers(&guarded.scene.topic).await;
        found.dedup();
        assert_eq!(found, (1..=1_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_taken_while_the_relay_runs_is_waited_for_and_nothing_comes_twice() {
    let _machine = machine::shared().await;
    for server in [services::postgres(), services::postgres_13()] {
        let guarded = Guarded::set(&server, "taken").await;
        let mut relay = guarded.relay().start().await;
        guarded.insert(1..=500).await;
        guarded.scene.all_settled().await;
        let term = relay.metric("outboxd_term").await;
        guarded.run("revoke update on outbox from RELAY").await;
        guarded.insert(501..=20_500).await;
        waits_for(&relay, "permission denied").await;
        guarded.insert(20_501..=60_500).await;
        guarded.run("grant update on outbox to RELAY").await;
        guarded.scene.all_settled().await;
        relay.ready().await;
        assert_eq!(relay.metric("outboxd_term").await, term, "it kept its lease");
        assert_eq!(relay.stop().await, Some(0));
        assert_eq!(numbers(&guarded.scene.topic).await, (1..=60_500).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_that_cannot_be_recorded_is_named_holds_up_no_other_and_is_the_only_one_repeated() {
    let _machine = machine::shared().await;
    for settle in ["mark", "delete"] {
        let guarded = Guarded::set(&services::postgres(), "one_row").await;
        guarded
            .run(
                "create function no() returns trigger language plpgsql as
                 $$ begin if old.id in (777, 778) then raise exception 'not that one'; end if; return coalesce(new, old); end $$;
                 create trigger no before update or delete on outbox for each row execute function no()",
            )
            .await;
        guarded.insert(1..=2_000).await;
        let unsettled = "select count(*) from outbox where sent_at is null";
        let others_are_settled = async || {
            wait::until_true("all others are settled", wait::PATIENCE, async || {
                guarded.scene.database.number(unsettled).await == 2
            })
            .await;
        };
        let mut relay = guarded.relay().with("outbox.settle", settle).spawn();
        others_are_settled().await;
        waits_for(&relay, "777").await;
        guarded.insert(2_001..=3_000).await;
        others_are_settled().await;
        assert_eq!(guarded.published(), 3_000, "settle = {settle}");
        relay.kill();
        let mut relay = guarded.relay().with("outbox.settle", settle).spawn();
        waits_for(&relay, "not that one").await;
        assert!(guarded.published() <= 3_000 + PROBE, "settle = {settle}: {}", guarded.published());
        guarded.run("drop trigger no on outbox").await;
        guarded.scene.all_settled().await;
        relay.ready().await;
        assert_eq!(relay.stop().await, Some(0));
        let mut found = numbers(&guarded.scene.topic).await;
        found.dedup();
        assert_eq!(found, (1..=3_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_may_not_be_stored_is_waited_for() {
    let _machine = machine::shared().await;
    let guarded = Guarded::set(&services::postgres(), "letters").await;
    guarded.scene.topic.set("max.message.bytes", "4096").await;
    let mut relay = guarded.relay().start().await;
    guarded.insert(1..=100).await;
    guarded.scene.all_settled().await;
    guarded.run("revoke insert on outbox_dead from RELAY").await;
    guarded.scene.insert("large", &"x".repeat(10_000)).await;
    waits_for(&relay, "outbox_dead").await;
    guarded.insert(101..=200).await;
    guarded.run("grant insert on outbox_dead to RELAY").await;
    guarded.scene.all_settled().await;
    assert_eq!(guarded.scene.database.number("select count(*) from outbox_dead").await, 1);
    relay.ready().await;
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(numbers(&guarded.scene.topic).await, (1..=200).collect::<Vec<_>>());
}
