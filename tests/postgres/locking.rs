//! Locks of other sessions: nothing waits on one while it holds one of ours, and what was given up does not go on.

use std::time::Duration;

use chrono::Utc;
use outboxd::contract::{Bid, HeldLanes, Inspect, LeaseSession, LeaseStore, OutboxStore};
use outboxd::outbox::{Held, HoldCause, Lane, ReadToken, Record, Settle, Settlement, Term};
use sqlx::PgConnection;
use tokio::time::timeout;

use super::server::{AMPLE, Outbox, checkpoint, drain, execute, servers, store};
use crate::support::proxy::{Mode, Proxy};
use crate::support::{machine, wait};

/// Longer than anything may wait for a lock.
const PATIENCE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(12);

/// An outbox and its leader.
struct Led {
    outbox: Outbox,
    lease: Box<dyn LeaseSession>,
    term: Term,
}

impl Led {
    async fn new(url: &str, name: &str, settle: Settle) -> Self {
        let outbox = Outbox::settling(url, name, settle).await;
        let mut lease = outbox.store.lease("test", TTL).await.unwrap();
        let Bid::Won(term) = lease.bid().await.unwrap() else { panic!("nobody else leads") };
        let rows = "insert into outbox (topic, key, payload) select 't', n::text, 'x' from generate_series(1, 10) n";
        outbox.run(&mut outbox.connect().await, rows).await;
        Self { outbox, lease, term }
    }

    /// Locks rows in a transaction that stays open as long as the connection.
    async fn lock(&self, rows: &str) -> PgConnection {
        let mut other = self.outbox.connect().await;
        self.outbox.run(&mut other, &format!("begin; select from {rows} for update")).await;
        other
    }

    /// Waits until a session of ours of this name waits for a lock.
    async fn waits(&self, role: &str) {
        let waiting = format!(
            "select count(*) from pg_stat_activity where application_name = 'outboxd/{role}'
                 and wait_event_type = 'Lock' and query like '%{}%'",
            self.outbox.table.schema().unwrap()
        );
        wait::until_true("a session waits for a lock", PATIENCE, async || count(&self.outbox, &waiting).await > 0)
            .await;
    }
}

/// A number that has nothing to do with the table, so that no name in the statement is replaced.
async fn count(outbox: &Outbox, statement: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&mut outbox.connect().await).await.unwrap()
}

fn settlement(records: &[Record], token: Option<ReadToken>) -> Settlement {
    let mut settlement = Settlement::default();
    settlement.add_token(token);
    records.iter().for_each(|record| settlement.push(record));
    settlement
}

#[tokio::test]
async fn an_old_row_that_is_locked_is_kept_until_it_is_free_and_nothing_waits_for_it() {
    for (url, settle) in servers().into_iter().flat_map(|url| [(url.clone(), Settle::Mark), (url, Settle::Checkpoint)])
    {
        let mut led = Led::new(&url, "lock_old", settle).await;
        let mut reader = led.outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        led.outbox.settle(&read).await;
        let batch = reader.fetch(AMPLE).await.unwrap();
        reader.save(&checkpoint(led.term, &batch, &[])).await.unwrap();
        let mut other = led.lock("outbox where key = '3'").await;
        for removed in [9, 0] {
            let purge = timeout(PATIENCE, led.outbox.store.purge(led.term, Duration::ZERO));
            assert_eq!(purge.await.expect("it waits for no lock").unwrap().removed, removed, "{settle}");
            led.lease.renew(led.term).await.unwrap();
        }
        execute(&mut other, "rollback").await;
        assert_eq!(led.outbox.store.purge(led.term, Duration::ZERO).await.unwrap().removed, 1, "{settle}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_waits_for_a_lock_keeps_no_renewal_waiting() {
    for url in servers() {
        for locked in ["outbox_checkpoint", "outbox_held"] {
            let mut led = Led::new(&url, "lock_save", Settle::Mark).await;
            let mut reader = led.outbox.open().await;
            let batch = reader.fetch(AMPLE).await.unwrap();
            let held = |from_id| {
                let lane = Lane::from_columns("t", Some("7"), None);
                Held { lane, from_id, after: None, cause: HoldCause::MissingTopic, since: Utc::now() }
            };
            reader.save(&checkpoint(led.term, &batch, &[held(7)])).await.unwrap();
            let mut other = led.lock(locked).await;
            let next = checkpoint(led.term, &batch, &[held(6)]);
            let saving = tokio::spawn(async move { reader.save(&next).await });
            led.waits("reader").await;
            // As often as a lease is renewed, and longer than one may take.
            led.lease.renew(led.term).await.unwrap();
            led.lease.renew(led.term).await.unwrap();
            execute(&mut other, "rollback").await;
            let saved = timeout(PATIENCE, saving).await.expect("the lock is gone").unwrap();
            // On a slow machine it may have been given up, and nothing of it is stored.
            let stored = led.outbox.number("select from_id from outbox_held").await;
            assert_eq!(stored, if saved.is_ok() { 6 } else { 7 });
        }
    }
}

/// A relay that is gone commits nothing any more: what its statement locked is free once the statement has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_vanishes_while_it_stores_a_checkpoint_leaves_no_lock_and_all_of_it_is_stored() {
    for url in servers() {
        let led = Led::new(&url, "lock_vanish", Settle::Mark).await;
        let proxy = Proxy::before(&url).await;
        let through = store(&proxy.url(&url), &led.outbox.table, Settle::Mark);
        let mut reader = through.open().await.unwrap();
        let batch = reader.fetch(AMPLE).await.unwrap();
        let held = |topic| {
            let lane = Lane::topic_of(topic);
            Held { lane, from_id: 1, after: None, cause: HoldCause::MissingTopic, since: Utc::now() }
        };
        reader.save(&checkpoint(led.term, &batch, &[held("over")])).await.unwrap();
        let mut other = led.lock("outbox_lease").await;
        let next = checkpoint(led.term, &batch, &[held("fresh")]);
        let saving = tokio::spawn(async move { reader.save(&next).await });
        led.waits("reader").await;
        proxy.all(Mode::Stall);
        execute(&mut other, "rollback").await;
        let lanes = "select count(*) from outbox_held where (topic, settled) in (('over', true), ('fresh', false))";
        wait::until_true("it is stored", PATIENCE, async || led.outbox.number(lanes).await == 2).await;
        led.outbox.run(&mut other, "select from outbox_lease for update nowait").await;
        let counted: Vec<_> = led.outbox.store.held_lanes().await.unwrap();
        assert_eq!(counted.iter().map(|held| held.held.lane.topic()).collect::<Vec<_>>(), ["fresh"]);
        saving.abort();

        // The next leader takes nothing for held that is settled, and forgets it with what it settles itself.
        let mut reader = led.outbox.open().await;
        reader.save(&checkpoint(led.term, &batch, &[])).await.unwrap();
        assert_eq!(led.outbox.number("select count(*) from outbox_held").await, 0);
    }
}

#[tokio::test]
async fn a_delivered_row_that_is_locked_is_named_and_no_other_waits_with_it() {
    for (url, settle) in servers().into_iter().flat_map(|url| [(url.clone(), Settle::Mark), (url, Settle::Delete)]) {
        let led = Led::new(&url, "lock_settle", settle).await;
        let mut reader = led.outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        let settlement = settlement(&read, reader.fetch(AMPLE).await.unwrap().token);
        let mut other = led.lock("outbox where key = '3'").await;
        for _ in 0..2 {
            let settled = timeout(PATIENCE, led.outbox.store.settle(&settlement)).await.expect("it waits for no lock");
            let refused = settled.expect_err("one row is locked");
            assert!(refused.is_refusal(), "{refused:?}");
            assert!(refused.to_string().contains(&format!("row {} is locked", read[2].id)), "{refused}");
            assert_eq!(led.outbox.number("select count(*) from outbox where sent_at is null").await, 1, "{settle}");
        }
        execute(&mut other, "rollback").await;
        led.outbox.store.settle(&settlement).await.unwrap();
        assert_eq!(led.outbox.number("select count(*) from outbox where sent_at is null").await, 0, "{settle}");
    }
}

/// Reading on without it would publish it again.
#[tokio::test]
async fn a_row_that_is_locked_is_named_where_the_progress_is_taken_over_and_no_other_waits_with_it() {
    for (url, settle) in servers().into_iter().flat_map(|url| [(url.clone(), Settle::Mark), (url, Settle::Delete)]) {
        let led = Led::new(&url, "lock_recover", settle).await;
        let mut reader = led.outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        reader.prove(led.term).await.unwrap();
        let progress = reader.position();
        let rows = "insert into outbox (topic, key, payload) values ('t', '11', 'x'), ('t', '12', 'x')";
        led.outbox.run(&mut led.outbox.connect().await, rows).await;
        let mut beyond = Settlement::out_of_line();
        drain(&mut *reader, AMPLE).await[..1].iter().for_each(|record| beyond.push(record));
        drop(reader);

        for (key, unsettled) in [("11", 12), ("3", 2)] {
            let mut other = led.lock(&format!("outbox where key = '{key}'")).await;
            let recovering = led.outbox.store.recover(led.term, Some(&progress), &beyond);
            let recovered = timeout(PATIENCE, recovering).await.expect("it waits for no lock");
            let refused = recovered.expect_err("one row is locked");
            assert!(
                refused.is_refusal() && refused.to_string().contains("is locked by another session"),
                "{refused:?}"
            );
            let left = "select count(*) from outbox where sent_at is null";
            assert_eq!(led.outbox.number(left).await, unsettled, "{settle}: {key}");
            execute(&mut other, "rollback").await;
        }
        led.outbox.store.recover(led.term, Some(&progress), &beyond).await.unwrap();
        let mut next = led.outbox.open().await;
        assert_eq!(
            drain(&mut *next, AMPLE).await.iter().map(|record| record.key.as_deref()).collect::<Vec<_>>(),
            [Some("12")]
        );
        assert_eq!(read.len(), 10);
    }
}

#[tokio::test]
async fn a_lease_that_another_session_has_locked_is_said_to_be_locked_by_whom_and_led_again_afterwards() {
    for url in servers() {
        let mut led = Led::new(&url, "lock_lease", Settle::Mark).await;
        let mut other = led.outbox.connect().await;
        let pid = sqlx::query_scalar::<_, i32>("select pg_backend_pid()").fetch_one(&mut other).await.unwrap();
        execute(&mut other, "set application_name = 'dba at work'").await;
        led.outbox.run(&mut other, "begin; lock table outbox_lease in access exclusive mode").await;
        let mut bidder = led.outbox.store.lease("test", TTL).await.unwrap();
        for failed in [led.lease.renew(led.term).await, bidder.bid().await.map(drop)] {
            let error = failed.expect_err("the lease is locked");
            let said = outboxd::observe::chain(&error);
            assert!(error.is_transient() && said.contains(&pid.to_string()) && said.contains("dba at work"), "{said}");
        }
        drop((led.lease, bidder));
        execute(&mut other, "rollback").await;
        let mut bidder = led.outbox.store.lease("test", TTL).await.unwrap();
        wait::until_true("it leads again", PATIENCE, async || matches!(bidder.bid().await, Ok(Bid::Won(_)))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_given_up_does_not_go_on_in_the_server() {
    let _machine = machine::shared().await;
    for url in servers() {
        let outbox = Outbox::new(&url, "given_up").await;
        let mut other = outbox.connect().await;
        outbox.run(&mut other, "begin; lock table outbox_dead in access exclusive mode").await;
        let ours = "select count(*) from pg_stat_activity where application_name like 'outboxd/%' and query like '%t_given_up%'";
        let store = store(&outbox.url, &outbox.table, Settle::Mark);
        let counting = tokio::spawn(async move { store.backlog(10).await });
        let waiting = format!("{ours} and wait_event_type = 'Lock'");
        wait::until_true("it waits", PATIENCE, async || count(&outbox, &waiting).await > 0).await;
        counting.abort();
        wait::until_true("the server gives it up, too", PATIENCE, async || count(&outbox, ours).await == 0).await;
    }
}

/// A statement that was prepared before cannot be run any more; one that another session prepares can.
#[tokio::test]
async fn a_column_whose_type_was_changed_costs_a_session_and_ends_nothing() {
    for url in servers() {
        let outbox = Outbox::new(&url, "retyped").await;
        outbox.store.backlog(10).await.unwrap();
        let retype = "alter table outbox_checkpoint alter column position type varchar";
        outbox.run(&mut outbox.connect().await, retype).await;
        let error = outbox.store.backlog(10).await.expect_err("its result has another type");
        assert!(error.is_transient(), "{error:?}");
        outbox.store.backlog(10).await.unwrap();
    }
}
