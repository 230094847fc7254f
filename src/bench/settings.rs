//! What `outboxd bench` is asked to measure.

use std::time::Duration;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rows of the backlog.
    pub rows: u64,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Different keys.
    pub keys: u64,
    /// Partitions of the topic.
    pub partitions: i32,
    /// On how many brokers the topic is kept; -1 for the brokers' default.
    pub replication: i32,
    /// Rows a second that are written at a steady rate, each in a transaction of its own.
    pub rate: u64,
    /// How long.
    pub lasting: Duration,
}
