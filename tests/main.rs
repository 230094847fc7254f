//! Every test, in one binary: librdkafka is linked once.

#![allow(clippy::unwrap_used, reason = "a test that panics has said what it has to say")]

mod architecture;
mod contract;
mod daemon;
mod engine;
mod examples;
mod kafka;
mod migrations;
mod mysql;
mod postgres;
mod relay;
mod sqlite;
mod support;
mod takeover;
mod torture;
mod verify;
