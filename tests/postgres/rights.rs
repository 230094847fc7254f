//! What the relay's role needs is proven before anything is published; what hides rows from it is refused.

use outboxd::contract::{Database, StoreError};
use outboxd::outbox::Settle;
use outboxd::postgres::grants_sql;
use sqlx::PgConnection;

use super::server::{AMPLE, Outbox, drain, execute, newest, problem, servers, store};

/// An outbox, and a role with the least rights that relays it.
pub(super) struct Guarded {
    pub(super) outbox: Outbox,
    pub(super) role: String,
    /// As the role connects.
    pub(super) url: String,
    admin: PgConnection,
}

impl Guarded {
    pub(super) async fn new(url: &str, name: &str) -> Self {
        let outbox = Outbox::new(url, name).await;
        let mut admin = outbox.connect().await;
        let role = format!("relay_of_{name}");
        let create = format!(
            "do $$ begin create role {role} login password 'secret'; exception when duplicate_object then null; end $$;
             alter role {role} nobypassrls"
        );
        execute(&mut admin, &create).await;
        execute(&mut admin, &grants_sql(&outbox.table, &role, &role).unwrap()).await;
        let url = url.replacen("outboxd:outboxd@", &format!("{role}:secret@"), 1);
        Self { outbox, role, url, admin }
    }

    /// Runs a statement in which `outbox` stands for the table and `RELAY` for the role.
    pub(super) async fn run(&mut self, statement: &str) {
        self.outbox.run(&mut self.admin, &statement.replace("RELAY", &self.role)).await;
    }

    async fn check(&self, settle: Settle) -> Result<Vec<String>, StoreError> {
        store(&self.url, &self.outbox.table, settle).check().await
    }

    /// What is refused, by the check and by the preflight alike.
    async fn refusal(&self) -> String {
        let checked = problem(self.check(Settle::Mark).await.expect_err("it is refused"));
        let examined = store(&self.url, &self.outbox.table, Settle::Mark).preflight().await;
        assert_eq!(problem(examined.expect_err("it is refused")), checked);
        checked
    }
}

#[tokio::test]
async fn every_right_that_is_missing_is_told_with_the_grant_that_mends_it() {
    for url in servers() {
        let mut guarded = Guarded::new(&url, "rights").await;
        guarded.check(Settle::Mark).await.unwrap();
        for (right, suffix) in [
            ("select", ""),
            ("update", ""),
            ("delete", ""),
            ("insert", "_checkpoint"),
            ("update", "_checkpoint"),
            ("select", "_held"),
            ("insert", "_held"),
            ("delete", "_held"),
            ("update", "_lease"),
            ("insert", "_dead"),
            ("update", "_dead"),
        ] {
            let table = format!("{}{suffix}", guarded.outbox.table);
            guarded.run(&format!("revoke {right} on outbox{suffix} from RELAY")).await;
            let said = guarded.refusal().await.replace('"', "");
            // Of the outbox it updates these columns alone.
            let right =
                if (right, suffix) == ("update", "") { "update (sent_at, sent_partition, sent_offset)" } else { right };
            assert!(said.contains(&format!("grant {right} on {} to", table.replace('"', ""))), "{said}");
            guarded.run(&format!("grant {right} on outbox{suffix} to RELAY")).await;
        }
        guarded.run("revoke update on outbox from RELAY; revoke insert on outbox_dead from RELAY").await;
        let said = guarded.refusal().await;
        assert!(said.contains("lacks update") && said.contains("lacks insert"), "all at once: {said}");
        guarded.run("grant update (topic, xid) on outbox to RELAY; grant insert on outbox_dead to RELAY").await;
        assert!(
            guarded.refusal().await.contains("lacks update (sent_at, sent_partition, sent_offset)"),
            "other columns are no help"
        );
        guarded.run("grant update (sent_at, sent_partition, sent_offset) on outbox to RELAY").await;
        guarded.check(Settle::Mark).await.unwrap();
        guarded.run("revoke usage on schema t_rights from RELAY").await;
        assert!(guarded.refusal().await.contains("grant usage on schema"));
    }
}

#[tokio::test]
async fn a_table_whose_policies_apply_to_the_relay_is_refused() {
    for url in servers() {
        let mut guarded = Guarded::new(&url, "policies").await;
        for suffix in ["", "_checkpoint", "_held", "_lease", "_dead"] {
            let policy = "create policy nothing on outboxSUFFIX using (false);
                alter table outboxSUFFIX enable row level security";
            guarded.run(&policy.replace("SUFFIX", suffix)).await;
            let said = guarded.refusal().await;
            assert!(said.contains("row-level security") && said.contains("bypassrls"), "{said}");
            guarded.run(&format!("alter table outbox{suffix} disable row level security")).await;
        }
        guarded.check(Settle::Mark).await.unwrap();
        guarded.run("alter table outbox enable row level security").await;
        guarded.refusal().await;
        guarded.run("alter role RELAY bypassrls").await;
        guarded.check(Settle::Mark).await.unwrap();
        guarded.run("alter role RELAY nobypassrls; grant usage, create on schema t_policies to RELAY").await;
        guarded.run("alter table outbox owner to RELAY").await;
        guarded.check(Settle::Mark).await.expect("policies do not apply to the owner");
        guarded.run("alter table outbox force row level security").await;
        guarded.refusal().await;
    }
}

#[tokio::test]
async fn a_policy_that_comes_later_makes_reading_fail_and_hides_nothing() {
    for url in servers() {
        let mut guarded = Guarded::new(&url, "later_policy").await;
        let relay = store(&guarded.url, &guarded.outbox.table, Settle::Mark);
        let mut reader = outboxd::contract::OutboxStore::open(&relay).await.unwrap();
        drain(&mut *reader, AMPLE).await;
        guarded
            .run("create policy nothing on outbox using (false); alter table outbox enable row level security")
            .await;
        guarded.run("insert into outbox (topic) values ('t')").await;
        let said = problem(reader.fetch(AMPLE).await.expect_err("it is no empty read"));
        assert!(said.contains("bypassrls"), "{said}");
        guarded.run("alter table outbox disable row level security").await;
        let mut reader = outboxd::contract::OutboxStore::open(&relay).await.unwrap();
        assert_eq!(drain(&mut *reader, AMPLE).await.len(), 1);
    }
}

#[tokio::test]
async fn what_lets_a_settlement_fail_or_do_nothing_is_refused_or_warned_of() {
    for url in servers() {
        let mut guarded = Guarded::new(&url, "obstacles").await;
        guarded.run("alter table outbox add constraint small check (length(key) < 3) not valid").await;
        let said = guarded.refusal().await;
        assert!(said.contains("validate constraint small"), "{said}");
        guarded.check(Settle::Delete).await.expect("a row that is deleted is not checked");
        guarded.run("alter table outbox validate constraint small").await;
        guarded.check(Settle::Mark).await.unwrap();
        guarded.run("create rule swallow as on update to outbox do instead nothing").await;
        assert!(guarded.refusal().await.contains("drop rule swallow"));
        guarded.run("drop rule swallow on outbox; create table t_obstacles.child () inherits (outbox)").await;
        assert!(guarded.refusal().await.contains("no inherit"));
        guarded.run("drop table t_obstacles.child").await;
        assert_eq!(guarded.check(Settle::Mark).await.unwrap(), Vec::<String>::new());
        guarded.run("create trigger custom before update on outbox for each row execute function suppress_redundant_updates_trigger()").await;
        let warnings = guarded.check(Settle::Mark).await.unwrap();
        assert!(warnings.iter().any(|warning| warning.contains("custom on")), "{warnings:?}");
    }
}

#[tokio::test]
async fn a_settlement_that_is_swallowed_is_no_settlement() {
    let swallow = "create or replace function t_swallowed.swallow() returns trigger language plpgsql as
        $$ begin if old.key = 'bad' then return null; end if; return coalesce(new, old); end $$;
        create trigger swallow before update or delete on outbox for each row execute function t_swallowed.swallow()";
    for settle in [Settle::Mark, Settle::Delete] {
        let outbox = Outbox::settling(&newest(), "swallowed", settle).await;
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, swallow).await;
        for key in ["good", "bad"] {
            outbox.write(&mut conn, "t", key).await;
        }
        let read = drain(&mut *outbox.open().await, AMPLE).await;
        let mut settlement = outboxd::outbox::Settlement::default();
        read.iter().for_each(|record| settlement.push(record));
        let settled = outboxd::contract::OutboxStore::settle(&outbox.store, &settlement).await;
        assert!(problem(settled.expect_err("a row is as it was")).contains("row 2"));
        outbox.run(&mut conn, "drop trigger swallow on outbox").await;
        outboxd::contract::OutboxStore::settle(&outbox.store, &settlement).await.unwrap();
        assert!(drain(&mut *outbox.open().await, AMPLE).await.is_empty());
    }
}
