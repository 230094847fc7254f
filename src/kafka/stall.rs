//! A client that delivers nothing although the broker answers is given up, and another one is built.
//!
//! librdkafka can get stuck for good. Where a topic was deleted and created again, for one, it takes the new leaders of
//! its partitions for old news, because their epochs begin anew, and sends to the old ones for ever.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rdkafka::producer::Producer as _;
use tokio::time::{Instant, timeout};

use crate::kafka::client::Client;
use crate::kafka::delivery::{Ledger, Spoil};
use crate::kafka::producer::Handle;

/// How long nothing of the oldest submission may be delivered while the broker answers, at first and at most: it may have
/// a reason, such as too few replicas, and what it has taken without saying so comes twice with another client. A
/// submission that is delivered slowly may take as long as it wants.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// How often is looked, and how long a question may take.
const STEP: Duration = Duration::from_secs(1);

/// How long the next producer may be stuck: twice as long as one before it that delivered nothing at all.
#[derive(Debug)]
pub(crate) struct Patience(Mutex<Duration>);

impl Default for Patience {
    fn default() -> Self {
        Self(Mutex::new(PATIENCE.0))
    }
}

impl Patience {
    fn get(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, patience: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = patience.min(PATIENCE.1);
    }
}

/// Watches a producer until it is given up.
pub(crate) async fn watch(ledger: Arc<Ledger>, client: Weak<Client>, patience: Arc<Patience>) {
    let mut oldest = None;
    let mut since = Instant::now();
    while timeout(STEP, ledger.given_up()).await.is_err() {
        let now = ledger.oldest();
        if now != oldest {
            if oldest.is_some() {
                patience.set(PATIENCE.0);
            }
            oldest = now;
            since = Instant::now();
        }
        let Some(client) = client.upgrade().map(Handle::from) else { return };
        if now.is_none() {
            drop(client);
            tokio::select! {
                () = ledger.busy() => since = Instant::now(),
                () = ledger.given_up() => return,
            }
            continue;
        }
        // An outage is no fault of the client: only time counts in which the broker answered throughout.
        if !answers(client).await {
            since = Instant::now();
        } else if since.elapsed() >= patience.get() {
            let waited = since.elapsed().as_secs();
            patience.set(patience.get() * 2);
            ledger.spoil(Spoil::because(format!(
                "Kafka answers, but its client has delivered nothing for {waited} s; another client is tried"
            )));
        }
    }
}

/// Whether the broker answers the client. The call blocks, so it has a thread to itself.
async fn answers(client: Handle) -> bool {
    let asked = tokio::task::spawn_blocking(move || client.client().fetch_metadata(None, STEP).is_ok());
    asked.await.unwrap_or(false)
}
