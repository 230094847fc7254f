//! What the database tells of itself for the named checks: of what the role may not see it says so.

use std::time::Duration;

use outboxd::contract::{Examine, Rights, SnapshotHolder, Vitals, VitalsQuestion};
use outboxd::outbox::Settle;
use outboxd::postgres::Store;
use sqlx::{Connection, PgConnection};

use super::rights::Guarded;
use super::server::{Outbox, execute, servers, store};
use crate::support::wait;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn vitals(store: &Store) -> Vitals {
    store.vitals(VitalsQuestion { retention: DAY, shows_queries: false }).await.unwrap()
}

async fn rights(guarded: &Guarded) -> Rights {
    store(&guarded.url, &guarded.outbox.table, Settle::Mark).rights().await.unwrap()
}

#[tokio::test]
async fn what_the_role_may_do_beyond_what_it_needs_is_told_right_by_right() {
    for url in servers() {
        let mut guarded = Guarded::new(&url, "excess").await;
        // The same role is the application's here.
        guarded.run("revoke insert (event_id, topic, key, payload, headers, partition) on outbox from RELAY").await;
        assert_eq!(rights(&guarded).await, Rights::default());
        let named = |table: &str| table.replace("outbox", "\"t_excess\".\"outbox") + "\"";
        for (right, table, told) in [
            ("insert (topic)", "outbox", "insert"),
            ("update (id)", "outbox", "update"),
            ("update", "outbox", "update"),
            ("truncate", "outbox", "truncate"),
            ("references (id)", "outbox", "references"),
            ("trigger", "outbox", "trigger"),
            ("insert", "outbox_lease", "insert"),
            ("delete", "outbox_lease", "delete"),
        ] {
            guarded.run(&format!("grant {right} on {table} to RELAY")).await;
            let seen = rights(&guarded).await;
            assert_eq!(seen.excess, [format!("it may {told} on {}", named(table))]);
            assert_eq!(seen.repair, Some(format!("revoke {told} on {} from \"{}\"", named(table), guarded.role)));
            // Of the table it takes those on columns along.
            guarded.run(&format!("revoke {right} on {table} from RELAY")).await;
            guarded.run("grant update (sent_at, sent_partition, sent_offset) on outbox to RELAY").await;
        }
        guarded.run("alter role RELAY createdb bypassrls").await;
        let attributes = [format!("role \"{}\" is createdb, bypassrls", guarded.role)];
        assert_eq!(rights(&guarded).await.excess, attributes);
        guarded.run("alter table outbox enable row level security").await;
        assert_eq!(rights(&guarded).await.excess, [format!("role \"{}\" is createdb", guarded.role)], "it is needed");
        guarded.run("alter role RELAY nocreatedb nobypassrls; alter table outbox disable row level security").await;
        guarded.run("alter table outbox owner to RELAY").await;
        assert_eq!(rights(&guarded).await.excess, [format!("it owns {}", named("outbox"))]);
    }
}

#[tokio::test]
async fn sessions_that_the_role_may_not_look_into_are_counted_and_the_oldest_snapshot_it_sees_is_told() {
    for url in servers() {
        let guarded = Guarded::new(&url, "hidden").await;
        let mut other = PgConnection::connect(&url).await.unwrap();
        execute(&mut other, "begin isolation level repeatable read; select 1").await;
        let narrow = vitals(&store(&guarded.url, &guarded.outbox.table, Settle::Mark)).await.snapshots.unwrap();
        assert!(narrow.hidden > 0, "{narrow:?}");
        assert_eq!(narrow.role, guarded.role);
        let wide = vitals(&guarded.outbox.store).await.snapshots.unwrap();
        assert_eq!(wide.hidden, 0);
        let oldest = wide.oldest.expect("the other session holds one");
        let SnapshotHolder::Session { query, .. } = oldest.holder else { panic!("{oldest:?}") };
        assert_eq!(query, None, "it was not asked for");
        execute(&mut other, "commit").await;
    }
}

#[tokio::test]
async fn the_table_is_told_to_be_vacuumed_by_itself_unless_that_is_switched_off() {
    for url in servers() {
        let outbox = Outbox::new(&url, "vacuumed").await;
        let is_automatic = async || vitals(&outbox.store).await.vacuum.unwrap().is_automatic;
        assert!(is_automatic().await);
        outbox.run(&mut outbox.connect().await, "alter table outbox set (autovacuum_enabled = off)").await;
        assert!(!is_automatic().await);
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, "vacuum outbox").await;
        let is_known = async || vitals(&outbox.store).await.vacuum.unwrap().since_last.is_some();
        wait::until_true("the statistics tell that it was vacuumed", wait::PATIENCE, is_known).await;
    }
}

#[tokio::test]
async fn a_row_is_overdue_by_what_settles_it_and_by_nothing_else() {
    for url in servers() {
        for settle in Settle::ALL {
            let outbox = Outbox::settling(&url, &format!("overdue_{settle}"), settle).await;
            let mut conn = outbox.connect().await;
            for key in ["a", "b"] {
                outbox.write(&mut conn, "orders", key).await;
            }
            outbox.run(&mut conn, "update outbox set created_at = now() - interval '3 days'").await;
            assert_eq!(vitals(&outbox.store).await.overdue, Duration::ZERO, "{settle}: none is published");
            outbox.run(&mut conn, "update outbox set sent_at = now() - interval '2 days' where id = 2").await;
            let overdue = vitals(&outbox.store).await.overdue;
            assert!(overdue >= DAY && overdue < 2 * DAY, "{settle}: {overdue:?}");
            outbox.run(&mut conn, "update outbox set sent_at = now() where id = 2").await;
            assert_eq!(vitals(&outbox.store).await.overdue, Duration::ZERO, "{settle}: it was published just now");
        }
    }
}
