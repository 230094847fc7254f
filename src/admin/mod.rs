//! The operator's hands: what the process shows over HTTP.

pub mod health;
pub mod held;
pub mod http;
pub mod scrape;
