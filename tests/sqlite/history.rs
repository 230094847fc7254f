//! What the broker tells of is believed only where it is of this database's history: ids that were passed prove nothing.

use outboxd::contract::{OutboxStore, StoreError};
use outboxd::outbox::{Position, Settle, Settlement, Table, Term};
use outboxd::sqlite::Store;

use crate::sqlite::{File, lead, read_all};

/// Publishes all that is new, as an exactly-once relay does, and returns the progress that the broker then knows.
async fn publish(store: &Store, term: Term) -> Position {
    let mut reader = store.open().await.expect("a session opens");
    read_all(&mut reader).await;
    reader.prove(term).await.expect("proven");
    reader.position()
}

async fn recover(store: &Store, term: Term, progress: &Position) -> Result<(), StoreError> {
    store.recover(term, Some(progress), &Settlement::default()).await
}

fn assert_refused(recovered: Result<(), StoreError>) {
    match recovered {
        Err(error @ StoreError::Incompatible { .. }) => {
            assert!(error.to_string().contains("outbox.source"), "it names the repair: {error}");
        }
        other => panic!("it must be refused: {other:?}"),
    }
}

async fn unsent(store: &Store) -> usize {
    read_all(&mut store.open().await.expect("a session opens")).await.len()
}

#[tokio::test]
async fn a_restored_copy_of_the_file_is_refused_also_when_its_ids_have_passed_the_progress() {
    for settle in Settle::ALL {
        let (file, table) = (File::migrated().await, Table::default());
        let store = file.store_of(table.clone(), settle);
        let (_leader, term) = lead(&store, "one").await;
        file.write(&table, 20, "orders").await;
        let before = publish(&store, term).await;
        recover(&store, term, &before).await.expect("it is of this history");
        let backup = file.copied().await;
        file.write(&table, 30, "orders").await;
        let progress = publish(&store, term).await;

        backup.write(&table, 50, "orders").await;
        let restored = backup.store_of(table.clone(), settle);
        let (_leader, term) = lead(&restored, "one").await;
        assert_refused(recover(&restored, term, &progress).await);
        assert_eq!(unsent(&restored).await, 50, "none counts as published, {settle}");
    }
}

/// Also when it has published something since, by itself.
#[tokio::test]
async fn a_copy_that_went_its_own_way_is_refused() {
    let (file, table) = (File::migrated().await, Table::default());
    let store = file.store();
    let (_leader, term) = lead(&store, "one").await;
    file.write(&table, 20, "orders").await;
    publish(&store, term).await;
    let backup = file.copied().await;
    file.write(&table, 10, "orders").await;
    let progress = publish(&store, term).await;
    backup.write(&table, 50, "orders").await;
    let restored = backup.store();
    let (_leader, term) = lead(&restored, "one").await;
    publish(&restored, term).await;
    assert_refused(recover(&restored, term, &progress).await);
}

#[tokio::test]
async fn a_copy_that_is_not_behind_goes_on() {
    for settle in Settle::ALL {
        let (file, table) = (File::migrated().await, Table::default());
        let store = file.store_of(table.clone(), settle);
        let (_leader, term) = lead(&store, "one").await;
        file.write(&table, 20, "orders").await;
        let progress = publish(&store, term).await;
        let backup = file.copied().await;
        backup.write(&table, 5, "orders").await;
        let moved = backup.store_of(table.clone(), settle);
        let (_leader, term) = lead(&moved, "one").await;
        recover(&moved, term, &progress).await.expect("nothing is missing");
        assert_eq!(unsent(&moved).await, 5, "{settle}");
    }
}

/// A session that proved something and could not publish it leaves the broker with what it knew before.
#[tokio::test]
async fn the_broker_may_tell_of_the_session_before() {
    let (file, table) = (File::migrated().await, Table::default());
    let store = file.store();
    let (_leader, term) = lead(&store, "one").await;
    file.write(&table, 3, "orders").await;
    let first = publish(&store, term).await;
    for _ in 0..3 {
        recover(&store, term, &first).await.expect("the broker knows of nothing later");
        file.write(&table, 2, "orders").await;
        publish(&store, term).await;
    }
    recover(&store, term, &first).await.expect("the broker knows of nothing later");
    let last = publish(&store, term).await;
    recover(&store, term, &last).await.expect("the last session's");
    assert_eq!(unsent(&store).await, 0);
}

#[tokio::test]
async fn two_tables_of_one_name_at_the_broker_are_told_apart() {
    let (file, table) = (File::migrated().await, Table::default());
    let other: Table = "shop_events".parse().expect("a name");
    outboxd::sqlite::migrate(&file.url(), &other).await.expect("migrated");
    let (one, two) = (file.store(), file.store_of(other.clone(), Settle::Mark));
    let (_first, term) = lead(&one, "one").await;
    file.write(&table, 20, "orders").await;
    let progress = publish(&one, term).await;
    file.write(&other, 20, "orders").await;
    let (_second, term) = lead(&two, "one").await;
    assert_refused(recover(&two, term, &progress).await);
    assert_eq!(unsent(&two).await, 20);
}

/// Written by a version that made no proofs.
#[tokio::test]
async fn a_progress_without_a_history_is_taken_only_where_it_tells_nothing_new() {
    let (file, table) = (File::migrated().await, Table::default());
    let store = file.store();
    let (_leader, term) = lead(&store, "one").await;
    file.write(&table, 5, "orders").await;
    recover(&store, term, &Position::new("0")).await.expect("it tells nothing new");
    assert_refused(recover(&store, term, &Position::new("5")).await);
    assert_eq!(unsent(&store).await, 5);
}
