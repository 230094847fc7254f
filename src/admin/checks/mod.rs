//! The named checks: whether each part of what a relay needs is well, why not, what that is seen by, and what to type.
//!
//! What is judged here are facts, gathered by a relay at work (`daemon/checks.rs`) or from outside (`doctor`). A check that
//! a database has nothing for is left out, and what could not be found out is `unknown`: neither is ever shown as well.

mod brokers;
mod canary;
mod certificates;
mod check;
mod flow;
mod foundation;
mod upkeep;

pub use brokers::{brokers, brokers_by, producer, producer_unseen};
pub use canary::{canary, canary_unseen};
pub use certificates::certificates;
pub use check::{Check, CheckName, CheckStatus, to_json, to_text, to_value};
pub use flow::{dead_letters, held_lanes, lease, reader, reader_of, topics};
pub use foundation::{database, rights, schema, setup};
pub use upkeep::upkeep;
