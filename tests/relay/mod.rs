//! The relay's promises, end to end: the binary between real PostgreSQL and real Apache Kafka.

mod connect;
mod content;
mod crash;
mod crowds;
mod exactly_once;
mod fenced;
mod held;
mod history;
mod housekeeping;
mod locks;
mod logs;
mod memory;
mod ordering;
mod outage;
mod recovery;
mod rejections;
mod rights;
mod rows;
mod two_instances;
mod unavailable;
