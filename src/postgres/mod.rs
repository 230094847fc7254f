//! PostgreSQL 13 and newer: writing messages in the caller's transaction, and an outbox that the relay reads.
//!
//! The feature `postgres` alone brings the writing; with `relay` comes the store. Rows are read by the exact
//! snapshot delta: each committed row once in a session, however late it commits, in the order of commits inside a lane.
//! Nothing here publishes, and nothing decides who leads or when to read.

mod enqueue;
pub use enqueue::{EnqueueError, enqueue, enqueue_into, enqueue_many, enqueue_many_into};

#[cfg(feature = "relay")]
mod address;
#[cfg(feature = "relay")]
mod audit;
#[cfg(feature = "relay")]
mod checkpoint;
#[cfg(feature = "relay")]
mod copy;
#[cfg(feature = "relay")]
mod database;
#[cfg(feature = "relay")]
mod dead;
#[cfg(feature = "relay")]
mod delta;
#[cfg(feature = "relay")]
mod errors;
#[cfg(feature = "relay")]
mod held;
#[cfg(feature = "relay")]
mod holds;
#[cfg(feature = "relay")]
mod inspect;
#[cfg(feature = "relay")]
mod leases;
#[cfg(feature = "relay")]
mod notify;
#[cfg(feature = "relay")]
mod page;
#[cfg(feature = "relay")]
mod preflight;
#[cfg(feature = "relay")]
mod purge;
#[cfg(feature = "relay")]
mod rebase;
#[cfg(feature = "relay")]
mod recover;
#[cfg(feature = "relay")]
mod release;
#[cfg(feature = "relay")]
mod rights;
#[cfg(feature = "relay")]
mod rows;
#[cfg(feature = "relay")]
mod schema;
#[cfg(feature = "relay")]
mod scratch;
#[cfg(feature = "relay")]
mod session;
#[cfg(feature = "relay")]
mod settle;
#[cfg(feature = "relay")]
mod snapshot;
#[cfg(feature = "relay")]
mod store;
#[cfg(feature = "relay")]
mod told;
#[cfg(feature = "relay")]
mod values;
#[cfg(feature = "relay")]
mod walk;
#[cfg(feature = "relay")]
mod xid;
#[cfg(feature = "relay")]
pub use database::DATABASE;
#[cfg(feature = "relay")]
pub use schema::{InvalidRole, check, grant, grants_sql, migrate, migration_sql};
#[cfg(feature = "relay")]
pub use store::Store;
