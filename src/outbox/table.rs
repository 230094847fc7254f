//! The names of the outbox tables, checked and quoted in one place.

use std::fmt;
use std::str::FromStr;

/// The longest name an outbox table may have: PostgreSQL cuts names at 63 bytes, and ours get suffixes.
const NAME_LIMIT: usize = 40;

/// An outbox table's name, `name` or `schema.name`, and the names of the tables beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    schema: Option<String>,
    name: String,
    /// Where it was found, which may be called anything.
    found_in: Option<String>,
}

/// Why a table's name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name an outbox table: use name or schema.name, each of letters, digits and underscores, not beginning with a digit, at most {NAME_LIMIT} long"
)]
pub struct InvalidTable {
    name: String,
}

impl Table {
    /// The table's own name without its schema.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema, if the name gave one, or if it was found.
    pub fn schema(&self) -> Option<&str> {
        self.found_in.as_deref().or(self.schema.as_deref())
    }

    /// The schema, quoted for SQL.
    pub fn quoted_schema(&self) -> Option<String> {
        self.schema().map(|schema| format!("\"{}\"", schema.replace('"', "\"\"")))
    }

    /// The same table in the schema in which it was found: names in SQL tell it from here on.
    #[must_use]
    pub fn found_in(&self, schema: &str) -> Self {
        Self { found_in: Some(schema.to_owned()), ..self.clone() }
    }

    /// The outbox itself, quoted for SQL.
    pub fn outbox(&self) -> String {
        self.quoted("")
    }

    /// Where the checkpoint is stored, quoted for SQL.
    pub fn checkpoint(&self) -> String {
        self.quoted("_checkpoint")
    }

    /// Where held lanes are remembered, quoted for SQL.
    pub fn held(&self) -> String {
        self.quoted("_held")
    }

    /// The lease, quoted for SQL.
    pub fn lease(&self) -> String {
        self.quoted("_lease")
    }

    /// The dead letters, quoted for SQL.
    pub fn dead(&self) -> String {
        self.quoted("_dead")
    }

    /// Which migrations were applied, quoted for SQL.
    pub fn migrations(&self) -> String {
        self.quoted("_migrations")
    }

    /// A name with a suffix, quoted for SQL and with the schema in front; for tables, functions and the like.
    pub fn quoted(&self, suffix: &str) -> String {
        match self.quoted_schema() {
            Some(schema) => format!("{schema}.\"{}{suffix}\"", self.name),
            None => format!("\"{}{suffix}\"", self.name),
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { schema: None, name: "outbox".to_owned(), found_in: None }
    }
}

impl FromStr for Table {
    type Err = InvalidTable;

    fn from_str(text: &str) -> Result<Self, InvalidTable> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        if !is_name(name) || schema.is_some_and(|schema| !is_name(schema)) {
            return Err(InvalidTable { name: text.to_owned() });
        }
        Ok(Self { schema: schema.map(str::to_owned), name: name.to_owned(), found_in: None })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

fn is_name(name: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    (1..=NAME_LIMIT).contains(&name.len()) && name.bytes().all(legal) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_keep_their_schema() {
        let table: Table = "shop.Outbox_2".parse().expect("a name");
        assert_eq!(table.outbox(), "\"shop\".\"Outbox_2\"");
        assert_eq!(table.held(), "\"shop\".\"Outbox_2_held\"");
        assert_eq!(table.to_string(), "shop.Outbox_2");
        assert_eq!(Table::default().lease(), "\"outbox_lease\"");
    }

    #[test]
    fn a_table_that_was_found_names_its_schema_in_sql_whatever_that_is_called() {
        let table = Table::default().found_in("a \"b\"");
        assert_eq!(table.held(), "\"a \"\"b\"\"\".\"outbox_held\"");
        assert_eq!(table.to_string(), "outbox", "people read what they wrote");
    }

    #[test]
    fn a_name_that_could_break_out_of_its_quotes_is_refused() {
        for name in ["", "a\"b", "a b", "a.b.c", ".a", "a.", "1a", "drop;", &"x".repeat(41)] {
            assert!(name.parse::<Table>().is_err(), "{name}");
        }
    }
}
