//! Transactions: the client's blocking calls on a thread of their own, and how a transaction ends.
//!
//! A transaction is one submission. It is committed when every record of it was acknowledged and the transaction
//! before it is committed, and undone otherwise; its receipt resolves after that. After a call that failed or timed
//! out the sink does not know what became of the transaction: then the producer is given up, and the next one's
//! initialisation decides.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::contract::{Outcome, Receipt};
use crate::kafka::producer::client::Handle;
use crate::kafka::producer::ledger::{Ended, Failure, Ledger};

/// How long the client may take to let go of records that it has reported. A commit before that waits for 100 ms.
const LETTING_GO_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it is asked.
const IN_FLIGHT_POLL: Duration = Duration::from_micros(100);

/// How long undoing a transaction usually takes at most.
const FIRST_ABORT_TIMEOUT: Duration = Duration::from_millis(25);

/// One of the client's calls that block.
#[derive(Debug, Clone, Copy)]
enum Call {
    Initialise(Duration),
    Begin,
    Commit(Duration),
    Abort(Duration),
}

struct Order {
    call: Call,
    reply: oneshot::Sender<Result<(), KafkaError>>,
}

/// A thread that makes the client's calls about transactions, one after the other. It ends with its last handle, once
/// the call under way returns.
#[derive(Clone)]
pub(crate) struct Transactor {
    orders: mpsc::Sender<Order>,
}

impl Transactor {
    /// Starts the thread.
    pub(crate) fn start(client: Handle) -> Self {
        let (orders, received) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            let mut is_initialised = false;
            for Order { call, reply } in received {
                let done = match call {
                    Call::Initialise(_) if is_initialised => Ok(()),
                    call => make(&client, call),
                };
                is_initialised |= matches!(call, Call::Initialise(_)) && done.is_ok();
                // The task that asked may have gone.
                let _ = reply.send(done);
            }
        });
        Self { orders }
    }

    /// Makes the broker refuse whatever earlier producers of this name still send, and ends their transactions. May
    /// be called again, after it timed out as well as after it succeeded.
    pub(crate) async fn initialise(&self, patience: Duration) -> Result<(), KafkaError> {
        self.call(Call::Initialise(patience)).await
    }

    /// Begins a transaction; asks no broker.
    pub(crate) async fn begin(&self) -> Result<(), KafkaError> {
        self.call(Call::Begin).await
    }

    async fn call(&self, call: Call) -> Result<(), KafkaError> {
        let (reply, answer) = oneshot::channel();
        if self.orders.send(Order { call, reply }).is_err() {
            return Err(KafkaError::Canceled);
        }
        answer.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

fn make(client: &Handle, call: Call) -> Result<(), KafkaError> {
    match call {
        Call::Initialise(patience) => client.init_transactions(patience),
        Call::Begin => client.begin_transaction(),
        Call::Commit(patience) => {
            let end = Instant::now() + LETTING_GO_TIMEOUT;
            while client.in_flight_count() > 0 && Instant::now() < end {
                std::thread::sleep(IN_FLIGHT_POLL);
            }
            client.commit_transaction(patience)
        }
        Call::Abort(patience) => abort(client, patience),
    }
}

/// Undoes the transaction. Records that were under way when the client began may come back into its queue, and it
/// would wait for them: each call takes them out anew.
fn abort(client: &Handle, patience: Duration) -> Result<(), KafkaError> {
    let end = Instant::now() + patience;
    let mut step = FIRST_ABORT_TIMEOUT;
    loop {
        match client.abort_transaction(step) {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < end => {
                step = (2 * step).min(LETTING_GO_TIMEOUT);
            }
            done => return done,
        }
    }
}

/// A transaction that was begun, and what is needed to end it.
pub(crate) struct Transaction {
    ledger: Arc<Ledger>,
    transactor: Transactor,
    /// Its place among all of the producer.
    number: u64,
    /// How many of its outcomes must be deliveries.
    planned: usize,
    /// How long committing or aborting may take.
    patience: Duration,
}

impl Transaction {
    /// A transaction of a submission of which so many records are to be sent. When another one may begin, the ledger
    /// tells.
    pub(crate) fn new(ledger: &Arc<Ledger>, transactor: &Transactor, planned: usize, patience: Duration) -> Self {
        let number = ledger.retain();
        Self { ledger: Arc::clone(ledger), transactor: transactor.clone(), number, planned, patience }
    }

    /// Ends the transaction in the background, when the records' receipt says so. The receipt that is returned
    /// resolves after that; what was undone is [`Outcome::Unknown`].
    pub(crate) fn ends_with(self, receipt: Receipt, records: usize) -> Receipt {
        let (answer, outcomes) = oneshot::channel();
        tokio::spawn(async move {
            let (outcomes, ended) = self.end(receipt).await;
            self.ledger.release(ended);
            // A receipt that no task waits for any more is no failure.
            let _ = answer.send(outcomes);
        });
        Box::pin(async move { outcomes.await.unwrap_or_else(|_cut_off| vec![Outcome::Unknown; records]) })
    }

    /// Ends the transaction. Says what became of the records and of the transaction.
    async fn end(&self, mut receipt: Receipt) -> (Vec<Outcome>, Ended) {
        let known = tokio::select! {
            biased;
            outcomes = &mut receipt => Some(outcomes),
            () = self.ledger.ended() => None,
        };
        let delivered = |outcomes: &Vec<Outcome>| outcomes.iter().filter(|outcome| is_delivered(outcome)).count();
        if let Some(outcomes) = known {
            self.ledger.predecessors_ended(self.number).await;
            if delivered(&outcomes) == self.planned && self.ledger.is_healthy() {
                return match self.try_to("committing a transaction", Call::Commit(self.patience)).await {
                    Ok(()) => (outcomes, Ended::Committed),
                    Err(error) => (undone(outcomes), self.abort_after(&error).await),
                };
            }
            self.ledger.fail(Failure::because("a transaction was broken off"));
            return (undone(outcomes), self.abort().await);
        }
        let ended = self.abort().await;
        // Aborting makes the client report everything; giving up resolves the receipt as it is.
        (undone(receipt.await), ended)
    }

    /// Undoes a transaction whose commit was refused, if that is certain.
    async fn abort_after(&self, error: &KafkaError) -> Ended {
        match error {
            KafkaError::Transaction(error) if error.txn_requires_abort() => {
                self.ledger.fail(Failure::because(format!("the broker refused to commit a transaction: {error}")));
                self.abort().await
            }
            error => {
                self.ledger
                    .fail(Failure::because(format!("whether a transaction was committed is not known: {error}")));
                self.ledger.abandon();
                Ended::Unknown
            }
        }
    }

    async fn abort(&self) -> Ended {
        match self.try_to("undoing a transaction", Call::Abort(self.patience)).await {
            Ok(()) => Ended::Undone,
            Err(error) => {
                tracing::debug!(error = %error, "the producer is given up with its transaction");
                self.ledger.abandon();
                Ended::Unknown
            }
        }
    }

    async fn try_to(&self, doing: &'static str, call: Call) -> Result<(), KafkaError> {
        let began = Instant::now();
        let done = tokio::select! {
            biased;
            done = self.transactor.call(call) => done,
            () = self.ledger.given_up() => Err(KafkaError::Canceled),
        };
        tracing::trace!(took = ?began.elapsed(), doing, is_done = done.is_ok(), "transaction");
        done
    }
}

pub(crate) fn is_delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { .. })
}

/// What remains of outcomes when the transaction is undone.
fn undone(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let undo = |outcome| if is_delivered(&outcome) { Outcome::Unknown } else { outcome };
    outcomes.into_iter().map(undo).collect()
}
