//! MySQL 8.0.13 and newer, MariaDB 10.6 and newer: writing messages in the caller's transaction, and an outbox that the
//! relay reads.
//!
//! The feature `mysql` alone brings the writing; with `relay` comes the store. Ids are given out in another order than rows
//! commit: the reader keeps a list of those that are missing, and asks for them together with what is new, in one
//! statement. Nothing here publishes, and nothing decides who leads or when to read.
//!
//! - here: `enqueue` writes; `store` keeps the promises to the relay, `database` and `examine` those to operators; sessions, and errors
//! - `reading`: what is new, left out, released
//! - `settling`: what is written back: deliveries, dead letters, the checkpoint and the held lanes
//! - `leading`: the lease, and waking up
//! - `operating`: tables and rights, the backlog, purging, audits

mod enqueue;
pub use enqueue::{EnqueueError, enqueue, enqueue_into, enqueue_many, enqueue_many_into};

#[cfg(feature = "relay")]
mod address;
#[cfg(feature = "relay")]
mod database;
#[cfg(feature = "relay")]
mod errors;
#[cfg(feature = "relay")]
mod examine;
#[cfg(feature = "relay")]
mod leading;
#[cfg(feature = "relay")]
mod messages;
#[cfg(feature = "relay")]
mod operating;
mod quote;
#[cfg(feature = "relay")]
mod reading;
#[cfg(feature = "relay")]
mod session;
#[cfg(feature = "relay")]
mod settings;
#[cfg(feature = "relay")]
mod settling;
#[cfg(feature = "relay")]
mod store;
#[cfg(feature = "relay")]
mod table;
#[cfg(feature = "relay")]
mod values;
#[cfg(feature = "relay")]
pub use database::DATABASE;
#[cfg(feature = "relay")]
pub use operating::schema::{InvalidUser, check, grant, grants_sql, migrate, migration_sql};
#[cfg(feature = "relay")]
pub use store::Store;
