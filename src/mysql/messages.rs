//! Single messages, as operators ask: each promise handed on to the file that keeps it.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::{
    Carried, Found, FoundMessage, LetterSearch, Messages, Overtaken, PurgeStep, RowName, Search, StoreError,
};
use crate::mysql::operating::letters;
use crate::mysql::operating::purge;
use crate::mysql::operating::search;
use crate::mysql::store::Store;
use crate::outbox::Intent;

#[async_trait]
impl Messages for Store {
    async fn search(&self, search: &Search) -> Result<Found, StoreError> {
        let settle = self.settings.settle;
        self.inspecting(async |conn, table| search::search(conn, table, settle, search).await).await
    }

    async fn dead_letters(&self, search: &LetterSearch) -> Result<Found, StoreError> {
        self.inspecting(async |conn, table| search::dead_letters(conn, table, search).await).await
    }

    async fn carried(&self, message: &FoundMessage, most: u32) -> Result<Option<Carried>, StoreError> {
        self.inspecting(async |conn, table| search::carried(conn, table, message, most).await).await
    }

    async fn overtaken(&self, names: &[RowName]) -> Result<Overtaken, StoreError> {
        let settle = self.settings.settle;
        self.inspecting(async |conn, table| letters::overtaken(conn, table, settle, names).await).await
    }

    async fn requeue(&self, names: &[RowName], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |conn, table| letters::requeue(conn, table, names, intent).await).await
    }

    async fn discard(&self, names: &[RowName], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |conn, table| letters::discard(conn, table, names, intent).await).await
    }

    async fn skip(&self, names: &[RowName], intent: &Intent) -> Result<u64, StoreError> {
        let settle = self.settings.settle;
        self.operating(async |conn, table| letters::skip(conn, table, settle, names, intent).await).await
    }

    async fn purge_sent(
        &self,
        before: DateTime<Utc>,
        after: i64,
        intent: Option<&Intent>,
    ) -> Result<PurgeStep, StoreError> {
        let settle = self.settings.settle;
        self.operating(async |conn, table| purge::purge_sent(conn, table, settle, before, after, intent).await).await
    }
}
