//! TEMPORARY
/// t
pub struct Settings {
    /** t */
    pub messages: Option<u64>,
    /** t */
    pub seed: Option<u64>,
    /** t */
    pub kill: bool,
    /** t */
    pub http: String,
    /** t */
    pub sabotage: Option<String>,
}
/// t
/// # Errors
/// t
pub async fn run(settings: Settings) -> anyhow::Result<bool> {
    tokio::task::yield_now().await;
    drop(settings);
    Ok(true)
}
