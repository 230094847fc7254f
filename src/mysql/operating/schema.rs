//! The tables: creating them, upgrading them, and judging whether they are what this version needs.

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::contract::{Migrated, StoreError};
use crate::mysql::address::Address;
use crate::mysql::errors::{EXISTS, NO_SUCH_TABLE, classify, has_number, is_denied, not_now, unusable};
use crate::mysql::leading::lease::lock_name;
use crate::mysql::operating::rights;
use crate::mysql::session::{ANSWER_TIMEOUT, BACKLOG_TIMEOUT, Job, ask, ask_within, bounded, missing, sql};
use crate::mysql::table::{NEEDED, NeededColumn, OutboxTable};
use crate::outbox::Table;
use crate::secret::Secret;

pub use crate::mysql::operating::rights::InvalidUser;

/// Every migration, in order. A released one never changes.
const MIGRATIONS: [(&str, &str); 3] = [
    ("0001_outbox", include_str!("../../../migrations/mysql/0001_outbox.sql")),
    ("0002_history", include_str!("../../../migrations/mysql/0002_history.sql")),
    ("0003_operators", include_str!("../../../migrations/mysql/0003_operators.sql")),
];

/// Seconds that a migration waits for another one.
const MIGRATION_LOCK_SECONDS: u32 = 30;

/// A row that is there already.
const DUPLICATE: u16 = 1062;

/// Creates or upgrades the tables. Safe to repeat, and under several at once: MySQL commits each change of a table by itself,
/// so that each statement that was carried out is remembered, and one that was interrupted goes on there.
///
/// # Errors
/// [`StoreError::Unusable`] when the schema does not exist, the user may not create tables, or a newer version
/// of outboxd was here before.
pub async fn migrate(url: &Secret, table: &Table) -> Result<Migrated, StoreError> {
    let address = Address::new(url, table)?;
    let table = address.table();
    let mut session = address.connect(Job::Migrate).await?;
    let conn = &mut session.conn;
    bounded("migrating", BACKLOG_TIMEOUT, async {
        need_schema(conn, table).await?;
        let lock = sqlx::query_scalar::<_, Option<i64>>("/* outboxd: lock_migrations */ select get_lock(?, ?)");
        let lock = lock.bind(lock_name("outboxd-migrate", table)).bind(MIGRATION_LOCK_SECONDS);
        if ask("migrating", lock.fetch_one(&mut *conn)).await? != Some(1) {
            return Err(not_now("migrating", "another migration is under way"));
        }
        run(conn, &registry(table)).await?;
        let applied = applied(conn, table).await?;
        refuse_newer(table, &applied)?;
        let mut migrated = Migrated::default();
        for (name, template) in MIGRATIONS.iter().filter(|(name, _)| !is_whole(&applied, name)) {
            apply(conn, table, name, template).await?;
            migrated.applied.push((*name).to_owned());
        }
        Ok(migrated)
    })
    .await
}

/// Judges whether the tables are what this version needs.
///
/// # Errors
/// [`StoreError::Unusable`] with all that is missing, and the repair.
pub async fn check(url: &Secret, table: &Table) -> Result<(), StoreError> {
    let address = Address::new(url, table)?;
    let mut session = address.connect(Job::Inspect).await?;
    check_tables(&mut session.conn, address.table()).await
}

/// As [`check`], over a connection that is there.
pub(crate) async fn check_tables(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let columns = columns(conn, table).await?;
    if columns.is_empty() {
        return Err(missing(table));
    }
    let applied = applied(conn, table).await?;
    refuse_newer(table, &applied)?;
    let mut complaints: Vec<String> = MIGRATIONS
        .iter()
        .filter(|(name, _)| !is_whole(&applied, name))
        .map(|(name, _)| format!("migration {name} was not applied"))
        .collect();
    complaints.extend(NEEDED.iter().filter_map(|needed| wrong_column(&columns, needed)));
    complaints.extend(wrong_parts(conn, table, &columns).await?);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(unusable(
        format!("the outbox {table} is not what this version needs: {}", complaints.join(", ")),
        format!("run `outboxd migrate --table {table}`"),
    ))
}

/// The SQL that `migrate` runs on a fresh schema, for people who run their own migrations.
pub fn migration_sql(table: &Table) -> String {
    let table = &OutboxTable::named(table);
    let parts = MIGRATIONS.iter().map(|(name, template)| {
        let statements = statements(&render(template, table)).len();
        let migrations = table.migrations();
        format!(
            "{}\ninsert into {migrations} (name, statements, applied_at) values ('{name}', {statements}, utc_timestamp(6))
    on duplicate key update applied_at = coalesce(applied_at, utc_timestamp(6));\n",
            render(template, table)
        )
    });
    format!(
        "-- Some versions of MySQL take no default that is an expression for a date where zero dates are refused.\n\
         set @outboxd_sql_mode = @@session.sql_mode;\n\
         set session sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION';\n\n\
         {};\n\n{}\nset session sql_mode = @outboxd_sql_mode;\n",
        registry(table),
        parts.collect::<Vec<_>>().join("\n")
    )
}

/// The SQL that gives two users the least they need: one writes messages, the other relays them. A user is called `NAME` or
/// `NAME@HOST`.
///
/// # Errors
/// When a name cannot be a user's.
pub fn grants_sql(table: &Table, application: &str, relay: &str) -> Result<String, InvalidUser> {
    let table = &OutboxTable::named(table);
    let grants = rights::grants(table, &rights::quoted_user(application)?, &rights::quoted_user(relay)?);
    Ok(format!(
        "{grants}-- So that ids that were rolled back are known to be at once; it works without.\n{};\n",
        rights::process(relay)?
    ))
}

/// Gives two users the least they need, as [`grants_sql`] says; the right to see what others run only where the connection may
/// give that.
///
/// # Errors
/// When a name cannot be a user's, a user does not exist, or the connection may not grant.
pub async fn grant(url: &Secret, table: &Table, application: &str, relay: &str) -> Result<(), StoreError> {
    let address = Address::new(url, table)?;
    let invalid =
        |error: InvalidUser| unusable(error.to_string(), "give the names of two users, each as NAME or NAME@HOST");
    let (application, relay_user) =
        (rights::quoted_user(application).map_err(invalid)?, rights::quoted_user(relay).map_err(invalid)?);
    let process = rights::process(relay).map_err(invalid)?;
    let mut session = address.connect(Job::Migrate).await?;
    for statement in statements(&rights::grants(address.table(), &application, &relay_user)) {
        ask("granting", sqlx::raw_sql(sql(statement)).execute(&mut session.conn)).await?;
    }
    let done = tokio::time::timeout(ANSWER_TIMEOUT, sqlx::raw_sql(sql(process)).execute(&mut session.conn)).await;
    match done {
        Ok(Err(error)) if !is_denied(&error) => Err(classify("granting", error)),
        _ => Ok(()),
    }
}

async fn need_schema(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let statement = "/* outboxd: find_schema */
        select count(*) from information_schema.schemata where schema_name = ?";
    let found = sqlx::query_scalar::<_, i64>(statement).bind(table.schema()).fetch_one(conn);
    if ask("looking for the schema", found).await? > 0 {
        return Ok(());
    }
    let schema = table.schema().unwrap_or_default();
    Err(unusable(format!("there is no schema {schema:?}"), "create it, then run `outboxd migrate` again"))
}

/// Carries out a migration from the first statement that was not carried out yet.
async fn apply(conn: &mut MySqlConnection, table: &OutboxTable, name: &str, template: &str) -> Result<(), StoreError> {
    let migrations = table.migrations();
    let begin = format!("/* outboxd: begin_migration */ insert ignore into {migrations} (name) values ('{name}')");
    let is_new = ask("migrating", sqlx::raw_sql(sql(begin)).execute(&mut *conn)).await?.rows_affected() > 0;
    let text = format!("/* outboxd: carried_out */ select statements from {migrations} where name = '{name}'");
    let row = ask("migrating", sqlx::raw_sql(sql(text)).fetch_one(&mut *conn)).await?;
    let done: i32 = row.try_get(0).map_err(|error| classify("migrating", error))?;
    for (at, statement) in statements(&render(template, table)).iter().enumerate().skip(done.unsigned_abs() as usize) {
        let carried_out = run(conn, statement).await;
        // The statement at which an earlier run ended may have been carried out, and not noted.
        let may_be_done = !is_new && at == done.unsigned_abs() as usize;
        match carried_out {
            Err(error) if may_be_done && (has_number(&error, &EXISTS) || has_number(&error, &[DUPLICATE])) => {}
            carried_out => carried_out?,
        }
        run(conn, &format!("update {migrations} set statements = {} where name = '{name}'", at + 1)).await?;
    }
    run(conn, &format!("update {migrations} set applied_at = utc_timestamp(6) where name = '{name}'")).await
}

async fn run(conn: &mut MySqlConnection, statement: &str) -> Result<(), StoreError> {
    let text = format!("/* outboxd: migrate */ {statement}");
    ask_within("migrating", BACKLOG_TIMEOUT, sqlx::raw_sql(sql(text)).execute(conn)).await.map(drop)
}

/// A migration that was begun: its name, and whether it was carried out to its end.
struct Applied {
    name: String,
    is_whole: bool,
}

fn is_whole(applied: &[Applied], name: &str) -> bool {
    applied.iter().any(|known| known.name == name && known.is_whole)
}

/// The migrations that were begun, none where no table remembers them.
async fn applied(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<Applied>, StoreError> {
    let doing = "reading which migrations were applied";
    let text = format!(
        "/* outboxd: applied_migrations */ select name, applied_at is not null from {} order by name",
        table.migrations()
    );
    let rows = match ask(doing, sqlx::raw_sql(sql(text)).fetch_all(conn)).await {
        Err(error) if has_number(&error, &[NO_SUCH_TABLE]) => return Ok(Vec::new()),
        rows => rows?,
    };
    let read = |row: &MySqlRow| -> Result<Applied, sqlx::Error> {
        Ok(Applied { name: row.try_get(0)?, is_whole: row.try_get(1)? })
    };
    rows.iter().map(|row| read(row).map_err(|error| classify(doing, error))).collect()
}

fn refuse_newer(table: &OutboxTable, applied: &[Applied]) -> Result<(), StoreError> {
    match applied.iter().find(|known| !MIGRATIONS.iter().any(|(name, _)| known.name == *name)) {
        None => Ok(()),
        Some(Applied { name, .. }) => Err(unusable(
            format!("the outbox {table} has migration {name}, which this version does not know"),
            "run the version of outboxd that applied it, or a newer one",
        )),
    }
}

fn registry(table: &OutboxTable) -> String {
    format!(
        "create table if not exists {} (
    name       varchar(255) primary key,
    -- How many of its statements were carried out, and when all were.
    statements int not null default 0,
    applied_at datetime(6)
) engine = innodb default character set utf8mb4 collate utf8mb4_bin",
        table.migrations()
    )
}

/// A column as it is.
struct FoundColumn {
    name: String,
    kind: String,
    not_null: bool,
    collation: String,
    extra: String,
}

async fn columns(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<FoundColumn>, StoreError> {
    let doing = "checking columns";
    let statement = "/* outboxd: columns */
        select cast(column_name as char), cast(data_type as char), is_nullable = 'NO',
            cast(coalesce(collation_name, '') as char), cast(extra as char)
        from information_schema.columns where table_schema = ? and table_name = ?";
    let found = sqlx::query(statement).bind(table.schema()).bind(table.name()).fetch_all(conn);
    let rows = ask(doing, found).await?;
    let read = |row: &MySqlRow| -> Result<FoundColumn, sqlx::Error> {
        let (name, kind, not_null) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(FoundColumn { name, kind, not_null, collation: row.try_get(3)?, extra: row.try_get(4)? })
    };
    rows.iter().map(|row| read(row).map_err(|error| classify(doing, error))).collect()
}

fn wrong_column(found: &[FoundColumn], NeededColumn { name, kinds, not_null }: &NeededColumn) -> Option<String> {
    let Some(column) = found.iter().find(|column| column.name == *name) else {
        return Some(format!("column {name} is missing"));
    };
    let is_sensitive =
        column.collation.is_empty() || column.collation.ends_with("_bin") || column.collation == "binary";
    if !kinds.contains(&column.kind.as_str()) {
        Some(format!("column {name} is {} instead of {}", column.kind, kinds[0]))
    } else if *not_null && !column.not_null {
        Some(format!("column {name} may be null"))
    } else if matches!(*name, "topic" | "key") && !is_sensitive {
        Some(format!(
            "column {name} has the collation {}, which takes different {name}s for the same",
            column.collation
        ))
    } else {
        None
    }
}

/// What else reading and settling rest upon.
async fn wrong_parts(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    columns: &[FoundColumn],
) -> Result<Vec<String>, StoreError> {
    let doing = "checking the schema";
    let statement = "/* outboxd: parts */
        select cast(coalesce(t.engine, '') as char), cast(coalesce((
            select group_concat(s.column_name) from information_schema.statistics s
            where s.table_schema = t.table_schema and s.table_name = t.table_name and s.index_name = 'PRIMARY'), '') as char)
        from information_schema.tables t where t.table_schema = ? and t.table_name = ?";
    let found = sqlx::query(statement).bind(table.schema()).bind(table.name()).fetch_one(conn);
    let row = ask(doing, found).await?;
    let read = || -> Result<(String, String), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
    let (engine, primary) = read().map_err(|error| classify(doing, error))?;
    let counts_up = columns.iter().any(|column| column.name == "id" && column.extra.contains("auto_increment"));
    let complaints = [
        (
            !engine.eq_ignore_ascii_case("innodb"),
            format!("its engine is {engine:?} and not InnoDB: nothing is undone there"),
        ),
        (primary != "id", "id is not its primary key".to_owned()),
        (!counts_up, "id is not auto_increment".to_owned()),
    ];
    Ok(complaints.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, complaint)| complaint).collect())
}

/// The statements of a migration, each of which ends with a line's last semicolon.
fn statements(text: &str) -> Vec<String> {
    let (mut statements, mut open) = (Vec::new(), String::new());
    for line in text.lines().filter(|line| !line.trim_start().starts_with("--") && !line.trim().is_empty()) {
        match line.strip_suffix(';') {
            Some(last) => statements.push(std::mem::take(&mut open) + last),
            None => {
                open.push_str(line);
                open.push('\n');
            }
        }
    }
    statements
}

/// Gives the names in a migration, which are those of an outbox named `outbox`, the names of this one.
fn render(template: &str, table: &OutboxTable) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rendered = String::with_capacity(template.len() * 2);
    for piece in template.split_inclusive(|c: char| !is_word(c)) {
        let word = piece.trim_end_matches(|c: char| !is_word(c));
        match word.strip_prefix("outbox").filter(|suffix| suffix.is_empty() || suffix.starts_with('_')) {
            Some(suffix) => rendered.push_str(&table.beside(suffix)),
            None => rendered.push_str(word),
        }
        rendered.push_str(&piece[word.len()..]);
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_follow_the_tables_name() {
        let table = OutboxTable::named(&"shop.queue".parse().expect("a name"));
        let template = "alter table outbox add; insert into outbox_lease x; 'outboxd_'; my_outbox, outboxes";
        let expected =
            "alter table `shop`.`queue` add; insert into `shop`.`queue_lease` x; 'outboxd_'; my_outbox, outboxes";
        assert_eq!(render(template, &table), expected);
    }

    #[test]
    fn a_migration_is_taken_apart_into_its_statements() {
        let text = "-- What; it is;\ncreate table a (\n    b int -- c;d\n);\n\nalter table a add e int;\n";
        assert_eq!(statements(text), ["create table a (\n    b int -- c;d\n)", "alter table a add e int"]);
        for (name, template) in MIGRATIONS {
            let words = ["create table", "create procedure", "alter table", "insert into", "update"];
            for statement in statements(template) {
                assert!(words.iter().any(|word| statement.starts_with(word)), "{name}: {statement}");
            }
        }
    }

    #[test]
    fn every_name_in_the_printed_sql_follows_the_tables_name() {
        let table: Table = "shop_events".parse().expect("a name");
        let sql = migration_sql(&table);
        let statements: Vec<&str> = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        // The migration's own name is no table's.
        let statements = statements.join("\n").replace("'0001_outbox'", "").replace("@outboxd_sql_mode", "");
        assert!(!statements.contains("outbox"), "{statements}");
        assert!(sql.contains("create table `shop_events_held`"), "{sql}");
    }

    #[test]
    fn a_users_name_cannot_break_out_of_its_quotes() {
        let grants = grants_sql(&Table::default(), "app'; drop@10.0.0.%", "relay").expect("names");
        assert!(grants.contains("to 'app''; drop'@'10.0.0.%';"), "{grants}");
        assert!(grants.contains("to 'relay'@'%';"), "{grants}");
        assert!(grants_sql(&Table::default(), "", "relay").is_err());
    }
}
