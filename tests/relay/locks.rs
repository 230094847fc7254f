//! Locks that operators' sessions hold for long: no relay leads while the lease is locked, and nothing else is lost
//! by it.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;

use crate::support::scene::Scene;
use crate::support::{machine, services, wait};

/// The sessions that one relay may have at a time: five, one that takes another's place, and one that looks for the table.
const SESSIONS: usize = 7;

/// How often the lease is bid for in vain before it is free again.
const BIDS: usize = 4;

async fn run(other: &mut PgConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(other).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_lease_piles_up_no_sessions_and_is_led_again_once_it_is_free() {
    let _machine = machine::shared().await;
    for server in [services::postgres(), services::postgres_13()] {
        let scene = Scene::set_on(&server).await;
        let mut relay = scene.relay().with("lease.ttl", "2s").start().await;
        scene.insert("k", "before").await;
        scene.all_settled().await;
        let mut other = scene.database.connect().await;
        run(
            &mut other,
            "set application_name = 'dba at work'; begin; lock table outbox_lease in access exclusive mode",
        )
        .await;
        let mut bidders = BTreeSet::new();
        let sessions = "select pid, application_name from pg_stat_activity
            where datname = current_database() and application_name like 'outboxd/%'";
        wait::until_true("the lease was bid for in vain", wait::PATIENCE, async || {
            let sessions: Vec<(i32, String)> =
                sqlx::query_as(sessions).fetch_all(scene.database.pool()).await.expect("the server tells its sessions");
            assert!(sessions.len() <= SESSIONS, "{sessions:?}");
            bidders.extend(sessions.into_iter().filter(|(_, name)| name == "outboxd/lease").map(|(pid, _)| pid));
            bidders.len() >= BIDS
        })
        .await;
        assert!(relay.log().contains("dba at work"), "{}", relay.log());
        scene.insert("k", "meanwhile").await;
        run(&mut other, "rollback").await;
        scene.topic.holds(2).await;
        scene.all_settled().await;
        relay.ready().await;
        assert_eq!(relay.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_locked_keeps_no_other_from_being_recorded_and_is_recorded_once_it_is_free() {
    let _machine = machine::shared().await;
    for settle in ["mark", "delete"] {
        let scene = Scene::set().await;
        for row in 1..=300 {
            scene.insert(&format!("k{}", row % 10), "x").await;
        }
        let mut other = scene.database.connect().await;
        run(&mut other, "begin; select from outbox where id = 177 for update").await;
        let mut relay = scene.relay().with("outbox.settle", settle).spawn();
        let unsettled = "select count(*) from outbox where sent_at is null";
        let others_are_settled = async || {
            wait::until_true("all others are settled", wait::PATIENCE, async || {
                scene.database.number(unsettled).await == 1
            })
            .await;
        };
        others_are_settled().await;
        scene.insert("k7", "y").await;
        others_are_settled().await;
        wait::until_true("the relay names the row", wait::PATIENCE, async || {
            relay.get("/readyz").await.is_ok_and(|answer| answer.body.contains("row 177 is locked"))
        })
        .await;
        let term = relay.metric("outboxd_term").await;
        run(&mut other, "rollback").await;
        scene.all_settled().await;
        relay.ready().await;
        assert_eq!(relay.metric("outboxd_term").await, term);
        assert_eq!(relay.stop().await, Some(0));
        assert_eq!(scene.topic.count().expect("the broker answers"), 301, "settle = {settle}: nothing came twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_while_it_waits_for_a_lock_leaves_no_session_behind() {
    let _machine = machine::shared().await;
    for server in [services::postgres(), services::postgres_13()] {
        let scene = Scene::set_on(&server).await;
        let mut relay = scene.relay().start().await;
        let mut other = scene.database.connect().await;
        run(&mut other, "begin; lock table outbox in access exclusive mode").await;
        let ours = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name like 'outboxd/%'";
        wait::until_true("the relay waits for the lock", wait::PATIENCE, async || {
            scene.database.number(&format!("{ours} and wait_event_type = 'Lock'")).await > 0
        })
        .await;
        relay.kill();
        wait::until_true("its sessions are gone", wait::PATIENCE, async || scene.database.number(ours).await == 0)
            .await;
        run(&mut other, "rollback").await;
    }
}
