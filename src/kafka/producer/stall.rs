//! A client that delivers nothing although Kafka answers is given up, and another one is built. The partitions of which it
//! has delivered nothing count as [unavailable](crate::kafka::topics::unavailable): either they are, or the next client
//! soon shows that they are not.
//!
//! librdkafka can get stuck for good. Where a topic was deleted and created again, for one, it takes the new leaders of
//! its partitions for old news, because their epochs begin anew, and sends to the old ones for ever.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use tokio::time::{Instant, sleep, timeout};

use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::client_log::Connectivity;
use crate::kafka::producer::client::{Client, Handle};
use crate::kafka::producer::ledger::{Failure, Ledger};

/// How long nothing of the oldest submission may be delivered while the broker answers. It may have a reason, such as too
/// few replicas, and what it has taken without saying so comes twice with another client. A submission that is delivered
/// slowly may take as long as it wants.
const FIRST_STALL_PATIENCE: Duration = Duration::from_secs(10);

/// The longest that it may take, where one client after the other delivered nothing.
const LONGEST_STALL_PATIENCE: Duration = Duration::from_secs(300);

/// How often is looked, and how long a question may take.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often is looked whether Kafka answers while nothing is published.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// How long no question may be answered before that counts as an outage of Kafka: the client asks any of the brokers, so
/// that some questions have no answer while one of them hangs.
const OUTAGE_AFTER: Duration = Duration::from_secs(5);

/// How long the next producer may be stuck: twice as long as one before it that delivered nothing at all.
#[derive(Debug)]
pub(crate) struct Patience(Mutex<Duration>);

impl Default for Patience {
    fn default() -> Self {
        Self(Mutex::new(FIRST_STALL_PATIENCE))
    }
}

impl Patience {
    fn get(&self) -> Duration {
        *self.0.lock()
    }

    fn set(&self, patience: Duration) {
        *self.0.lock() = patience.min(LONGEST_STALL_PATIENCE);
    }
}

/// Watches a producer until it is given up.
pub(crate) async fn watch(
    ledger: Arc<Ledger>,
    weak: Weak<BackgroundDrop<Client>>,
    connectivity: Arc<Connectivity>,
    patience: Arc<Patience>,
) {
    let mut oldest = None;
    let mut since = Instant::now();
    let mut answered_at = since;
    while timeout(STALL_CHECK_INTERVAL, ledger.given_up()).await.is_err() {
        let now = ledger.oldest();
        if now != oldest {
            if oldest.is_some() {
                patience.set(FIRST_STALL_PATIENCE);
            }
            oldest = now;
            since = Instant::now();
        }
        let Some(client) = weak.upgrade() else { return };
        if now.is_none() {
            drop(client);
            tokio::select! {
                () = ledger.busy() => {
                    since = Instant::now();
                    answered_at = since;
                }
                () = ledger.given_up() => return,
                () = sleep(if connectivity.is_away() { STALL_CHECK_INTERVAL } else { IDLE_CHECK_INTERVAL }) => look(&weak, &connectivity).await,
            }
            continue;
        }
        let has_answered = ask(client, STALL_CHECK_INTERVAL).await.is_ok();
        if has_answered {
            answered_at = Instant::now();
        }
        // An outage is no fault of the client, nor of a partition.
        if answered_at.elapsed() >= OUTAGE_AFTER {
            since = Instant::now();
        } else if has_answered && since.elapsed() >= patience.get() {
            let waited = since.elapsed();
            patience.set(patience.get() * 2);
            let reason =
                format!("Kafka answers, and nothing was delivered for {} s; another client is tried", waited.as_secs());
            ledger.fail(Failure { stuck: ledger.unanswered_for(waited / 2), ..Failure::because(reason) });
        }
    }
}

/// Looks whether Kafka answers, while nothing is published that would tell.
async fn look(client: &Weak<BackgroundDrop<Client>>, connectivity: &Connectivity) {
    let Some(client) = client.upgrade() else { return };
    match ask(client, OUTAGE_AFTER).await {
        Ok(()) => connectivity.answered(),
        Err(error) => connectivity.unanswered(&error),
    }
}

/// Asks Kafka something, for as long as this. The call blocks, so it has a thread to itself.
async fn ask(client: Handle, patience: Duration) -> Result<(), KafkaError> {
    let asked = tokio::task::spawn_blocking(move || client.client().fetch_metadata(None, patience).map(drop));
    asked.await.unwrap_or(Err(KafkaError::Canceled))
}
