//! Writers that do all that makes reading in order hard: they lock their aggregate first, hold transactions open, roll
//! back some, and release and roll back savepoints.

use std::time::Duration;

use outboxd::outbox::Record;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::PgConnection;

use super::server::{Outbox, execute};

pub(super) const WRITERS: u64 = 8;
const KEYS: u32 = 20;

/// Creates the aggregates, each with the number of its last event.
pub(super) async fn prepare(outbox: &Outbox) {
    let mut conn = outbox.connect().await;
    let schema = outbox.table.schema().unwrap();
    let aggregates = format!("create table {schema}.aggregate (key text primary key, version int not null)");
    execute(&mut conn, &aggregates).await;
    execute(&mut conn, &format!("insert into {schema}.aggregate select 'k' || n, 0 from generate_series(1, {KEYS}) n"))
        .await;
}

/// One writer: every event's payload is its number within its key.
pub(super) async fn write(outbox: &Outbox, seed: u64, transactions: u32) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut conn = outbox.connect().await;
    for _ in 0..transactions {
        transact(outbox, &mut conn, &mut random).await;
    }
}

async fn transact(outbox: &Outbox, conn: &mut PgConnection, random: &mut SmallRng) {
    execute(conn, "begin").await;
    // Some take their transaction id long before they touch the aggregate.
    if random.random_bool(0.3) {
        execute(conn, "select pg_current_xact_id()").await;
        pause(random).await;
    }
    let mut keys: Vec<u32> = (0..random.random_range(1..3)).map(|_| random.random_range(1..=KEYS)).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        if random.random_bool(0.2) {
            execute(conn, "savepoint before").await;
            emit(outbox, conn, key).await;
            execute(conn, "rollback to savepoint before").await;
        }
        execute(conn, "savepoint aside").await;
        emit(outbox, conn, key).await;
        if random.random_bool(0.5) {
            execute(conn, "release savepoint aside").await;
        }
        pause(random).await;
    }
    execute(conn, if random.random_bool(0.1) { "rollback" } else { "commit" }).await;
}

/// Locks the aggregate by updating it, then writes its event.
async fn emit(outbox: &Outbox, conn: &mut PgConnection, key: u32) {
    let schema = outbox.table.schema().unwrap();
    let statement = format!(
        "with a as (update {schema}.aggregate set version = version + 1 where key = 'k{key}' returning *)
         insert into outbox (topic, key, payload)
         select case when key in ('k1', 'k2', 'k3') then 'few' else 'many' end, key, convert_to(version::text, 'UTF8') from a"
    );
    outbox.run(conn, &statement).await;
}

async fn pause(random: &mut SmallRng) {
    if random.random_bool(0.3) {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
    }
}

/// Every committed event came once, and each key's in order.
pub(super) async fn verify(outbox: &Outbox, read: &[Record]) {
    let mut next = std::collections::HashMap::<&str, u64>::new();
    for record in read {
        let key = record.key.as_deref().unwrap();
        let version: u64 = std::str::from_utf8(record.payload.as_deref().unwrap()).unwrap().parse().unwrap();
        let expected = next.entry(key).or_insert(0);
        *expected += 1;
        assert_eq!(version, *expected, "event of {key} after {} others", *expected - 1);
    }
    let schema = outbox.table.schema().unwrap();
    let committed = outbox.number(&format!("select sum(version) from {schema}.aggregate")).await;
    assert_eq!(read.len() as i64, committed, "events read, and committed");
}
