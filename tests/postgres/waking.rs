//! Wake-ups: writers notify while the relay waits for them, and only then.

use std::time::Duration;

use outboxd::contract::{Arming, DatabaseSettings, Store as _, StoreError, WakeSource};
use outboxd::outbox::{Notify, Settle};
use outboxd::postgres::Store;
use outboxd::secret::Secret;
use sqlx::postgres::PgListener;

use super::server::{Outbox, execute, newest, servers};

/// Longer than any wake-up takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a notification that must not come to come.
const MOMENT: Duration = Duration::from_millis(200);

fn wake(outbox: &Outbox, notify: Notify) -> Option<Box<dyn WakeSource>> {
    let settings = DatabaseSettings::new(Secret::new(&outbox.url), outbox.table.clone(), Settle::Mark);
    let settings = DatabaseSettings { notify, ..settings };
    Store::new(settings).unwrap().wake()
}

/// Another session that listens: hears whether writers notify.
async fn eavesdrop(outbox: &Outbox) -> PgListener {
    let mut listener = PgListener::connect(&outbox.url).await.unwrap();
    let oid = outbox.number("select 'outbox'::regclass::oid::bigint").await;
    listener.listen(&format!("outboxd_{oid}")).await.unwrap();
    listener
}

async fn hears(listener: &mut PgListener) -> bool {
    tokio::time::timeout(MOMENT, listener.recv()).await.is_ok()
}

#[tokio::test]
async fn a_commit_wakes_a_relay_that_sleeps() {
    for url in servers() {
        let outbox = Outbox::new(&url, "wakes").await;
        let mut conn = outbox.connect().await;
        let mut wake = wake(&outbox, Notify::Gated).unwrap();
        for _ in 0..2 {
            assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
            execute(&mut conn, "begin").await;
            outbox.write(&mut conn, "t", "k").await;
            assert!(tokio::time::timeout(MOMENT, wake.wait()).await.is_err(), "woken before the commit");
            execute(&mut conn, "commit").await;
            tokio::time::timeout(PATIENCE, wake.wait()).await.expect("woken").unwrap();
            wake.disarm().await.unwrap();
        }
    }
}

#[tokio::test]
async fn writers_notify_only_while_the_relay_sleeps() {
    let outbox = Outbox::new(&newest(), "gated").await;
    let mut conn = outbox.connect().await;
    let mut listener = eavesdrop(&outbox).await;
    let mut wake = wake(&outbox, Notify::Gated).unwrap();
    outbox.write(&mut conn, "t", "k").await;
    assert!(!hears(&mut listener).await, "nobody ever slept");
    assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
    outbox.write(&mut conn, "t", "k").await;
    assert!(hears(&mut listener).await, "the relay sleeps");
    wake.disarm().await.unwrap();
    outbox.write(&mut conn, "t", "k").await;
    assert!(!hears(&mut listener).await, "the relay is awake");
}

#[tokio::test]
async fn the_relay_does_not_fall_asleep_over_a_writer_that_will_not_notify() {
    let outbox = Outbox::new(&newest(), "asleep").await;
    let mut conn = outbox.connect().await;
    let mut wake = wake(&outbox, Notify::Gated).unwrap();
    execute(&mut conn, "begin").await;
    outbox.write(&mut conn, "t", "k").await;
    assert_eq!(wake.arm().await.unwrap(), Arming::NotNow);
    execute(&mut conn, "commit").await;
    assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
}

#[tokio::test]
async fn other_ways_to_notify_are_off_and_always() {
    let outbox = Outbox::new(&newest(), "ways").await;
    assert!(wake(&outbox, Notify::Off).is_none());
    let mut wake = wake(&outbox, Notify::Always).unwrap();
    let (mut conn, mut listener) = (outbox.connect().await, eavesdrop(&outbox).await);
    assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
    wake.disarm().await.unwrap();
    outbox.write(&mut conn, "t", "k").await;
    assert!(hears(&mut listener).await);
}

#[tokio::test]
async fn every_commit_is_counted_that_comes_while_the_relay_reads() {
    for url in servers() {
        let outbox = Outbox::new(&url, "counts").await;
        let mut conn = outbox.connect().await;
        let mut wake = wake(&outbox, Notify::Gated).unwrap();
        assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
        for _ in 0..20 {
            outbox.write(&mut conn, "t", "k").await;
        }
        let mut commits = 0;
        while commits < 20 {
            commits += tokio::time::timeout(PATIENCE, wake.wait()).await.expect("woken").unwrap();
        }
        assert_eq!(commits, 20);
        assert!(tokio::time::timeout(MOMENT, wake.wait()).await.is_err(), "nothing else was committed");
    }
}

#[tokio::test]
async fn what_writers_notify_of_while_the_relay_polls_is_kept_for_nobody() {
    let outbox = Outbox::new(&newest(), "unheard").await;
    let mut conn = outbox.connect().await;
    let mut wake = wake(&outbox, Notify::Always).unwrap();
    for _ in 0..2 {
        assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
        wake.disarm().await.unwrap();
        for _ in 0..3 {
            outbox.write(&mut conn, "t", "k").await;
        }
        assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
        assert!(tokio::time::timeout(MOMENT, wake.wait()).await.is_err(), "woken by what came before");
        outbox.write(&mut conn, "t", "k").await;
        tokio::time::timeout(PATIENCE, wake.wait()).await.expect("woken").unwrap();
    }
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_arming_again_makes_another() {
    let outbox = Outbox::new(&newest(), "lost").await;
    let mut wake = wake(&outbox, Notify::Gated).unwrap();
    assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
    let mut conn = outbox.connect().await;
    let backend = format!(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and classid = 1869968503
         and objid::bigint = (('{}'::regclass::oid::bigint - 2147483648) & 4294967295)",
        outbox.table
    );
    execute(&mut conn, &backend).await;
    let error = tokio::time::timeout(PATIENCE, wake.wait()).await.expect("noticed").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }));
    assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
    outbox.write(&mut conn, "t", "k").await;
    tokio::time::timeout(PATIENCE, wake.wait()).await.expect("woken").unwrap();
}
