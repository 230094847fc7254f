//! What `--grants` gives two roles is enough for all that they do, and lets neither reach what is the other's.

use std::time::Duration;

use chrono::Utc;
use outboxd::Message;
use outboxd::contract::{Bid, Database, DeadLetters, Inspect, LeaseStore, OutboxStore};
use outboxd::outbox::{DeadLetter, Held, HoldCause, Lane, Settle, Settlement};
use outboxd::postgres::{self, grants_sql};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::server::{AMPLE, Outbox, checkpoint, drain, execute, servers, store};

/// An outbox, and two roles of which each got what `--grants` gives.
struct Granted {
    outbox: Outbox,
    admin: PgConnection,
    app: PgConnection,
    /// As the relay connects.
    relay: Outbox,
}

impl Granted {
    async fn new(url: &str, name: &str, settle: Settle) -> Self {
        let outbox = Outbox::settling(url, name, settle).await;
        let mut admin = outbox.connect().await;
        let [app, relay] = ["app", "relay"].map(|part| format!("{part}_of_{name}"));
        for role in [&app, &relay] {
            let create = format!(
                "do $$ begin create role {role} login password 'secret';
                 exception when duplicate_object or unique_violation then null; end $$"
            );
            execute(&mut admin, &create).await;
        }
        // As earlier versions granted.
        let wide =
            format!("grant insert, select (id) on outbox to {app}; grant select, update, delete on outbox to {relay}");
        outbox.run(&mut admin, &wide).await;
        execute(&mut admin, &grants_sql(&outbox.table, &app, &relay).unwrap()).await;
        let login = |role: &str| url.replacen("outboxd:outboxd@", &format!("{role}:secret@"), 1);
        let app = PgConnection::connect(&login(&app)).await.unwrap();
        let relay = Outbox {
            url: login(&relay),
            table: outbox.table.clone(),
            store: store(&login(&relay), &outbox.table, settle),
        };
        Self { outbox, admin, app, relay }
    }

    /// Runs a statement of the application's that must be denied.
    async fn denied(&mut self, statement: &str) {
        let text = statement.replace("outbox", &self.outbox.table.to_string());
        let error = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.app).await.expect_err(statement);
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn an_application_writes_in_every_way_and_sets_nothing_that_is_the_relays() {
    for url in servers() {
        let mut granted = Granted::new(&url, "grants_app", Settle::Mark).await;
        let Granted { outbox, app, .. } = &mut granted;
        for statement in [
            "insert into outbox (topic) values ('t')",
            "insert into outbox (event_id, topic, key, payload, headers, partition)
                 values (gen_random_uuid(), 't', 'k', 'x', '{}', 1) returning id, event_id",
            "select outbox_enqueue('t', 'k', 'x')",
            "select outbox_enqueue('t', 'k', '{}'::jsonb)",
            r"select outbox_enqueue('t', 'k', '\x00'::bytea)",
        ] {
            outbox.run(app, statement).await;
        }
        let messages: Vec<Message> = (0..3).map(|n| Message::to("t").key(n).text("x").unwrap()).collect();
        postgres::enqueue_into(app, &outbox.table, &messages[0]).await.unwrap();
        postgres::enqueue_many_into(app, &outbox.table, &messages[1..]).await.unwrap();
        let copy = format!("copy {} (topic, key, payload) from stdin", outbox.table);
        let mut rows = app.copy_in_raw(&copy).await.unwrap();
        rows.send(&b"t\tk\tx\n"[..]).await.unwrap();
        rows.finish().await.unwrap();
        assert_eq!(outbox.number("select count(*) from outbox").await, 9);

        for statement in [
            "insert into outbox (id, topic) overriding system value values (1000, 't')",
            "insert into outbox (topic, xid) values ('t', '9223372036854775807')",
            "insert into outbox (topic, sent_at) values ('t', now())",
            "insert into outbox (topic, created_at) values ('t', 'infinity')",
            "update outbox set sent_at = now()",
            "update outbox set topic = 'other'",
            "delete from outbox",
            "truncate outbox",
            "select payload from outbox",
            "select * from outbox_lease",
            "insert into outbox_held (topic, from_id, cause, since) values ('t', 1, 'x', now())",
        ] {
            granted.denied(statement).await;
        }
    }
}

#[tokio::test]
async fn a_relay_settles_recovers_stamps_and_removes_in_every_mode() {
    for (url, settle) in servers().into_iter().flat_map(|url| Settle::ALL.map(|settle| (url.clone(), settle))) {
        let mut granted = Granted::new(&url, "grants_relay", settle).await;
        let Granted { outbox, admin, app, relay } = &mut granted;
        outbox.run(app, "insert into outbox (topic, key) select 't', n::text from generate_series(1, 10) n").await;
        relay.store.preflight().await.unwrap();
        let mut lease = relay.store.lease("test", Duration::from_secs(60)).await.unwrap();
        let Bid::Won(term) = lease.bid().await.unwrap() else { panic!("nobody else leads") };
        lease.renew(term).await.unwrap();
        let mut reader = relay.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        let letter = DeadLetter {
            id: read[9].id,
            event_id: Some(read[9].event_id),
            code: "X".into(),
            message: "x".into(),
            topic: None,
        };
        relay.store.dead_letter(&[letter]).await.unwrap();
        relay.settle(&read[..4]).await;
        let mut beyond = Settlement::default();
        read[4..9].iter().for_each(|record| beyond.push(record));
        relay.store.recover(term, None, &beyond).await.unwrap();
        reader.prove(term).await.unwrap();
        let lane = Lane::from_columns("other", None, None);
        let held = Held { lane, from_id: 1, after: None, cause: HoldCause::MissingTopic, since: Utc::now() };
        let batch = reader.fetch(AMPLE).await.unwrap();
        reader.save(&checkpoint(term, &batch, std::slice::from_ref(&held))).await.unwrap();
        reader.save(&checkpoint(term, &batch, &[])).await.unwrap();
        assert_eq!(outbox.number("select count(*) from outbox_dead").await, 1, "{settle}");

        // A row that became due behind the reader, where no trigger saw it.
        outbox.run(app, "insert into outbox (topic, key) values ('t', 'late')").await;
        relay.settle(&drain(&mut *reader, AMPLE).await).await;
        let batch = reader.fetch(AMPLE).await.unwrap();
        reader.save(&checkpoint(term, &batch, &[])).await.unwrap();
        if settle == Settle::Mark {
            outbox.run(admin, "update outbox set sent_at = null where key = 'late'").await;
            assert_eq!(relay.store.bring_back_late().await.unwrap(), 1);
            let late = drain(&mut *reader, AMPLE).await;
            assert_eq!(late.iter().map(|record| record.key.as_deref()).collect::<Vec<_>>(), [Some("late")]);
            relay.settle(&late).await;
        }
        relay.store.purge(term, Duration::ZERO).await.unwrap();
        assert_eq!(outbox.number("select count(*) from outbox").await, 0, "{settle}");

        // Rows of another cluster are taken over.
        outbox.run(app, "insert into outbox (topic, key) values ('t', 'moved')").await;
        outbox.run(admin, "update outbox_checkpoint set system = 'elsewhere'").await;
        outbox.run(admin, "update outbox set xid = '9000000000000000000'").await;
        let moved = drain(&mut *relay.open().await, AMPLE).await;
        assert_eq!(moved.iter().map(|record| record.key.as_deref()).collect::<Vec<_>>(), [Some("moved")], "{settle}");
    }
}
