//! Winning, renewing and giving up the lease.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::contract::{Bid, LeaseSession, LeaseStore, StoreError};
use crate::observe::chain;
use crate::outbox::Term;

/// How often a standby looks whether the lease is free.
const STANDBY_POLL: Duration = Duration::from_millis(100);

/// How long giving the lease up may take; after that it runs out by itself.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// Bids for the lease of one outbox.
pub struct Keeper {
    store: Arc<dyn LeaseStore>,
    holder: String,
    ttl: Duration,
    fences: bool,
}

/// A leadership: a term, and how long it can be trusted. Dropping it stops the renewals, and the lease runs out.
#[derive(Debug)]
pub struct Leadership {
    term: Term,
    trusted_until: Arc<Mutex<Instant>>,
    lost: CancellationToken,
    resign: CancellationToken,
    /// Asks for a renewal at once.
    confirmations: mpsc::Sender<oneshot::Sender<()>>,
    renewals: JoinHandle<()>,
}

impl Keeper {
    /// Bids as `holder` for leases that last `ttl` from each renewal.
    pub fn new(store: Arc<dyn LeaseStore>, holder: String, ttl: Duration) -> Self {
        Self { store, holder, ttl, fences: false }
    }

    /// For a relay whose sink shuts its predecessor out: takes a lease over as soon as its holder's lock is gone.
    #[must_use]
    pub fn fencing(self) -> Self {
        Self { fences: true, ..self }
    }

    /// Waits until this relay leads, for as long as it takes; an unavailable database is waited for too.
    /// `connected` is told whenever the database answered or did not. May be cancelled.
    ///
    /// # Errors
    /// When the database can never give a lease as it is.
    pub async fn lead(&self, mut connected: impl FnMut(bool)) -> Result<Leadership, StoreError> {
        let mut backoff = Backoff::default();
        let mut said = false;
        loop {
            match self.bid_until_won(&mut backoff, &mut said, &mut connected).await {
                Ok(leadership) => return Ok(leadership),
                Err(error) if error.is_transient() => {
                    connected(false);
                    if !std::mem::replace(&mut said, true) {
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
        said: &mut bool,
        connected: &mut impl FnMut(bool),
    ) -> Result<Leadership, StoreError> {
        let mut session = self.store.lease(&self.holder, self.ttl).await?;
        if self.fences {
            session.fence();
        }
        loop {
            let began = Instant::now();
            let bid = session.bid().await?;
            connected(true);
            backoff.reset();
            *said = false;
            match bid {
                Bid::Won(term) => return Ok(self.begin(session, term, began)),
                Bid::Taken => sleep(STANDBY_POLL.min(self.ttl / 4)).await,
                Bid::Wait(remaining) => sleep(remaining.min(self.ttl / 4).max(Duration::from_millis(1))).await,
            }
        }
    }

    fn begin(&self, session: Box<dyn LeaseSession>, term: Term, began: Instant) -> Leadership {
        let trusted_until = Arc::new(Mutex::new(began + trust(self.ttl)));
        let (lost, resign) = (CancellationToken::new(), CancellationToken::new());
        let (confirmations, confirm) = mpsc::channel(1);
        let renewer = Renewer {
            confirm,
            session,
            term,
            ttl: self.ttl,
            trusted_until: Arc::clone(&trusted_until),
            lost: lost.clone(),
            resign: resign.clone(),
        };
        Leadership { term, trusted_until, lost, resign, confirmations, renewals: tokio::spawn(renewer.run()) }
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
        *self.trusted_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this relay may act as leader now.
    pub fn is_trusted(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.trusted_until()
    }

    /// Whether the database says, now, that this relay leads. Waits for the answer while the lease is trusted.
    pub async fn confirm(&self) -> bool {
        let (reply, confirmed) = oneshot::channel();
        self.confirmations.send(reply).await.is_ok() && confirmed.await.is_ok()
    }

    /// Cancelled when this relay must no longer act as leader.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lease up, so that a standby need not wait for it to run out. Call it when nothing is in
    /// flight any more.
    pub async fn resign(mut self) {
        self.resign.cancel();
        if tokio::time::timeout(RESIGN_TIMEOUT, &mut self.renewals).await.is_err() {
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

struct Renewer {
    confirm: mpsc::Receiver<oneshot::Sender<()>>,
    session: Box<dyn LeaseSession>,
    term: Term,
    ttl: Duration,
    trusted_until: Arc<Mutex<Instant>>,
    lost: CancellationToken,
    resign: CancellationToken,
}

impl Renewer {
    async fn run(mut self) {
        let resigned = loop {
            let asked = tokio::select! {
                () = self.resign.cancelled() => break true,
                Some(asked) = self.confirm.recv() => Some(asked),
                () = sleep(self.ttl / 4) => None,
            };
            if !self.renew().await {
                break false;
            }
            // Whoever asked may have gone.
            asked.map(|reply| reply.send(()));
        };
        if resigned && let Err(error) = self.session.resign(self.term).await {
            tracing::warn!(term = %self.term, error = %chain(&error), "the lease was not given up and will run out by itself");
        }
        self.lost.cancel();
    }

    /// Renews once. The lock dies with its session, so a session that failed is not worth another try.
    async fn renew(&mut self) -> bool {
        let began = Instant::now();
        let deadline = *self.trusted_until.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = match timeout_at(deadline, self.session.renew(self.term)).await {
            Ok(Ok(())) if Instant::now() < deadline => {
                *self.trusted_until.lock().unwrap_or_else(PoisonError::into_inner) = began + trust(self.ttl);
                return true;
            }
            Ok(Ok(())) => "the renewal came too late".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_elapsed) => "the database did not answer in time".to_owned(),
        };
        tracing::warn!(term = %self.term, error = %lost, "the lease is lost: no longer leading");
        false
    }
}
