//! How much room the file takes. SQLite has neither dead rows nor a vacuum that would matter here: pages are used again.

use sqlx::SqliteConnection;

use crate::contract::{Footprint, StoreError};
use crate::sqlite::errors::classify;

/// What the outbox is to the file.
pub(crate) async fn footprint(connection: &mut SqliteConnection) -> Result<Footprint, StoreError> {
    let text = "/* outboxd: footprint */ select page_count * page_size from pragma_page_count(), pragma_page_size()";
    let bytes = sqlx::query_scalar::<_, i64>(text).fetch_one(connection).await;
    let bytes = bytes.map_err(|error| classify("measuring the file", error))?.unsigned_abs();
    Ok(Footprint { bytes, ..Footprint::default() })
}
