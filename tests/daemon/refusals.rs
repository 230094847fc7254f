//! A database file that refuses what the relay records: little is published, and all of it once that is mended.

use crate::daemon::small::Small;
use crate::support::wait;

/// Records that a start may publish before one of them was recorded.
const PROBE: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_cannot_record_publish_no_more_than_the_probe_and_one_that_can_records_all() {
    // One says no, the other does as if nothing had been asked.
    for (refusal, said) in [("abort, 'not now'", "not now"), ("ignore", "kept it as it was")] {
        let small = Small::new().await;
        small.write(1_000).await;
        small.run(&format!("create trigger no before update on outbox begin select raise({refusal}); end")).await;
        for start in 1..=3 {
            let mut relay = small.daemon().spawn();
            wait::until_true("the relay waits for an operator", wait::PATIENCE, async || {
                relay.get("/readyz").await.is_ok_and(|answer| answer.status == 503 && answer.body.contains(said))
            })
            .await;
            relay.kill();
            assert!(small.published().await <= start * PROBE, "{said}");
        }
        let mut relay = small.daemon().spawn();
        wait::until_true("the relay leads", wait::PATIENCE, async || relay.metric("outboxd_leader").await == 1.0).await;
        small.run("drop trigger no").await;
        relay.ready().await;
        wait::until_true("all are recorded", wait::PATIENCE, async || small.unsent().await == 0).await;
        assert_eq!(relay.stop().await, Some(0));
        assert!(small.published().await <= 1_000 + 4 * PROBE, "{said}");
    }
}
