//! The tables: creating them, upgrading them, and judging whether they are what this version needs.

use std::fmt::Write as _;

use sqlx::{Connection, PgConnection, Row};

use crate::contract::{Migrated, Roles, StoreError};
use crate::outbox::Table;
use crate::postgres::address::{Address, no_schema};
use crate::postgres::errors::{classify, unusable};
use crate::postgres::operating::rights;
use crate::postgres::quote::quoted;
use crate::postgres::session::{ANSWER_TIMEOUT, Guc, ask, bounded, missing, sql};
use crate::postgres::table::{NEEDED, NeededColumn, OutboxTable};
use crate::secret::Secret;

/// Every migration, in order. A released one never changes.
const MIGRATIONS: [(&str, &str); 3] = [
    ("0001_outbox", include_str!("../../../migrations/postgres/0001_outbox.sql")),
    ("0002_history", include_str!("../../../migrations/postgres/0002_history.sql")),
    ("0003_operators", include_str!("../../../migrations/postgres/0003_operators.sql")),
];

/// Key of the lock under which migrations run.
const MIGRATION_LOCK_CLASS: i32 = 1_869_968_493;

/// A table that is being altered makes writers wait for as long as this waits for them.
const MIGRATION_LOCK_TIMEOUT: Guc = ("lock_timeout", "30s");

/// A role's name that cannot be written into SQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no role's name: it is empty or holds a NUL character")]
pub struct InvalidRole {
    name: String,
}

/// Creates or upgrades the tables, in one transaction. Safe to repeat, and under several at once.
///
/// # Errors
/// [`StoreError::Unusable`] when the schema does not exist, the role may not create tables, or a newer version
/// of outboxd was here before.
pub async fn migrate(url: &Secret, table: &Table) -> Result<Migrated, StoreError> {
    let address = Address::new(url, table)?;
    let table = &address.table_to_be().await?;
    let mut conn = address.connect("migrate", &[MIGRATION_LOCK_TIMEOUT]).await?;
    let doing = "migrating";
    bounded(doing, ANSWER_TIMEOUT, async {
        need_schema(&mut conn, table).await?;
        let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
        let lock = sqlx::query("/* outboxd: lock_migrations */ select pg_advisory_xact_lock($1, 0)")
            .bind(MIGRATION_LOCK_CLASS);
        ask(doing, lock.execute(&mut *transaction)).await?;
        let applied = applied(&mut transaction, table).await?;
        refuse_newer(table, &applied)?;
        let open = MIGRATIONS.iter().filter(|(name, _)| !applied.iter().any(|known| known == name));
        let mut migrated = Migrated::default();
        for (name, template) in open {
            let text = format!("{}\n{}", render(template, table), remember(name, table));
            ask(doing, sqlx::raw_sql(sql(text)).execute(&mut *transaction)).await?;
            migrated.applied.push((*name).to_owned());
        }
        transaction.commit().await.map_err(|error| classify(doing, error))?;
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
    let table = address.table().await?;
    check_tables(&mut address.connect("inspect", &[]).await?, table).await
}

/// As [`check`], over a connection that is there.
pub(crate) async fn check_tables(conn: &mut PgConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let repair = format!("run `outboxd migrate --table {table}`");
    let exists = sqlx::query_scalar("/* outboxd: find_outbox */ select to_regclass($1) is not null");
    if !ask("checking the schema", exists.bind(table.outbox()).fetch_one(&mut *conn)).await? {
        return Err(missing(table));
    }
    let applied = applied(conn, table).await?;
    refuse_newer(table, &applied)?;
    let mut complaints: Vec<String> = MIGRATIONS
        .iter()
        .filter(|(name, _)| !applied.iter().any(|known| known == name))
        .map(|(name, _)| format!("migration {name} was not applied"))
        .collect();
    complaints.extend(wrong_columns(conn, table).await?);
    complaints.extend(wrong_parts(conn, table).await?);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(unusable(format!("the outbox {table} is not what this version needs: {}", complaints.join(", ")), repair))
}

/// The SQL that `migrate` runs on a fresh schema, for people who run their own migrations.
pub fn migration_sql(table: &Table) -> String {
    let table = &OutboxTable::named(table);
    let parts =
        MIGRATIONS.iter().map(|(name, template)| format!("{}\n{}", render(template, table), remember(name, table)));
    let path = match table.schema() {
        Some(_) => "'pg_catalog, pg_temp'",
        None => "pg_catalog.concat(pg_catalog.quote_ident(pg_catalog.current_schema()), ', pg_temp')",
    };
    format!(
        "-- Functions remember the search_path: it must not lead to what other roles create.\n\
         select pg_catalog.set_config('outboxd.search_path', pg_catalog.current_setting('search_path'), false);\n\
         select pg_catalog.set_config('search_path', {path}, false);\n\n\
         {}\n\
         select pg_catalog.set_config('search_path', pg_catalog.current_setting('outboxd.search_path'), false);\n",
        parts.collect::<Vec<_>>().join("\n")
    )
}

/// The SQL that gives two roles the least they need: one writes messages, the other relays them.
///
/// # Errors
/// When a name cannot be a role's.
pub fn grants_sql(table: &Table, application_role: &str, relay_role: &str) -> Result<String, InvalidRole> {
    grants(&OutboxTable::named(table), application_role, relay_role)
}

fn grants(table: &OutboxTable, application_role: &str, relay_role: &str) -> Result<String, InvalidRole> {
    let (app, relay) = (quoted_role(application_role)?, quoted_role(relay_role)?);
    let outbox = table.outbox();
    let usage = table.quoted_schema().map(|schema| format!("grant usage on schema {schema} to {app}, {relay};\n"));
    let enqueue = table.beside("_enqueue");
    let functions =
        ["bytea", "text", "jsonb"].map(|payload| format!("{enqueue}(text, text, {payload}, jsonb)")).join(", ");
    Ok(format!(
        "-- Earlier versions granted these on all columns, those that only the database and the relay may set included.\n\
         revoke insert on {outbox} from {app};\n\
         revoke update on {outbox} from {relay};\n\
         -- The application inserts, and learns the ids of what it inserted.\n\
         {usage}grant insert (event_id, topic, key, payload, headers, partition), select (id, event_id) on {outbox} to {app};\n\
         grant execute on function {functions} to {app};\n\
         -- The relay reads, marks and removes.\n\
         {relaying}\
         -- It warns where ids begin anew.\n\
         grant select on sequence {ids} to {relay};\n",
        relaying = rights::grants(table, &relay),
        usage = usage.unwrap_or_default(),
        ids = table.beside("_id_seq")
    ))
}

/// As [`grants_sql`], with what the relay's role needs besides where it writes rows of its own.
pub(crate) fn grants_to(table: &Table, roles: &Roles) -> Result<String, InvalidRole> {
    grants_with_inserts(&OutboxTable::named(table), roles)
}

fn grants_with_inserts(table: &OutboxTable, roles: &Roles) -> Result<String, InvalidRole> {
    let Roles { application, relay, relay_inserts } = roles;
    let mut grants = grants(table, application, relay)?;
    if *relay_inserts {
        let grant = rights::grant_insert(table, &quoted_role(relay)?);
        write!(grants, "-- The canary writes rows of its own.\n{grant};\n").expect("a string takes it");
    }
    Ok(grants)
}

/// Gives two roles what they need, as [`grants_to`] says.
pub(crate) async fn grant_to(url: &Secret, table: &Table, roles: &Roles) -> Result<(), StoreError> {
    let address = Address::new(url, table)?;
    let grants = grants_with_inserts(address.table().await?, roles);
    execute_grants(&address, grants).await
}

/// Gives two roles the least they need, as [`grants_sql`] says.
///
/// # Errors
/// When a name cannot be a role's, a role does not exist, or the connection may not grant.
pub async fn grant(url: &Secret, table: &Table, application_role: &str, relay_role: &str) -> Result<(), StoreError> {
    let address = Address::new(url, table)?;
    let grants = grants(address.table().await?, application_role, relay_role);
    execute_grants(&address, grants).await
}

async fn execute_grants(address: &Address, grants: Result<String, InvalidRole>) -> Result<(), StoreError> {
    let grants = grants.map_err(|error| unusable(error.to_string(), "give the names of two roles"))?;
    let mut conn = address.connect("migrate", &[]).await?;
    ask("granting", sqlx::raw_sql(sql(grants)).execute(&mut conn)).await.map(drop)
}

fn quoted_role(name: &str) -> Result<String, InvalidRole> {
    if name.is_empty() || name.contains('\0') {
        return Err(InvalidRole { name: name.to_owned() });
    }
    Ok(quoted(name))
}

async fn need_schema(conn: &mut PgConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let Some(schema) = table.quoted_schema() else { return Ok(()) };
    let statement = "/* outboxd: find_schema */ select to_regnamespace($1) is not null";
    match ask("looking for the schema", sqlx::query_scalar(statement).bind(&schema).fetch_one(conn)).await? {
        true => Ok(()),
        false => Err(no_schema(&schema)),
    }
}

/// The names of the migrations that were applied, none where no table remembers them.
async fn applied(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let doing = "reading which migrations were applied";
    let exists = sqlx::query_scalar("/* outboxd: find_migrations */ select to_regclass($1) is not null");
    if !ask(doing, exists.bind(table.migrations()).fetch_one(&mut *conn)).await? {
        return Ok(Vec::new());
    }
    let text = format!("/* outboxd: applied_migrations */ select name from {} order by name", table.migrations());
    ask(doing, sqlx::query_scalar(sql(text)).fetch_all(conn)).await
}

fn refuse_newer(table: &OutboxTable, applied: &[String]) -> Result<(), StoreError> {
    match applied.iter().find(|name| !MIGRATIONS.iter().any(|(known, _)| known == name)) {
        None => Ok(()),
        Some(name) => Err(unusable(
            format!("the outbox {table} has migration {name}, which this version does not know"),
            "run the version of outboxd that applied it, or a newer one",
        )),
    }
}

fn remember(name: &str, table: &OutboxTable) -> String {
    let migrations = table.migrations();
    format!(
        "create table if not exists {migrations} (\n    name text primary key,\n    \
         applied_at timestamptz not null default clock_timestamp()\n);\n\
         insert into {migrations} (name) values ('{name}') on conflict do nothing;\n"
    )
}

/// A column as it is.
struct FoundColumn {
    name: String,
    kind: String,
    not_null: bool,
}

async fn wrong_columns(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let statement = "/* outboxd: columns */
        select attname::text, format_type(atttypid, atttypmod), attnotnull
        from pg_catalog.pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped";
    let rows = ask("checking columns", sqlx::query(statement).bind(table.outbox()).fetch_all(conn)).await?;
    let found: Vec<FoundColumn> =
        rows.iter().map(|row| FoundColumn { name: row.get(0), kind: row.get(1), not_null: row.get(2) }).collect();
    let judge = |&NeededColumn { name, kind, not_null }| match found.iter().find(|column| column.name == name) {
        None => Some(format!("column {name} is missing")),
        Some(column) if column.kind != kind => Some(format!("column {name} is {} instead of {kind}", column.kind)),
        Some(column) if not_null && !column.not_null => Some(format!("column {name} may be null")),
        Some(_) => None,
    };
    Ok(NEEDED.iter().filter_map(judge).collect())
}

/// What else reading and waking rest upon. Each condition is true when something is wrong.
async fn wrong_parts(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let statement = "/* outboxd: parts */
        select c.relkind <> 'r',
            not exists (select from pg_catalog.pg_index i join pg_catalog.pg_attribute a on a.attrelid = i.indrelid
                and a.attnum = i.indkey[0] and a.attname = 'id' where i.indrelid = c.oid and i.indisprimary and i.indnatts = 1),
            not exists (select from pg_catalog.pg_index i join pg_catalog.pg_attribute a on a.attrelid = i.indrelid
                and a.attnum = i.indkey[0] and a.attname = 'xid' where i.indrelid = c.oid and i.indisvalid and i.indpred is null),
            not exists (select from pg_catalog.pg_attrdef d join pg_catalog.pg_attribute a on a.attrelid = d.adrelid
                and a.attnum = d.adnum and a.attname = 'xid' where d.adrelid = c.oid
                and pg_get_expr(d.adbin, d.adrelid) like '%pg_current_xact_id()'),
            not exists (select from pg_catalog.pg_sequence s join pg_catalog.pg_depend d on d.objid = s.seqrelid
                where d.refobjid = c.oid and d.deptype in ('i', 'a') and s.seqcache = 1 and s.seqincrement > 0),
            not exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid and t.tgname = 'wake' and t.tgenabled in ('O', 'A')),
            (select count(*) from pg_catalog.pg_trigger t where t.tgrelid = c.oid
                and t.tgname in ('stamp_restored', 'stamp_corrected', 'stamp_late') and t.tgenabled in ('O', 'A')) < 3
        from pg_catalog.pg_class c where c.oid = to_regclass($1)";
    let complaints = [
        "it is no ordinary table",
        "id is not its primary key",
        "there is no index on xid",
        "xid does not default to pg_current_xact_id()",
        "id is no identity column that ascends, with cache 1",
        "the trigger that wakes the relay is missing or switched off",
        "a trigger that stamps late, or restored and corrected rows is missing or switched off",
    ];
    let row = ask("checking the schema", sqlx::query(statement).bind(table.outbox()).fetch_one(conn)).await?;
    let wrong = complaints.iter().enumerate().filter(|(at, _)| row.get::<bool, _>(*at));
    Ok(wrong.map(|(_, complaint)| (*complaint).to_owned()).collect())
}

/// Gives the names in a migration, which are those of an outbox named `outbox`, the names of this one.
fn render(template: &str, table: &OutboxTable) -> String {
    const NAME: &str = "outbox";
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rendered = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find(NAME) {
        let (before, found) = rest.split_at(at);
        rendered.push_str(before);
        let word = &found[..found.find(|c| !is_word(c)).unwrap_or(found.len())];
        let suffix = &word[NAME.len()..];
        let is_ours = !before.ends_with(is_word) && (suffix.is_empty() || suffix.starts_with('_'));
        if is_ours && before.ends_with('\'') {
            rendered.push_str(&table.beside(suffix).replace('\'', "''"));
        } else if is_ours {
            rendered.push_str(&table.beside(suffix));
        } else {
            rendered.push_str(word);
        }
        rest = &found[word.len()..];
    }
    rendered.push_str(rest);
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_follow_the_tables_name() {
        let table = OutboxTable::named(&"shop.queue".parse().expect("a name"));
        let template = "create index on outbox (xid); insert into outbox_lease x; 'outboxd_'; my_outbox, outboxes";
        let expected = r#"create index on "shop"."queue" (xid); insert into "shop"."queue_lease" x; 'outboxd_'; my_outbox, outboxes"#;
        assert_eq!(render(template, &table), expected);
    }

    #[test]
    fn a_roles_name_cannot_break_out_of_its_quotes() {
        let grants = grants_sql(&Table::default(), "app\"; drop", "relay").expect("names");
        assert!(grants.contains("to \"app\"\"; drop\";"), "{grants}");
        assert!(grants_sql(&Table::default(), "", "relay").is_err());
    }
}
