//! What the database must allow the relay's user, proven before anything is published: a relay that finds out later
//! has published what cannot be recorded.
//!
//! Rights may come by roles, which no table of the server tells in one way. So the server is asked to explain what the relay
//! does: that needs the same rights, and does nothing.

use std::fmt::Write;

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::contract::StoreError;
use crate::mysql::errors::{classify, is_denied, silent, unusable};
use crate::mysql::session::{ANSWER_TIMEOUT, ask, sql};
use crate::mysql::table::OutboxTable;

/// A user's name that cannot be written into SQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no user's name: write NAME or NAME@HOST, without control characters and backslashes")]
pub struct InvalidUser {
    name: String,
}

/// A right, with the columns that it is about.
#[derive(Debug, Clone, Copy)]
enum Right {
    Select,
    Insert(&'static [&'static str]),
    /// Of these columns and no others.
    UpdateOnly(&'static [&'static str]),
    /// Of any column, such as this one.
    Update(&'static str),
    Delete,
}

impl Right {
    /// As it is granted.
    fn granted(self) -> String {
        match self {
            Right::Select => "select".to_owned(),
            Right::Insert(_) => "insert".to_owned(),
            Right::UpdateOnly(columns) => format!("update ({})", columns.join(", ")),
            Right::Update(_) => "update".to_owned(),
            Right::Delete => "delete".to_owned(),
        }
    }

    /// A statement that needs it, and no other.
    fn used(self, table: &str) -> String {
        let assigned =
            |columns: &[&str]| columns.iter().map(|name| format!("`{name}` = null")).collect::<Vec<_>>().join(", ");
        match self {
            Right::Select => format!("select * from {table} limit 1"),
            // What is not given has no default, which is no matter of rights.
            Right::Insert(columns) => {
                let names = columns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let values = vec!["null"; columns.len()].join(", ");
                format!("insert ignore into {table} ({names}) select {values} from dual where false")
            }
            Right::UpdateOnly(columns) => format!("update ignore {table} set {}", assigned(columns)),
            Right::Update(column) => format!("update ignore {table} set {}", assigned(&[column])),
            Right::Delete => format!("delete from {table}"),
        }
    }
}

/// A table, as SQL names it, and what is done to it.
struct Need {
    table: String,
    rights: Vec<Right>,
    /// What commands of operators need besides; the relay works without.
    for_operators: Vec<Right>,
}

/// What the application says of a message.
const WRITTEN: &[&str] = &["event_id", "topic", "key", "payload", "headers", "partition"];

/// What the relay says of one that it puts back.
const PUT_BACK: &[&str] = &["event_id", "topic", "key", "payload", "headers", "partition", "created_at"];

/// What the relay does, whatever its settings: in every mode rows are moved to the dead letters, and those that became due
/// behind the reader get other ids.
fn needs(table: &OutboxTable) -> Vec<Need> {
    use Right::{Delete, Insert, Select, Update, UpdateOnly};
    let need = |table, rights: &[Right]| Need { table, rights: rights.to_vec(), for_operators: Vec::new() };
    let marked = UpdateOnly(&["sent_at", "sent_partition", "sent_offset"]);
    let lane = Insert(&["topic", "from_id", "cause", "since"]);
    vec![
        need(table.outbox(), &[Select, Insert(PUT_BACK), marked, Delete]),
        need(table.checkpoint(), &[Select, Insert(&["position", "term", "saved_at"]), Update("position")]),
        need(table.lanes(), &[Select, lane, Update("from_id"), Delete]),
        need(table.held(), &[Select, lane, Update("from_id"), Delete]),
        need(table.lease(), &[Select, Update("term")]),
        Need {
            for_operators: vec![Delete],
            ..need(
                table.dead(),
                &[Select, Insert(&["id", "event_id", "topic", "headers", "created_at"]), Update("message")],
            )
        },
        need(table.audit_log(), &[Select, Insert(&["command", "subject", "affected", "actor", "role"])]),
        need(table.operation(), &[Select, Insert(&["topic", "rate"]), Update("state")]),
        need(table.standby(), &[Select, Insert(&["holder"]), Update("holder"), Delete]),
        need(table.pause(), &[Select, Insert(&["pattern", "actor"]), Update("actor"), Delete]),
        need(table.migrations(), &[Select]),
    ]
}

/// The name of a user, as SQL takes it: any host, if none is told.
pub(crate) fn quoted_user(name: &str) -> Result<String, InvalidUser> {
    let (user, host) = name.rsplit_once('@').unwrap_or((name, "%"));
    if user.is_empty() || host.is_empty() || name.chars().any(|c| c.is_control() || c == '\\') {
        return Err(InvalidUser { name: name.to_owned() });
    }
    Ok(format!("'{}'@'{}'", user.replace('\'', "''"), host.replace('\'', "''")))
}

/// The SQL that lets two users, quoted, do what they have to.
pub(crate) fn grants(table: &OutboxTable, application: &str, relay: &str) -> String {
    let written = WRITTEN.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut grants = format!(
        "-- The application inserts, and learns the ids of what it inserted.\n\
         grant insert ({written}), select (id, event_id) on {outbox} to {application};\n\
         grant execute on procedure {enqueue} to {application};\n\
         -- The relay reads, marks and removes, and gives rows that became due behind it other ids.\n",
        outbox = table.outbox(),
        enqueue = table.beside("_enqueue")
    );
    let granted = |rights: &[Right]| rights.iter().map(|right| right.granted()).collect::<Vec<_>>().join(", ");
    for need in needs(table) {
        writeln!(grants, "grant {} on {} to {relay};", granted(&need.rights), need.table).expect("a string");
    }
    grants.push_str("-- For operators, who may delete dead letters, and put them back.\n");
    for need in needs(table).iter().filter(|need| !need.for_operators.is_empty()) {
        writeln!(grants, "grant {} on {} to {relay};", granted(&need.for_operators), need.table).expect("a string");
    }
    grants
}

/// The SQL that lets a user see what others run, and nothing else of them.
///
/// # Errors
/// When the name cannot be a user's.
pub(crate) fn process(relay: &str) -> Result<String, InvalidUser> {
    Ok(format!("grant process on *.* to {}", quoted_user(relay)?))
}

/// Refuses what the relay could not work with, all at once, and returns what is only worth a warning.
pub(crate) async fn check_rights(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let (mut problems, mut repairs) = (Vec::new(), Vec::new());
    let user = user(conn).await?;
    let quoted = quoted_user(&user).unwrap_or_else(|_| user.clone());
    for need in needs(table) {
        let mut missing = Vec::new();
        for right in &need.rights {
            if !may(conn, &right.used(&need.table)).await? {
                missing.push(right.granted());
            }
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            problems.push(format!("user {user:?} lacks {missing} on {}", need.table));
            repairs.push(format!("grant {missing} on {} to {quoted}", need.table));
        }
    }
    if problems.is_empty() {
        return takes_part(conn, table).await;
    }
    let hint = format!("`outboxd migrate --print --table {table} --grants APP,RELAY` prints all that the users need");
    Err(unusable(
        format!("the relay could not record what it publishes: {}", problems.join("; ")),
        format!("{} ({hint})", repairs.join("; ")),
    ))
}

/// As whom the server counts the session.
pub(crate) async fn user(conn: &mut MySqlConnection) -> Result<String, StoreError> {
    let doing = "checking rights";
    let row =
        ask(doing, sqlx::raw_sql("/* outboxd: user */ select cast(current_user() as char)").fetch_one(conn)).await?;
    row.try_get(0).map_err(|error| classify(doing, error))
}

/// Whether the user may see what others run.
pub(crate) async fn has_process(conn: &mut MySqlConnection) -> Result<bool, StoreError> {
    is_allowed(conn, "/* outboxd: has_process */ select count(*) from information_schema.innodb_trx".to_owned()).await
}

async fn may(conn: &mut MySqlConnection, statement: &str) -> Result<bool, StoreError> {
    is_allowed(conn, format!("/* outboxd: rights */ explain {statement}")).await
}

async fn is_allowed(conn: &mut MySqlConnection, statement: String) -> Result<bool, StoreError> {
    let doing = "checking rights";
    match tokio::time::timeout(ANSWER_TIMEOUT, sqlx::raw_sql(sql(statement)).fetch_all(conn)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) if is_denied(&error) => Ok(false),
        Ok(Err(error)) => Err(classify(doing, error)),
        Err(_) => Err(silent(doing, ANSWER_TIMEOUT)),
    }
}

/// Triggers of others that run whenever a row is recorded, moved or removed, and rows elsewhere that refer to it, as far as the
/// user may see them.
async fn takes_part(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let doing = "looking for triggers";
    let statement = "/* outboxd: foreign_triggers */
        select cast(concat('trigger ', trigger_name) as char) from information_schema.triggers
        where event_object_schema = ? and event_object_table = ? and event_manipulation in ('UPDATE', 'DELETE')
        union all
        select cast(concat('foreign key ', constraint_name) as char) from information_schema.referential_constraints
        where unique_constraint_schema = ? and referenced_table_name = ?";
    let statement = sqlx::query(statement).bind(table.schema()).bind(table.name());
    let rows = ask(doing, statement.bind(table.schema()).bind(table.name()).fetch_all(conn)).await?;
    let warn = |row: &MySqlRow| -> Result<String, sqlx::Error> {
        let name: String = row.try_get(0)?;
        Ok(format!("{name} takes part in every change of a row: one that it refuses cannot be recorded"))
    };
    rows.iter().map(|row| warn(row).map_err(|error| classify(doing, error))).collect()
}
