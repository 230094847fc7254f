//! Being let in as the only producer of an outbox: the broker refuses what earlier ones still send.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::contract::{Mandate, SinkError};
use crate::kafka::delivery::common::Common;
use crate::kafka::errors::{is_concurrent, is_passing, not_let_in, not_open};
use crate::kafka::producer::setup::Role;

/// How long the broker may take to let a producer in before the relay tries again. It waits until earlier
/// transactions of this outbox have ended.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take before the relay looks whether another producer had better ask.
const QUICK_INIT_TIMEOUT: Duration = Duration::from_millis(100);

/// How often it looks.
const QUICK_TRIES: usize = 8;

/// What came of asking to be let in.
enum Admission {
    /// Earlier producers are shut out.
    Granted,
    /// The broker still ends an earlier transaction.
    Later(KafkaError),
    /// It has not answered yet; the client goes on asking.
    Pending(KafkaError),
    /// The broker or the client said no.
    Refused(KafkaError),
}

/// Whether the broker has let the producer in, and whom to ask before it is asked to.
#[derive(Default)]
pub(crate) struct Fence {
    /// Whom to ask whether the term still stands, before and after others are shut out.
    mandate: Option<Arc<dyn Mandate>>,
    is_initialised: bool,
}

impl Fence {
    /// Shuts others out by this mandate from here on.
    pub(crate) fn act_for(&mut self, mandate: Option<Arc<dyn Mandate>>) {
        self.mandate = mandate;
    }

    /// Whether the broker has let the producer in and shut out those before it.
    pub(crate) fn is_initialised(&self) -> bool {
        self.is_initialised
    }

    /// Notes that the producer is another one from here on.
    pub(crate) fn begin_anew(&mut self) {
        self.is_initialised = false;
    }

    /// Makes the broker refuse what earlier producers of this outbox send, if that is not done.
    pub(crate) async fn initialise(&mut self, common: &mut Common) -> Result<(), SinkError> {
        if !self.is_initialised {
            self.be_let_in(common).await?;
            // Who was shut out meanwhile may be the leader: a term that still stands after that cannot be followed by
            // one whose leader was let in before.
            self.term_stands().await?;
            self.is_initialised = true;
        }
        Ok(())
    }

    /// Asks whether the term still stands.
    async fn term_stands(&self) -> Result<(), SinkError> {
        match &self.mandate {
            Some(mandate) if !mandate.stands().await => Err(SinkError::TermOver),
            _ => Ok(()),
        }
    }

    /// Asks to be let in. While the broker still ends an earlier transaction the client waits for half a second before
    /// it asks again; another client asks sooner.
    async fn be_let_in(&self, common: &mut Common) -> Result<(), SinkError> {
        let transaction_timeout = common.settings.transaction_timeout();
        let waits = std::iter::repeat_n(QUICK_INIT_TIMEOUT, QUICK_TRIES).chain([INIT_TIMEOUT]);
        let mut last = None;
        for patience in waits {
            match self.ask_to_be_let_in(common, patience).await? {
                Admission::Granted => return Ok(()),
                Admission::Pending(error) => last = Some(error),
                Admission::Later(error) => {
                    // The clients of the one that waits go on asking until they have ended, and the one that is let in
                    // last shuts out the others.
                    common.replace_at_once(Role::Transactional, common.producer_limits()).await?;
                    last = Some(error);
                }
                Admission::Refused(error) => {
                    // Its clients may have failed for good, and would say so even when the refusal is over.
                    common.end_producer();
                    return Err(not_let_in(error, transaction_timeout));
                }
            }
        }
        Err(not_let_in(last.unwrap_or(KafkaError::Canceled), transaction_timeout))
    }

    /// Asks to be let in once, as long as the term stands: a former leader must not shut its successor out.
    async fn ask_to_be_let_in(&self, common: &Common, patience: Duration) -> Result<Admission, SinkError> {
        self.term_stands().await?;
        let producer = common.producer.as_ref().ok_or_else(not_open)?;
        Ok(match producer.initialise(patience).await {
            Ok(()) => Admission::Granted,
            Err(error) if is_concurrent(&error) => Admission::Later(error),
            Err(error) if is_passing(&error) => Admission::Pending(error),
            Err(error) => Admission::Refused(error),
        })
    }
}
