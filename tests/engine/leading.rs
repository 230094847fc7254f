//! What a leader does whose lease cannot be prolonged.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::{BoxFuture, Mandate, Receipt, Sink as Contract, SinkError};
use outboxd::memory::faults::{self, Call, Fault, Gate, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{Record, Term};
use outboxd::relay::Ended;
use tokio::time::timeout;

use crate::engine::{LONG, Running, message, store};

/// A relay whose store and sink follow a script.
fn scripted(store: &Store, sink: &Sink) -> (Running, Script) {
    let script = Script::new();
    let scripted_store = faults::Store::new(Arc::new(store.clone()), script.clone());
    let scripted_sink = faults::Sink::new(Box::new(sink.clone()), script.clone());
    (Running::over(Arc::new(scripted_store), Box::new(scripted_sink)), script)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fails_lets_what_is_in_flight_end_and_nothing_comes_twice() {
    let (store, sink) = (store(), Sink::new());
    let (mut relay, script) = scripted(&store, &sink);
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    // The acknowledgement comes after the renewal failed and before the trust ends.
    script.on(Call::Receipt, Fault::Slow(Duration::from_millis(130))).on(Call::Renew, Fault::Refuse);
    store.enqueue(&message("t", "k", 1));
    timeout(LONG, script.until(Call::Renew, |count| count.ended > 0)).await.expect("it renews");
    relay.until("leading anew", |status| status.term == Some(Term(2))).await;
    store.enqueue(&message("t", "k", 2));
    relay.until("published", |status| status.published == 2).await;
    assert_eq!(relay.stop().await, Ended::Graceful);
    assert_eq!(sink.ids(), [1, 2], "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_forgotten_when_the_trust_ends() {
    let (store, sink) = (store(), Sink::new());
    let (mut relay, script) = scripted(&store, &sink);
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    let never = Gate::new();
    script.on(Call::Receipt, Fault::Hold(never)).on(Call::Renew, Fault::Refuse);
    store.enqueue(&message("t", "k", 1));
    relay.until("leading anew", |status| status.term == Some(Term(2))).await;
    relay.until("published", |status| status.published == 1).await;
    assert_eq!(relay.stop().await, Ended::Graceful);
    assert_eq!(sink.ids(), [1, 1], "nobody told that it had arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_without_an_answer_ends_the_leadership_before_the_trust_does() {
    let (store, sink) = (store(), Sink::new());
    let (mut relay, script) = scripted(&store, &sink);
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    script.on(Call::Renew, Fault::Hold(Gate::new()));
    timeout(LONG, script.until(Call::Renew, |count| count.begun > 0)).await.expect("it renews");
    relay.until("leading anew", |status| status.term == Some(Term(2))).await;
    assert_eq!(script.count(Call::Resign).ended, 1, "given up in time, not run out");
    assert_eq!(relay.stop().await, Ended::Graceful);
}

/// A sink that finds, at its first submission, that another relay leads.
struct Overtaken {
    sink: Sink,
    mandate: Option<Arc<dyn Mandate>>,
    was_overtaken: bool,
}

impl Contract for Overtaken {
    fn appoint(&mut self, mandate: Arc<dyn Mandate>) {
        self.mandate = Some(mandate);
    }

    fn open(&mut self, term: Term) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let mandate = self.mandate.as_ref().expect("the relay says whom to ask");
            assert!(mandate.stands().await, "the term of a session that begins stands");
            self.sink.open(term).await
        })
    }

    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            match std::mem::replace(&mut self.was_overtaken, true) {
                false => Err(SinkError::TermOver),
                true => self.sink.submit(records).await,
            }
        })
    }

    fn abort(&mut self) {
        self.sink.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_sink_finds_that_its_term_is_over_bids_anew_and_does_not_go_on_in_it() {
    let (store, sink) = (store(), Sink::new());
    let overtaken = Overtaken { sink: sink.clone(), mandate: None, was_overtaken: false };
    let mut relay = Running::over(Arc::new(store.clone()), Box::new(overtaken));
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    store.enqueue(&message("t", "k", 1));
    relay.until("published", |status| status.published == 1).await;
    assert_eq!(sink.delivered()[0].term, Term(2), "published in a term of its own");
    assert_eq!(relay.stop().await, Ended::Graceful);
}
