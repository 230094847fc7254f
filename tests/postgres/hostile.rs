//! What a role creates in a schema of the relay's search_path, the relay never runs (the kind of CVE-2018-1058).

use std::time::Duration;

use chrono::{DateTime, Utc};
use outboxd::Message;
use outboxd::contract::{
    Arming, Bid, Database as _, HeldLanes, Inspect, LeaseStore, LetterSearch, Messages, OutboxStore, RowName, Search,
    Store as _,
};
use outboxd::outbox::{Held, HoldCause, Lane, Limit, MessageFilter, MessageState, Settle, Settlement, Table, Term};
use outboxd::postgres::{self, Store, grants_sql};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::server::{AMPLE, checkpoint, drain, execute, store};
use crate::support::database::Database;
use crate::support::hostile::{move_in, witnessed};
use crate::support::operator;
use crate::support::services;

const PATIENCE: Duration = Duration::from_secs(20);

/// An outbox in the schema `public`, which its name does not tell.
struct Shared {
    database: Database,
    /// As the relay connects.
    url: String,
}

impl Shared {
    /// `role` is the relay's, with the least rights; without one it is a superuser.
    async fn new(server: &services::Server, role: Option<&str>) -> Self {
        let database = Database::migrated(server).await;
        let mut url = database.url().to_owned();
        if let Some(role) = role {
            let create = format!(
                "do $$ begin create role {role} login password 'secret';
                 exception when duplicate_object or unique_violation then null; end $$"
            );
            database.run(&create).await;
            database.run(&grants_sql(&Table::default(), role, role).unwrap()).await;
            url = url.replacen("outboxd:outboxd@", &format!("{role}:secret@"), 1);
        }
        move_in(&database).await;
        Self { database, url }
    }

    fn store(&self, settle: Settle) -> Store {
        store(&self.url, &Table::default(), settle)
    }

    async fn writer(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    async fn nothing_ran(&self, when: &str) {
        assert_eq!(witnessed(&self.database).await, [], "code of another role ran {when} as {}", self.url);
    }
}

/// A term, and its lease renewed once, as the relay of each second does.
async fn lead(store: &Store) -> Term {
    let mut lease = store.lease("test", Duration::from_secs(60)).await.unwrap();
    let Bid::Won(term) = lease.bid().await.unwrap() else { panic!("nobody else leads") };
    lease.renew(term).await.unwrap();
    lease.resign(term).await.unwrap();
    term
}

/// All that a relay does with its database.
async fn relay(shared: &Shared, settle: Settle) {
    let store = shared.store(settle);
    store.preflight().await.unwrap();
    shared.nothing_ran("in the preflight").await;
    store.source().await.unwrap();
    let term = lead(&store).await;
    shared.nothing_ran("while the lease was bid for").await;

    let mut reader = store.open().await.unwrap();
    // Pages that are read by xid, and those that are walked.
    let read = drain(&mut *reader, Limit { records: 7, ..AMPLE }).await;
    let rest = drain(&mut *reader, AMPLE).await;
    shared.nothing_ran("while rows were read").await;
    let mut settlement = Settlement::default();
    read.iter().chain(&rest).for_each(|record| settlement.push(record));
    store.settle(&settlement).await.unwrap();
    let lane = Lane::from_columns("t", Some("held"), None);
    let held = Held { lane, from_id: 1, after: None, cause: HoldCause::MissingTopic, since: Utc::now() };
    reader.hold(held.clone());
    let batch = reader.fetch(AMPLE).await.unwrap();
    reader.save(&checkpoint(term, &batch, std::slice::from_ref(&held))).await.unwrap();
    shared.nothing_ran("while it was settled").await;

    store.recover(term, None, &settlement).await.unwrap();
    store.backlog(1_000).await.unwrap();
    store.purge(term, Duration::ZERO).await.unwrap();
    assert_eq!(store.held_lanes().await.unwrap().len(), 1);
    store.request_release(std::slice::from_ref(&held.lane), &operator::intent()).await.unwrap();
    let mut audit = store.audit(None).await.unwrap();
    audit.rows(0, 100).await.unwrap();
    audit.known(&[1]).await.unwrap();
    audit.removable(Duration::ZERO).await.unwrap();
    audit.set_aside().await.unwrap();
    shared.nothing_ran("while the table was looked at").await;
    operate(shared, &store).await;
}

/// All that operators do with single messages.
async fn operate(shared: &Shared, store: &Store) {
    let letters =
        "insert into outbox_dead (id, event_id, topic, key, payload, headers, created_at, code, message) values
        (1000, '018f5f7c-0000-7000-8000-000000000001', 't', 'k', 'x', '{}', '2026-01-31', 'message_too_large', 'x'),
        (1001, '018f5f7c-0000-7000-8000-000000000002', 't', 'k', 'x', '{}', '2026-01-31', 'message_too_large', 'x');
        insert into outbox (topic, key, partition) values ('t', 'k', 1)";
    shared.database.run(letters).await;
    let filter = MessageFilter {
        topic: Some("t".to_owned()),
        key: Some("k".to_owned()),
        since: Some(DateTime::UNIX_EPOCH),
        until: Some(Utc::now()),
        ..MessageFilter::default()
    };
    for state in [None, Some(MessageState::Unsent), Some(MessageState::InFlight), Some(MessageState::Held)] {
        store.search(&Search { filter: filter.clone(), state, limit: 10 }).await.unwrap();
    }
    let found = store.dead_letters(&LetterSearch { filter, limit: 10, ..LetterSearch::default() }).await.unwrap();
    store.carried(&found.messages[0], 100).await.unwrap();
    let names: Vec<RowName> = found.messages.iter().map(|letter| letter.name).collect();
    store.overtaken(&names).await.unwrap();
    assert_eq!(store.requeue(&names[..1], &operator::intent()).await.unwrap(), 1);
    assert_eq!(store.discard(&names[1..], &operator::intent()).await.unwrap(), 1);
    store.skip(&names[..1], &operator::intent()).await.unwrap();
    store.purge_sent(Utc::now(), i64::MIN, None).await.unwrap();
    store.purge_sent(Utc::now(), i64::MIN, Some(&operator::intent())).await.unwrap();
    shared.nothing_ran("while an operator worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_role_creates_beside_the_outbox_is_never_run_by_the_relay() {
    for server in [services::postgres(), services::postgres_13()] {
        for (role, settle) in [
            (Some("outboxd_test_hunted"), Settle::Mark),
            (Some("outboxd_test_hunted"), Settle::Delete),
            (Some("outboxd_test_hunted"), Settle::Checkpoint),
            (None, Settle::Mark),
        ] {
            let shared = Shared::new(&server, role).await;
            let rows = "insert into outbox (topic, key, payload, headers, partition)
                select 't', n::text, 'x', '{\"a\": \"b\"}', n % 3 from generate_series(1, 60) n";
            shared.database.run(rows).await;
            relay(&shared, settle).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_role_creates_beside_the_outbox_is_never_run_by_its_functions_and_triggers() {
    for server in [services::postgres(), services::postgres_13()] {
        for role in [Some("outboxd_test_hunted"), None] {
            let shared = Shared::new(&server, role).await;
            let mut wake = shared.store(Settle::Mark).wake().unwrap();
            let mut writer = shared.writer().await;
            for payload in ["'x'", "'{}'::jsonb", r"'\x00'::bytea"] {
                assert_eq!(wake.arm().await.unwrap(), Arming::Armed);
                execute(&mut writer, &format!("select outbox_enqueue('t', 'k', {payload})")).await;
                tokio::time::timeout(PATIENCE, wake.wait()).await.expect("woken").unwrap();
            }
            let messages: Vec<Message> = (0..5).map(|n| Message::to("t").key(n).text("x").unwrap()).collect();
            postgres::enqueue(&mut writer, &messages[0]).await.unwrap();
            postgres::enqueue_many(&mut writer, &messages[1..]).await.unwrap();
            // Writers that use the functions need not have the outbox in the search_path.
            execute(&mut writer, "set search_path = pg_catalog; select public.outbox_enqueue('t', 'k', 'x')").await;
            assert_eq!(shared.database.number("select count(*) from outbox").await, 9);
            shared.nothing_ran("while rows were written").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_in_any_schema_of_the_roles_search_path_is_found_whatever_the_schema_is_called() {
    for server in [services::postgres(), services::postgres_13()] {
        let database = Database::empty(&server).await;
        let schema = r#"The "Shop's" schema"#;
        let quoted = schema.replace('"', "\"\"");
        let mut admin = database.connect().await;
        execute(&mut admin, &format!("create schema \"{quoted}\"")).await;
        let path = format!("alter database {} set search_path = nowhere, \"{quoted}\", public", database.name());
        execute(&mut admin, &path).await;

        let secret = outboxd::secret::Secret::new(database.url());
        let table = Table::default();
        postgres::migrate(&secret, &table).await.unwrap();
        postgres::check(&secret, &table).await.unwrap();
        // One of the same name further down the path is another.
        execute(&mut admin, "create table public.outbox (id int)").await;
        let store = store(database.url(), &table, Settle::Mark);
        store.preflight().await.unwrap();
        assert!(store.source().await.unwrap().ends_with(&format!(".{schema}.outbox")));
        let mut writer = database.connect().await;
        execute(&mut writer, "select outbox_enqueue('t', 'k', 'x')").await;
        let inserted = format!("insert into \"{quoted}\".outbox (topic) values ('t')");
        sqlx::query(AssertSqlSafe(inserted)).execute(&mut writer).await.unwrap();
        assert_eq!(drain(&mut *store.open().await.unwrap(), AMPLE).await.len(), 2);
        lead(&store).await;
    }
}
