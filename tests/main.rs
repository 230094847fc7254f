//! Every test, in one binary: librdkafka is linked once.

mod architecture;
mod daemon;
mod migrations;
mod relay;
mod support;
