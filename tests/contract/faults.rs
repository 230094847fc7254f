//! Scripted faults: they do what they say, over any store.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::{OutboxStore, Outcome, Sink, Store};
use outboxd::memory;
use outboxd::memory::faults::{self, Call, Fault, Gate, Script};
use outboxd::outbox::{Limit, Record, Settle, Settlement, Term};
use tokio::time::Instant;

use crate::contract::fixtures::memory::Memory;
use crate::contract::fixtures::sqlite::Sqlite;
use crate::contract::session::{ALL, Session, settle};
use crate::contract::{Implementation, Outbox, messages, write_all};

/// An outbox of three rows, its store under a script, and the rows as records.
async fn scripted(implementation: &dyn Implementation) -> (Arc<dyn Outbox>, Arc<dyn Store>, Script, Vec<Record>) {
    let outbox = implementation.outbox(Settle::Mark).await;
    write_all(&*outbox, &messages(3, "orders", "a")).await;
    let script = Script::new();
    let store: Arc<dyn Store> = Arc::new(faults::Store::new(outbox.store(), script.clone()));
    let records = Session::open(&store).await.read(ALL).await;
    (outbox, store, script, records)
}

fn settlement(records: &[Record]) -> Settlement {
    let mut settlement = Settlement::default();
    records.iter().for_each(|record| settlement.push(record));
    settlement
}

async fn sent(outbox: &dyn Outbox) -> usize {
    outbox.rows().await.iter().filter(|row| row.is_sent).count()
}

#[tokio::test]
async fn a_refused_call_did_nothing_and_a_lost_reply_did_it() {
    for implementation in [&Memory as &dyn Implementation, &Sqlite] {
        let (outbox, store, script, records) = scripted(implementation).await;
        script.times(2, Call::Settle, Fault::Refuse).on(Call::Settle, Fault::LoseReply);
        for expected in [0, 0, 3] {
            let refused = store.settle(&settlement(&records)).await.expect_err("the script has it so");
            assert!(refused.is_transient());
            assert_eq!(sent(&*outbox).await, expected);
        }
        assert_eq!(script.left(), 0);
        settle(&store, &records).await;
        assert_eq!((script.count(Call::Settle).ended, script.count(Call::Settle).records), (4, 3));
    }
}

#[tokio::test]
async fn a_held_call_waits_for_its_gate_before_the_work_or_after_it() {
    for implementation in [&Memory as &dyn Implementation, &Sqlite] {
        for is_after in [false, true] {
            let (outbox, store, script, records) = scripted(implementation).await;
            let gate = Gate::new();
            let fault = if is_after { Fault::HoldReply(gate.clone()) } else { Fault::Hold(gate.clone()) };
            script.on(Call::Settle, fault);
            let settling = tokio::spawn({
                let store = Arc::clone(&store);
                async move { store.settle(&settlement(&records)).await }
            });
            script.until(Call::Settle, |count| count.begun == 1).await;
            while is_after && sent(&*outbox).await == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(sent(&*outbox).await, if is_after { 3 } else { 0 });
            assert_eq!(script.count(Call::Settle).ended, 0);
            gate.open();
            settling.await.expect("no panic").expect("settled after all");
            assert_eq!(sent(&*outbox).await, 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_takes_its_time() {
    let script = Script::new();
    script.on(Call::Open, Fault::Slow(Duration::from_secs(5)));
    let store = faults::Store::new(Arc::new(memory::Store::new(Settle::Mark)), script.clone());
    let begun = Instant::now();
    let mut reader = store.open().await.expect("a session opens");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    script.on(Call::Fetch, Fault::Refuse);
    assert!(reader.fetch(Limit { records: 1, bytes: 1 }).await.is_err(), "sessions follow the script too");
}

#[tokio::test]
async fn a_receipt_is_kept_back_and_ends_with_the_sink() {
    let (.., records) = scripted(&Memory).await;
    let (broker, script) = (memory::Sink::new(), Script::new());
    let mut sink = faults::Sink::new(Box::new(broker.clone()), script.clone());
    sink.open(Term(1), None).await.expect("opened");
    let gate = Gate::new();
    script.on(Call::Receipt, Fault::Hold(gate.clone())).on(Call::Receipt, Fault::Hold(Gate::new()));
    let told = tokio::spawn(sink.submit(&records[..1], None).await.expect("taken over"));
    let never = tokio::spawn(sink.submit(&records[1..2], None).await.expect("taken over"));
    assert_eq!((broker.ids().len(), script.count(Call::Receipt).ended), (2, 0));
    gate.open();
    assert!(matches!(told.await.expect("no panic")[..], [Outcome::Delivered { .. }]));
    sink.abort();
    assert_eq!(never.await.expect("no panic"), [Outcome::Unknown]);
    sink.open(Term(1), None).await.expect("opened again");
    script.on(Call::Submit, Fault::LoseReply);
    assert!(sink.submit(&records[2..], None).await.is_err());
    assert_eq!(broker.ids().len(), 3, "the work was done");
}
