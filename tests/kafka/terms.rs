//! Who may shut out whom: only a sink whose term stands, each time anew. On Apache Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;

use outboxd::contract::{Mandate, Sink as _, SinkError};
use outboxd::outbox::Delivery;

use super::*;

const FENCING: [Delivery; 2] = [Delivery::Fenced, Delivery::ExactlyOnce];

/// Where leadership is decided: the term that stands.
#[derive(Debug, Clone, Default)]
struct Lease {
    term: Arc<AtomicI64>,
    asked: Arc<AtomicUsize>,
}

/// What one relay knows of it.
struct Held {
    lease: Lease,
    term: Term,
    /// The term that another relay wins just before this relay is told for the so-many-th time, if any.
    overtaken: Option<(usize, Term)>,
}

impl Lease {
    fn win(&self, term: i64) -> Arc<dyn Mandate> {
        self.term.store(term, Ordering::SeqCst);
        Arc::new(Held { lease: self.clone(), term: Term(term), overtaken: None })
    }
}

#[async_trait]
impl Mandate for Held {
    async fn stands(&self) -> bool {
        let asked = self.lease.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((_, next)) = self.overtaken.filter(|(at, _)| *at == asked) {
            self.lease.term.store(next.0, Ordering::SeqCst);
        }

        self.lease.term.load(Ordering::SeqCst) == self.term.0
    }
}

/// A former leader and its successor, each of which has published ten records.
struct Succession {
    broker: BTreeMap<String, String>,
    topic: String,
    former: Sink,
    /// What the former leader's sink asks whether its term stands.
    mandate: Arc<dyn Mandate>,
    heir: Sink,
}

impl Succession {
    async fn of(delivery: Delivery) -> Self {
        let (broker, topic, lease) = (testbed(), unique("succession"), Lease::default());
        create_topic(&broker, &topic, 1, &[("max.message.bytes", "4000000")]).await;
        let settings = Settings { delivery, ..Settings::new(broker.clone(), unique("source")) };
        let new = || Sink::new(settings.clone()).expect("valid settings");
        let (mut former, mut heir) = (new(), new());
        let mandate = lease.win(1);
        former.open(Term(1), Some(Arc::clone(&mandate))).await.expect("opens");
        assert!(publish(&mut former, &records(0..10, &topic, 5)).await.iter().all(is_delivered));
        heir.open(Term(2), Some(lease.win(2))).await.expect("opens");
        assert!(publish(&mut heir, &records(10..20, &topic, 5)).await.iter().all(is_delivered));
        Self { broker, topic, former, mandate, heir }
    }

    /// That the heir was not shut out, and nothing of the former leader came after its own.
    async fn assert_the_heir_leads_on(mut self) {
        let outcomes = publish(&mut self.heir, &records(20..30, &self.topic, 5)).await;
        assert!(outcomes.iter().all(is_delivered), "the heir was shut out: {outcomes:?}");
        assert_whole_and_in_order(&read(&self.broker, &self.topic).await, 0..30);
    }
}

/// A record that only a client with a larger limit takes.
fn large(id: i64, topic: &str) -> Record {
    Record { payload: Some(vec![b'x'; 1_200_000]), ..record(id, topic, "large") }
}

async fn submitted(sink: &mut Sink, records: &[Record]) -> SinkError {
    within(sink.submit(records, None)).await.err().expect("not taken over")
}

#[tokio::test]
async fn a_former_leader_whose_client_must_be_larger_does_not_shut_its_successor_out() {
    for delivery in FENCING {
        let mut these = Succession::of(delivery).await;
        let error = submitted(&mut these.former, &[large(99, &these.topic)]).await;
        assert!(matches!(error, SinkError::TermOver), "{delivery}: {error}");
        these.assert_the_heir_leads_on().await;
    }
}

#[tokio::test]
async fn a_former_leader_that_opens_again_does_not_shut_its_successor_out() {
    for delivery in FENCING {
        let mut these = Succession::of(delivery).await;
        these.former.abort();
        let error =
            within(these.former.open(Term(1), Some(Arc::clone(&these.mandate)))).await.expect_err("its term is over");
        assert!(matches!(error, SinkError::TermOver), "{delivery}: {error}");
        these.assert_the_heir_leads_on().await;
    }
}

#[tokio::test]
async fn a_leader_whose_client_must_be_larger_asks_before_and_after_it_shuts_others_out() {
    let (broker, topic, lease) = (testbed(), unique("asks"), Lease::default());
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "4000000")]).await;
    let mut sink =
        Sink::new(Settings { delivery: Delivery::Fenced, ..Settings::new(broker.clone(), unique("source")) })
            .expect("valid settings");
    sink.open(Term(1), Some(lease.win(1))).await.expect("opens");
    let asked = || lease.asked.load(Ordering::SeqCst);
    let at_first = asked();
    assert!(at_first >= 2, "{at_first}");
    for begin in (0..50).step_by(10) {
        assert!(publish(&mut sink, &records(begin..begin + 10, &topic, 5)).await.iter().all(is_delivered));
    }
    assert_eq!(asked(), at_first, "a transaction costs the database nothing");
    assert!(publish(&mut sink, &[large(50, &topic)]).await.iter().all(is_delivered));
    assert!(asked() >= at_first + 2, "{} of {at_first}", asked());
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..51);
}

#[tokio::test]
async fn a_leader_that_is_overtaken_while_it_shuts_others_out_publishes_nothing() {
    for delivery in FENCING {
        let (broker, topic, lease) = (testbed(), unique("overtaken"), Lease::default());
        create_topic(&broker, &topic, 1, &[]).await;
        let settings = Settings { delivery, ..Settings::new(broker.clone(), unique("source")) };
        let mut sink = Sink::new(settings).expect("valid settings");
        lease.win(1);
        // It is asked once before the broker lets it in, and once after.
        let overtaken = Some((2, Term(2)));
        let mandate = Arc::new(Held { lease: lease.clone(), term: Term(1), overtaken });
        let error = within(sink.open(Term(1), Some(mandate))).await.expect_err("its term is over by then");
        assert!(matches!(error, SinkError::TermOver), "{delivery}: {error}");
        let error = submitted(&mut sink, &records(0..10, &topic, 5)).await;
        assert!(matches!(error, SinkError::Unavailable { .. }), "{delivery}: {error}");
        assert_eq!(read(&broker, &topic).await.len(), 0);
    }
}
