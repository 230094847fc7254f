//! What speaks against running on this database, found out before anything is read.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use crate::contract::{DatabaseSettings, StoreError};
use crate::outbox::{Notify, PreparedTransactions};
use crate::postgres::address::Address;
use crate::postgres::errors::{classify, unusable};
use crate::postgres::operating::inspect::oldest_snapshot;
use crate::postgres::operating::rights::{check_rights, missing_insert, need_usage};
use crate::postgres::operating::schema::check_tables;
use crate::postgres::session::{ask, ask_within, sql};
use crate::postgres::table::{MARK, OutboxTable};

/// A snapshot that is older keeps vacuum from rows that were removed long ago.
const OLD_SNAPSHOT_AGE: Duration = Duration::from_secs(600);

/// How long the second statement of the pooler's test may wait for a connection of the pool.
const POOLER_PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at the tables and at what the role may do to them, and returns the warnings.
pub(crate) async fn check(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settings: &DatabaseSettings,
) -> Result<Vec<String>, StoreError> {
    need_usage(conn, table).await?;
    let mut warnings = check_rights(conn, table, settings.settle).await?;
    check_tables(conn, table).await?;
    if settings.inserts
        && let Some(missing) = missing_insert(conn, table).await?
    {
        warnings.push(format!("{}; {}", missing.problem, missing.grant));
    }
    Ok(warnings)
}

/// Looks at everything, and returns the warnings.
pub(crate) async fn preflight(address: &Address, settings: &DatabaseSettings) -> Result<Vec<String>, StoreError> {
    let mut conn = address.connect("inspect", &[]).await?;
    refuse_pooler(address, &mut conn).await?;
    let table = address.table().await?;
    let mut warnings = check(&mut conn, table, settings).await?;
    warnings.extend(set_up(&mut conn, table, settings).await?);
    let age = oldest_snapshot(&mut conn).await?;
    if age > OLD_SNAPSHOT_AGE {
        warnings.push(format!(
            "a transaction has been open for {} s: vacuum cannot remove what was sent since; end it, or see pg_stat_activity",
            age.as_secs()
        ));
    }
    Ok(warnings)
}

/// Looks at how the server is set up, and returns the warnings.
pub(crate) async fn setup(address: &Address, settings: &DatabaseSettings) -> Result<Vec<String>, StoreError> {
    let mut conn = address.connect("inspect", &[]).await?;
    refuse_pooler(address, &mut conn).await?;
    set_up(&mut conn, address.table().await?, settings).await
}

async fn set_up(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settings: &DatabaseSettings,
) -> Result<Vec<String>, StoreError> {
    refuse_prepared_transactions(conn, settings).await?;
    let mut warnings = index_on_mark(conn, table).await?;
    warnings.extend(unflushed_commits(conn).await?);
    warnings.extend(sequence_behind(conn, table).await?);
    Ok(warnings)
}

/// A pooler in transaction mode gives the connection of an idle session to another one. So: a second session opens a
/// transaction, and then the first must still have its own backend.
async fn refuse_pooler(address: &Address, first: &mut PgConnection) -> Result<(), StoreError> {
    let before = backend(first).await?;
    let mut second = address.connect("inspect", &[]).await?;
    let doing = "looking for a pooler";
    let mut transaction = second.begin().await.map_err(|error| classify(doing, error))?;
    let other = backend(&mut transaction).await?;
    let after = backend(first).await;
    let parted = other == before || !after.is_ok_and(|after| after == before);
    transaction.rollback().await.map_err(|error| classify(doing, error))?;
    if parted {
        return Err(unusable(
            "between outboxd and PostgreSQL there is a pooler in transaction mode, which takes sessions apart",
            "connect to PostgreSQL directly, or through a pooler in session mode",
        ));
    }
    Ok(())
}

async fn backend(conn: &mut PgConnection) -> Result<i32, StoreError> {
    let statement = sqlx::query_scalar("/* outboxd: backend_pid */ select pg_backend_pid()");
    ask_within("looking for a pooler", POOLER_PROBE_TIMEOUT, statement.fetch_one(conn)).await
}

/// `PREPARE TRANSACTION` fails in a transaction that notified: the trigger would break the application.
async fn refuse_prepared_transactions(conn: &mut PgConnection, settings: &DatabaseSettings) -> Result<(), StoreError> {
    if settings.notify == Notify::Off || settings.prepared_transactions == PreparedTransactions::Never {
        return Ok(());
    }
    let statement = "/* outboxd: prepared_transactions */ select current_setting('max_prepared_transactions')::int";
    let most: i32 = ask("reading settings", sqlx::query_scalar(statement).fetch_one(conn)).await?;
    if most > 0 {
        return Err(unusable(
            format!("max_prepared_transactions is {most}, and a transaction that notified cannot be prepared"),
            "set outbox.notify = \"off\"; or, if no application prepares transactions, outbox.prepared_transactions = \"never\"",
        ));
    }
    Ok(())
}

async fn index_on_mark(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let statement = "/* outboxd: indexes_on_sent_at */
        select distinct i.indexrelid::regclass::text
        from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attname = $2
        where i.indrelid = to_regclass($1)
            and (a.attnum = any(i.indkey) or pg_get_indexdef(i.indexrelid) ~ ('\\m' || $2 || '\\M'))";
    let statement = sqlx::query_scalar::<_, String>(statement).bind(table.outbox()).bind(MARK);
    let found = ask("looking at indexes", statement.fetch_all(conn)).await?;
    let warn =
        |index| format!("index {index} contains {MARK}: every settled row must be written into all indexes; drop it");
    Ok(found.into_iter().map(warn).collect())
}

/// Where the sequence did not come along with a moved table, new rows sort before older ones of their lanes. A role that
/// may not ask is told nothing.
async fn sequence_behind(conn: &mut PgConnection, table: &OutboxTable) -> Result<Option<String>, StoreError> {
    let id = table.columns().id;
    let text = format!(
        "/* outboxd: sequence_behind */
        select highest from (
            select greatest((select max({id}) from {outbox}), (select max(highest_id) from {checkpoint})) as highest
        ) known
        join pg_catalog.pg_sequences s
            on format('%I.%I', s.schemaname, s.sequencename) = pg_get_serial_sequence($1, $2)
        join pg_catalog.pg_class c on c.oid = pg_get_serial_sequence($1, $2)::regclass
        where has_sequence_privilege(c.oid, 'SELECT') and coalesce(s.last_value, s.start_value - 1) < highest",
        outbox = table.outbox(),
        checkpoint = table.checkpoint()
    );
    let highest = sqlx::query_scalar::<_, i64>(sql(text)).bind(table.outbox()).bind(&id).fetch_optional(conn);
    let warn = |highest| {
        format!(
            "ids are handed out anew below {highest}, as after a move that carried no sequences: new rows come before older ones of their keys; select setval(pg_get_serial_sequence('{}', '{id}'), {highest})",
            table.outbox()
        )
    };
    Ok(ask("looking at the sequence of ids", highest).await?.map(warn))
}

/// A database that acknowledges commits it can lose may take rows back after they were published.
async fn unflushed_commits(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let statement = "/* outboxd: unflushed_commits */
        select coalesce(r.rolname::text, ''), coalesce(d.datname::text, '') from pg_catalog.pg_db_role_setting s
        left join pg_catalog.pg_roles r on r.oid = s.setrole
        left join pg_catalog.pg_database d on d.oid = s.setdatabase
        where 'synchronous_commit=off' = any(s.setconfig) and (s.setdatabase = 0 or d.datname = current_database())
        union all
        select '', '' from pg_catalog.pg_settings
        where name in ('synchronous_commit', 'fsync') and reset_val = 'off' and source = 'configuration file'";
    let rows = ask("reading settings", sqlx::query(statement).fetch_all(conn)).await?;
    let warn = |row: &sqlx::postgres::PgRow| {
        let (role, database): (String, String) = (row.get(0), row.get(1));
        let whose = match (role.as_str(), database.as_str()) {
            ("", "") => "the server".to_owned(),
            ("", database) => format!("database {database}"),
            (role, _) => format!("role {role}"),
        };
        format!(
            "{whose} acknowledges commits before they are flushed: a crash of the server can take back what was published; set synchronous_commit and fsync on"
        )
    };
    Ok(rows.iter().map(warn).collect())
}
