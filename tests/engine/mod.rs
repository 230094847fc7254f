//! The relay's own logic, over a store and a sink in memory: quick, and every failure at will.

mod exactly_once;
mod flow;
mod leading;
mod readiness;
mod refusals;
mod rejections;
mod replays;
mod steering;
#[cfg(feature = "otel")]
mod traces;

use std::sync::Arc;
use std::time::Duration;

use outboxd::Message;
use outboxd::memory::{Sink, Store};
use outboxd::outbox::Settle;
use outboxd::relay::{Ended, Error, Relay, Settings, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(20);

/// A relay at work.
struct Running {
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: JoinHandle<Result<Ended, Error>>,
}

impl Running {
    fn start(store: &Store, sink: &Sink) -> Self {
        Self::over(Arc::new(store.clone()), Box::new(sink.clone()))
    }

    fn over(store: Arc<dyn outboxd::contract::Store>, sink: Box<dyn outboxd::contract::Sink>) -> Self {
        Self::of(Relay::new(store, sink, settings()))
    }

    /// A relay of one's own making.
    fn of(relay: Relay) -> Self {
        let (status, stop) = (relay.status(), CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        Self { status, stop, task }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) {
        let reached = timeout(LONG, self.status.wait_for(condition)).await.is_ok();
        assert!(reached, "the relay did not get to: {what}; it is {:?}", *self.status.borrow());
    }

    async fn stop(self) -> Ended {
        self.stop.cancel();
        let ended = timeout(LONG, self.task).await.expect("it stops in time");
        ended.expect("no panic").expect("no error")
    }

    /// SIGKILL, as far as a task can be killed: nothing is settled or stored any more.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Settings that make a test quick.
fn settings() -> Settings {
    Settings {
        lease_ttl: Duration::from_millis(400),
        checkpoint_interval: Duration::from_millis(20),
        release_interval: Duration::from_millis(10),
        drain_deadline: Duration::from_secs(5),
        ..Settings::default()
    }
}

fn message(topic: &str, key: impl std::fmt::Display, text: impl std::fmt::Display) -> Message {
    Message::to(topic).key(key).text(text.to_string()).expect("a valid message")
}

fn store() -> Store {
    Store::new(Settle::Mark)
}
