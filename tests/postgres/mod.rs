//! What only PostgreSQL's wing promises. What every store promises is in `tests/contract/`.

mod holding;
mod keeping;
mod leasing;
mod reading;
mod restoring;
mod schema;
mod server;
mod waking;
mod workload;
