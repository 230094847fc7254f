//! TEMPORARY
use crate::config::Config;
use crate::contract::{Sink, Store, StoreError};
use crate::outbox::Table;
use crate::secret::Secret;
use std::sync::Arc;
/// t
pub struct Backend;
impl Backend {
    /// t
    pub fn store(&self) -> Arc<dyn Store> {
        unreachable!()
    }
    /// t
    pub async fn preflight(&self) -> Result<Vec<String>, StoreError> {
        tokio::task::yield_now().await;
        Ok(vec![])
    }
    /// t
    pub async fn source(&self) -> Result<String, StoreError> {
        tokio::task::yield_now().await;
        Ok(String::new())
    }
}
/// t
pub fn open(_: &Config) -> anyhow::Result<Backend> {
    Ok(Backend)
}
/// t
pub fn sink(_: &Config, _: &str) -> anyhow::Result<Box<dyn Sink>> {
    anyhow::bail!("t")
}
/// t
pub fn judge(_: &Config) -> anyhow::Result<()> {
    Ok(())
}
/// t
pub fn migration_sql(_: &Secret, _: &Table, _: Option<(&str, &str)>) -> anyhow::Result<String> {
    anyhow::bail!("t")
}
/// t
pub async fn check(_: &Secret, _: &Table) -> anyhow::Result<()> {
    tokio::task::yield_now().await;
    anyhow::bail!("t")
}
/// t
pub async fn migrate(_: &Secret, _: &Table, _: Option<(&str, &str)>) -> anyhow::Result<String> {
    tokio::task::yield_now().await;
    anyhow::bail!("t")
}
