//! Requests that come late: what was sent again through another connection reaches the broker after the transaction that
//! it belongs to has ended. On an Apache Kafka behind a proxy that knows one request from another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use outboxd::outbox::Delivery;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::support::throwaway::Kafka;

/// The kind of a request that commits a transaction, or undoes it.
const END_TXN: i16 = 26;

/// What the proxy does with the ends of transactions.
#[derive(Default)]
struct Rules {
    broker: OnceLock<String>,
    /// The next one is kept, and its connection to the client broken.
    strands: AtomicBool,
    stranded: Mutex<Option<Stray>>,
    /// Each waits as long as this is so.
    holds: watch::Sender<bool>,
    /// Signalled when one waits.
    waits: Notify,
}

/// A request whose client has given it up, and the connection to the broker that it was sent through.
struct Stray {
    request: Vec<u8>,
    to_broker: OwnedWriteHalf,
    from_broker: OwnedReadHalf,
}

impl Stray {
    /// Lets it arrive, and says with which error the broker answers.
    async fn arrive(mut self) -> i16 {
        self.to_broker.write_all(&self.request).await.expect("the broker is there");
        let length = self.from_broker.read_i32().await.expect("the broker answers");
        let mut answer = vec![0; length as usize];
        self.from_broker.read_exact(&mut answer).await.expect("the broker answers");
        // Behind the number of the request and a time to wait.
        i16::from_be_bytes([answer[8], answer[9]])
    }
}

/// A broker that tells its clients to come through the proxy.
struct Proxied {
    kafka: Kafka,
    rules: Arc<Rules>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxied {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port is free");
        let port = listener.local_addr().expect("it listens").port();
        let rules = Arc::new(Rules::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&rules)));
        let advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}");
        let kafka = Kafka::start_with(&[&advertised]);
        rules.broker.set(kafka.brokers().to_owned()).expect("set once");
        Self { kafka, rules, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Takes the request that was kept.
    fn stray(&self) -> Option<Stray> {
        self.rules.stranded.lock().expect("nothing panics while it holds the lock").take()
    }
}

async fn accept(listener: TcpListener, rules: Arc<Rules>) {
    loop {
        let (client, _) = listener.accept().await.expect("a listening socket accepts");
        tokio::spawn(carry(client, Arc::clone(&rules)));
    }
}

/// Carries one connection until either side closes it, or a request of it is kept.
async fn carry(client: TcpStream, rules: Arc<Rules>) {
    let Some(broker) = rules.broker.get() else { return };
    let Ok(server) = TcpStream::connect(broker).await else { return };
    let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) =
        (client.into_split(), server.into_split());
    let kept = tokio::select! {
        kept = requests(&mut from_client, &mut to_broker, &rules) => kept,
        _ = copy(&mut from_broker, &mut to_client) => None,
    };
    if let Some(request) = kept {
        let stray = Stray { request, to_broker, from_broker };
        *rules.stranded.lock().expect("nothing panics while it holds the lock") = Some(stray);
    }
}

/// Passes requests on. Ends with one that is to be kept, or with the connection.
async fn requests(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, rules: &Rules) -> Option<Vec<u8>> {
    loop {
        let length = from.read_i32().await.ok()?;
        let mut request = length.to_be_bytes().to_vec();
        request.resize(4 + length as usize, 0);
        from.read_exact(&mut request[4..]).await.ok()?;
        if i16::from_be_bytes([request[4], request[5]]) == END_TXN {
            if rules.strands.swap(false, Ordering::SeqCst) {
                return Some(request);
            }
            if *rules.holds.borrow() {
                rules.waits.notify_one();
                rules.holds.subscribe().wait_for(|holds| !holds).await.ok()?;
            }
        }
        to.write_all(&request).await.ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_of_an_earlier_transaction_does_not_commit_a_later_one() {
    let proxied = Proxied::start().await;
    let rules = &proxied.rules;
    let broker = brokers_at(proxied.kafka.brokers());
    for delivery in [Delivery::Fenced, Delivery::ExactlyOnce] {
        let topic = unique("late");
        create_topic(&broker, &topic, 1, &[]).await;
        let mut sink = open(Settings { delivery, ..Settings::new(broker.clone(), unique("source")) }).await;
        assert!(publish(&mut sink, &records(0..10, &topic, 5)).await.iter().all(is_delivered));
        // The client sends it again through another connection, and goes on.
        rules.strands.store(true, Ordering::SeqCst);
        assert!(publish(&mut sink, &records(10..20, &topic, 5)).await.iter().all(is_delivered));
        let stray = proxied.stray().expect("a commit is under way still");
        // Two clients take turns: this one's transaction is another's, and the next one its own again.
        assert!(publish(&mut sink, &records(20..30, &topic, 5)).await.iter().all(is_delivered));
        rules.holds.send_replace(true);
        let receipt = within(sink.submit(&records(30..40, &topic, 5), None)).await.expect("taken over");
        within(rules.waits.notified()).await;

        assert_ne!(
            within(stray.arrive()).await,
            0,
            "{delivery}: the broker takes it for the end of another transaction"
        );
        let shown = within(read_to_end(&broker, &topic, IsolationLevel::ReadCommitted)).await.expect("it can be read");
        assert_whole_and_in_order(&shown, 0..30);
        rules.holds.send_replace(false);
        assert!(within(receipt).await.iter().all(is_delivered));
        assert_whole_and_in_order(&read(&broker, &topic).await, 0..40);
    }
}
