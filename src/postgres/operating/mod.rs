//! What operators and tools do: tables, the backlog, purging, audits.

pub(crate) mod audit;
pub(crate) mod audit_log;
pub(crate) mod inspect;
pub(crate) mod operations;
pub(crate) mod preflight;
pub(crate) mod purge;
pub(crate) mod rights;
pub(crate) mod schema;
pub(crate) mod scratch;
pub(crate) mod steering;
