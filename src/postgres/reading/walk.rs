//! Walking a window that does not fit one page, by id.

use sqlx::PgConnection;

use crate::contract::StoreError;
use crate::outbox::Limit;
use crate::postgres::reading::page::{self, RowSelection, Span, Window};
use crate::postgres::reading::rows::Page;
use crate::postgres::session::{ask, sql};
use crate::postgres::table::{Columns, OutboxTable};

/// How many ids a statement walks over at most: some 50 ms on a table whose rows are all sent.
const IDS_PER_STEP: i64 = 100_000;

/// How far a walk is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowWalk {
    /// The last id that was read.
    pub last: i64,
    /// The highest id that the window can hold.
    top: i64,
    /// The window's rows are far apart here: find the next through the index on xid.
    sparse: bool,
}

impl WindowWalk {
    /// A walk that begins after an id. Every row of the window is visible by now.
    pub(crate) async fn after(conn: &mut PgConnection, table: &OutboxTable, last: i64) -> Result<Self, StoreError> {
        Ok(Self { last, top: edge(conn, table, Edge::Highest).await?, sparse: false })
    }

    /// A walk over the ids after one and up to another.
    pub(crate) fn between(last: i64, top: i64) -> Self {
        Self { last, top, sparse: false }
    }

    /// A walk over the whole table, from its lowest id.
    pub(crate) async fn from_the_lowest(conn: &mut PgConnection, table: &OutboxTable) -> Result<Self, StoreError> {
        let lowest = edge(conn, table, Edge::Before(i64::MIN)).await?;
        let walk = Self::after(conn, table, lowest).await?;
        Ok(Self { last: lowest.min(walk.top), ..walk })
    }

    /// Whether everything was read.
    pub(crate) fn is_over(&self) -> bool {
        self.last >= self.top
    }

    /// Reads the next page of the window. It may be empty before the walk is over.
    pub(crate) async fn page(
        &mut self,
        conn: &mut PgConnection,
        table: &OutboxTable,
        window: Window<'_>,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let (page, upto) = if self.sparse {
            (page::window_by_xid(conn, table, window, self.last, which, limit).await?, self.top)
        } else {
            let span = Span { after: self.last, upto: self.last.saturating_add(IDS_PER_STEP).min(self.top) };
            (page::window_by_id(conn, table, window, span, which, limit).await?, span.upto)
        };
        self.last = page.last_id().filter(|_| page.is_full()).unwrap_or(upto);
        let desert = page.rows == 0 && !self.is_over();
        if desert && window.since.is_nothing() {
            // Everything is new, so the index on xid leads nowhere; but ids may be missing here.
            self.last = edge(conn, table, Edge::Before(self.last)).await?.min(self.top);
        }
        self.sparse = desert && !window.since.is_nothing();
        Ok(page)
    }
}

/// Where ids end.
#[derive(Debug, Clone, Copy)]
enum Edge {
    /// The highest id of the table; 0 when it is empty.
    Highest,
    /// The id before the first one after this; the highest possible when there is none.
    Before(i64),
}

/// Finds an edge by a look at one end of the primary key.
async fn edge(conn: &mut PgConnection, table: &OutboxTable, edge: Edge) -> Result<i64, StoreError> {
    let outbox = table.outbox();
    let Columns { id, .. } = table.columns();
    let (text, after, otherwise) = match edge {
        Edge::Highest => {
            let text = format!(
                "/* outboxd: highest_id */ select {id} from {outbox} where {id} > $1 order by {id} desc limit 1"
            );
            (text, i64::MIN, 0)
        }
        Edge::Before(after) => {
            let text =
                format!("/* outboxd: next_id */ select {id} - 1 from {outbox} where {id} > $1 order by {id} limit 1");
            (text, after, i64::MAX)
        }
    };
    let found = sqlx::query_scalar::<_, i64>(sql(text)).bind(after).fetch_optional(conn);
    Ok(ask("looking for the next id", found).await?.unwrap_or(otherwise))
}
