//! The tables: made, upgraded and checked.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Migrated, StoreError};
use crate::outbox::Table;
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::table::{Columns, OutboxTable};

/// All migrations: number, name, SQL. A released one never changes.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "outbox", include_str!("../../../migrations/sqlite/0001_outbox.sql")),
    (2, "history", include_str!("../../../migrations/sqlite/0002_history.sql")),
    (3, "operators", include_str!("../../../migrations/sqlite/0003_operators.sql")),
];

/// Makes the database file and the tables, or brings them up to date; does nothing where they are. Safe to run at
/// once with others and with a relay at work.
///
/// # Errors
/// When the file cannot be made or written, or was migrated by a newer version.
pub async fn migrate(url: &str, table: &Table) -> Result<Migrated, StoreError> {
    migrate_file(&file(url, table)?, &OutboxTable::named(table)).await
}

/// As [`migrate`], of a file whose name was judged.
pub(crate) async fn migrate_file(file: &File, table: &OutboxTable) -> Result<Migrated, StoreError> {
    let doing = |error| classify("migrating", error);
    let mut connection = file.create().await?;
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    sqlx::raw_sql(AssertSqlSafe(registry(table))).execute(&mut *transaction).await.map_err(doing)?;
    let known = applied(&mut transaction, table).await.map_err(doing)?;
    refuse_newer(&known, table)?;
    let mut migrated = Migrated::default();
    for (number, name, sql) in MIGRATIONS.iter().filter(|(number, ..)| !known.contains(number)) {
        let sql = named(sql, table) + &registration(*number, name, table);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(doing)?;
        migrated.applied.push(format!("{number:04}_{name}"));
    }
    transaction.commit().await.map_err(doing)?;
    connection.close().await.map_err(doing)?;
    Ok(migrated)
}

/// Checks that the tables are what this version needs, and changes nothing.
///
/// # Errors
/// [`StoreError::Unusable`] with the repair when they are not.
pub async fn check(url: &str, table: &Table) -> Result<(), StoreError> {
    let file = file(url, table)?;
    check_file(&file)?;
    let mut connection = file.connect(Durability::Lazy).await?;
    check_tables(&mut connection, &OutboxTable::named(table)).await
}

/// A file that is not there does not come by waiting: the operator makes it.
pub(crate) fn check_file(file: &File) -> Result<(), StoreError> {
    if file.path().exists() {
        return Ok(());
    }
    let problem = format!("there is no database file {}", file.path().display());
    Err(unusable(problem, "run `outboxd migrate`, or check `database.url`"))
}

/// The SQL that makes the tables of an outbox of this name, for people who run their own migrations.
pub fn migration_sql(table: &Table) -> String {
    let table = &OutboxTable::named(table);
    let mut sql =
        "-- Once for the database file, outside of any transaction: pragma journal_mode = wal;\n\n".to_owned();
    sql.push_str(&registry(table));
    for (number, name, text) in MIGRATIONS {
        sql.push_str(&named(text, table));
        sql.push_str(&registration(number, name, table));
    }
    sql
}

pub(crate) fn file(url: &str, table: &Table) -> Result<File, StoreError> {
    if table.schema().is_some() {
        let problem = format!("the outbox table {table} names a schema, and SQLite has none");
        return Err(unusable(problem, "give `outbox.table` a name alone"));
    }
    File::parse(url)
}

pub(crate) async fn check_tables(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let doing = |error| classify("checking the tables", error);
    let known = applied(connection, table).await.map_err(doing)?;
    refuse_newer(&known, table)?;
    if let Some((number, name, _)) = MIGRATIONS.iter().find(|(number, ..)| !known.contains(number)) {
        let problem = format!("the outbox table {table} lacks migration {number:04}_{name}");
        return Err(unusable(problem, "run `outboxd migrate`"));
    }
    read_nothing(connection, table).await.map_err(doing)?;
    if !has_autoincrement(connection, table).await.map_err(doing)? {
        let problem = format!("ids of the outbox table {table} are not autoincrement: SQLite gives deleted ones again");
        return Err(unusable(problem, "make the table with `outboxd migrate`"));
    }
    Ok(())
}

/// Fails where the file or its folder may not be written. Writes nothing that lasts.
pub(crate) async fn prove_writable(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let doing = |error| classify("proving that the file can be written", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    for part in [table.checkpoint(), table.lease()] {
        let sql = format!("/* outboxd: prove_writable */ update {part} set term = term");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(doing)?;
    }
    transaction.rollback().await.map_err(doing)
}

/// Numbers of the migrations that were applied.
async fn applied(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<BTreeSet<i64>, sqlx::Error> {
    let sql = format!("/* outboxd: applied */ select number from {}", table.migrations());
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await?.into_iter().collect())
}

fn refuse_newer(known: &BTreeSet<i64>, table: &OutboxTable) -> Result<(), StoreError> {
    let newest = MIGRATIONS.map(|(number, ..)| number).into_iter().max().unwrap_or_default();
    match known.last() {
        Some(number) if *number > newest => {
            let problem =
                format!("the outbox table {table} has migration {number:04}, and this outboxd knows {newest:04}");
            Err(unusable(problem, "run the newer outboxd that migrated it"))
        }
        _ => Ok(()),
    }
}

/// Fails where a column is missing that the relay reads or writes.
async fn read_nothing(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<(), sqlx::Error> {
    let columns = table.columns();
    let Columns { sent_at, .. } = &columns;
    let selected = columns.selected();
    let sql = format!("/* outboxd: read_nothing */ select {selected}, {sent_at} from {} limit 0", table.outbox());
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

async fn has_autoincrement(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<bool, sqlx::Error> {
    let sql = "/* outboxd: has_autoincrement */
        select count(*) from sqlite_schema where type = 'table' and name = ? and sql like '%autoincrement%'";
    let rows: i64 = sqlx::query_scalar(sql).bind(table.name()).fetch_one(connection).await?;
    Ok(rows == 1)
}

fn registry(table: &OutboxTable) -> String {
    format!(
        "create table if not exists {} (
    number     integer primary key,
    name       text not null,
    applied_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);\n\n",
        table.migrations()
    )
}

fn registration(number: i64, name: &str, table: &OutboxTable) -> String {
    format!("\ninsert into {} (number, name) values ({number}, '{name}');\n", table.migrations())
}

/// Lets every word of the SQL that begins with `outbox` follow the table's name.
fn named(sql: &str, table: &OutboxTable) -> String {
    let mut named = String::with_capacity(sql.len());
    for piece in sql.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let word = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        match word.strip_prefix("outbox") {
            Some(suffix) => named.push_str(&table.beside(suffix)),
            None => named.push_str(word),
        }
        named.push_str(&piece[word.len()..]);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_printed_sql_follows_the_tables_name() {
        let table: Table = "shop_events".parse().expect("a name");
        let sql = migration_sql(&table);
        let statements: Vec<&str> = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        // The migration's own name is no table's.
        assert!(!statements.join("\n").replace("'outbox'", "").contains("outbox"), "{sql}");
        assert!(sql.contains("create index \"shop_events_unsent\" on \"shop_events\" (id)"), "{sql}");
        assert!(sql.contains("\"shop_events_migrations\""), "{sql}");
    }
}
