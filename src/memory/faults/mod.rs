//! Scripted faults around any store or sink: the real thing works behind them, in memory or in a database.
//!
//! A [`Script`] says what goes wrong at which call: refuse it, do it and lose the reply, make it wait, make it slow.
//! Faults of one kind of call are used up in order, one a call; a call without a fault goes through. The script
//! also counts, so that a test waits for "the second settlement is under way" and never sleeps.
//!
//! ```
//! # use std::sync::Arc;
//! # use outboxd::{Message, memory, outbox::Settle};
//! # use outboxd::contract::{Inspect, OutboxStore};
//! # use outboxd::memory::faults::{Call, Fault, Script, Store};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let script = Script::new();
//! script.on(Call::Open, Fault::Refuse).on(Call::Backlog, Fault::LoseReply);
//! let store = Store::new(Arc::new(memory::Store::new(Settle::Mark)), script.clone());
//! assert!(store.open().await.is_err());
//! assert!(store.open().await.is_ok());
//! assert_eq!(script.count(Call::Open).ended, 2);
//! # }
//! ```

mod script;
mod sink;
mod store;

pub use script::{Call, Count, Fault, Gate, Script};
pub use sink::Sink;
pub use store::Store;
