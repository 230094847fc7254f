//! Where the outbox is: the server, and the schema in which the role finds its tables.
//!
//! A role that may create objects in a schema of the search_path can make a function or an operator that fits a call better
//! than the server's own (CVE-2018-1058), and it would run as the relay. So the search_path serves for one thing, to find the
//! table, by a statement that names the schema of all it calls; no session is used before its search_path is pinned.

use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, Row};
use tokio::sync::OnceCell;

use crate::contract::StoreError;
use crate::outbox::Table;
use crate::postgres::errors::unusable;
use crate::postgres::quote;
use crate::postgres::session::{Guc, ask, connect, missing, open, options};
use crate::postgres::table::OutboxTable;
use crate::secret::Secret;

/// A server, and an outbox there.
#[derive(Debug)]
pub(super) struct Address {
    options: PgConnectOptions,
    /// As the operator calls it.
    named: Table,
    found: OnceCell<OutboxTable>,
}

/// Schemas to which the role's search_path leads.
struct Led {
    /// Where the table is.
    to_table: Option<String>,
    /// Where it would be created.
    first: Option<String>,
}

impl Address {
    /// Does not connect.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub(super) fn new(url: &Secret, table: &Table) -> Result<Self, StoreError> {
        Ok(Self { options: options(url)?, named: table.clone(), found: OnceCell::new() })
    }

    /// How to connect.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Opens a session for `role`, as [`connect`] does.
    pub(super) async fn connect(&self, role: &str, settings: &[Guc]) -> Result<PgConnection, StoreError> {
        connect(&self.options, role, settings).await
    }

    /// The outbox's table, with its schema. That is looked for once: a table of the same name that another role creates
    /// earlier in the search_path is another one.
    pub(super) async fn table(&self) -> Result<&OutboxTable, StoreError> {
        let find = async || {
            let named = OutboxTable::named(&self.named);
            if named.schema().is_some() {
                return Ok(named);
            }
            let led = self.follow_search_path().await?;
            Ok(OutboxTable::found_in(&self.named, led.to_table.ok_or_else(|| missing(&named))?))
        };
        self.found.get_or_try_init(find).await
    }

    /// The outbox's table, there or to be created.
    pub(super) async fn table_to_be(&self) -> Result<OutboxTable, StoreError> {
        let named = OutboxTable::named(&self.named);
        if named.schema().is_some() {
            return Ok(named);
        }
        let led = self.follow_search_path().await?;
        let schema = led.to_table.or(led.first).ok_or_else(|| no_schema("that the role's search_path names"))?;
        Ok(OutboxTable::found_in(&self.named, schema))
    }

    /// Every name is told with its schema, operators included: only the table is looked for in the search_path.
    async fn follow_search_path(&self) -> Result<Led, StoreError> {
        let mut conn = open(&self.options, "inspect").await?;
        let statement = "/* outboxd: follow_search_path */ select (
                select n.nspname::pg_catalog.text from pg_catalog.pg_class c
                join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
                where c.oid operator(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid
            ), pg_catalog.current_schema()::pg_catalog.text";
        let led = sqlx::query(statement).bind(quote::outbox(&self.named)).fetch_one(&mut conn);
        let row = ask("looking for the outbox table", led).await?;
        Ok(Led { to_table: row.get(0), first: row.get(1) })
    }
}

/// There is no schema for the tables.
pub(super) fn no_schema(which: &str) -> StoreError {
    unusable(format!("there is no schema {which}"), "create it, then run `outboxd migrate` again")
}
