//! How much room the outbox takes: what the server knows anyway. No row is looked at. InnoDB has no vacuum: it purges what
//! was deleted by itself, and uses the room again.

use sqlx::MySqlConnection;

use crate::contract::{Footprint, StoreError};
use crate::mysql::errors::{ACCESS_DENIED, has_number};
use crate::mysql::session::{ask, missing};
use crate::mysql::table::OutboxTable;

/// What the outbox's table is to the server: the size of its file, for a user that may ask for it (`PROCESS`), or else the
/// server's estimate.
pub(crate) async fn footprint(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Footprint, StoreError> {
    let doing = "measuring the table";
    // Each server takes one of the comments for a name.
    let file = "/* outboxd: file_size */ select cast(file_size as signed)
        from information_schema./*!80000 innodb_tablespaces *//*M!100600 innodb_sys_tablespaces */ where name = ?";
    let name = format!("{}/{}", table.schema().unwrap_or_default(), table.name());
    let bytes = match ask(doing, sqlx::query_scalar::<_, i64>(file).bind(name).fetch_optional(&mut *conn)).await {
        Err(error) if has_number(&error, &[ACCESS_DENIED]) => None,
        found => found?,
    };
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => estimate(conn, table).await?,
    };
    Ok(Footprint { bytes: bytes.unsigned_abs(), ..Footprint::default() })
}

async fn estimate(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<i64, StoreError> {
    let text = "/* outboxd: footprint */
        select cast(coalesce(data_length, 0) + coalesce(index_length, 0) as signed)
        from information_schema.tables where table_schema = ? and table_name = ?";
    let found = sqlx::query_scalar::<_, i64>(text).bind(table.schema()).bind(table.name());
    ask("measuring the table", found.fetch_optional(conn)).await?.ok_or_else(|| missing(table))
}
