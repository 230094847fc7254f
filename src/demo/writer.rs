//! The demo's application: changes orders and tells of it, one transaction after the other, at a steady pace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::demo::audit::Change;
use crate::demo::plan::{Plan, Transaction};
use crate::outbox::Message;
use crate::sqlite::shop::Shop;

/// So many transactions at each tick: about 5,000 messages a second, if the machine keeps up.
const WRITER_TICK: Duration = Duration::from_millis(5);
const TRANSACTIONS_PER_TICK: usize = 11;

/// Writes until exactly so many messages are committed, counting them in `written`. The first transaction is
/// alone until the relay is `warm`.
pub(crate) async fn write(
    mut shop: Shop,
    plan: Plan,
    topic: &str,
    messages: u64,
    written: &AtomicU64,
    warm: CancellationToken,
) -> anyhow::Result<()> {
    let mut pace = interval(WRITER_TICK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut committed = 0;
    for number in 0.. {
        if number % TRANSACTIONS_PER_TICK as u64 == 0 {
            pace.tick().await;
        }
        let mut transaction = plan.transaction(number);
        let room = usize::try_from(messages - committed).unwrap_or(usize::MAX);
        transaction.orders.truncate(room);
        transact(&mut shop, &transaction, topic).await?;
        if transaction.commits {
            committed += transaction.orders.len() as u64;
            written.store(committed, Ordering::Relaxed);
        }
        if committed == messages {
            break;
        }
        if committed > 0 {
            warm.cancelled().await;
        }
    }
    Ok(())
}

async fn transact(shop: &mut Shop, transaction: &Transaction, topic: &str) -> anyhow::Result<()> {
    let tell = |order, version| {
        let change = Change { order, version, transaction: transaction.number };
        Message::to(topic).key(format!("order-{order}")).json(&change).expect("a change of the plan is a valid message")
    };
    shop.transact(&transaction.orders, transaction.commits, tell).await.context("the writer cannot write")
}
