//! Names, quoted for SQL.

use crate::outbox::Table;

/// An identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What is called so in a schema, if one is named.
pub(super) fn qualified(schema: Option<&str>, name: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(name)),
        None => quoted(name),
    }
}

/// The outbox that is called so.
pub(super) fn outbox(table: &Table) -> String {
    qualified(table.schema(), table.name())
}
