//! Every test, in one binary: librdkafka is linked once.

mod architecture;
mod contract;
mod daemon;
mod engine;
mod migrations;
mod postgres;
mod relay;
mod support;
