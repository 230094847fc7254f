//! How the database keeps the outbox: clock, snapshots, vacuum, and rows that should have been removed. Statistics and a
//! bounded number of rows; nothing waits for a lock.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};

use crate::contract::{
    ClockDifference, Snapshot, SnapshotHolder, Snapshots, StoreError, Vacuum, Vitals, VitalsQuestion,
};
use crate::outbox::Settle;
use crate::postgres::operating::inspect::seconds;
use crate::postgres::operating::purge;
use crate::postgres::session::ask;
use crate::postgres::settling::checkpoint;
use crate::postgres::table::OutboxTable;

/// Looks at all of it.
pub(crate) async fn vitals(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    question: VitalsQuestion,
) -> Result<Vitals, StoreError> {
    let clock = clock(conn).await?;
    let stored = checkpoint::load(conn, table).await?;
    // Both times are the database's.
    let now = Utc::now() + clock.ahead;
    Ok(Vitals {
        clock: Some(clock),
        snapshots: Some(snapshots(conn, question.shows_queries).await?),
        vacuum: vacuum(conn, table).await?,
        overdue: purge::overdue(conn, table, settle, &stored, question.retention).await?,
        checkpoint_age: stored.saved_at.map(|saved| (now - saved).to_std().unwrap_or_default()),
    })
}

async fn clock(conn: &mut PgConnection) -> Result<ClockDifference, StoreError> {
    let asked = Utc::now();
    let statement = sqlx::query_scalar("/* outboxd: clock */ select clock_timestamp()");
    let theirs: DateTime<Utc> = ask("reading the clock", statement.fetch_one(conn)).await?;
    let took = Utc::now() - asked;
    let give_or_take = (took / 2).to_std().unwrap_or_default();
    Ok(ClockDifference { ahead: theirs - (asked + took / 2), give_or_take })
}

/// Who holds the oldest snapshot of this database. Of sessions that the role may not look into the server tells no more than
/// that they are there.
async fn snapshots(conn: &mut PgConnection, shows_queries: bool) -> Result<Snapshots, StoreError> {
    let statement = "/* outboxd: snapshot_holders */
        select extract(epoch from clock_timestamp() - h.since)::float8, h.pid, h.name, h.role, h.state, h.query,
            (select count(*) from pg_catalog.pg_stat_activity
             where datname = current_database() and state is null and query = '<insufficient privilege>'),
            current_user::text
        from (select 1) one left join (
            select * from (
                select xact_start as since, pid, application_name as name, coalesce(usename::text, '') as role,
                    coalesce(state, backend_type, '') as state, case when $1 then left(query, 100) end as query
                from pg_catalog.pg_stat_activity
                where datname = current_database() and (backend_xmin is not null or backend_xid is not null)
                    and xact_start is not null and pid <> pg_backend_pid()
                union all
                select prepared, null, gid, owner::text, null, null
                from pg_catalog.pg_prepared_xacts where database = current_database()
            ) holding order by since limit 1
        ) h on true";
    let row = ask("looking for old snapshots", sqlx::query(statement).bind(shows_queries).fetch_one(conn)).await?;
    let name = |column| row.get::<Option<String>, _>(column).unwrap_or_default();
    let oldest = row.get::<Option<f64>, _>(0).map(|age| Snapshot {
        age: seconds(Some(age)),
        holder: match row.get::<Option<i32>, _>(1) {
            Some(pid) => {
                let (application, user, state) = (name(2), name(3), name(4));
                SnapshotHolder::Session { pid, application, user, state, query: row.get(5) }
            }
            None => SnapshotHolder::Prepared { gid: name(2), owner: name(3) },
        },
    });
    Ok(Snapshots { oldest, hidden: row.get::<i64, _>(6).unsigned_abs(), role: row.get(7) })
}

async fn vacuum(conn: &mut PgConnection, table: &OutboxTable) -> Result<Option<Vacuum>, StoreError> {
    let statement = "/* outboxd: vacuum */
        select s.n_dead_tup, s.n_live_tup,
            extract(epoch from clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8,
            current_setting('autovacuum')::boolean and coalesce((
                select o.option_value::boolean from pg_options_to_table(c.reloptions) o
                where o.option_name = 'autovacuum_enabled'), true)
        from pg_catalog.pg_stat_all_tables s join pg_catalog.pg_class c on c.oid = s.relid where s.relid = to_regclass($1)";
    let found = ask("looking at vacuum", sqlx::query(statement).bind(table.outbox()).fetch_optional(conn)).await?;
    Ok(found.map(|row| Vacuum {
        table: table.outbox(),
        dead_rows: row.get::<i64, _>(0).unsigned_abs(),
        live_rows: row.get::<i64, _>(1).unsigned_abs(),
        since_last: row.get::<Option<f64>, _>(2).map(|age| seconds(Some(age))),
        is_automatic: row.get(3),
    }))
}
