//! Sessions: one connection for each job, with what is set in each.

use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection, Row};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::contract::StoreError;
use crate::mysql::errors::{classify, not_now, silent, unusable};
use crate::mysql::table::OutboxTable;
use crate::secret::Secret;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than any of our small statements, shorter than an operator's patience with
/// a database host that vanished without closing the connection.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take where a statement looks at all that has piled up. That the host vanished in the meantime is noticed
/// by the session that holds the lease.
pub(super) const BACKLOG_TIMEOUT: Duration = Duration::from_secs(1800);

/// How long the server keeps a session of ours that says nothing: one whose host vanished must not be there for hours.
const SILENT_SECONDS: u64 = 600;

/// The same of sessions that have to wait: a reader for as long as brokers are away, a wake-up for as long as the relay is busy.
const WAITING_SECONDS: u64 = 86_400;

/// A session that was kept for longer is opened anew, before the server ends it.
pub(super) const KEPT_AT_MOST: Duration = Duration::from_secs(SILENT_SECONDS / 2);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Reads what is new, and stores checkpoints. Its statements may look at all that has piled up.
    Read,
    /// Records deliveries. It waits for no lock for longer than a second.
    Settle,
    /// Looks at the tables, and keeps them small. It waits for no lock for longer than a second.
    Inspect,
    /// Does what an operator asks for.
    Operate,
    /// Holds the lease: the server ends it when it was silent for so long.
    Lease(Duration),
    /// Waits for commits.
    Wake,
    /// Creates and alters tables, for which it waits for others' transactions.
    Migrate,
}

impl Job {
    /// Seconds that a statement may take, that it may wait for a row's lock and for a table's, and that the session may be
    /// silent.
    fn seconds(self) -> [u64; 4] {
        match self {
            Job::Read => [1790, 5, 50, WAITING_SECONDS],
            Job::Settle | Job::Inspect => [55, 1, 5, SILENT_SECONDS],
            Job::Operate => [55, 5, 5, SILENT_SECONDS],
            Job::Wake => [55, 5, 5, WAITING_SECONDS],
            Job::Lease(ttl) => {
                // A leader waits for a renewal from one third of the time to live to seven tenths.
                let third = (ttl.as_millis() as u64).div_ceil(3000).max(1);
                [third, 1, third, (ttl.as_millis() as u64).div_ceil(1000).max(1)]
            }
            Job::Migrate => [1790, 30, 30, SILENT_SECONDS],
        }
    }
}

/// Which of the two servers answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    MySql,
    MariaDb,
}

/// A connection, configured for its job.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) conn: MySqlConnection,
    pub(super) flavor: Flavor,
    /// By which the server knows it: `connection_id()`.
    pub(super) id: u64,
}

/// Parameters of a URL that are understood. A misspelt one that asks for TLS must not be passed over.
const PARAMETERS: [&str; 9] =
    ["ssl-mode", "sslmode", "ssl-ca", "sslca", "ssl-cert", "sslcert", "ssl-key", "sslkey", "socket"];

/// Reads a URL into what sqlx connects with. Does not connect.
pub(super) fn options(url: &Secret) -> Result<MySqlConnectOptions, StoreError> {
    let form = "write it as mysql://user:password@host:3306/database, special characters percent-encoded";
    let options: MySqlConnectOptions = url.expose().parse().map_err(|error: sqlx::Error| StoreError::Unusable {
        problem: "the database URL cannot be read".to_owned(),
        repair: form.to_owned(),
        source: Some(Box::new(error)),
    })?;
    let query = url.expose().split_once('?').map_or("", |(_, query)| query);
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    if let Some(unknown) = names.find(|name| !PARAMETERS.contains(name)) {
        let problem = format!("the database URL has a parameter {unknown:?} that outboxd does not know");
        return Err(unusable(problem, "the parameters are ssl-mode, ssl-ca, ssl-cert, ssl-key and socket"));
    }
    // What the driver would set by itself we set, so that both are one round trip.
    let options = options.pipes_as_concat(false).no_engine_substitution(false).timezone(None::<String>);
    Ok(options.disable_statement_logging())
}

/// Opens a session for a job.
///
/// # Errors
/// A server that is read only counts as unavailable: it is a replica, or not ready yet.
pub(super) async fn connect(options: &MySqlConnectOptions, job: Job) -> Result<Session, StoreError> {
    let doing = "connecting";
    let mut conn = match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(result) => result.map_err(|error| classify(doing, error))?,
        Err(_) => return Err(silent(doing, CONNECT_TIMEOUT)),
    };
    let identify = sqlx::raw_sql(
        "/* outboxd: identify */ select cast(version() as char), cast(connection_id() as signed), cast(@@global.read_only as signed)",
    );
    let row = ask(doing, identify.fetch_one(&mut conn)).await?;
    let read = |error| classify(doing, error);
    let version: String = row.try_get(0).map_err(read)?;
    let id = row.try_get::<i64, _>(1).map_err(read)?.unsigned_abs();
    let flavor = judge_version(&version)?;
    if row.try_get::<i64, _>(2).map_err(read)? != 0 {
        return Err(not_now(doing, "the server is read only: it is a replica, or it is still starting"));
    }
    configure(&mut conn, job).await?;
    Ok(Session { conn, flavor, id })
}

/// The server's flavor, if its version has what is needed: defaults by expression, `skip locked`, CTEs.
fn judge_version(version: &str) -> Result<Flavor, StoreError> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    let found = [(); 3].map(|()| numbers.next().unwrap_or(0));
    let (flavor, oldest, name) = match version.contains("MariaDB") {
        true => (Flavor::MariaDb, [10, 6, 0], "MariaDB 10.6"),
        false => (Flavor::MySql, [8, 0, 13], "MySQL 8.0.13"),
    };
    if found < oldest {
        return Err(unusable(
            format!("the server's version {version} is too old"),
            format!("{name} or newer is needed"),
        ));
    }
    Ok(flavor)
}

/// Makes the settings of a session. The server gives a statement up before we do; MySQL only those that read.
async fn configure(conn: &mut MySqlConnection, job: Job) -> Result<(), StoreError> {
    let [statement, row_lock, table_lock, silence] = job.seconds();
    let text = format!(
        "/* outboxd: configure_session */ set session transaction isolation level read committed;
         set session autocommit = 1, time_zone = '+00:00', foreign_key_checks = 1, unique_checks = 1,
             sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
             innodb_lock_wait_timeout = {row_lock}, lock_wait_timeout = {table_lock}, wait_timeout = {silence},
             net_read_timeout = 30, net_write_timeout = 60
             /*!80000 , max_execution_time = {milliseconds}, information_schema_stats_expiry = 0 */
             /*M!100600 , max_statement_time = {statement} */",
        milliseconds = statement * 1000
    );
    ask("configuring a session", sqlx::raw_sql(sql(text)).execute(conn)).await.map(drop)
}

/// Waits for an answer, a bounded time, and says what an error means. After an error the session is of no use.
pub(super) async fn ask<T>(
    doing: &'static str,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    ask_within(doing, ANSWER_TIMEOUT, answer).await
}

/// As [`ask`], with a patience of one's own.
pub(super) async fn ask_within<T>(
    doing: &'static str,
    patience: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(patience, answer).await {
        Ok(result) => result.map_err(|error| classify(doing, error)),
        Err(_) => Err(silent(doing, patience)),
    }
}

/// Bounds the time of several answers in a row.
pub(super) async fn bounded<T>(
    doing: &'static str,
    patience: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(silent(doing, patience)))
}

/// A session that is opened when it is first needed, used by one at a time, and thrown away after an error.
#[derive(Debug, Default)]
pub(super) struct Slot {
    kept: Mutex<Option<(Session, Instant)>>,
}

/// A session taken from its slot. Dropping it closes it; [`give_back`](Self::give_back) keeps it.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    slot: MutexGuard<'a, Option<(Session, Instant)>>,
    pub(super) session: Session,
}

impl Slot {
    pub(super) async fn take(&self, options: &MySqlConnectOptions, job: Job) -> Result<Taken<'_>, StoreError> {
        let mut slot = self.kept.lock().await;
        let kept = slot.take().filter(|(_, since)| since.elapsed() < KEPT_AT_MOST);
        let session = match kept {
            Some((session, _)) => session,
            None => connect(options, job).await?,
        };
        Ok(Taken { slot, session })
    }
}

impl Taken<'_> {
    pub(super) fn give_back(mut self) {
        *self.slot = Some((self.session, Instant::now()));
    }
}

/// The outbox table is not there.
pub(super) fn missing(table: &OutboxTable) -> StoreError {
    unusable(
        format!("there is no outbox table {table}"),
        format!("run `outboxd migrate --table {table}`, or check `outbox.table` and the database that the URL names"),
    )
}

/// Marks a statement that is put together from fixed text, numbers, and the checked names of a [`OutboxTable`].
pub(super) fn sql(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}

/// Ids as a list in SQL, for statements that are sent as text.
pub(super) fn id_list(ids: impl IntoIterator<Item = i64>) -> String {
    let mut list = String::new();
    for id in ids {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&id.to_string());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_each_other_and_old_ones_refused() {
        assert_eq!(judge_version("8.0.15").expect("new enough"), Flavor::MySql);
        assert_eq!(judge_version("8.4.3-commercial").expect("new enough"), Flavor::MySql);
        assert_eq!(judge_version("10.11.19-MariaDB-0+deb12u1").expect("new enough"), Flavor::MariaDb);
        for old in ["8.0.12", "5.7.44-log", "10.5.28-MariaDB"] {
            assert!(judge_version(old).expect_err("too old").is_refusal(), "{old}");
        }
    }

    #[test]
    fn a_misspelt_parameter_of_the_url_is_refused() {
        let url = |text: &str| options(&Secret::new(text));
        assert!(url("mysql://a:b@localhost/shop?ssl-mode=VERIFY_IDENTITY&ssl-ca=/ca.pem").is_ok());
        assert!(url("mariadb://a@localhost/shop?socket=/run/mysqld/mysqld.sock").is_ok());
        let refused = url("mysql://a:b@localhost/shop?ssl_mode=VERIFY_IDENTITY").expect_err("it would be ignored");
        assert!(refused.to_string().contains("ssl_mode"), "{refused}");
    }
}
