//! Every test, in one binary: librdkafka is linked once.

mod postgres;
