//! Searches of operators find their rows by index, and look at a bounded number of them, whatever the table holds.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use outboxd::contract::{Found, LetterSearch, Messages, RowName, SEARCHED_ROWS, Search};
use outboxd::outbox::{MessageFilter, MessageState};
use sqlx::PgConnection;

use super::server::{Outbox, servers};
use crate::support::wait;

const ROWS: i64 = 300_000;

/// What the server counted of the outbox and the dead letters: full scans, and rows that were fetched by index.
async fn counted(outbox: &Outbox) -> (i64, i64) {
    let schema = outbox.table.schema().expect("a schema of its own");
    let of = |what: &str| {
        format!(
            "select coalesce(sum({what}), 0)::bigint from pg_stat_user_tables
             where schemaname = '{schema}' and relname in ('out' || 'box', 'out' || 'box_dead')"
        )
    };
    (outbox.number(&of("seq_scan")).await, outbox.number(&of("idx_tup_fetch")).await)
}

/// Does something in a session of its own, and returns how many full scans it made, and how many rows it fetched by index.
async fn scans<T>(outbox: &Outbox, work: impl AsyncFnOnce(&dyn Messages) -> T) -> (i64, i64, T) {
    let before = counted(outbox).await;
    let store = super::server::store(&outbox.url, &outbox.table, outboxd::outbox::Settle::Mark);
    let done = work(&store).await;
    // A session's counts are seen once it has ended.
    drop(store);
    let after = wait::until("the server has counted", wait::PATIENCE, async || {
        let now = counted(outbox).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (now.1 > before.1 && now == counted(outbox).await).then_some(now)
    })
    .await;
    (after.0 - before.0, after.1 - before.1, done)
}

async fn fill(outbox: &Outbox, conn: &mut PgConnection) {
    let rows = format!(
        "insert into outbox (topic, key, payload, created_at, sent_at)
         select 't', 'k' || n, 'x', now() - ({ROWS} - n) * interval '1 second', now() from generate_series(1, {ROWS}) n"
    );
    outbox.run(conn, &rows).await;
    outbox
        .run(
            conn,
            "insert into outbox_dead (id, event_id, topic, key, headers, created_at, code, message)
             select n, gen_random_uuid(), 't', 'k' || n, '{}', now(), 'too_large', 'x' from generate_series(1, 100000) n",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_search_reads_the_tables_from_end_to_end_or_looks_at_more_than_it_may() {
    // Each row that is looked at is found, and then fetched.
    const MOST: i64 = 2 * SEARCHED_ROWS as i64 + 5_000;
    for url in servers() {
        let outbox = Outbox::new(&url, "searching").await;
        let mut conn = outbox.connect().await;
        fill(&outbox, &mut conn).await;
        let keyed = MessageFilter { key: Some("none".to_owned()), ..MessageFilter::default() };
        let old = Utc::now() - TimeDelta::hours(60);
        let between =
            MessageFilter { since: Some(old), until: Some(old + TimeDelta::minutes(1)), ..MessageFilter::default() };
        let states = [None]
            .into_iter()
            .chain([MessageState::Sent, MessageState::Unsent, MessageState::InFlight, MessageState::Held].map(Some));
        for state in states {
            let search = Search { filter: keyed.clone(), state, limit: 50 };
            let (full, fetched, found) = scans(&outbox, async |store| {
                let found = store.search(&search).await.unwrap();
                // So that there is something to count.
                store
                    .search(&Search {
                        filter: MessageFilter { ids: vec![1], ..MessageFilter::default() },
                        ..search.clone()
                    })
                    .await
                    .unwrap();
                found
            })
            .await;
            assert_eq!((full, found.messages.len()), (0, 0), "{state:?} on {url}");
            assert!(fetched <= MOST, "{state:?} fetched {fetched} rows on {url}");
        }
        let search = Search { filter: between, state: None, limit: 10_000 };
        let (full, fetched, found): (_, _, Found) =
            scans(&outbox, async |store| store.search(&search).await.unwrap()).await;
        assert_eq!((full, found.messages.len()), (0, 60), "{url}");
        assert!(fetched < 2_000, "a time leads the search there: {fetched} rows on {url}");

        let letters = LetterSearch { filter: keyed.clone(), limit: 50, ..LetterSearch::default() };
        let (full, fetched, _) = scans(&outbox, async |store| store.dead_letters(&letters).await.unwrap()).await;
        assert!(full == 0 && fetched <= MOST, "{full} full scans, {fetched} rows on {url}");
        let names: Vec<RowName> = (1..=1_000).map(|id| RowName { id, event_id: None }).collect();
        let (full, fetched, overtaken) = scans(&outbox, async |store| store.overtaken(&names).await.unwrap()).await;
        assert!(full == 0 && fetched <= MOST, "{full} full scans, {fetched} rows on {url}");
        assert!(overtaken.is_floor, "there are more rows than were looked at");
    }
}
