//! SQLite: enqueue inside the caller's transaction, and the store that the relay reads.
//!
//! SQLite has one writer at a time, so ids agree with the order of commits and `id > last` misses nothing. It
//! promises all that [`contract`](crate::contract) asks of a store, to relays on the machine that has the file;
//! for a file on a network drive it promises nothing. Writers of messages need [`enqueue()`] only: the rest comes
//! with the feature `relay`.

#[cfg(feature = "relay")]
mod audit;
#[cfg(feature = "relay")]
mod connection;
#[cfg(feature = "relay")]
mod database;
#[cfg(feature = "relay")]
mod dead;
mod enqueue;
#[cfg(feature = "relay")]
mod errors;
#[cfg(feature = "relay")]
mod fetch;
#[cfg(feature = "relay")]
mod held;
#[cfg(feature = "relay")]
mod holding;
#[cfg(feature = "relay")]
mod inspect;
#[cfg(feature = "relay")]
mod leases;
#[cfg(feature = "relay")]
mod purge;
#[cfg(feature = "relay")]
mod recover;
#[cfg(feature = "relay")]
mod row;
#[cfg(feature = "relay")]
mod schema;
#[cfg(feature = "relay")]
mod scratch;
#[cfg(feature = "relay")]
mod settle;
#[cfg(feature = "daemon")]
pub mod shop;
#[cfg(feature = "relay")]
mod store;
#[cfg(feature = "relay")]
mod wake;

#[cfg(feature = "relay")]
pub use database::DATABASE;
pub use enqueue::{EnqueueError, enqueue, enqueue_into, enqueue_many, enqueue_many_into};
#[cfg(feature = "relay")]
pub use schema::{check, migrate, migration_sql};
#[cfg(feature = "relay")]
pub use store::Store;
