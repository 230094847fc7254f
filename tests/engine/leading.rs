//! What a leader does whose lease cannot be prolonged.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::contract::{BoxFuture, Mandate, Receipt, Refusal, Sink as Contract, SinkError};
use outboxd::memory::faults::{self, Call, Fault, Gate, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{Lane, Position, Progress, Record, Term};
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
    was_overtaken: bool,
}

#[async_trait]
impl Contract for Overtaken {
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        let whom = mandate.clone().expect("the relay says whom to ask");
        assert!(whom.stands().await, "the term of a session that begins stands");
        self.sink.open(term, mandate).await
    }

    async fn prepare(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.sink.prepare(records).await
    }

    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        self.sink.examine(records).await
    }

    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        match std::mem::replace(&mut self.was_overtaken, true) {
            false => Err(SinkError::TermOver),
            true => self.sink.submit(records, after).await,
        }
    }

    fn fence(&self) -> Option<&str> {
        self.sink.fence()
    }

    fn progress_stored(&mut self) {
        self.sink.progress_stored();
    }

    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        self.sink.accepts(lanes)
    }

    fn has_learnt(&mut self) -> bool {
        self.sink.has_learnt()
    }

    fn abort(&mut self) {
        self.sink.abort();
    }

    async fn close(&mut self, deadline: Duration) {
        self.sink.close(deadline).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_sink_finds_that_its_term_is_over_bids_anew_and_does_not_go_on_in_it() {
    let (store, sink) = (store(), Sink::new());
    let overtaken = Overtaken { sink: sink.clone(), was_overtaken: false };
    let mut relay = Running::over(Arc::new(store.clone()), Box::new(overtaken));
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    store.enqueue(&message("t", "k", 1));
    relay.until("published", |status| status.published == 1).await;
    assert_eq!(sink.delivered()[0].term, Term(2), "published in a term of its own");
    assert_eq!(relay.stop().await, Ended::Graceful);
}
