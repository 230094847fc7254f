//! One producer: handing records to the client, hearing what became of them, and putting an end to it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::contract::{Outcome, Rejection};
use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::client::{Client, Handle};
use crate::kafka::client_log::{ClientLog, Connectivity};
use crate::kafka::config::ProducerLimits;
use crate::kafka::encode;
use crate::kafka::errors::{self, ErrorClass};
use crate::kafka::ledger::{Failure, Ledger, Refused};
use crate::kafka::stall::{self, Patience};
use crate::kafka::transaction::Transactor;
use crate::outbox::HoldCause;

/// How long a producer that is no good may take to tell what became of the records that are under way.
const LAST_REPORTS: Duration = Duration::from_secs(5);

/// How often its queue is emptied meanwhile.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// What the client says of a connection that it had and that broke, and not of one that it could not open. It tells that
/// in its log alone; idle connections that brokers close are not mentioned.
const ESTABLISHED: &str = "in state UP";

/// The topic that the broker does not let into a transaction, and what it waits for. The client tells that in its log
/// alone, and then undoes the transaction, whose records do not fail for any cause of their own.
fn kept_out(line: &str) -> Option<(String, HoldCause)> {
    let (_, rest) = line.split_once("Failed to add partition \"")?;
    let (topic, rest) = rest.split_once("\" [")?;
    let cause = match rest.split_once("to transaction: ")?.1 {
        "Broker: Topic authorization failed" => HoldCause::NotAuthorised,
        "Broker: Unknown topic or partition" => HoldCause::MissingTopic,
        _ => return None,
    };
    Some((topic.to_owned(), cause))
}

/// What a producer is for, and so what follows when the broker refuses a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It takes all records. A refusal puts an end to it, so that nothing of the record's lane follows.
    Main,
    /// It takes records that are suspected, each alone in its batch. A refusal rejects the record.
    Quarantine,
    /// It takes records in transactions. A refusal undoes the transaction.
    Transactional,
}

/// Transactions that may be under way at a time, each with a client of its own. While the broker still makes one visible,
/// the client that has committed it must wait; another one can go on.
pub(crate) const TRANSACTIONS: usize = 2;

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
            let context = Context { ledger: Arc::clone(&ledger), log, role };
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

/// Hears the client.
pub(crate) struct Context {
    pub(crate) ledger: Arc<Ledger>,
    log: ClientLog,
    role: Role,
}

impl Context {
    /// Whether reports may be heard a little later: nothing waits for them, neither consumers, as with transactions,
    /// nor the next record, as in quarantine.
    pub(crate) fn is_patient(&self) -> bool {
        self.role == Role::Main
    }

    /// Judges a record that was not delivered. Whatever the cause, nothing of the record's lane may follow it, so the
    /// producer takes no more; but in quarantine nothing of it is under way.
    fn failed(&self, code: RDKafkaErrorCode, message: &BorrowedMessage<'_>) -> Outcome {
        let topic = message.topic();
        let verdict = errors::classify(code);
        if verdict == ErrorClass::Wait && !self.ledger.is_healthy() {
            return Outcome::Unknown;
        }
        let mut failure = Failure::because(format!("a record of topic {topic} was not delivered: {code}"));
        let outcome = match verdict {
            ErrorClass::Hold(cause) => {
                failure.held.push((topic.to_owned(), cause));
                Outcome::Held(cause)
            }
            ErrorClass::Reject(word) => {
                let refusal = refusal(word, code, message);
                if self.role == Role::Quarantine {
                    return Outcome::Rejected(Box::new(refusal.rejection()));
                }
                failure.refused.push(refusal);
                Outcome::Unknown
            }
            ErrorClass::Wait | ErrorClass::Fatal => Outcome::Unknown,
        };
        self.ledger.fail(failure);
        outcome
    }
}

/// What is to be remembered of a record that the broker refused.
fn refusal(word: &'static str, error: RDKafkaErrorCode, message: &BorrowedMessage<'_>) -> Refused {
    Refused {
        id: encode::row_id(message.headers()),
        topic: message.topic().to_owned(),
        key: message.key().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
        partition: message.partition(),
        code: word,
        error,
    }
}

impl Refused {
    /// What it comes to when the record was sent alone.
    pub(crate) fn rejection(&self) -> Rejection {
        let Self { topic, partition, error, .. } = self;
        let message = format!(
            "the broker refuses it, sent alone to partition {partition} of topic {topic}: {error}; correct the row, or the topic's settings"
        );
        Rejection { code: self.code, message }
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let outcome = match result {
            Ok(message) => {
                self.log.connectivity.answered();
                Outcome::Delivered { partition: message.partition(), offset: message.offset() }
            }
            Err((error, message)) => {
                let code = errors::code(error).unwrap_or(RDKafkaErrorCode::Fail);
                self.failed(code, message)
            }
        };
        self.ledger.report(ticket, outcome);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        if kind == "FAIL" && line.contains(ESTABLISHED) {
            self.ledger.disconnected();
        }
        if kind == "ADDPARTS"
            && let Some(held) = kept_out(line)
        {
            let reason = format!("topic {} cannot be part of a transaction", held.0);
            self.ledger.fail(Failure { held: vec![held], ..Failure::because(reason) });
        }
        self.log.log(level, kind, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if errors::code(&error) == Some(RDKafkaErrorCode::Fatal) {
            self.ledger.fail(Failure::because(reason));
        } else {
            self.log.error(error, reason);
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}
