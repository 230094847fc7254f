//! What the sink's clients came to know at their work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::contract;
use crate::kafka::client_log::Connectivity;

/// What is known of the brokers, and of the clients that a sink had.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contact {
    /// Whether brokers answer.
    pub(crate) connectivity: Arc<Connectivity>,
    rebuilds: Arc<AtomicU64>,
}

impl Contact {
    /// Notes that a client was built anew.
    pub(crate) fn rebuilt(&self) {
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
    }
}

impl contract::Contact for Contact {
    fn answers(&self) -> Option<Result<(), String>> {
        self.connectivity.known()
    }

    fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }
}
