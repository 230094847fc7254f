//! The values of a statement: bound to it as parameters, or written into it where it takes none.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Encode, Postgres, Type};

use crate::postgres::xid::Xid;

/// Takes values in, and says for each what stands for it in the statement's text.
pub(super) trait Values {
    /// A `bigint`.
    fn number(&mut self, value: i64) -> String;
    /// An `int`.
    fn int(&mut self, value: i32) -> String;
    /// An `xid8`.
    fn xid(&mut self, value: u64) -> String;
    /// An array of `xid8`.
    fn xids(&mut self, values: &[u64]) -> String;
    /// A `text`.
    fn text(&mut self, value: String) -> String;
    /// A `jsonb`.
    fn json(&mut self, value: &serde_json::Value) -> String;
}

/// Values that are bound, numbered in their order.
#[derive(Default)]
pub(super) struct Bound {
    pub(super) arguments: PgArguments,
}

impl Bound {
    fn bind<'q>(&mut self, value: impl Encode<'q, Postgres> + Type<Postgres>) -> String {
        self.arguments.add(value).expect("numbers, text and JSON can always be encoded");
        format!("${}", self.arguments.len())
    }
}

impl Values for Bound {
    fn number(&mut self, value: i64) -> String {
        self.bind(value)
    }

    fn int(&mut self, value: i32) -> String {
        self.bind(value)
    }

    fn xid(&mut self, value: u64) -> String {
        self.bind(Xid(value))
    }

    fn xids(&mut self, values: &[u64]) -> String {
        self.bind(Xid::all(values))
    }

    fn text(&mut self, value: String) -> String {
        self.bind(value)
    }

    fn json(&mut self, value: &serde_json::Value) -> String {
        self.bind(sqlx::types::Json(value))
    }
}

/// Values that are written as literals of their types.
pub(super) struct Written;

impl Values for Written {
    fn number(&mut self, value: i64) -> String {
        format!("'{value}'::bigint")
    }

    fn int(&mut self, value: i32) -> String {
        format!("'{value}'::int")
    }

    fn xid(&mut self, value: u64) -> String {
        format!("'{value}'::xid8")
    }

    fn xids(&mut self, values: &[u64]) -> String {
        let values: Vec<String> = values.iter().map(u64::to_string).collect();
        format!("'{{{}}}'::xid8[]", values.join(","))
    }

    fn text(&mut self, value: String) -> String {
        format!("{}::text", quoted(&value))
    }

    fn json(&mut self, value: &serde_json::Value) -> String {
        format!("{}::jsonb", quoted(&value.to_string()))
    }
}

/// A string constant with escapes, which means the same whatever `standard_conforming_strings` says.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_ends_its_constant() {
        assert_eq!(Written.text(r"o'Neil \' $1".to_owned()), r"E'o''Neil \\'' $1'::text");
        assert_eq!(Written.json(&serde_json::json!({"t o'\\": 1})), r#"E'{"t o''\\\\":1}'::jsonb"#);
        assert_eq!(Written.xids(&[1, 2]), "'{1,2}'::xid8[]");
        assert_eq!(Written.number(i64::MIN), "'-9223372036854775808'::bigint");
    }
}
