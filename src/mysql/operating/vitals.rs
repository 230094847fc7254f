//! How the database keeps the outbox: the clock, and rows that should have been removed. InnoDB has no vacuum that anybody has
//! to look after.

use chrono::{DateTime, Utc};
use sqlx::{MySqlConnection, Row};

use crate::contract::{ClockDifference, StoreError, Vitals, VitalsQuestion};
use crate::mysql::errors::classify;
use crate::mysql::operating::inspect::micros;
use crate::mysql::operating::purge;
use crate::mysql::session::{ask, sql};
use crate::mysql::settling::checkpoint;
use crate::mysql::table::OutboxTable;
use crate::outbox::Settle;

/// Looks at all of it.
pub(crate) async fn vitals(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    question: VitalsQuestion,
) -> Result<Vitals, StoreError> {
    let doing = "looking at how the outbox is kept";
    let clock = clock(conn).await?;
    let stored = checkpoint::load(conn, table).await?;
    let text = format!(
        "/* outboxd: checkpoint_age */ select timestampdiff(microsecond, saved_at, utc_timestamp(6)) from {}",
        table.checkpoint()
    );
    let row = ask(doing, sqlx::query(sql(text)).fetch_optional(&mut *conn)).await?;
    let age = row.map(|row| row.try_get::<Option<i64>, _>(0)).transpose().map_err(|error| classify(doing, error))?;
    Ok(Vitals {
        clock: Some(clock),
        overdue: purge::overdue(conn, table, settle, &stored, question.retention).await?,
        checkpoint_age: age.flatten().map(|age| micros(Some(age))),
        ..Vitals::default()
    })
}

async fn clock(conn: &mut MySqlConnection) -> Result<ClockDifference, StoreError> {
    let asked = Utc::now();
    let statement = sqlx::query_scalar("/* outboxd: clock */ select utc_timestamp(6)");
    let theirs: DateTime<Utc> = ask("reading the clock", statement.fetch_one(conn)).await?;
    let took = Utc::now() - asked;
    let give_or_take = (took / 2).to_std().unwrap_or_default();
    Ok(ClockDifference { ahead: theirs - (asked + took / 2), give_or_take })
}
