//! Waking up: a notification that a writer sends only while the relay waits for it.
//!
//! `NOTIFY` takes a lock of the whole cluster through commit, so that notifying transactions commit one at a time: nothing
//! where some hundreds a second do, and most of the throughput where thousands would. The relay holds an advisory lock while
//! it waits for commits; the trigger tries to share it, and notifies when it cannot. The lock is *tried*: a writer that
//! began while the relay was polling has its share until it ends, and would commit without notifying.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use sqlx::Acquire;
use sqlx::postgres::{PgListener, PgPoolOptions};

use crate::contract::{Arming, StoreError, WakeSource};
use crate::postgres::address::Address;
use crate::postgres::errors::{classify, not_now};
use crate::postgres::session::{ask, configure, lock_key, table_oid};

/// First half of the lock's key; the second is the table's oid. The trigger has the same number.
const WAKE_LOCK_CLASS: i32 = 1_869_968_503;

/// Wake-ups over one connection, which both listens and holds the lock. It is opened when first armed, and anew
/// after it was lost.
pub(crate) struct PgWake {
    address: Arc<Address>,
    always: bool,
    session: Option<Session>,
}

struct Session {
    listener: PgListener,
    channel: String,
    key: i32,
    locked: bool,
    listens: bool,
}

impl PgWake {
    /// Wake-ups of an outbox. Does not connect. `always` keeps the lock once it is had, and only stops listening.
    pub(crate) fn new(address: Arc<Address>, always: bool) -> Self {
        Self { address, always, session: None }
    }

    /// A pool of one connection: the only thing that sqlx listens on.
    async fn listen(&self) -> Result<Session, StoreError> {
        let doing = "listening for wake-ups";
        let table = self.address.table().await?;
        let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = pool.connect_lazy_with(self.address.options().clone().application_name("outboxd/wake"));
        let mut listener = ask(doing, PgListener::connect_with(&pool)).await?;
        let conn = ask(doing, (&mut listener).acquire()).await?;
        configure(conn, &[]).await?;
        let oid = table_oid(conn, table).await?;
        let channel = format!("outboxd_{oid}");
        ask(doing, listener.listen(&channel)).await?;
        // A connection that was made anew behind our back would listen without holding the lock.
        listener.eager_reconnect(false);
        Ok(Session { listener, channel, key: lock_key(oid), locked: false, listens: true })
    }
}

#[async_trait]
impl WakeSource for PgWake {
    async fn arm(&mut self) -> Result<Arming, StoreError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.listen().await?,
        };
        if !session.locked {
            let statement = sqlx::query_scalar("/* outboxd: lock_wake */ select pg_try_advisory_lock($1, $2)");
            let locked = statement.bind(WAKE_LOCK_CLASS).bind(session.key).fetch_one(&mut session.listener);
            session.locked = ask("arming the wake-up", locked).await?;
        }
        if !session.listens {
            ask("arming the wake-up", session.listener.listen(&session.channel)).await?;
            session.listens = true;
        }
        // What came while the relay was polling is of no interest: it reads once more before it waits.
        while session.listener.next_buffered().is_some() {}
        let arming = if session.locked { Arming::Armed } else { Arming::NotNow };
        self.session = Some(session);
        Ok(arming)
    }

    async fn wait(&mut self) -> Result<u32, StoreError> {
        let doing = "waiting for a wake-up";
        let Some(session) = self.session.as_mut() else { return Err(not_now(doing, "it is not armed")) };
        let mut told = session.listener.try_recv().await;
        let mut commits = 0;
        let lost = loop {
            match told {
                Ok(Some(_)) => commits += 1,
                Ok(None) => break not_now(doing, "the connection was lost"),
                Err(error) => break classify(doing, error),
            }
            let Some(next) = session.listener.try_recv().now_or_never() else { return Ok(commits) };
            told = next;
        };
        self.session = None;
        Err(lost)
    }

    async fn disarm(&mut self) -> Result<(), StoreError> {
        let Some(mut session) = self.session.take() else { return Ok(()) };
        if self.always {
            // The server would keep for us what no task reads.
            ask("disarming the wake-up", session.listener.unlisten(&session.channel)).await?;
            session.listens = false;
        } else if session.locked {
            let statement = sqlx::query("/* outboxd: unlock_wake */ select pg_advisory_unlock($1, $2)");
            let unlocked = statement.bind(WAKE_LOCK_CLASS).bind(session.key).execute(&mut session.listener);
            ask("disarming the wake-up", unlocked).await?;
            session.locked = false;
        }
        self.session = Some(session);
        Ok(())
    }
}
