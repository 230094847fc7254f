//! Which row explains a record: the one of its id, its event, its topic and its partition.

use uuid::Uuid;

use super::{Verdict, publish, publish_to, sent_rows, source, verify};
use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::{machine, wait};

fn assert_found(verdict: &Verdict, damage: [u64; 5]) {
    let code = if damage[..3].iter().any(|count| *count > 0) { 1 } else { 0 };
    assert_eq!((verdict.code, verdict.damage()), (Some(code), damage), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_event_under_a_rows_id_does_not_stand_in_for_it() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 2).await;
    let source = source(&scene).await;
    publish(&scene, &source, "k", &[(rows[0].0, Uuid::new_v4()), rows[1]]);
    assert_found(&verify(&scene, "mark", &[]), [1, 0, 1, 0, 0]);
    // Once the row itself comes nothing is lost; and the other event is no duplicate of it.
    publish(&scene, &source, "j", &[rows[0], (rows[0].0, Uuid::new_v4())]);
    assert_found(&verify(&scene, "mark", &[]), [0, 0, 2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_another_topic_than_its_rows_is_unexpected_and_its_row_lost() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 2).await;
    let source = source(&scene).await;
    let another = Topic::create(&scene.brokers, 1).await;
    publish(&scene, &source, "k", &rows[..1]);
    publish_to(&another, &scene.brokers, &source, "k", &rows[1..]);
    let verdict = verify(&scene, "mark", &["--topic", scene.topic.name(), "--topic", another.name()]);
    assert_found(&verdict, [1, 0, 1, 0, 0]);
    assert_eq!(verdict.report["examples"]["unexpected"][0]["topic"], another.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_name_a_partition_are_one_lane_whatever_their_keys() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let (a, b) = (sent_rows(&scene, "a", 1).await, sent_rows(&scene, "b", 1).await);
    let source = source(&scene).await;
    publish(&scene, &source, "b", &b);
    publish(&scene, &source, "a", &a);
    assert_found(&verify(&scene, "mark", &[]), [0, 0, 0, 0, 0]);
    scene.database.run("update outbox set partition = 0").await;
    assert_found(&verify(&scene, "mark", &[]), [0, 1, 0, 0, 1]);
    // Nor does a record elsewhere stand in for a row of this partition.
    scene.database.run("update outbox set partition = 1").await;
    assert_found(&verify(&scene, "mark", &[]), [2, 0, 2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_at_or_below_a_stored_checkpoint_are_expected_without_a_mark() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 4).await;
    scene.database.run("update outbox set sent_at = null").await;
    let source = source(&scene).await;
    publish(&scene, &source, "k", &rows[..1]);
    // Paging the very first window: up to its second row everything was published, or so it says.
    let position = format!(
        "insert into outbox_checkpoint (position, highest_id, system, term, saved_at)
         select jsonb_build_object('prev', '0:0:', 'frozen',
             jsonb_build_object('cur', pg_current_snapshot()::text, 'last', {last}), 'highest', {last})::text,
             {last}, '', 0, now()
         on conflict (only_row) do update set position = excluded.position, highest_id = excluded.highest_id",
        last = rows[1].0
    );
    scene.database.run(&position).await;
    let verdict = verify(&scene, "checkpoint", &[]);
    assert_found(&verdict, [1, 0, 0, 0, 0]);
    assert_eq!(verdict.report["examples"]["lost"][0]["id"], rows[1].0);
    assert_eq!(verdict.count("not_published_yet"), 2);
    // The window is done, but for the third row, which is held.
    let position = format!(
        "update outbox_checkpoint set position = jsonb_build_object('prev', pg_current_snapshot()::text, 'highest', {})::text;
         insert into outbox_held (topic, key, from_id, cause, since) values ('{}', 'held', {}, 'missing_topic', now());
         update outbox set key = 'held' where id = {}",
        rows[3].0,
        scene.topic.name(),
        rows[2].0,
        rows[2].0
    );
    scene.database.run(&position).await;
    let verdict = verify(&scene, "checkpoint", &[]);
    assert_found(&verdict, [2, 0, 0, 0, 0]);
    assert_eq!((verdict.count("held_lanes"), verdict.count("not_published_yet")), (1, 1), "{}", verdict.report);
    publish(&scene, &source, "k", &[rows[1], rows[3]]);
    assert_found(&verify(&scene, "checkpoint", &[]), [0; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_housekeeping_has_removed_accuse_nobody_whatever_the_audit_was_told_of_the_retention() {
    for settle in ["mark", "checkpoint"] {
        let _machine = machine::shared().await;
        let scene = Scene::set().await;
        for number in 0..50 {
            scene.insert("k", &number.to_string()).await;
        }
        let relay = scene.relay().with("outbox.settle", settle).with("outbox.retention", "1s");
        let mut relay = relay.start().await;
        scene.topic.holds(50).await;
        wait::until_true("rows are gone", wait::LONG_PATIENCE, async || {
            scene.database.number("select count(*) from outbox").await == 0
        })
        .await;
        assert_eq!(relay.stop().await, Some(0));
        let verdict = verify(&scene, settle, &["--topic", scene.topic.name(), "--no-duplicates"]);
        assert_found(&verdict, [0; 5]);
        assert_eq!(verdict.count("published"), 50, "{settle}");
        // What was never committed is still found above them.
        publish(&scene, &source(&scene).await, "k", &[(1_000, Uuid::new_v4())]);
        assert_found(&verify(&scene, settle, &["--topic", scene.topic.name()]), [0, 0, 1, 0, 0]);
    }
}
