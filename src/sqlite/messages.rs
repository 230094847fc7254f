//! Single messages, as operators ask: each promise handed on to the file that keeps it.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::{
    Carried, Found, FoundMessage, LetterSearch, Messages, Overtaken, PurgeStep, RowName, Search, StoreError,
};
use crate::outbox::Intent;
use crate::sqlite::operating::letters;
use crate::sqlite::operating::purge;
use crate::sqlite::operating::search;
use crate::sqlite::store::Store;

#[async_trait]
impl Messages for Store {
    async fn search(&self, search: &Search) -> Result<Found, StoreError> {
        self.operating(async |connection| search::search(connection, &self.table, self.settle, search).await).await
    }

    async fn dead_letters(&self, search: &LetterSearch) -> Result<Found, StoreError> {
        self.operating(async |connection| search::dead_letters(connection, &self.table, search).await).await
    }

    async fn carried(&self, message: &FoundMessage, most: u32) -> Result<Option<Carried>, StoreError> {
        self.operating(async |connection| search::carried(connection, &self.table, message, most).await).await
    }

    async fn overtaken(&self, names: &[RowName]) -> Result<Overtaken, StoreError> {
        self.operating(async |connection| letters::overtaken(connection, &self.table, self.settle, names).await).await
    }

    async fn requeue(&self, names: &[RowName], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |connection| letters::requeue(connection, &self.table, names, intent).await).await
    }

    async fn discard(&self, names: &[RowName], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |connection| letters::discard(connection, &self.table, names, intent).await).await
    }

    async fn skip(&self, names: &[RowName], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |connection| letters::skip(connection, &self.table, self.settle, names, intent).await)
            .await
    }

    async fn purge_sent(
        &self,
        before: DateTime<Utc>,
        after: i64,
        intent: Option<&Intent>,
    ) -> Result<PurgeStep, StoreError> {
        self.operating(async |connection| {
            purge::purge_sent(connection, &self.table, self.settle, before, after, intent).await
        })
        .await
    }
}
