//! What a stored position tells of a row, in SQL.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Arguments, Postgres};

use crate::postgres::reading::position::ReadPosition;
use crate::postgres::table::Columns;
use crate::postgres::values::Bound;
use crate::postgres::xid::Xid;

/// The condition on a row that a position says of it that it was read, given the number of the first of the five
/// parameters that [`bind`] binds. Without a position it is false. The highest id guards rows that were written after a
/// dump was restored, of which the arithmetic says nothing.
pub(crate) fn is_read(columns: &Columns, first: usize) -> String {
    let Columns { id, xid, .. } = columns;
    let [highest, xmax, open, cur, last] = [0, 1, 2, 3, 4].map(|offset| format!("${}", first + offset));
    format!(
        "({highest} is not null and {id} <= {highest} and (not ({xid} >= {xmax} or {xid} = any({open}))
             or {cur}::text is not null and {id} <= {last} and pg_visible_in_snapshot({xid}, (select {cur}::text::pg_snapshot))))"
    )
}

/// Binds the five parameters of [`is_read`], and returns the number of the first.
pub(crate) fn bind_values(bound: &mut Bound, at: Option<&ReadPosition>) -> usize {
    let first = bound.arguments.len() + 1;
    let frozen = at.and_then(|at| at.frozen.as_ref());
    bound.bind(at.map(|at| at.highest));
    bound.bind(at.map(|at| Xid(at.prev.xmax)));
    bound.bind(at.map(|at| Xid::all(&at.prev.open)));
    bound.bind(frozen.map(|frozen| frozen.cur.to_string()));
    bound.bind(frozen.map(|frozen| frozen.last));
    first
}

/// Binds the five parameters of [`is_read`].
pub(crate) fn bind<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    at: Option<&ReadPosition>,
) -> Query<'q, Postgres, PgArguments> {
    let frozen = at.and_then(|at| at.frozen.as_ref());
    statement
        .bind(at.map(|at| at.highest))
        .bind(at.map(|at| Xid(at.prev.xmax)))
        .bind(at.map(|at| Xid::all(&at.prev.open)))
        .bind(frozen.map(|frozen| frozen.cur.to_string()))
        .bind(frozen.map(|frozen| frozen.last))
}
