//! Writing settlements, for as long as it takes, and what of them the database refuses.
//!
//! A row that the database refuses to record while it records others holds no other row up: it is set aside and tried
//! again now and then. Until it is recorded too the position stands still, so that a restart repeats it and no other.
//! What is refused as a whole is waited for.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::contract::{Store, StoreError};
use crate::observe::outage::Outage;
use crate::observe::{chain, metrics};
use crate::outbox::Settlement;
use crate::relay::flow::{Ending, SessionEnd};
use crate::relay::probation::Probation;
use crate::relay::status::Status;

/// How long an attempt to settle that was under way may still take once the session has to end.
const LAST_SETTLEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Refusals after which all of a settlement counts as refused, if nothing of it was recorded until then.
const REFUSALS_OF_A_WHOLE: u32 = 24;

/// The longest pause between attempts at what is refused once the session has to end.
const HURRIED_PAUSE: Duration = Duration::from_millis(500);

/// Rows that are set aside at most; beyond, the relay waits.
const MOST_ASIDE: usize = 10_000;

/// The pause before rows that were set aside are tried again when the database was away.
const SET_ASIDE_RETRY: Duration = Duration::from_secs(1);

/// Ids that an error names.
const NAMED_IDS: usize = 5;

/// Writes settlements.
pub(crate) struct Recorder {
    store: Arc<dyn Store>,
    probation: Probation,
    status: watch::Sender<Status>,
    ending: Ending,
    aside: Aside,
}

/// Rows that were delivered and that the database refuses to record, each by itself.
#[derive(Default)]
struct Aside {
    rows: Settlement,
    retry_at: Option<Instant>,
    refusal: Option<StoreError>,
}

/// What came of an attempt to settle.
enum Settled {
    /// All of it is recorded.
    All,
    /// These rows are refused, and the others are recorded.
    Except(Settlement, StoreError),
}

impl Recorder {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        probation: Probation,
        status: watch::Sender<Status>,
        ending: Ending,
    ) -> Self {
        Self { store, probation, status, ending, aside: Aside::default() }
    }

    /// Whether rows were delivered that are not recorded.
    pub(crate) fn has_set_aside(&self) -> bool {
        !self.aside.rows.is_empty()
    }

    /// Why rows were left unrecorded, if any were.
    pub(crate) fn into_refusal(self) -> Option<StoreError> {
        self.aside.refusal.filter(|_| !self.aside.rows.is_empty())
    }

    /// Waits until it is time to try again what was set aside; for ever where nothing was.
    pub(crate) async fn is_due(&self) {
        match self.aside.retry_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tries again to record what was set aside.
    pub(crate) async fn record_what_was_set_aside(&mut self) {
        let rows = std::mem::take(&mut self.aside.rows);
        self.aside.retry_at = None;
        if rows.is_empty() {
            return;
        }
        match self.record_what_can_be(&rows).await {
            Ok(Settled::All) => self.recorded(),
            Ok(Settled::Except(refused, error)) => self.set_aside(&refused, error),
            Err(_away) => {
                self.aside.rows = rows;
                self.aside.retry_at = Some(Instant::now() + SET_ASIDE_RETRY);
            }
        }
    }

    /// Writes the settlement, for as long as it takes. Rows that are refused while others are not are set aside.
    pub(crate) async fn record(&mut self, settlement: &Settlement) -> Result<(), SessionEnd> {
        if settlement.is_empty() {
            return Ok(());
        }
        let mut backoff = Backoff::default();
        let outage = Outage::default();
        let mut rest = Cow::Borrowed(settlement);
        loop {
            let began = Instant::now();
            match self.record_what_can_be(&rest).await {
                Ok(Settled::All) => {
                    metrics::record_settle(began.elapsed());
                    if outage.ends() {
                        tracing::info!("the database is back; settled what was delivered");
                    }
                    self.recorded();
                    return Ok(());
                }
                Ok(Settled::Except(refused, error)) if self.may_set_aside(&refused) => {
                    self.set_aside(&refused, error);
                    return Ok(());
                }
                Ok(Settled::Except(refused, error)) => {
                    let pause = self.probation.refused(&error);
                    if !self.wait_for_an_operator(pause).await {
                        return Err(SessionEnd::Refused(error));
                    }
                    rest = Cow::Owned(refused);
                }
                Err(error) if error.is_transient() && !self.ending.give_up.is_cancelled() => {
                    self.status.send_modify(|status| status.connected = false);
                    if outage.begins() {
                        tracing::warn!(error = %chain(&error), "waiting for the database before settling what was delivered");
                    }
                    tokio::select! {
                        () = sleep(backoff.next_wait()) => {}
                        () = self.ending.give_up.cancelled() => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Settles as a whole, or, where that is refused, in ever smaller parts, until it is known which rows are refused by
    /// themselves, or that all are.
    async fn record_what_can_be(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let mut error = match self.try_settle(settlement).await {
            Err(error) if error.is_refusal() => error,
            settled => return settled.map(|()| Settled::All),
        };
        let mut parts = if settlement.len() > 1 { Vec::from(settlement.halves()) } else { Vec::new() };
        let mut refused = if settlement.len() > 1 { Settlement::default() } else { settlement.clone() };
        let (mut settled_some, mut refusals) = (false, 0);
        while let Some(part) = parts.pop() {
            match self.try_settle(&part).await {
                Ok(()) => {
                    self.probation.passed();
                    settled_some = true;
                }
                Err(said) if said.is_refusal() => {
                    (error, refusals) = (said, refusals + 1);
                    if part.len() == 1 {
                        refused.extend(&part);
                    } else {
                        parts.extend(part.halves());
                    }
                }
                Err(error) => return Err(error),
            }
            if !settled_some && refusals >= REFUSALS_OF_A_WHOLE {
                return Ok(Settled::Except(settlement.clone(), error));
            }
        }
        Ok(if refused.is_empty() { Settled::All } else { Settled::Except(refused, error) })
    }

    /// Only while the database records others: what is refused as a whole must not be published on.
    fn may_set_aside(&self, refused: &Settlement) -> bool {
        !self.probation.is_on() && self.aside.rows.len() + refused.len() <= MOST_ASIDE
    }

    fn set_aside(&mut self, refused: &Settlement, error: StoreError) {
        self.aside.rows.extend(refused);
        let refusal = naming(&self.aside.rows, error);
        self.aside.retry_at = Some(Instant::now() + self.probation.refused(&refusal));
        self.aside.refusal = Some(refusal);
    }

    /// Something was recorded that was delivered.
    fn recorded(&self) {
        self.probation.passed();
        if !self.has_set_aside() {
            self.probation.mended();
        }
    }

    /// Waits before another try. Says whether there is one: another leader need not wait for this.
    async fn wait_for_an_operator(&self, pause: Duration) -> bool {
        let hurried = async {
            self.ending.soft.cancelled().await;
            sleep(HURRIED_PAUSE).await;
        };
        tokio::select! {
            biased;
            () = self.ending.abort.cancelled() => return false,
            () = sleep(pause) => {}
            () = hurried => {}
        }
        true
    }

    async fn try_settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        let last_chance = async {
            self.ending.give_up.cancelled().await;
            sleep(LAST_SETTLEMENT_TIMEOUT).await;
        };
        // An attempt that was under way when the lease was lost may go through the same dead connection.
        let began_before = !self.ending.abort.is_cancelled();
        let new_chance = async {
            self.ending.abort.cancelled().await;
            sleep(LAST_SETTLEMENT_TIMEOUT).await;
        };
        let unanswered = |doing| {
            let source = "it did not answer in time".into();
            Err(StoreError::Unavailable { doing, source })
        };
        tokio::select! {
            settled = self.store.settle(settlement) => settled,
            () = last_chance => unanswered("settling before the deadline of the stop"),
            () = new_chance, if began_before => unanswered("settling while the lease was lost"),
        }
    }
}

/// Says of which rows an error is.
fn naming(rows: &Settlement, error: StoreError) -> StoreError {
    let ids: Vec<String> = rows.ids().iter().take(NAMED_IDS).map(i64::to_string).collect();
    let more = if rows.len() > NAMED_IDS { ", …" } else { "" };
    StoreError::Unusable {
        problem: format!(
            "{} published records cannot be recorded, of the rows with id {}{more}",
            rows.len(),
            ids.join(", ")
        ),
        repair: "mend what refuses them, or correct the rows".to_owned(),
        source: Some(Box::new(error)),
    }
}
