//! Reading: complete, ordered, never early.

use outboxd::Message;
use outboxd::outbox::{Lane, Limit, Settle};

use crate::contract::session::{ALL, Session, events};
use crate::contract::{Implementation, event_ids, message, messages, write, write_all};

pub(crate) async fn nothing_is_read_before_it_commits(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let late = message("orders", "a");
    let mut writer = outbox.begin().await;
    writer.enqueue(&late).await;
    assert_eq!(session.read(ALL).await, []);
    writer.commit().await;
    assert_eq!(events(&session.read(ALL).await), [late.event_id()]);
}

pub(crate) async fn nothing_of_a_rolled_back_transaction_is_read(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let mut writer = outbox.begin().await;
    writer.enqueue(&message("orders", "a")).await;
    writer.rollback().await;
    let mut dropped = outbox.begin().await;
    dropped.enqueue(&message("orders", "a")).await;
    drop(dropped);
    let committed = message("orders", "a");
    write(&*outbox, &committed).await;
    assert_eq!(events(&session.read(ALL).await), [committed.event_id()]);
}

pub(crate) async fn a_row_is_read_exactly_once_however_late_it_commits(implementation: &dyn Implementation) {
    for at_a_time in [1, ALL] {
        let outbox = implementation.outbox(Settle::Checkpoint).await;
        let mut session = Session::open(&outbox.store()).await;
        let (late, early) = (messages(3, "orders", "late"), messages(3, "orders", "early"));
        let mut late_writer = outbox.begin().await;
        for message in &late {
            late_writer.enqueue(message).await;
        }
        write_all(&*outbox, &early).await;
        assert_eq!(events(&session.read(at_a_time).await), event_ids(&early));
        late_writer.commit().await;
        assert_eq!(events(&session.read(at_a_time).await), event_ids(&late));
        assert_eq!(session.read(at_a_time).await, [], "nothing is read twice");
    }
}

pub(crate) async fn a_lane_is_read_in_the_order_of_its_commits(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let written = messages(20, "orders", "a");
    for pair in written.chunks(2) {
        write_all(&*outbox, pair).await;
    }
    assert_eq!(events(&session.read(3).await), event_ids(&written));
}

/// The order of transaction numbers is not the order of commits.
pub(crate) async fn a_transaction_that_began_first_and_wrote_last_comes_last(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    for reads_between in [false, true] {
        let mut session = Session::open(&outbox.store()).await;
        session.read(ALL).await;
        let (first, second) = (message("orders", "k"), message("orders", "k"));
        let mut began_first = outbox.begin().await;
        began_first.work().await;
        write(&*outbox, &first).await;
        let mut read = if reads_between { session.read(ALL).await } else { Vec::new() };
        began_first.enqueue(&second).await;
        began_first.commit().await;
        read.extend(session.read(1).await);
        assert_eq!(events(&read), [first.event_id(), second.event_id()], "read between: {reads_between}");
    }
}

pub(crate) async fn a_batch_holds_no_more_records_than_asked_for(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let written = messages(10, "orders", "a");
    write_all(&*outbox, &written).await;
    for at_a_time in [1, 3, 10, 11] {
        let mut session = Session::open(&outbox.store()).await;
        let first = session.some(at_a_time).await;
        assert_eq!(first.records.len(), at_a_time.min(10), "a batch is full while there is enough");
        assert!(first.more || at_a_time >= 10, "{at_a_time} of 10 read, and more are waiting");
        let mut read = first.records;
        read.extend(session.read(at_a_time).await);
        assert_eq!(events(&read), event_ids(&written));
    }
}

pub(crate) async fn a_batch_holds_no_more_bytes_than_asked_for(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let written: Vec<Message> =
        (0..9).map(|_| Message::to("orders").bytes(vec![b'x'; 2_000]).expect("a valid message")).collect();
    write_all(&*outbox, &written).await;
    let mut session = Session::open(&outbox.store()).await;
    let mut read = Vec::new();
    while read.len() < written.len() {
        let batch = session.reader.fetch(Limit { records: ALL, bytes: 8_000 }).await.expect("a fetch");
        assert!(batch.footprint() <= 8_000, "{} bytes", batch.footprint());
        assert!(!batch.records.is_empty() || batch.more, "rows are waiting");
        read.extend(batch.records);
    }
    assert_eq!(events(&read), event_ids(&written));
}

pub(crate) async fn a_record_larger_than_the_limit_is_read_alone(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let large = Message::to("orders").bytes(vec![b'x'; 50_000]).expect("a valid message");
    let written = [message("orders", "a"), large.clone(), large, message("orders", "a")];
    write_all(&*outbox, &written).await;
    let mut session = Session::open(&outbox.store()).await;
    let mut read = Vec::new();
    while read.len() < written.len() {
        let batch = session.reader.fetch(Limit { records: ALL, bytes: 10_000 }).await.expect("a fetch");
        assert!(batch.records.len() <= 1, "{} records beside a large one", batch.records.len());
        read.extend(batch.records);
    }
    assert_eq!(events(&read), event_ids(&written));
}

pub(crate) async fn a_row_larger_than_may_be_loaded_comes_as_one_that_is_rejected(implementation: &dyn Implementation) {
    const MOST: usize = 50_000;
    let outbox = implementation.outbox(Settle::Mark).await;
    let small = message("orders", "a");
    let largest = Message::to("orders").key("b").bytes(vec![b'x'; MOST - 3]).expect("a valid message");
    let payload = Message::to("orders").key("c").bytes(vec![b'x'; MOST]).expect("a valid message");
    let headers = Message::to("orders").key("d").header("h", "x".repeat(MOST)).tombstone().expect("a valid message");
    let key = Message::to("orders").key("k".repeat(MOST + 1)).partition(3).tombstone().expect("a valid message");
    write_all(&*outbox, &[payload.clone(), small.clone(), headers.clone(), largest.clone(), key.clone()]).await;
    let mut session = Session::open(&outbox.store()).await;
    session.reader.load_at_most(MOST);
    let (mut records, mut rejected) = (Vec::new(), Vec::new());
    loop {
        let batch = session.some(2).await;
        let is_over = batch.is_empty() && !batch.more;
        assert!(batch.len() <= 2, "{} rows of 2", batch.len());
        records.extend(batch.records);
        rejected.extend(batch.unreadable);
        if is_over {
            break;
        }
    }
    assert_eq!(events(&records), event_ids(&[small, largest]));
    let lanes: Vec<_> = rejected.iter().map(|row| (row.event_id, row.lane.clone())).collect();
    let keyed = |key| Some(Lane::from_columns("orders", Some(key), None));
    let expected =
        [(payload, keyed("c")), (headers, keyed("d")), (key, Some(Lane::from_columns("orders", None, Some(3))))];
    assert_eq!(lanes, expected.map(|(message, lane)| (Some(message.event_id()), lane)));
    assert!(rejected.iter().all(|row| row.code == "message_too_large" && row.why.contains("50000")), "{rejected:?}");
}

pub(crate) async fn an_empty_batch_says_that_nothing_is_new(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    for _ in 0..3 {
        let batch = session.some(ALL).await;
        assert!(batch.records.is_empty() && !batch.more, "{batch:?}");
        assert!(batch.opened.is_empty() && batch.closed.is_empty(), "{batch:?}");
        write(&*outbox, &message("orders", "a")).await;
        assert_eq!(session.read(ALL).await.len(), 1);
    }
}

pub(crate) async fn rows_committed_while_a_backlog_is_read_come_after_it(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut written = messages(10, "orders", "a");
    write_all(&*outbox, &written).await;
    let mut session = Session::open(&outbox.store()).await;
    let mut read = Vec::new();
    for _ in 0..5 {
        read.extend(session.some(2).await.records);
        let new = message("orders", "a");
        write(&*outbox, &new).await;
        written.push(new);
    }
    read.extend(session.read(2).await);
    assert_eq!(events(&read), event_ids(&written));
}

pub(crate) async fn a_record_is_read_as_it_was_written(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let full = Message::to("orders.order-1_x").key("käse 'n\" \\ ☃").header("traceparent", "00-\"x\"\\ü");
    let full = full.header("empty", "").partition(7).bytes(bytes).expect("a valid message");
    let bare = Message::to("orders").tombstone().expect("a valid message");
    let empty = Message::to("orders").key("").bytes("").expect("a valid message");
    write_all(&*outbox, &[full.clone(), bare.clone(), empty.clone()]).await;
    let read = Session::open(&outbox.store()).await.read(ALL).await;
    assert_eq!(read.len(), 3);
    for (record, message) in read.iter().zip([full, bare, empty]) {
        assert_eq!(record.event_id, message.event_id());
        assert_eq!(&*record.topic, message.topic());
        assert_eq!(record.key.as_deref(), message.key());
        assert_eq!(record.payload.as_deref(), message.payload());
        assert_eq!(record.partition, message.partition());
        let mut headers = record.headers.clone();
        headers.sort();
        let expected: Vec<_> =
            message.headers().iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        assert_eq!(headers, expected);
        let age = chrono::Utc::now() - record.created_at;
        assert!(age.num_seconds().abs() < 60, "created {age} ago");
    }
}

pub(crate) async fn sessions_read_independently(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let written = messages(4, "orders", "a");
    let (mut one, mut other) = (Session::open(&store).await, Session::open(&store).await);
    write_all(&*outbox, &written).await;
    assert_eq!(events(&one.read(ALL).await), event_ids(&written));
    assert_eq!(events(&other.read(1).await), event_ids(&written));
}
