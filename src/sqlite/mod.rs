//! SQLite: enqueue inside the caller's transaction, and the store that the relay reads.
//!
//! SQLite has one writer at a time, so ids agree with the order of commits and `id > last` misses nothing. It
//! promises all that [`contract`](crate::contract) asks of a store, to relays on the machine that has the file;
//! for a file on a network drive it promises nothing. Writers of messages need [`enqueue()`] only: the rest comes
//! with the feature `relay`.
//!
//! - here: `enqueue` writes; `store` keeps the promises to the relay, `database` and `examine` those to operators; connections, and errors
//! - `reading`: what is new, left out, released
//! - `settling`: what is written back: deliveries, dead letters, the checkpoint and the held lanes
//! - `leading`: the lease, and waking up
//! - `operating`: tables, the backlog, purging, audits

mod enqueue;
pub use enqueue::{EnqueueError, enqueue, enqueue_into, enqueue_many, enqueue_many_into};

#[cfg(feature = "relay")]
mod connection;
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
mod settling;
#[cfg(feature = "daemon")]
pub mod shop;
#[cfg(feature = "relay")]
mod store;
#[cfg(feature = "relay")]
mod table;
#[cfg(feature = "relay")]
pub use database::DATABASE;
#[cfg(feature = "relay")]
pub use operating::schema::{check, migrate, migration_sql};
#[cfg(feature = "relay")]
pub use store::Store;
