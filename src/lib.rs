//! outboxd: a transactional outbox relay.
//!
//! Rooms, from the ground up (`tests/architecture/` keeps who may import whom):
//! words ([`outbox`]), promises ([`contract`]), wings ([`postgres`], [`mysql`], [`sqlite`], [`kafka`], [`memory`],
//! [`otel`]), the work ([`coordination`], [`relay`], [`housekeeping`], [`canary`]), the roof ([`config`], [`admin`],
//! [`daemon`]).

#[cfg(feature = "relay")]
pub mod aligned_tick;
#[cfg(feature = "relay")]
pub mod backoff;
#[cfg(feature = "relay")]
pub mod contract;
#[cfg(feature = "relay")]
pub mod coordination;
#[cfg(test)]
mod fuzz;
#[cfg(feature = "relay")]
pub mod housekeeping;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "relay")]
pub mod observe;
#[cfg(feature = "otel")]
pub mod otel;
pub mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "relay")]
pub mod reading;
#[cfg(feature = "relay")]
pub mod relay;
#[cfg(feature = "relay")]
pub mod secret;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(feature = "daemon")]
pub mod admin;
#[cfg(feature = "daemon")]
pub mod backends;
#[cfg(feature = "daemon")]
pub mod bench;
#[cfg(feature = "daemon")]
pub mod canary;
#[cfg(feature = "daemon")]
pub mod certificate;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod commands;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod demo;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod verify;

pub use outbox::Message;
