//! Every test, in one binary: librdkafka is linked once.

mod contract;
mod architecture;
mod daemon;
mod engine;
mod migrations;
mod relay;
mod support;
mod kafka;
mod postgres;
