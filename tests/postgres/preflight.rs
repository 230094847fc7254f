//! What speaks against running on a database is told before anything is read.

use std::process::{Child, Command, Stdio};

use outboxd::contract::{Database, DatabaseSettings, OutboxStore};
use outboxd::outbox::{Notify, PreparedTransactions, Settle, Table};
use outboxd::postgres::{Store, migrate};
use outboxd::secret::Secret;
use sqlx::{Connection, PgConnection};
use tokio::net::{TcpListener, TcpStream};

use super::server::{Outbox, execute, newest, problem, servers, store};
use crate::support::throwaway::Postgres;
use crate::support::wait;

#[tokio::test]
async fn preflight_passes_here_and_names_what_slows_settling_down() {
    for url in servers() {
        let outbox = Outbox::new(&url, "preflight").await;
        assert!(!outbox.store.preflight().await.unwrap().iter().any(|warning| warning.contains("sent_at")));
        outbox.run(&mut outbox.connect().await, "create index on outbox (topic) where sent_at is null").await;
        assert!(outbox.store.preflight().await.unwrap().iter().any(|warning| warning.contains("sent_at")));
        assert_eq!(outbox.store.source().await.unwrap(), "outboxd.t_preflight.outbox");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_transactions_can_be_prepared_someone_must_say_that_nobody_does() {
    let postgres = Postgres::start();
    let url = postgres.server().url().to_owned();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    execute(&mut conn, "alter system set max_prepared_transactions = 2").await;
    postgres.restart();
    let (secret, table) = (Secret::new(url.as_str()), Table::default());
    migrate(&secret, &table).await.unwrap();
    let preflight = async |notify, prepared_transactions| {
        let settings = DatabaseSettings::new(secret.clone(), table.clone(), Settle::Mark);
        let settings = DatabaseSettings { notify, prepared_transactions, ..settings };
        Store::new(settings).unwrap().preflight().await
    };
    let told = problem(
        preflight(Notify::Gated, PreparedTransactions::Possible)
            .await
            .expect_err("the application's commits would fail"),
    );
    assert!(told.contains("outbox.notify") && told.contains("outbox.prepared_transactions"), "{told}");
    preflight(Notify::Gated, PreparedTransactions::Never).await.expect("nobody prepares");
    preflight(Notify::Off, PreparedTransactions::Possible).await.expect("nobody notifies");

    // What it is about: the trigger's notification makes preparing fail, and only while someone listens.
    let mut conn = PgConnection::connect(&url).await.unwrap();
    execute(&mut conn, "begin; notify outbox; ").await;
    let prepared = sqlx::raw_sql("prepare transaction 'p'").execute(&mut conn).await;
    assert!(prepared.is_err(), "PostgreSQL has learnt it: the refusal can go");
}

#[tokio::test]
async fn a_pooler_that_takes_sessions_apart_is_refused_and_one_that_does_not_is_welcome() {
    let direct = newest();
    Outbox::new(&direct, "pooler").await;
    let table: Table = "t_pooler.outbox".parse().unwrap();

    let session = Pooler::start(&direct, "session", "ignore_startup_parameters = extra_float_digits").await;
    let pooled = store(&session.url, &table, Settle::Mark);
    pooled.preflight().await.expect("each client has a session of its own");
    pooled.open().await.expect("and can read");

    let transaction = Pooler::start(&direct, "transaction", "ignore_startup_parameters = extra_float_digits").await;
    let told = problem(store(&transaction.url, &table, Settle::Mark).preflight().await.expect_err("no locks last"));
    assert!(told.contains("pooler in session mode"), "{told}");

    let strict = Pooler::start(&direct, "session", "").await;
    let told = problem(store(&strict.url, &table, Settle::Mark).preflight().await.expect_err("it cannot be reached"));
    assert!(told.contains("ignore_startup_parameters"), "{told}");
}

/// PgBouncer before a server, until it is dropped.
struct Pooler {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Pooler {
    async fn start(server: &str, mode: &str, setting: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let address = server.rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let (host, server_port) = address.split_once(':').unwrap();
        let config = format!(
            "[databases]\n* = host={host} port={server_port} user=outboxd password=outboxd\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\n{setting}\n"
        );
        // It refuses to run as root: the user that the testbed's servers run as must be able to read this.
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        let user_run = std::env::var("OUTBOXD_TEST_POSTGRES_USER_RUN").unwrap_or_default();
        let mut words = user_run.split_whitespace().chain(["pgbouncer"]);
        let mut command = Command::new(words.next().unwrap());
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.args(words).arg(&file).env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("the testbed has installed pgbouncer");
        let is_up = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        let url = server.replacen(&address, &format!("127.0.0.1:{port}"), 1);
        let pooler = Self { process, url, _folder: folder };
        wait::until_true("the pooler listens", wait::PATIENCE, is_up).await;
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
