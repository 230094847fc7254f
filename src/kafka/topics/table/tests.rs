//! What is known of topics, and how that changes.

use super::*;

fn known(partitions: usize) -> Answer {
    let replicas = Replicas { leader: 1, in_sync: 1 };
    let limits = TopicLimits { message_bytes: Some(1_000), ..TopicLimits::default() };
    Answer::Known { partitions: vec![replicas; partitions], limits }
}

#[test]
fn a_held_topic_stays_held_until_somebody_was_told_that_it_accepts() {
    let mut topics = Topics::default();
    let name: Arc<str> = "t".into();
    topics.learn(&name, Answer::Held(HoldCause::MissingTopic));
    topics.inbox().refreshed(&name, known(3));
    topics.hear();
    assert!(matches!(topics.get(0).state, TopicState::Held(HoldCause::MissingTopic)));
    topics.inbox().accepted(&[Lane::topic_of("t")]);
    topics.hear();
    assert!(topics.must_ask(&name, None));
    topics.learn(&name, known(3));
    assert!(matches!(&topics.get(0).state, TopicState::Known(known) if known.count() == 3));
    assert_eq!(topics.smallest_limit(), Some(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_refused_a_record_is_not_tried_again_at_once_and_ever_more_rarely() {
    let mut topics = Topics::default();
    topics.hold("t", HoldCause::NotAuthorised);
    assert!(topics.is_too_early("t") && !topics.is_too_early("u"));
    tokio::time::advance(FIRST_NOT_AUTHORISED_PAUSE).await;
    assert!(!topics.is_too_early("t"));
    topics.hold("t", HoldCause::NotAuthorised);
    tokio::time::advance(FIRST_NOT_AUTHORISED_PAUSE).await;
    assert!(topics.is_too_early("t"));
}

#[tokio::test(start_paused = true)]
async fn added_partitions_are_asked_for_now_and_then_and_when_a_row_names_one() {
    let mut topics = Topics::default();
    let name: Arc<str> = "t".into();
    assert!(topics.must_ask(&name, None));
    topics.learn(&name, known(3));
    assert!(!topics.must_ask(&name, Some(2)));
    assert!(topics.due().is_empty());
    tokio::time::advance(TOPIC_REFRESH_INTERVAL * 2).await;
    assert!(topics.must_ask(&name, Some(3)));
    assert_eq!(topics.due(), [Arc::clone(&name)]);
    assert!(topics.due().is_empty());
    topics.learn(&name, known(5));
    assert!(!topics.must_ask(&name, Some(3)));
    assert!(matches!(&topics.get(0).state, TopicState::Known(known) if known.warmth.len() == 5));
}
