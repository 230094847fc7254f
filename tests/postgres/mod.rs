//! What only PostgreSQL's wing promises. What every store promises is in `tests/contract/`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod due;
mod examining;
mod footprint;
mod granting;
mod history;
mod holding;
mod hostile;
mod keeping;
mod leasing;
mod locking;
mod preflight;
mod reading;
mod restoring;
mod rights;
mod runbook;
mod schema;
mod searching;
mod server;
mod statistics;
mod waking;
mod workload;
