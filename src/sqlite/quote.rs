//! Names, quoted for SQL.

use crate::outbox::Table;

/// An identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The outbox that is called so.
pub(super) fn outbox(table: &Table) -> String {
    quoted(table.name())
}
