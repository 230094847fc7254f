//! A TOML document, flattened: `[relay] batch.records = 5` becomes `relay.batch.records`, with its line.
//!
//! The tables of an array are numbered from 1: `[[relay.reject]] topic = "a"` becomes `relay.reject.1.topic`.
//! Dotted, nested and quoted keys that spell the same name are the same setting. Pure: it reads text only.

use toml::de::{DeTable, DeValue};

use crate::config::written::{Kind, Scalar};

/// One assignment of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The whole dotted name.
    pub(crate) key: String,
    /// The value as written.
    pub(crate) value: Scalar,
    /// The line of the key, from 1.
    pub(crate) line: usize,
}

/// Why a text is no TOML document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The line, from 1.
    pub(crate) line: usize,
    /// What the parser says; never what the line holds.
    pub(crate) problem: String,
}

/// Flattens a document, in the order of its lines.
pub(crate) fn flatten(text: &str) -> Result<Vec<Entry>, Malformed> {
    let table = DeTable::parse(text).map_err(|error| Malformed {
        line: line_at(text, error.span().map_or(0, |span| span.start)),
        problem: error.message().replace('\n', ", "),
    })?;
    let mut entries = Vec::new();
    collect(text, "", table.get_ref(), &mut entries);
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn collect(text: &str, prefix: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) => collect(text, &key, inner, entries),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for (number, item) in (1..).zip(items.iter()) {
                    match item.get_ref() {
                        DeValue::Table(inner) => collect(text, &format!("{key}.{number}"), inner, entries),
                        other => entries.push(Entry {
                            key: format!("{key}.{number}"),
                            value: scalar(other),
                            line: line_at(text, item.span().start),
                        }),
                    }
                }
            }
            other => entries.push(Entry { key, value: scalar(other), line: line_at(text, name.span().start) }),
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Scalar {
    let (kind, text) = match value {
        DeValue::String(text) => (Kind::Text, text.to_string()),
        DeValue::Integer(number) => (Kind::Number, number.to_string()),
        DeValue::Float(number) => (Kind::Number, number.to_string()),
        DeValue::Boolean(switch) => (Kind::Switch, switch.to_string()),
        DeValue::Datetime(moment) => (Kind::Text, moment.to_string()),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| scalar(item.get_ref()).text).collect();
            (Kind::List, items.join(","))
        }
        DeValue::Table(_) => (Kind::List, String::new()),
    };
    Scalar { text, kind }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_nested_and_quoted_keys_spell_one_name() {
        let text = "[kafka]\nlinger.ms = 5\n\"batch.size\" = 10\n[kafka.ssl]\nca.location = \"x\"\n";
        let entries = flatten(text).expect("a document");
        let names: Vec<(&str, &str, usize)> =
            entries.iter().map(|entry| (entry.key.as_str(), entry.value.text.as_str(), entry.line)).collect();
        assert_eq!(
            names,
            [("kafka.linger.ms", "5", 2), ("kafka.batch.size", "10", 3), ("kafka.ssl.ca.location", "x", 5)]
        );
    }

    #[test]
    fn a_list_of_brokers_is_joined_by_commas() {
        let entries = flatten("kafka.bootstrap.servers = ['a:1', 'b:2']").expect("a document");
        assert_eq!(entries[0].value, Scalar { text: "a:1,b:2".to_owned(), kind: Kind::List });
    }

    #[test]
    fn the_tables_of_an_array_are_numbered() {
        let text = "[[relay.reject]]\ntopic = 'a'\n[[relay.reject]]\ntopic = 'b'\n";
        let entries = flatten(text).expect("a document");
        let names: Vec<(&str, &str)> =
            entries.iter().map(|entry| (entry.key.as_str(), entry.value.text.as_str())).collect();
        assert_eq!(names, [("relay.reject.1.topic", "a"), ("relay.reject.2.topic", "b")]);
    }

    #[test]
    fn a_syntax_error_names_its_line_and_not_what_the_line_holds() {
        let malformed = flatten("[database]\nurl = postgres://app:hunter2@db/shop\n").expect_err("not TOML");
        assert_eq!(malformed.line, 2);
        assert!(!malformed.problem.contains("hunter2"), "{}", malformed.problem);
    }
}
