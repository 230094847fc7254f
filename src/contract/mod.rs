//! The promises: what a database and a broker must keep so that the relay can keep its own.
//!
//! Each trait says what is durable when a method returns, what may be called at once, and what a failure
//! leaves behind. One suite (`tests/contract/`) holds every implementation to it. All calls are per batch,
//! so that dynamic dispatch costs nothing that matters.

mod audit;
mod backlog;
mod database;
mod error;
mod examine;
mod footprint;
mod lease;
mod messages;
mod operate;
mod operations;
mod sink;
mod steering;
mod store;
mod tail;
mod wake;

pub use audit::{Audit, AuditedRow, KnownRow, Removable, SetAside};
pub use backlog::{Backlog, TopicBacklog};
pub use database::{Database, DatabaseKind, DatabaseSettings, Enqueue, Migrated, Roles, Scratch, Writer};
pub use error::{BoxError, SinkError, StoreError};
pub use examine::{
    BrokersProbe, ClockDifference, Contact, Examine, Rights, Snapshot, SnapshotHolder, Snapshots, Vacuum, Vitals,
    VitalsQuestion,
};
pub use footprint::Footprint;
pub use futures_util::future::BoxFuture;
pub use lease::{Bid, Leader, LeaseSession, LeaseStore, Watched};
pub use messages::{
    Carried, Death, Found, FoundMessage, LetterSearch, Messages, Overtaken, PurgeStep, RowName, SEARCHED_ROWS, Search,
};
pub use operate::{AuditEntry, Operate};
pub use operations::{Operations, ReplayPage};
pub use sink::{Mandate, Outcome, Receipt, Refusal, Rejection, Sink};
pub use steering::Steering;
pub use store::{Checkpoint, DeadLetters, DueLetter, HeldLanes, Inspect, OutboxStore, Purge, Reader, Store};
pub use tail::{Heard, Tail};
pub use wake::{Arming, WakeSource};
