//! What operators and tools do: tables and rights, the backlog, purging, audits, the facts of the checks.

pub(crate) mod audit;
pub(crate) mod audit_log;
pub(crate) mod excess;
pub(crate) mod footprint;
pub(crate) mod inspect;
pub(crate) mod letters;
pub(crate) mod operations;
pub(crate) mod preflight;
pub(crate) mod purge;
pub(crate) mod rights;
pub(crate) mod schema;
pub(crate) mod scratch;
pub(crate) mod search;
pub(crate) mod steering;
pub(crate) mod vitals;
pub(crate) mod writer;
