//! One producer, from the configuration of its clients to the last delivery report.

pub(crate) mod client;
pub(crate) mod context;
pub(crate) mod encode;
pub(crate) mod ledger;
pub(crate) mod lifecycle;
pub(crate) mod sending;
pub(crate) mod setup;
pub(crate) mod stall;
pub(crate) mod statistics;
pub(crate) mod transaction;
