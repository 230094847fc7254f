//! The values of a statement: bound to it as parameters, or set for the session where it takes none.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Encode, PgConnection, Postgres, Type};

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
    /// Any other value.
    pub(super) fn bind<'q>(&mut self, value: impl Encode<'q, Postgres> + Type<Postgres>) -> String {
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

/// Values that are settings of the session when the statement runs, for one that takes no parameters: its text stays
/// the same, so that statistics of statements count it as one, and no log of the server's shows a key.
#[derive(Default)]
pub(super) struct Preset {
    values: Vec<String>,
}

impl Preset {
    /// Makes the settings.
    pub(super) async fn set(self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let text = "/* outboxd: preset */ select count(set_config('outboxd.value_' || at, value, false))
             from unnest($1::text[]) with ordinality preset (value, at)";
        sqlx::query(text).bind(self.values).execute(conn).await?;
        Ok(())
    }

    fn preset(&mut self, value: String, of_type: &str) -> String {
        self.values.push(value);
        format!("current_setting('outboxd.value_{}')::{of_type}", self.values.len())
    }

    /// A value that is read once for all rows. Without the second cast an array would be taken for a subquery's rows.
    fn once(&mut self, value: String, of_type: &str) -> String {
        format!("(select {})::{of_type}", self.preset(value, of_type))
    }
}

impl Values for Preset {
    /// The planner must know it, to see how far apart two ids are.
    fn number(&mut self, value: i64) -> String {
        self.preset(value.to_string(), "bigint")
    }

    fn int(&mut self, value: i32) -> String {
        self.once(value.to_string(), "int")
    }

    fn xid(&mut self, value: u64) -> String {
        self.once(value.to_string(), "xid8")
    }

    fn xids(&mut self, values: &[u64]) -> String {
        let values: Vec<String> = values.iter().map(u64::to_string).collect();
        self.once(format!("{{{}}}", values.join(",")), "xid8[]")
    }

    fn text(&mut self, value: String) -> String {
        self.once(value, "text")
    }

    fn json(&mut self, value: &serde_json::Value) -> String {
        self.once(value.to_string(), "jsonb")
    }
}
