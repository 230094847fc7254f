//! What operators do on MySQL and MariaDB: making the tables, granting, and what is found out before a relay runs.

use std::time::Duration;

use outboxd::Message;
use outboxd::contract::{Arming, Database, DatabaseSettings, Examine, Roles, Store as _, StoreError};
use outboxd::mysql;
use outboxd::outbox::{Settle, Table};
use outboxd::secret::Secret;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::examples::run;
use crate::support::database::aside;
use crate::support::services::{self, Server};

/// Both servers.
fn servers() -> [Server; 2] {
    [services::mysql(), services::mariadb()]
}

/// A database of one's own.
struct Own {
    url: String,
    server: String,
    name: String,
    table: Table,
}

impl Own {
    /// Without tables.
    async fn empty(server: &Server) -> Self {
        let name = format!("operating_{:016x}", rand::random::<u64>());
        let own = Self { url: server.database(&name), server: server.url().to_owned(), name, table: Table::default() };
        execute(&own.server, &format!("create database {}", own.name)).await;
        own
    }

    async fn migrated(server: &Server) -> Self {
        let own = Self::empty(server).await;
        mysql::migrate(&own.secret(), &own.table).await.expect("a fresh database is migrated");
        own
    }

    fn secret(&self) -> Secret {
        Secret::new(self.url.clone())
    }

    fn store(&self) -> mysql::Store {
        store(&self.url)
    }

    async fn run(&self, sql: &str) {
        execute(&self.url, sql).await;
    }

    /// A user that nothing was granted to, and the URL by which it connects.
    async fn user(&self, name: &str) -> (String, String) {
        let user = format!("{name}_{}", &self.name[self.name.len() - 12..]);
        let plugin = if self.is_mariadb().await { "" } else { "with mysql_native_password" };
        execute(&self.server, &format!("create user {user}@'127.0.0.1' identified {plugin} by 'secret'")).await;
        let url = self.url.replacen("outboxd:outboxd@", &format!("{user}:secret@"), 1);
        (format!("{user}@127.0.0.1"), url)
    }

    async fn is_mariadb(&self) -> bool {
        self.store().server().await.expect("it answers").starts_with("MariaDB")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return eprintln!("database {} is left for a look", self.name);
        }
        let (url, sql) = (self.server.clone(), format!("drop database {}", self.name));
        aside(async move { execute(&url, &sql).await });
    }
}

fn store(url: &str) -> mysql::Store {
    let settings = DatabaseSettings::new(Secret::new(url.to_owned()), Table::default(), Settle::Mark);
    mysql::Store::new(settings).expect("valid settings")
}

async fn connect(url: &str) -> MySqlConnection {
    url.parse::<MySqlConnectOptions>().expect("a URL").connect().await.expect("the server is there")
}

async fn execute(url: &str, sql: &str) {
    let mut connection = connect(url).await;
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn problem(error: StoreError) -> String {
    assert!(error.is_refusal(), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_migration_that_was_interrupted_goes_on_where_it_was() {
    for server in servers() {
        let own = Own::migrated(&server).await;
        let again = mysql::migrate(&own.secret(), &own.table).await.expect("it is safe to repeat");
        assert!(again.applied.is_empty(), "{again:?}");
        // As where the last statement was carried out, and that was not noted any more.
        own.run(
            "update outbox_migrations set applied_at = null, statements = statements - 1 where name = '0003_operators'",
        )
        .await;
        let unfinished = problem(own.store().check().await.expect_err("it is not whole"));
        assert!(unfinished.contains("migration 0003_operators was not applied"), "{unfinished}");
        let resumed = mysql::migrate(&own.secret(), &own.table).await.expect("it goes on");
        assert_eq!(resumed.applied, ["0003_operators"]);
        own.store().check().await.expect("all is there");
        // As where the statement itself was not carried out.
        own.run(
            "drop table outbox_standby;
             update outbox_migrations set applied_at = null, statements = statements - 1 where name = '0003_operators'",
        )
        .await;
        mysql::migrate(&own.secret(), &own.table).await.expect("it goes on");
        own.store().check().await.expect("all is there");
    }
}

#[tokio::test]
async fn the_sql_that_is_printed_makes_what_the_command_makes() {
    for server in servers() {
        let own = Own::empty(&server).await;
        own.run(&mysql::migration_sql(&own.table)).await;
        own.store().check().await.expect("all is there");
        let migrated = mysql::migrate(&own.secret(), &own.table).await.expect("nothing is left to do");
        assert!(migrated.applied.is_empty(), "{migrated:?}");
    }
}

#[tokio::test]
async fn two_users_with_what_is_granted_do_all_that_they_have_to_and_no_more() {
    for server in servers() {
        let own = Own::migrated(&server).await;
        let (application, its_url) = own.user("app").await;
        let (relay, relays_url) = own.user("relay").await;
        let roles = Roles { application: application.clone(), relay: relay.clone(), relay_inserts: false };
        Database::migrate(&own.store(), Some(&roles)).await.expect("it may grant");
        let mut connection = connect(&its_url).await;
        let message = Message::to("a").key("k").text("x").expect("a message");
        let mut transaction = connection.begin().await.expect("it begins");
        let ids = mysql::enqueue_many(&mut transaction, &[message.clone(), message]).await.expect("it may insert");
        transaction.commit().await.expect("it commits");
        assert_eq!(ids.len(), 2);
        assert_eq!(ids[1], ids[0] + 1);
        sqlx::raw_sql("call outbox_enqueue('a', 'k', 'x', null)").execute(&mut connection).await.expect("it may call");
        for refused in ["delete from outbox", "update outbox set topic = 'b'", "select payload from outbox"] {
            sqlx::raw_sql(refused).execute(&mut connection).await.expect_err(refused);
        }
        let relays = store(&relays_url);
        relays.check().await.expect("nothing is missing");
        let rights = relays.rights().await.expect("nothing is missing");
        assert_eq!((rights.excess, rights.repair), (Vec::new(), None));
        let warnings = relays.preflight().await.expect("it may run");
        assert!(!warnings.iter().any(|warning| warning.contains("PROCESS")), "{warnings:?}");
        let change = "update outbox set topic = 'b'";
        sqlx::raw_sql(change).execute(&mut connect(&relays_url).await).await.expect_err(change);
        execute(&own.server, &format!("drop user {}, {}", quoted(&application), quoted(&relay))).await;
    }
}

fn quoted(user: &str) -> String {
    let (name, host) = user.split_once('@').expect("a user with a host");
    format!("'{name}'@'{host}'")
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_with_the_grant_that_mends_it() {
    for server in servers() {
        let own = Own::migrated(&server).await;
        let (application, _) = own.user("app").await;
        let (relay, relays_url) = own.user("relay").await;
        let roles = Roles { application: application.clone(), relay: relay.clone(), relay_inserts: false };
        Database::migrate(&own.store(), Some(&roles)).await.expect("it may grant");
        for (right, part) in [("delete", ""), ("insert", ""), ("update", "_lease"), ("select", "_checkpoint")] {
            let on = format!("{right} on {}.outbox{part}", own.name);
            execute(&own.server, &format!("revoke {on} from {}", quoted(&relay))).await;
            let refused = problem(store(&relays_url).check().await.expect_err("it is missing"));
            let grant = format!("grant {right} on `{}`.`outbox{part}` to {}", own.name, quoted(&relay));
            assert!(refused.contains(&grant), "{refused}");
            execute(&own.server, &format!("grant {on} to {}", quoted(&relay))).await;
            store(&relays_url).check().await.expect("it is back");
        }
        execute(&own.server, &format!("drop user {}, {}", quoted(&application), quoted(&relay))).await;
    }
}

/// MySQL 8.0.15 refuses to alter a table with a default that is an expression where zero dates are refused.
const ALTERABLE: &str = "set session sql_mode = 'STRICT_ALL_TABLES'";

#[tokio::test]
async fn what_speaks_against_a_server_or_a_table_is_warned_of_or_refused() {
    for server in servers() {
        let own = Own::migrated(&server).await;
        own.run(&format!("{ALTERABLE}; create index slow on outbox (sent_at)")).await;
        let warnings = own.store().preflight().await.expect("it may run");
        assert!(warnings.iter().any(|warning| warning.contains("index slow contains sent_at")), "{warnings:?}");
        own.run(&format!("{ALTERABLE}; drop index slow on outbox; alter table outbox engine = myisam")).await;
        let refused = problem(own.store().preflight().await.expect_err("nothing is undone there"));
        assert!(refused.contains("not InnoDB"), "{refused}");
        let mixed = "modify topic varchar(255) collate utf8mb4_general_ci not null";
        own.run(&format!("{ALTERABLE}; alter table outbox engine = innodb; alter table outbox {mixed}")).await;
        let refused = problem(own.store().preflight().await.expect_err("topics would be mixed up"));
        assert!(refused.contains("takes different topics for the same"), "{refused}");
        let nowhere = Own::empty(&server).await;
        let refused = problem(nowhere.store().check().await.expect_err("there is no table"));
        assert!(refused.contains("outboxd migrate --table outbox"), "{refused}");
    }
}

#[tokio::test]
async fn commits_to_other_tables_wake_nobody() {
    for server in servers() {
        let own = Own::migrated(&server).await;
        let mut wake = own.store().wake().expect("there is a source");
        own.run("create table other (id bigint auto_increment primary key)").await;
        assert_eq!(wake.arm().await.expect("it answers"), Arming::Armed);
        own.run("insert into other () values (); insert into other () values ()").await;
        let early = tokio::time::timeout(Duration::from_millis(300), wake.wait()).await;
        assert!(early.is_err(), "{early:?}");
        let committing = own.run("insert into outbox (topic) values ('a')");
        let (woken, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(30), wake.wait()), committing);
        assert!(woken.expect("it wakes").expect("it answers") > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_enqueued_in_a_transaction_of_each() {
    for server in servers() {
        let own = Own::migrated(&server).await;
        let said = run("enqueue_mysql", &[("DATABASE_URL", &own.url)]);
        assert!(said.contains("are committed"), "{said}");
        let mut connection = connect(&own.url).await;
        let count =
            "select count(*) from outbox o join orders r on o.`key` = r.id where topic = 'orders.order.created'";
        let written: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.expect("the tables are there");
        assert_eq!(written, 1);
    }
}
