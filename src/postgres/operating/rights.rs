//! What the database must allow the relay's role, proven before anything is published: a relay that finds out later
//! has published what cannot be recorded.

use std::fmt::Write;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::contract::StoreError;
use crate::outbox::Settle;
use crate::postgres::errors::unusable;
use crate::postgres::session::ask;
use crate::postgres::table::{OutboxTable, UPDATED};

/// The columns of the outbox that whoever writes a row gives.
const INSERTED: [&str; 6] = ["event_id", "topic", "key", "payload", "headers", "partition"];

/// Triggers of ours; others may swallow what the relay records, or raise.
const OUR_TRIGGERS: [&str; 4] = ["wake", "stamp_restored", "stamp_corrected", "stamp_late"];

/// The function that puts dead letters back, as it is named beside the outbox.
const REQUEUE: &str = "_requeue";

/// A table, as SQL names it, and what is done to it.
pub(super) struct Need {
    pub(super) table: String,
    pub(super) rights: &'static [&'static str],
    /// The columns that are updated, where that is not all of them.
    pub(super) updated: Option<&'static [&'static str]>,
    /// What commands of operators need besides; the relay works without.
    pub(super) for_operators: &'static [&'static str],
}

impl Need {
    /// Some of the rights, as they are granted.
    fn named(&self, rights: &[impl AsRef<str>]) -> String {
        let name = |right: &str| match self.updated.filter(|_| right == "update") {
            Some(columns) => format!("{right} ({})", columns.join(", ")),
            None => right.to_owned(),
        };
        rights.iter().map(|right| name(right.as_ref())).collect::<Vec<_>>().join(", ")
    }
}

/// What a role lacks that writes rows, and the SQL that grants it.
pub(crate) struct MissingInsert {
    pub(crate) problem: String,
    pub(crate) grant: String,
}

/// The SQL that lets a role, quoted, write rows.
pub(crate) fn grant_insert(table: &OutboxTable, role: &str) -> String {
    format!("grant insert ({}) on {} to {role}", INSERTED.join(", "), table.outbox())
}

/// Whether the relay's role may write rows of its own, which its work does not need.
pub(crate) async fn missing_insert(
    conn: &mut PgConnection,
    table: &OutboxTable,
) -> Result<Option<MissingInsert>, StoreError> {
    let statement = "/* outboxd: insert_right */
        select current_user::text from pg_catalog.pg_attribute a
        where a.attrelid = to_regclass($1) and a.attname = any($2)
            and not has_column_privilege(a.attrelid, a.attnum, 'insert')
        limit 1";
    let denied = sqlx::query_scalar::<_, String>(statement).bind(table.outbox()).bind(INSERTED.as_slice());
    let denied = ask("checking rights", denied.fetch_optional(conn)).await?;
    Ok(denied.map(|role| MissingInsert {
        problem: format!("role {role:?} lacks insert on {}, which the canary needs", table.outbox()),
        grant: grant_insert(table, &format!("{role:?}")),
    }))
}

/// The SQL that lets a role, quoted, do all that the relay does.
pub(crate) fn grants(table: &OutboxTable, role: &str) -> String {
    let grant = |need: &Need| format!("grant {} on {} to {role};\n", need.named(need.rights), need.table);
    let mut grants: String = needs(table).iter().map(grant).collect();
    writeln!(grants, "-- For operators, who may delete dead letters, and put them back.").expect("a string");
    for Need { table, for_operators, .. } in needs(table).iter().filter(|need| !need.for_operators.is_empty()) {
        writeln!(grants, "grant {} on {table} to {role};", for_operators.join(", ")).expect("a string");
    }
    writeln!(grants, "grant execute on function {} to {role};", table.beside(REQUEUE)).expect("a string");
    grants
}

/// What the relay does, whatever its settings: in every mode rows are moved to the dead letters and stamped anew.
pub(super) fn needs(table: &OutboxTable) -> [Need; 10] {
    let need = |table, rights| Need { table, rights, updated: None, for_operators: &[] };
    [
        Need { updated: Some(&UPDATED), ..need(table.outbox(), &["select", "update", "delete"]) },
        need(table.checkpoint(), &["select", "insert", "update"]),
        need(table.held(), &["select", "insert", "update", "delete"]),
        need(table.lease(), &["select", "update"]),
        Need { for_operators: &["delete"], ..need(table.dead(), &["select", "insert", "update"]) },
        need(table.audit_log(), &["select", "insert"]),
        need(table.operation(), &["select", "insert", "update"]),
        need(table.standby(), &["select", "insert", "update", "delete"]),
        need(table.pause(), &["select", "insert", "update", "delete"]),
        need(table.migrations(), &["select"]),
    ]
}

/// Refuses a schema that the role may not look into, which hides everything else.
pub(crate) async fn need_usage(conn: &mut PgConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let Some(schema) = table.schema() else { return Ok(()) };
    let statement = "/* outboxd: usage */ select current_user::text
        from pg_catalog.pg_namespace where nspname = $1 and not has_schema_privilege(oid, 'usage')";
    let denied = sqlx::query_scalar::<_, String>(statement).bind(schema).fetch_optional(conn);
    match ask("checking rights", denied).await? {
        None => Ok(()),
        Some(role) => Err(unusable(
            format!("role {role:?} may not use the schema of the outbox {table}"),
            format!("grant usage on schema {schema:?} to {role:?}"),
        )),
    }
}

/// Refuses what the relay could not work with, all at once, and returns what is only worth a warning.
pub(crate) async fn check_rights(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
) -> Result<Vec<String>, StoreError> {
    let role = "/* outboxd: role */ select current_user::text";
    let role: String = ask("checking rights", sqlx::query_scalar(role).fetch_one(&mut *conn)).await?;
    let (mut problems, mut repairs) = (Vec::new(), Vec::new());
    for need in needs(table) {
        let missing = missing_rights(conn, &need).await?;
        if !missing.is_empty() {
            let missing = need.named(&missing);
            problems.push(format!("role {role:?} lacks {missing} on {}", need.table));
            repairs.push(format!("grant {missing} on {} to {role:?}", need.table));
        }
        if hides_rows(conn, &need.table).await? {
            problems.push(format!("row-level security can hide rows of {} from role {role:?}", need.table));
            repairs.push(format!(
                "alter role {role:?} bypassrls, or alter table {} disable row level security, or make {role:?} its owner without force",
                need.table
            ));
        }
    }
    for obstacle in obstacles(conn, table, settle).await? {
        problems.push(obstacle.0);
        repairs.push(obstacle.1);
    }
    if problems.is_empty() {
        return foreign_triggers(conn, table).await;
    }
    let hint = format!("`outboxd migrate --print --table {table} --grants APP,RELAY` prints all that the roles need");
    Err(unusable(
        format!("the relay could not record what it publishes: {}", problems.join("; ")),
        format!("{} ({hint})", repairs.join("; ")),
    ))
}

/// Rights on all columns that matter count as a right on the table.
async fn missing_rights(conn: &mut PgConnection, need: &Need) -> Result<Vec<String>, StoreError> {
    let statement = "/* outboxd: rights */
        select need.right_ from pg_catalog.pg_class c
        cross join unnest($2::text[]) with ordinality need (right_, at)
        where c.oid = to_regclass($1) and not has_table_privilege(c.oid, need.right_)
            and (need.right_ = 'delete' or exists (
                select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                    and (need.right_ <> 'update' or $3::text[] is null or a.attname = any($3))
                    and not has_column_privilege(c.oid, a.attnum, need.right_)))
        order by need.at";
    let missing = sqlx::query_scalar(statement).bind(&need.table).bind(need.rights).bind(need.updated);
    ask("checking rights", missing.fetch_all(conn)).await
}

/// Whether policies apply to the role, which then cannot tell what is there.
async fn hides_rows(conn: &mut PgConnection, table: &str) -> Result<bool, StoreError> {
    let statement = "/* outboxd: policies */ select coalesce(row_security_active(to_regclass($1)::oid), false)";
    ask("checking policies", sqlx::query_scalar(statement).bind(table).fetch_one(conn)).await
}

/// What makes settlements of some rows fail, or do nothing: the problem, and its repair.
async fn obstacles(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
) -> Result<Vec<(String, String)>, StoreError> {
    let mut found = Vec::new();
    if settle == Settle::Mark {
        // An update checks a row against every enforced constraint, those included that old rows may break.
        let statement =
            "/* outboxd: constraints_not_validated */ select quote_ident(c.conname) from pg_catalog.pg_constraint c
            where c.conrelid = to_regclass($1) and c.contype in ('c', 'n') and not c.convalidated
                and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)";
        for name in names(conn, statement, table).await? {
            let problem = format!("constraint {name} was not validated: rows that break it can never be marked");
            found.push((problem, format!("alter table {} validate constraint {name}, or drop it", table.outbox())));
        }
    }
    let statement = "/* outboxd: rules */ select quote_ident(rulename) from pg_catalog.pg_rewrite
        where ev_class = to_regclass($1) and ev_type in ('2', '4') and is_instead";
    for name in names(conn, statement, table).await? {
        let problem = format!("rule {name} does something else instead of recording");
        found.push((problem, format!("drop rule {name} on {}", table.outbox())));
    }
    let statement = "/* outboxd: children */ select inhrelid::regclass::text from pg_catalog.pg_inherits
        where inhparent = to_regclass($1)";
    for name in names(conn, statement, table).await? {
        let problem = format!("table {name} inherits from it: ids are not unique over both");
        found.push((problem, format!("alter table {name} no inherit {}", table.outbox())));
    }
    Ok(found)
}

/// Triggers of others that run whenever a row is recorded, moved or removed, and rows elsewhere that refer to it.
async fn foreign_triggers(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let statement = "/* outboxd: foreign_triggers */
         select quote_ident(t.tgname) || ' on ' || t.tgrelid::regclass
         from pg_catalog.pg_trigger t
         where not t.tgisinternal and t.tgenabled <> 'D' and t.tgname <> all($3)
             and (t.tgrelid = to_regclass($1) and t.tgtype & 24 <> 0 or t.tgrelid = to_regclass($2) and t.tgtype & 4 <> 0)
         union all
         select quote_ident(c.conname) || ' on ' || c.conrelid::regclass
         from pg_catalog.pg_constraint c where c.confrelid = to_regclass($1) and c.contype = 'f'";
    let statement = sqlx::query(statement).bind(table.outbox()).bind(table.dead()).bind(OUR_TRIGGERS.as_slice());
    let found = ask("looking for triggers", statement.fetch_all(conn)).await?;
    let warn = |row: &PgRow| {
        let name: String = row.get(0);
        format!("{name} takes part in every change of a row: one that it refuses or swallows cannot be recorded")
    };
    Ok(found.iter().map(warn).collect())
}

async fn names(
    conn: &mut PgConnection,
    statement: &'static str,
    table: &OutboxTable,
) -> Result<Vec<String>, StoreError> {
    ask("checking the outbox", sqlx::query_scalar(statement).bind(table.outbox()).fetch_all(conn)).await
}
