//! One producer: handing records to the client, hearing what became of them, and putting an end to it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::client_log::{ClientLog, Connectivity};
use crate::kafka::errors;
use crate::kafka::producer::client::{Client, Handle};
use crate::kafka::producer::context::Context;
use crate::kafka::producer::ledger::Ledger;
use crate::kafka::producer::setup::{ProducerLimits, Role};
use crate::kafka::producer::stall::{self, Patience};
use crate::kafka::producer::transaction::Transactor;

/// How long a producer that is no good may take to tell what became of the records that are under way.
const LAST_REPORTS: Duration = Duration::from_secs(5);

/// How often its queue is emptied meanwhile.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// One producer, from its creation to its end.
pub(crate) struct Producer {
    /// Its clients: one for each transaction that may be under way.
    clients: Vec<Handle>,
    /// Their transactions, if it makes any.
    transactors: Vec<Transactor>,
    /// Each closes when a client has ended.
    ended: Vec<oneshot::Receiver<()>>,
    /// The client that takes records now.
    turn: usize,
    /// What became of the records.
    pub(crate) ledger: Arc<Ledger>,
    /// What it was built for.
    pub(crate) limits: ProducerLimits,
    enqueued: u64,
}

impl Producer {
    /// Builds a producer with a client for each of the configurations. It connects by itself, when it can. Call it
    /// within a tokio runtime.
    pub(crate) fn build(
        configs: &[ClientConfig],
        role: Role,
        limits: ProducerLimits,
        connectivity: &Arc<Connectivity>,
        patience: &Arc<Patience>,
    ) -> Result<Self, KafkaError> {
        let ledger = Arc::new(Ledger::default());
        let start = |config: &ClientConfig| {
            let log = ClientLog::new(Arc::clone(connectivity));
            let context = Context::new(&ledger, log, role);
            Client::start(config, context).map(|(client, ended)| (Handle::new(client.into()), ended))
        };
        let started = configs.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let (clients, ended): (Vec<Handle>, Vec<_>) = started.into_iter().unzip();
        let first = || Arc::downgrade(&clients[0]);
        tokio::spawn(stall::watch(Arc::clone(&ledger), first(), Arc::clone(connectivity), Arc::clone(patience)));
        if role != Role::Transactional {
            tokio::spawn(wind_up(Arc::clone(&ledger), first()));
        }
        let transacting = clients.iter().filter(|_| role == Role::Transactional);
        let transactors = transacting.cloned().map(Transactor::start).collect();
        Ok(Self { clients, transactors, ended, turn: 0, ledger, limits, enqueued: 0 })
    }

    /// The clients, for questions about topics: they must know them before they are sent records of them.
    pub(crate) fn clients(&self) -> Vec<Handle> {
        self.clients.clone()
    }

    /// The number of the client that takes records now.
    pub(crate) fn turn(&self) -> usize {
        self.turn
    }

    /// Makes the broker refuse whatever earlier producers of these names still send, and ends their transactions. May
    /// be called again.
    ///
    /// # Errors
    /// That an earlier transaction has not ended, before anything else.
    pub(crate) async fn initialise(&self, patience: Duration) -> Result<(), KafkaError> {
        let asked = join_all(self.transactors.iter().map(|transactor| transactor.initialise(patience))).await;
        let failed = asked.into_iter().filter_map(Result::err);
        let worst = failed.reduce(|a, b| if errors::is_concurrent(&a) { a } else { b });
        worst.map_or(Ok(()), Err)
    }

    /// Begins a transaction, with the client whose turn it is: records go there until the next one begins.
    pub(crate) async fn begin_transaction(&mut self) -> Result<Transactor, KafkaError> {
        let turn = (self.turn + 1) % self.clients.len();
        let transactor = self.transactors.get(turn).ok_or(KafkaError::Canceled)?;
        transactor.begin().await?;
        self.turn = turn;
        Ok(transactor.clone())
    }

    /// Whether it can take records and nothing of earlier ones is left to be told. A client that has failed for good is
    /// asked itself: it tells the ledger only when its reports are heard.
    pub(crate) fn is_at_rest(&self) -> bool {
        let has_failed = self.clients.iter().any(|client| client.client().fatal_error().is_some());
        self.ledger.is_healthy() && self.ledger.is_idle() && !has_failed
    }

    /// Hands a record over, waiting while the client has no room.
    ///
    /// # Errors
    /// When the client does not take it, and never will.
    pub(crate) async fn send<'a>(&mut self, record: BaseRecord<'a, str, [u8], usize>) -> Result<(), KafkaError> {
        let mut record = record;
        loop {
            match self.clients[self.turn].send(record) {
                Ok(()) => {
                    self.enqueued += 1;
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if self.ledger.is_healthy() => {
                    record = back;
                    self.ledger.queue_room(self.enqueued).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Forgets everything that is not delivered and answers its receipts. The clients end on threads of their own, since
    /// that can take a while; what is returned closes when they have.
    pub(crate) fn end(self) -> Vec<oneshot::Receiver<()>> {
        self.ledger.abandon();
        for client in self.clients {
            std::thread::spawn(move || client.purge(PurgeConfig::default().queue().inflight()));
        }
        self.ended
    }
}

/// Once a producer is found to be no good: sends nothing more, and bounds how long receipts wait for reports.
async fn wind_up(ledger: Arc<Ledger>, client: Weak<BackgroundDrop<Client>>) {
    ledger.ended().await;
    let end = Instant::now() + LAST_REPORTS;
    while Instant::now() < end {
        let Some(client) = client.upgrade() else { break };
        // It waits for the client's threads, and so must not run on the runtime's own. Records that were under way may
        // come back into the queue.
        let purged = tokio::task::spawn_blocking(move || client.purge(PurgeConfig::default().queue()));
        let _ = purged.await;
        if timeout(SWEEP_INTERVAL, ledger.answered()).await.is_ok() {
            break;
        }
    }
    ledger.abandon();
}
