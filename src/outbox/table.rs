//! The name of an outbox, checked.

use std::fmt;
use std::str::FromStr;

/// The longest name an outbox table may have: PostgreSQL cuts names at 63 bytes, and ours get suffixes.
const NAME_LIMIT: usize = 40;

/// An outbox table's name, `name` or `schema.name`. Those of the tables beside it begin as its own. How names are quoted is
/// the database's matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    schema: Option<String>,
    name: String,
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

    /// The schema, if the name gave one.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { schema: None, name: "outbox".to_owned() }
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
        Ok(Self { schema: schema.map(str::to_owned), name: name.to_owned() })
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
    fn a_name_keeps_its_schema() {
        let table: Table = "shop.Outbox_2".parse().expect("a name");
        assert_eq!((table.schema(), table.name()), (Some("shop"), "Outbox_2"));
        assert_eq!(table.to_string(), "shop.Outbox_2");
    }

    #[test]
    fn a_name_that_could_break_out_of_its_quotes_is_refused() {
        for name in ["", "a\"b", "a b", "a.b.c", ".a", "a.", "1a", "drop;", &"x".repeat(41)] {
            assert!(name.parse::<Table>().is_err(), "{name}");
        }
    }
}
