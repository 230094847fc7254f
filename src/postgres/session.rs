//! Named sessions: one connection for each job, listed in `pg_stat_activity` as `outboxd/<role>`.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::contract::StoreError;
use crate::postgres::errors::{classify, not_now, silent, unusable};
use crate::postgres::table::OutboxTable;
use crate::secret::Secret;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than any of our small statements, shorter than an operator's patience with
/// a database host that vanished without closing the connection.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take where a statement looks at all that has piled up: two seconds for a million rows. That the
/// host vanished in the meantime is noticed by the session that holds the lease.
pub(super) const BACKLOG_TIMEOUT: Duration = Duration::from_secs(1800);

/// The oldest version that has what is needed (`xid8`, `pg_current_snapshot`), as `server_version_num` counts.
const OLDEST_VERSION: u32 = 130_000;

/// A setting of a session and its value.
pub(super) type Guc = (&'static str, &'static str);

/// A role or a database may carry these for its applications; our sessions wait and idle on purpose. The server gives a
/// statement up before we do, and one whose client is gone, so that nothing goes on there that no client waits for:
/// what waits for a lock makes others wait behind it. The keepalives make the server notice within half a minute that a
/// relay's host is gone.
const EVERY_SESSION: [Guc; 11] = [
    ("statement_timeout", "55s"),
    ("lock_timeout", "5s"),
    ("client_connection_check_interval", "2s"),
    ("idle_session_timeout", "0"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    // Rows that a policy hides would be taken for rows that are not there: an error is better.
    ("row_security", "off"),
];

/// For the reader's sessions, whose statements look at all that has piled up: a little less than [`BACKLOG_TIMEOUT`], and than
/// [`ANSWER_TIMEOUT`]. A session that ended over a lock would have to read again what no checkpoint tells of, and while it waits it
/// holds nothing for which others would have to.
pub(super) const PATIENT: [Guc; 2] = [("statement_timeout", "1790s"), ("lock_timeout", "50s")];

/// Plans that do not depend on statistics: the outbox is emptied and refilled all day, so that statistics are
/// always wrong, and on a table that was never analysed they are worse. Rows are found by id or by xid.
pub(super) const INDEX_ONLY_PLANS: [Guc; 7] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Reads a URL into what sqlx connects with. Does not connect.
pub(super) fn options(url: &Secret) -> Result<PgConnectOptions, StoreError> {
    let options: PgConnectOptions = url.expose().parse().map_err(|error: sqlx::Error| StoreError::Unusable {
        problem: "the database URL cannot be read".to_owned(),
        repair: "write it as postgres://user:password@host:5432/database, special characters percent-encoded"
            .to_owned(),
        source: Some(Box::new(error)),
    })?;
    Ok(options.disable_statement_logging())
}

/// Opens a session for `role`, with the settings given on top of those of every session.
///
/// # Errors
/// A server in recovery counts as unavailable: it is a standby, or not ready yet.
pub(super) async fn connect(
    options: &PgConnectOptions,
    role: &str,
    settings: &[Guc],
) -> Result<PgConnection, StoreError> {
    let mut conn = open(options, role).await?;
    configure(&mut conn, settings).await?;
    Ok(conn)
}

/// Opens a session as the server gives it: with the search_path of the role, in which others may have created what fits a
/// call better than the server's own.
pub(super) async fn open(options: &PgConnectOptions, role: &str) -> Result<PgConnection, StoreError> {
    let options = options.clone().application_name(&format!("outboxd/{role}"));
    let connecting = PgConnection::connect_with(&options);
    let conn = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(result) => result.map_err(|error| classify("connecting", error))?,
        Err(_) => return Err(silent("connecting", CONNECT_TIMEOUT)),
    };
    let version = conn.server_version_num().unwrap_or_default();
    if version < OLDEST_VERSION {
        let found = format!("PostgreSQL {}.{} is too old", version / 10_000, version % 10_000);
        return Err(unusable(found, "PostgreSQL 13 or newer is needed"));
    }
    Ok(conn)
}

/// Without other roles' schemas, and first of all: before it, a statement that calls anything may call what is theirs. As a
/// statement of its own, since no pooler lets it pass as a parameter of the connection.
const PIN_SEARCH_PATH: &str = "/* outboxd: pin_search_path */ set search_path to pg_catalog, pg_temp";

/// Makes the settings of a session. Those that this version does not know are passed over: they came with a
/// later one.
pub(super) async fn configure(conn: &mut PgConnection, settings: &[Guc]) -> Result<(), StoreError> {
    ask("configuring a session", sqlx::raw_sql(PIN_SEARCH_PATH).execute(&mut *conn)).await?;
    let all = EVERY_SESSION.iter().chain(settings);
    let (names, values): (Vec<&str>, Vec<&str>) = all.copied().unzip();
    let statement = sqlx::query_scalar::<_, Option<bool>>(
        "/* outboxd: configure_session */ select bool_or(pg_is_in_recovery()) from (
             select set_config(s.name, wanted.value, false)
             from unnest($1::text[], $2::text[]) with ordinality wanted (name, value, at)
             join pg_catalog.pg_settings s on s.name = wanted.name
             order by wanted.at offset 0
         ) done where set_config is not null",
    );
    let in_recovery = ask("configuring a session", statement.bind(names).bind(values).fetch_one(conn)).await?;
    if in_recovery.unwrap_or_default() {
        return Err(not_now("connecting", "the server is in recovery: it is a standby, or it is still starting"));
    }
    Ok(())
}

/// Makes the server itself end a session that was silent for `ttl`, and one whose host acknowledges nothing; and give a
/// statement up before a leader does that waits for a renewal: from one third of the time to live, when it is asked for, to
/// seven tenths, when what is in flight must begin to end.
pub(super) async fn configure_ttl(conn: &mut PgConnection, ttl: Duration) -> Result<(), StoreError> {
    let statement = sqlx::query(
        "/* outboxd: configure_ttl */ select set_config(name, case name
             when 'lock_timeout' then $2 when 'statement_timeout' then $3 else $1 end, false)
         from pg_catalog.pg_settings
         where name in ('idle_session_timeout', 'tcp_user_timeout', 'lock_timeout', 'statement_timeout')",
    );
    let [whole, lock, answer] = [100, 33, 35].map(|percent| (ttl * percent / 100).as_millis().max(1).to_string());
    let configured = statement.bind(whole).bind(lock).bind(answer).execute(conn);
    ask("configuring a session", configured).await.map(drop)
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

/// Finds the outbox's oid, from which advisory locks and the channel of wake-ups are derived.
pub(super) async fn table_oid(conn: &mut PgConnection, table: &OutboxTable) -> Result<i64, StoreError> {
    let statement = "/* outboxd: table_oid */ select to_regclass($1)::oid::bigint";
    let found = sqlx::query_scalar::<_, Option<i64>>(statement).bind(table.outbox()).fetch_one(conn);
    ask("looking for the outbox table", found).await?.ok_or_else(|| missing(table))
}

/// The outbox table is not there.
pub(super) fn missing(table: &OutboxTable) -> StoreError {
    unusable(
        format!("there is no outbox table {table}"),
        format!("run `outboxd migrate --table {table}`, or check `outbox.table` and the role's search_path"),
    )
}

/// The second half of an advisory lock's key: the table's oid, shifted so that it always fits. The trigger
/// of the wake-ups computes the same.
pub(super) fn lock_key(oid: i64) -> i32 {
    i32::try_from(oid - 2_147_483_648).expect("an oid has 32 bits")
}

/// Marks a statement that is put together from fixed text and the checked names of a [`OutboxTable`].
pub(super) fn sql(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}
