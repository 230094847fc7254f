//! Wake-ups: a commit after arming ends the wait.

use std::time::Duration;

use outboxd::contract::{Arming, WakeSource};
use outboxd::outbox::Settle;

use crate::contract::{Implementation, message, write};

async fn arm(source: &mut Box<dyn WakeSource>) {
    while source.arm().await.expect("arming") == Arming::NotNow {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn a_commit_wakes_who_waits(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut source = outbox.store().wake().expect("a wake source");
    for _ in 0..3 {
        arm(&mut source).await;
        let note = message("orders", "a");
        let (woken, ()) = tokio::join!(source.wait(), write(&*outbox, &note));
        woken.expect("woken");
        source.disarm().await.expect("disarmed");
        write(&*outbox, &message("orders", "a")).await;
    }
}

pub(crate) async fn a_commit_between_arming_and_waiting_wakes(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut source = outbox.store().wake().expect("a wake source");
    arm(&mut source).await;
    write(&*outbox, &message("orders", "a")).await;
    source.wait().await.expect("woken");
}

/// It stays armed: each commit wakes, and none does so for ever.
pub(crate) async fn each_commit_wakes_once_whoever_waits_again(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut source = outbox.store().wake().expect("a wake source");
    arm(&mut source).await;
    for _ in 0..5 {
        write(&*outbox, &message("orders", "a")).await;
        assert!(source.wait().await.expect("woken") > 0);
        // It may return early, now and then.
        let mut early = 0;
        while tokio::time::timeout(Duration::from_millis(50), source.wait()).await.is_ok() {
            early += 1;
            assert!(early < 5, "one commit wakes again and again");
        }
    }
}

pub(crate) async fn a_writer_at_work_refuses_or_wakes(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut source = outbox.store().wake().expect("a wake source");
    let mut writer = outbox.begin().await;
    writer.enqueue(&message("orders", "a")).await;
    let arming = source.arm().await.expect("arming");
    writer.commit().await;
    if arming == Arming::NotNow {
        arm(&mut source).await;
        write(&*outbox, &message("orders", "a")).await;
    }
    source.wait().await.expect("woken");
}

pub(crate) async fn a_cancelled_wait_can_be_waited_again(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut source = outbox.store().wake().expect("a wake source");
    arm(&mut source).await;
    for _ in 0..3 {
        // It may return early, but mostly this cancels it.
        let _ = tokio::time::timeout(Duration::from_millis(7), source.wait()).await;
    }
    write(&*outbox, &message("orders", "a")).await;
    source.wait().await.expect("woken");
}
