//! What the end-to-end tests stand on: the real services, the binary as an operator starts it, writers whose
//! transactions interleave, and the audit that compares what they committed with what Kafka holds.
//!
//! Everything waits on a condition with a deadline, and everything random says which seed replays it.

pub(crate) mod audit;
pub(crate) mod children;
#[cfg(feature = "otel")]
pub(crate) mod collector;
pub(crate) mod daemon;
pub(crate) mod database;
pub(crate) mod hostile;
pub(crate) mod kafka;
pub(crate) mod ledger;
pub(crate) mod machine;
pub(crate) mod operator;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod scene;
pub(crate) mod scrape;
pub(crate) mod seed;
pub(crate) mod services;
pub(crate) mod throwaway;
pub(crate) mod wait;
pub(crate) mod wire;
pub(crate) mod workload;
