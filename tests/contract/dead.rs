//! Dead letters: moved out of the outbox, kept whole, due until published.

use std::sync::Arc;

use outboxd::Message;
use outboxd::contract::{DueLetter, Store};
use outboxd::outbox::{DeadLetter, Limit, Record, Settle, Settlement};
use uuid::Uuid;

use crate::contract::session::{ALL, Session};
use crate::contract::{Implementation, Outbox, messages, write_all};

const MANY: Limit = Limit { records: 100, bytes: usize::MAX };

fn letter(record: &Record, topic: Option<&str>) -> DeadLetter {
    let (code, message) = ("message_too_large".to_owned(), "it is too large".to_owned());
    DeadLetter { id: record.id, event_id: Some(record.event_id), code, message, topic: topic.map(str::to_owned) }
}

/// The messages' records, as a relay reads them.
async fn written(outbox: &dyn Outbox, store: &Arc<dyn Store>, messages: &[Message]) -> Vec<Record> {
    write_all(outbox, messages).await;
    Session::open(store).await.read(ALL).await
}

pub(crate) async fn a_dead_letter_is_kept_whole_and_leaves_the_outbox(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        let outbox = implementation.outbox(settle).await;
        let store = outbox.store();
        let whole = Message::to("orders").key("a").partition(3).header("trace", "x").bytes(vec![0, 255, 10]);
        let tombstone = Message::to("orders").key("b").tombstone();
        let messages = [whole.expect("a valid message"), tombstone.expect("a valid message")];
        let records = written(&*outbox, &store, &messages).await;
        let letters = [letter(&records[0], Some("orders.dlq")), letter(&records[1], Some("orders.dlq"))];
        store.dead_letter(&letters).await.expect("dead_lettered");
        assert_eq!(outbox.rows().await, [], "{settle}");
        assert!(Session::open(&store).await.read(ALL).await.is_empty(), "{settle}");
        let due = store.due(i64::MIN, MANY).await.expect("dead letters");
        let due_letter = |(letter, record)| DueLetter { letter, read: Ok(record) };
        let expected: Vec<_> = letters.into_iter().zip(records).map(due_letter).collect();
        assert_eq!(due, expected, "{settle}");
        assert_eq!(store.backlog(100).await.expect("a backlog").dead_letters, 2, "{settle}");
    }
}

pub(crate) async fn a_row_of_another_event_or_a_settled_one_does_not_die(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let records = written(&*outbox, &store, &messages(3, "orders", "a")).await;
    let mut settlement = Settlement::default();
    settlement.push(&records[0]);
    store.settle(&settlement).await.expect("settled");
    let other = DeadLetter { event_id: Some(Uuid::now_v7()), ..letter(&records[1], Some("t")) };
    let letters = [letter(&records[0], Some("t")), other, letter(&records[2], Some("t"))];
    store.dead_letter(&letters).await.expect("dead_lettered");
    store.dead_letter(&letters).await.expect("burying again does no harm");
    let ids: Vec<i64> = outbox.rows().await.iter().map(|row| row.id).collect();
    assert_eq!(ids, [records[0].id, records[1].id]);
    let due = store.due(i64::MIN, MANY).await.expect("dead letters");
    assert_eq!(due.iter().map(|due| due.letter.id).collect::<Vec<_>>(), [records[2].id]);
}

pub(crate) async fn dead_letters_are_due_until_they_are_published(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let records = written(&*outbox, &store, &messages(5, "orders", "a")).await;
    let topics = [Some("t"), None, Some("t"), Some("t"), Some("t")];
    let letters: Vec<_> = records.iter().zip(topics).map(|(record, topic)| letter(record, topic)).collect();
    store.dead_letter(&letters).await.expect("dead_lettered");
    let due = async |after: i64, records: usize| -> Vec<i64> {
        let due = store.due(after, Limit { records, ..MANY }).await.expect("dead letters");
        due.iter().map(|due| due.letter.id).collect()
    };
    let id = |index: usize| records[index].id;
    assert_eq!(due(i64::MIN, 100).await, [id(0), id(2), id(3), id(4)], "one has no topic");
    assert_eq!(due(id(0), 2).await, [id(2), id(3)]);
    store.delivered(&[id(0), id(3)]).await.expect("noted");
    store.delivered(&[id(0)]).await.expect("again does no harm");
    assert_eq!(due(i64::MIN, 100).await, [id(2), id(4)]);
    assert_eq!(store.backlog(100).await.expect("a backlog").dead_letters, 5, "they are kept");
}

pub(crate) async fn dead_letters_that_are_large_together_come_one_by_one_and_those_too_large_are_not_loaded(
    implementation: &dyn Implementation,
) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let sized = |size: usize| Message::to("orders").key("k").bytes(vec![b'x'; size]).expect("a valid message");
    let records = written(&*outbox, &store, &[sized(30_000), sized(30_000), sized(60_000), sized(10)]).await;
    let letters: Vec<_> = records.iter().map(|record| letter(record, Some("t"))).collect();
    store.dead_letter(&letters).await.expect("dead_lettered");
    let (mut after, mut read) = (i64::MIN, Vec::new());
    loop {
        let due = store.due(after, Limit { bytes: 50_000, ..MANY }).await.expect("dead letters");
        let bytes: usize = due.iter().filter_map(|due| due.read.as_ref().ok()).map(Record::size).sum();
        assert!(bytes <= 50_000, "{bytes} bytes");
        let Some(last) = due.last() else { break };
        after = last.letter.id;
        read.extend(due.into_iter().map(|DueLetter { letter, read }| (letter.id, read.map_err(|row| row.code))));
    }
    let mut expected: Vec<_> = records.into_iter().map(|record| (record.id, Ok(record))).collect();
    expected[2].1 = Err("message_too_large");
    assert_eq!(read, expected);
}

pub(crate) async fn what_cannot_be_published_to_its_topic_stays_and_says_why(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let records = written(&*outbox, &store, &messages(1, "orders", "a")).await;
    store.dead_letter(&[letter(&records[0], Some("t"))]).await.expect("dead_lettered");
    store.undeliverable(records[0].id, "refused as well").await.expect("noted");
    assert_eq!(store.due(i64::MIN, MANY).await.expect("dead letters"), []);
    assert_eq!(store.backlog(100).await.expect("a backlog").dead_letters, 1);
    store.delivered(&[records[0].id]).await.expect("too late, and harmless");
}
