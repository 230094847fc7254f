//! The operator's hands: what the process shows over HTTP, and commands.

pub mod health;
pub mod held;
pub mod http;
pub mod scrape;
pub mod status;
