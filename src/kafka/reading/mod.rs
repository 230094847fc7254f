//! Reading topics back, for audits, tests and the demo.

pub(crate) mod client;
pub(crate) mod consumer;
pub(crate) mod watermarks;
