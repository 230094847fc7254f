//! Ids that begin anew: after a `truncate` all that is written comes.

use std::time::Duration;

use chrono::DateTime;
use outboxd::contract::Inspect;
use outboxd::outbox::{Held, HoldCause, Lane, Limit, Settle};

use super::{AMPLE, Outbox, keys, lead, open, read, save, servers, settle};
use crate::support::wait;

fn held(key: &str) -> Held {
    let (lane, since) = (Lane::from_columns("t", Some(key), None), DateTime::UNIX_EPOCH);
    Held { lane, from_id: 2, after: None, cause: HoldCause::MissingTopic, since }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_a_truncate_comes_and_is_not_removed_before_it_came() {
    for server in servers() {
        for mode in Settle::ALL {
            let outbox = Outbox::new(&server, mode).await;
            let store = outbox.store();
            let (_leader, term) = lead(&store).await;
            outbox.run("insert into outbox (topic, `key`) values ('t', 'a'), ('t', 'b'), ('t', 'c'), ('t', 'd')").await;
            let mut reader = open(&store).await;
            let records = read(&mut reader, 10).await;
            settle(&store, &records).await;
            let after = Some(reader.position());
            save(&mut reader, term, vec![Held { after, ..held("b") }]).await;

            outbox.run("truncate table outbox").await;
            outbox.run("insert into outbox (topic, `key`) values ('t', 'a'), ('t', 'b')").await;
            store.purge(term, Duration::ZERO).await.unwrap();
            assert_eq!(outbox.number("select count(*) from outbox").await, 2, "{mode}: nothing of it was published");

            // A session at work finds out after a while.
            let ends = async || reader.fetch(Limit { records: 10, ..AMPLE }).await.is_err();
            if mode == Settle::Checkpoint {
                wait::until_true("the session ends", wait::PATIENCE, ends).await;
            }
            let mut next = open(&store).await;
            assert_eq!(next.held().len(), 1, "{mode}: what was held stays held");
            let mut came = read(&mut next, 10).await;
            assert_eq!(keys(&came), ["a"], "{mode}");
            next.release(&held("b").lane);
            came.extend(read(&mut next, 10).await);
            assert_eq!(keys(&came), ["a", "b"], "{mode}");
            settle(&store, &came).await;
            save(&mut next, term, Vec::new()).await;

            outbox.run("insert into outbox (topic, `key`) values ('t', 'e')").await;
            assert_eq!(keys(&read(&mut open(&store).await, 10).await), ["e"], "{mode}: what was stored holds again");
        }
    }
}
