//! The operator's hands: what the process shows over HTTP, and commands.

pub mod api;
pub mod audit_log;
pub mod bundle;
pub mod change;
pub mod checks;
pub mod finding;
pub mod health;
pub mod held;
pub mod http;
pub mod letters;
pub mod messages;
pub mod operations;
pub mod purging;
pub mod scrape;
pub mod skipping;
pub mod status;
pub mod table;
