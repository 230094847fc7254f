//! A producing client, and the thread that hears what becomes of records.
//!
//! The driver's own `ThreadedProducer` is the same but for its pauses. The driver's `poll` goes on to its deadline
//! whatever it has heard, waits in whole milliseconds and spins through the last one: with a deadline every hundred
//! milliseconds that costs a hundredth of a core.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::sync::oneshot;

use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::producer::context::Context;

/// How long the thread listens at once, at first and after a report.
const FIRST_POLL_WAIT: Duration = Duration::from_millis(25);

/// The longest that it listens at once, the longer nothing was reported. So long the client's end may have to wait for it.
const LONGEST_POLL_WAIT: Duration = Duration::from_millis(1600);

/// What waking up takes: the driver would spin through the part of a wait that is left.
const WAKE_TIME: Duration = Duration::from_micros(60);

/// How long the thread sleeps between two looks while reports come one after the other: being woken for each costs more
/// than any of them is worth.
const POLL_REST: Duration = Duration::from_millis(4);

/// After so many looks in vain it listens again.
const EMPTY_POLLS: u32 = 4;

/// A handle on a client, which ends when the last one is dropped.
pub(crate) type Handle = Arc<BackgroundDrop<Client>>;

/// The client itself. Dropping it waits for its thread.
pub(crate) struct Client {
    producer: Arc<BaseProducer<Context>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Closes when all of it has ended: fields are dropped in their order.
    _end: oneshot::Sender<()>,
}

impl Client {
    /// Starts it. It connects by itself, when it can. What is returned with it closes when it has ended.
    ///
    /// # Errors
    /// When the client cannot be created like this.
    pub(crate) fn start(config: &ClientConfig, context: Context) -> Result<(Self, oneshot::Receiver<()>), KafkaError> {
        let producer = Arc::new(BaseProducer::from_config_and_context(config, context)?);
        let is_over = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&producer);
        let over = Arc::clone(&is_over);
        let thread = thread::Builder::new().name("kafka reports".to_owned()).spawn(move || hear(&heard, &over));
        let thread = thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        let (end, ended) = oneshot::channel();
        Ok((Self { producer, is_over, thread: Some(thread), _end: end }, ended))
    }
}

impl Deref for Client {
    type Target = BaseProducer<Context>;

    fn deref(&self) -> &BaseProducer<Context> {
        &self.producer
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

/// Hears reports until all is over.
fn hear(producer: &BaseProducer<Context>, is_over: &AtomicBool) {
    let mut wait = FIRST_POLL_WAIT;
    while !is_over.load(Ordering::Relaxed) {
        let is_any = listen(producer, wait + WAKE_TIME);
        wait = if is_any { FIRST_POLL_WAIT } else { (wait * 2).min(LONGEST_POLL_WAIT) };
        if is_any && producer.context().is_patient() {
            look_now_and_then(producer, is_over);
        }
    }
}

/// Hears reports until they are few.
fn look_now_and_then(producer: &BaseProducer<Context>, is_over: &AtomicBool) {
    let mut in_vain = 0;
    while in_vain < EMPTY_POLLS && !is_over.load(Ordering::Relaxed) {
        thread::sleep(POLL_REST);
        in_vain += 1;
        // Without a wait it hears one event, which tells of many records or of few.
        while listen(producer, Duration::ZERO) {
            in_vain = 0;
        }
    }
}

/// Whether any record was reported.
fn listen(producer: &BaseProducer<Context>, wait: Duration) -> bool {
    let reports = || producer.context().ledger.reports();
    let before = reports();
    producer.poll(wait);
    reports() != before
}
