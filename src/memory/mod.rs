//! A store and a sink in memory, and scripted faults around any store or sink.
//!
//! For tests: ours, and those of applications that embed the relay. [`Store`] keeps every promise of
//! [`contract`](crate::contract) that a database keeps, transactions that overlap included; [`Sink`] remembers what
//! it was given; [`faults`] lets calls fail, fail after the work was done, wait or be slow, in a scripted order.
//! Nothing here outlives the process.

pub mod faults;
mod leadership;
mod lease;
mod operations;
mod position;
mod reader;
mod row;
mod shared;
mod sink;
mod state;
mod store;
mod transaction;

pub use row::Row;
pub use sink::{Delivery, Sink};
pub use store::Store;
pub use transaction::Transaction;
