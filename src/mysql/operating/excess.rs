//! What the relay's user may do beyond what it needs: whoever gets hold of its password may do that, too.

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::contract::{Rights, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::operating::rights::{quoted_user, user};
use crate::mysql::session::ask;
use crate::mysql::table::OutboxTable;

/// Looks at what the user may do in all schemas, and in the outbox's. Rights by roles are not told by every server.
pub(crate) async fn excess(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    warnings: Vec<String>,
) -> Result<Rights, StoreError> {
    let doing = "checking rights";
    let user = user(conn).await?;
    let quoted = quoted_user(&user).unwrap_or_else(|_| user.clone());
    let statement = "/* outboxd: excess_rights */
        select cast(privilege_type as char), '*.*' from information_schema.user_privileges
        where grantee = ? and privilege_type not in ('USAGE', 'PROCESS')
        union all
        select cast(privilege_type as char), 'schema' from information_schema.schema_privileges
        where grantee = ? and table_schema = ? and privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')";
    let statement = sqlx::query(statement).bind(&quoted).bind(&quoted).bind(table.schema());
    let rows = ask(doing, statement.fetch_all(conn)).await?;
    let read = |row: &MySqlRow| -> Result<(String, bool), sqlx::Error> {
        Ok((row.try_get::<String, _>(0)?.to_lowercase(), row.try_get::<&str, _>(1)? == "*.*"))
    };
    let found: Vec<(String, bool)> =
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| classify(doing, error))?;
    let of = |everywhere: bool| {
        found.iter().filter(|right| right.1 == everywhere).map(|right| right.0.as_str()).collect::<Vec<_>>()
    };
    let mut rights = Rights { warnings, ..Rights::default() };
    let schema = format!("`{}`.*", table.schema().unwrap_or_default().replace('`', "``"));
    for (names, on) in [(of(true), "*.*".to_owned()), (of(false), schema)] {
        if !names.is_empty() {
            let names = names.join(", ");
            rights.excess.push(format!("user {user:?} may {names} on {on}"));
            rights.repair.get_or_insert_with(|| format!("revoke {names} on {on} from {quoted}"));
        }
    }
    Ok(rights)
}
