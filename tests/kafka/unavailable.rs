//! Partitions that take nothing while others do: on the client's in-process brokers, of which each is told what to lead.

use outboxd::outbox::HoldCause;

use super::*;

const HELD: Outcome = Outcome::Held(HoldCause::UnavailablePartition);

/// How long a sink may take to find out.
const FOUND_OUT: Duration = Duration::from_secs(60);

/// Two brokers, of which the second leads the last partition of each topic.
fn two_brokers() -> (Broker, BTreeMap<String, String>) {
    let broker = Broker::start(2).expect("in-process brokers");
    for topic in ["a", "b"] {
        broker.create_topic(topic, 2).expect("a topic");
        for partition in 0..2 {
            broker.lead(topic, partition, partition + 1).expect("a leader");
        }
    }
    let properties = brokers_at(broker.bootstrap_servers());
    (broker, properties)
}

/// A record in the lane of a partition.
fn placed(id: i64, topic: &str, partition: i32) -> Record {
    Record { key: None, partition: Some(partition), ..record(id, topic, "k") }
}

/// Submits until the sink knows of each record what becomes of it, opening it anew where it asks for that.
async fn until_known(sink: &mut Sink, records: &[Record]) -> Vec<Outcome> {
    let known = async {
        loop {
            let told = match sink.submit(records, None).await {
                Ok(receipt) => receipt.await,
                Err(_to_be_opened_anew) => vec![Outcome::Unknown],
            };
            if !told.contains(&Outcome::Unknown) {
                return told;
            }
            sink.open(TERM, None).await.expect("opens");
        }
    };
    tokio::time::timeout(FOUND_OUT, known).await.expect("found out in time")
}

/// Asks about lanes until they are accepted.
async fn until_accepted(sink: &Sink, lanes: &[Lane]) {
    let accepted = async {
        while within(sink.accepts(lanes.to_vec())).await.expect("an answer").len() < lanes.len() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(FOUND_OUT, accepted).await.expect("accepted in time");
}

#[tokio::test]
async fn lanes_of_partitions_whose_leader_is_out_of_reach_are_held_alone_and_go_on_in_order() {
    let (broker, properties) = two_brokers();
    let mut sink = open(settings(&properties)).await;
    let first: Vec<Record> = ["a", "b"].iter().flat_map(|topic| [placed(0, topic, 0), placed(0, topic, 1)]).collect();
    assert!(publish(&mut sink, &first).await.iter().all(is_delivered));

    broker.down_one(2).expect("down");
    let mixed = [placed(1, "a", 0), placed(1, "a", 1)];
    let told = until_known(&mut sink, &mixed).await;
    assert!(is_delivered(&told[0]) && told[1] == HELD, "{told:?}");
    // The other partition of the same broker is held at once, and what has no lane goes elsewhere.
    let others = [placed(1, "b", 0), placed(1, "b", 1), Record { key: None, ..record(2, "b", "") }, placed(2, "b", 1)];
    let told = publish(&mut sink, &others).await;
    assert!(is_delivered(&told[0]) && is_delivered(&told[2]), "{told:?}");
    assert_eq!([&told[1], &told[3]], [&HELD; 2]);
    let waiting = ["a", "b"].map(|topic| Lane::from_columns(topic, None, Some(1)));
    assert_eq!(within(sink.accepts(waiting.to_vec())).await.expect("an answer"), []);

    broker.up_one(2).expect("up");
    assert_eq!(publish(&mut sink, &[placed(3, "b", 1)]).await, [HELD], "held until it was said that it is accepted");
    until_accepted(&sink, &waiting).await;
    let rest = [placed(1, "a", 1), placed(1, "b", 1), placed(2, "b", 1), placed(3, "b", 1)];
    assert!(publish(&mut sink, &rest).await.iter().all(is_delivered));
    let arrived = read(&properties, "b").await;
    let ids: Vec<&str> =
        arrived.iter().filter(|it| it.partition == 1).filter_map(|it| it.header("outbox-id")).collect();
    assert_eq!(ids, ["0", "1", "2", "3"]);
}
