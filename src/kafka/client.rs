//! A producing client, and the thread that hears what becomes of records.
//!
//! The driver's own `ThreadedProducer` is the same but for its pauses: it waits in whole milliseconds and spins through
//! what is left of a hundred, which costs an idle relay a hundredth of a core.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::sync::oneshot;

use crate::kafka::producer::Context;

/// How long the thread hears at once while there is something to hear, and at most: so long the client's end may have to
/// wait for it.
const WAITS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));

/// What waking up takes: the driver would spin through the part of a wait that is left.
const WAKING: Duration = Duration::from_micros(60);

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
        let (heard, over) = (Arc::clone(&producer), Arc::clone(&is_over));
        let thread = thread::Builder::new().name("kafka reports".to_owned()).spawn(move || {
            let reports = || heard.context().ledger.reports();
            let mut wait = WAITS.0;
            while !over.load(Ordering::Relaxed) {
                let before = reports();
                heard.poll(wait + WAKING);
                wait = if reports() == before { (wait * 2).min(WAITS.1) } else { WAITS.0 };
            }
        });
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
