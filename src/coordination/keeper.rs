//! Winning, renewing and giving up the lease.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::aligned_tick::aligned_tick;
use crate::backoff::Backoff;
use crate::contract::{Bid, LeaseSession, LeaseStore, Mandate, StoreError};
use crate::observe::chain;
use crate::observe::outage::Outage;
use crate::outbox::Term;

/// How often a standby looks whether the lease is free.
const STANDBY_POLL: Duration = Duration::from_millis(50);

/// How many renewals a lease has time for.
pub const RENEWALS: u32 = 3;

/// How long giving the lease up may take; after that it runs out by itself.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// Bids for the lease of one outbox.
pub struct Keeper {
    store: Arc<dyn LeaseStore>,
    holder: String,
    ttl: Duration,
    fence: Option<String>,
}

/// A leadership: a term, and how long it can be trusted. Dropping it stops the renewals, and the lease runs out.
#[derive(Debug)]
pub struct Leadership {
    term: Term,
    trusted_until: watch::Receiver<Instant>,
    fading: CancellationToken,
    lost: CancellationToken,
    resign: CancellationToken,
    confirmations: Confirmations,
    renewals: JoinHandle<()>,
}

/// Asks for a renewal at once.
#[derive(Debug, Clone)]
struct Confirmations(mpsc::Sender<oneshot::Sender<()>>);

#[async_trait]
impl Mandate for Confirmations {
    async fn stands(&self) -> bool {
        let (reply, confirmed) = oneshot::channel();
        self.0.send(reply).await.is_ok() && confirmed.await.is_ok()
    }
}

impl Keeper {
    /// Bids as `holder` for leases that last `ttl` from each renewal. A mark behind the name keeps two processes apart
    /// that are called the same.
    pub fn new(store: Arc<dyn LeaseStore>, holder: &str, ttl: Duration) -> Self {
        let mark = Uuid::new_v4().simple().to_string();
        Self { store, holder: format!("{holder}/{}", &mark[..8]), ttl, fence: None }
    }

    /// For a relay whose sink shuts out those that fence by the same name: takes the lease of such a holder over as soon
    /// as its lock is gone.
    #[must_use]
    pub fn fencing(self, name: &str) -> Self {
        Self { fence: Some(name.to_owned()), ..self }
    }

    /// What this relay is called in the lease: no other keeper is called so.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Waits until this relay leads, for as long as it takes; a database that is unavailable, or refuses something until an
    /// operator allows it, is waited for too.
    /// `connected` is told whenever the database answered or did not. May be cancelled.
    ///
    /// # Errors
    /// When this process can never work with what the database holds.
    pub async fn lead(&self, mut connected: impl FnMut(bool)) -> Result<Leadership, StoreError> {
        let mut backoff = Backoff::default();
        let outage = Outage::default();
        loop {
            match self.bid_until_won(&mut backoff, &outage, &mut connected).await {
                Ok(leadership) => return Ok(leadership),
                Err(error) if error.is_transient() || error.is_refusal() => {
                    connected(false);
                    if outage.begins() {
                        tracing::warn!(error = %chain(&error), "waiting for the database before bidding for the lease");
                    }
                    sleep(backoff.next_wait()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn bid_until_won(
        &self,
        backoff: &mut Backoff,
        outage: &Outage,
        connected: &mut impl FnMut(bool),
    ) -> Result<Leadership, StoreError> {
        let mut session = self.store.lease(&self.holder, self.ttl).await?;
        if let Some(name) = &self.fence {
            session.fence(name);
        }
        loop {
            let began = Instant::now();
            let bid = session.bid().await?;
            connected(true);
            backoff.reset();
            outage.ends();
            match bid {
                Bid::Won(term) => return Ok(self.begin(session, term, began)),
                Bid::Taken => sleep(STANDBY_POLL.min(self.ttl / 4)).await,
                Bid::Wait(remaining) => sleep(remaining.min(self.ttl / 4).max(Duration::from_millis(1))).await,
            }
        }
    }

    fn begin(&self, session: Box<dyn LeaseSession>, term: Term, began: Instant) -> Leadership {
        let (prolonged, trusted_until) = watch::channel(began + trust(self.ttl));
        let [fading, lost, resign] = [(); 3].map(|()| CancellationToken::new());
        let (confirmations, confirm) = mpsc::channel(1);
        let renewer = Renewer {
            confirm,
            store: Arc::clone(&self.store),
            holder: self.holder.clone(),
            term,
            ttl: self.ttl,
            trusted_until: prolonged,
            fading: fading.clone(),
            lost: lost.clone(),
            resign: resign.clone(),
        };
        let renewals = tokio::spawn(renewer.run(session));
        let confirmations = Confirmations(confirmations);
        Leadership { term, trusted_until, fading, lost, resign, confirmations, renewals }
    }
}

/// How long a lease of this time to live is trusted: a tenth less, for clocks that do not run alike.
fn trust(ttl: Duration) -> Duration {
    ttl - ttl / 10
}

impl Leadership {
    /// The number of this leadership.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Until when this relay may act as leader, unless a renewal moves it.
    pub fn trusted_until(&self) -> Instant {
        *self.trusted_until.borrow()
    }

    /// Until when it may, as each renewal moves it.
    pub fn trust(&self) -> watch::Receiver<Instant> {
        self.trusted_until.clone()
    }

    /// Whether this relay may act as leader now.
    pub fn is_trusted(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.trusted_until()
    }

    /// Cancelled when the lease can no longer be prolonged: begin nothing new, and finish what is under way while
    /// the trust lasts.
    pub fn fading(&self) -> &CancellationToken {
        &self.fading
    }

    /// Tells whether the database says that this relay leads.
    pub fn mandate(&self) -> Arc<dyn Mandate> {
        Arc::new(self.confirmations.clone())
    }

    /// Cancelled when this relay must no longer act as leader.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lease up, so that a standby need not wait for it to run out. Call it when nothing is in
    /// flight any more.
    pub async fn resign(mut self) {
        self.resign.cancel();
        if timeout(RESIGN_TIMEOUT, &mut self.renewals).await.is_err() {
            self.renewals.abort();
            tracing::warn!(term = %self.term, "the lease could not be given up in time and will run out by itself");
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.lost.cancel();
        if !self.resign.is_cancelled() {
            self.renewals.abort();
        }
    }
}

/// What came of a renewal.
enum Renewal {
    /// The lease is prolonged.
    Done,
    /// It is not, as far as is known, and its session is of no use any more; the lease is still ours for a while.
    Failed,
    /// The lease is another's, or may be.
    Over,
}

struct Renewer {
    confirm: mpsc::Receiver<oneshot::Sender<()>>,
    store: Arc<dyn LeaseStore>,
    holder: String,
    term: Term,
    ttl: Duration,
    trusted_until: watch::Sender<Instant>,
    fading: CancellationToken,
    lost: CancellationToken,
    resign: CancellationToken,
}

impl Renewer {
    async fn run(mut self, mut session: Box<dyn LeaseSession>) {
        loop {
            let asked = tokio::select! {
                () = self.resign.cancelled() => {
                    self.say(session.resign(self.term).await);
                    break;
                }
                Some(asked) = self.confirm.recv() => Some(asked),
                () = aligned_tick(self.ttl / RENEWALS) => None,
            };
            match self.renew(&mut *session).await {
                // The task that asked may have gone.
                Renewal::Done => drop(asked.map(|reply| reply.send(()))),
                Renewal::Failed => {
                    drop(asked);
                    self.fade().await;
                    break;
                }
                Renewal::Over => break,
            }
        }
        self.lost.cancel();
    }

    /// Renews once. The lock dies with its session, so a session that failed is not worth another try. The answer
    /// is waited for only so long that what is in flight can still end before the trust does.
    async fn renew(&self, session: &mut dyn LeaseSession) -> Renewal {
        let (began, deadline) = (Instant::now(), self.deadline());
        let patience = deadline.checked_sub(self.ttl / 5).unwrap_or(deadline);
        let failure = match timeout_at(patience, session.renew(self.term)).await {
            Ok(Ok(())) if Instant::now() < deadline => {
                self.trusted_until.send_replace(began + trust(self.ttl));
                return Renewal::Done;
            }
            Ok(Err(error @ StoreError::TermOver { .. })) => {
                tracing::warn!(term = %self.term, error = %chain(&error), "the lease is lost: no longer leading");
                return Renewal::Over;
            }
            Ok(Ok(())) => "the renewal came too late".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_elapsed) => "the database did not answer in time".to_owned(),
        };
        tracing::warn!(term = %self.term, error = %failure, "the lease cannot be renewed: finishing what is in flight");
        Renewal::Failed
    }

    /// Lets what is in flight end while the trust lasts. If it did, the lease is given up through a session of its own,
    /// so that no standby waits for it to run out.
    async fn fade(&mut self) {
        self.fading.cancel();
        // The sink is not told any more that this relay leads.
        self.confirm.close();
        while self.confirm.try_recv().is_ok() {}
        tokio::select! {
            biased;
            () = sleep_until(self.deadline()) => {
                tracing::warn!(term = %self.term, "the lease is lost: no longer leading");
            }
            () = self.resign.cancelled() => self.say(self.resign_anew().await),
        }
    }

    async fn resign_anew(&self) -> Result<(), StoreError> {
        self.store.lease(&self.holder, self.ttl).await?.resign(self.term).await
    }

    fn say(&self, resigned: Result<(), StoreError>) {
        if let Err(error) = resigned {
            tracing::warn!(term = %self.term, error = %chain(&error), "the lease was not given up and will run out by itself");
        }
    }

    fn deadline(&self) -> Instant {
        *self.trusted_until.borrow()
    }
}
