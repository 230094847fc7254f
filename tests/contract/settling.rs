//! Settling: idempotent, by id and event id, each mode in its way.

use outboxd::outbox::{Settle, Settlement};
use uuid::Uuid;

use crate::contract::session::{ALL, Session, events, settle};
use crate::contract::{Implementation, Row, event_ids, message, messages, write, write_all};

pub(crate) async fn a_settled_row_is_never_read_again(implementation: &dyn Implementation) {
    for mode in [Settle::Mark, Settle::Delete] {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let written = messages(6, "orders", "a");
        write_all(&*outbox, &written).await;
        let read = Session::open(&store).await.read(ALL).await;
        settle(&store, &[read[0].clone(), read[3].clone()]).await;
        let again = Session::open(&outbox.store()).await.read(2).await;
        let unsettled: Vec<Uuid> = [1, 2, 4, 5].iter().map(|index| written[*index].event_id()).collect();
        assert_eq!(events(&again), unsettled, "{mode}");
    }
}

pub(crate) async fn each_mode_records_delivery_in_its_way(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        write_all(&*outbox, &messages(2, "orders", "a")).await;
        let read = Session::open(&store).await.read(ALL).await;
        settle(&store, &read[..1]).await;
        let row = |index: usize, is_sent| Row { id: read[index].id, event_id: read[index].event_id, is_sent };
        let expected = match mode {
            Settle::Mark => vec![row(0, true), row(1, false)],
            Settle::Delete => vec![row(1, false)],
            Settle::Checkpoint => vec![row(0, false), row(1, false)],
        };
        assert_eq!(outbox.rows().await, expected, "{mode}");
    }
}

pub(crate) async fn settling_again_or_what_is_gone_does_no_harm(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let written = messages(3, "orders", "a");
        write_all(&*outbox, &written).await;
        let read = Session::open(&store).await.read(ALL).await;
        let twice = [read[0].clone(), read[0].clone()];
        settle(&store, &twice).await;
        let rows = outbox.rows().await;
        settle(&store, &twice).await;
        let mut gone = Settlement::default();
        gone.push_row(read[2].id + 1_000, Uuid::now_v7());
        store.settle(&gone).await.expect("a settlement of what is gone");
        store.settle(&Settlement::default()).await.expect("a settlement of nothing");
        assert_eq!(outbox.rows().await, rows, "{mode}");
        write(&*outbox, &message("orders", "a")).await;
        settle(&store, &read).await;
        let unsent = outbox.rows().await.iter().filter(|row| !row.is_sent).count();
        assert_eq!(unsent, if mode == Settle::Checkpoint { 4 } else { 1 }, "{mode}");
    }
}

/// After a database lost acknowledged commits, an id may belong to another row.
pub(crate) async fn a_row_of_another_event_is_left_alone(implementation: &dyn Implementation) {
    for mode in [Settle::Mark, Settle::Delete] {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let written = messages(2, "orders", "a");
        write_all(&*outbox, &written).await;
        let rows = outbox.rows().await;
        let mut settlement = Settlement::default();
        settlement.push_row(rows[0].id, Uuid::now_v7());
        settlement.push_row(rows[1].id, rows[0].event_id);
        store.settle(&settlement).await.expect("a settlement");
        assert_eq!(outbox.rows().await, rows, "{mode}");
    }
}

pub(crate) async fn thousands_are_settled_at_once(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let written = messages(3_000, "orders", "a");
        write_all(&*outbox, &written).await;
        let read = Session::open(&store).await.read(ALL).await;
        assert_eq!(events(&read), event_ids(&written));
        settle(&store, &read).await;
        let unsent = outbox.rows().await.iter().filter(|row| !row.is_sent).count();
        assert_eq!(unsent, if mode == Settle::Checkpoint { 3_000 } else { 0 }, "{mode}");
    }
}
