//! The two ways of delivering: plain, at least once, and in transactions, which fence and may be exactly once.

pub(crate) mod common;
pub(crate) mod fence;
pub(crate) mod plain;
pub(crate) mod plan;
pub(crate) mod strategy;
pub(crate) mod transactional;
pub(crate) mod writer;
