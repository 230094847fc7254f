//! Whether messages flow: who leads, what moves, what is held, and what was given up.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::checks::check::{Check, CheckName, CheckStatus};
use crate::admin::health;
use crate::admin::status::{TOLERATED_WAIT, seconds};
use crate::contract::{Backlog, Leader};
use crate::observe::grouped;
use crate::outbox::{Held, HoldCause, Table};
use crate::relay::{Phase, Status};

/// Topics that a check names at most.
const TOPICS_NAMED: usize = 5;

/// How old the stored checkpoint of a relay that moves is at most: it is stored about once a second.
const CHECKPOINT_AGE: Duration = Duration::from_secs(60);

/// Whether some relay leads.
pub fn lease(leader: Option<&Leader>, backlog: &Backlog) -> Check {
    let name = CheckName::Lease;
    if let Some(Leader { term, holder, remaining }) = leader {
        return Check::ok(name, format!("{holder} leads, term {term}; its lease lasts for {}", seconds(*remaining)));
    }
    let is_missed = backlog.unsent > 0 && backlog.oldest > TOLERATED_WAIT;
    let status = if is_missed { CheckStatus::Failed } else { CheckStatus::Warning };
    let check = Check::new(name, status, format!("nobody leads, and {}", waiting(backlog)));
    check.because("nothing is published until a relay leads").command("outboxd run")
}

/// Whether what waits moves, seen from outside: by how long it waits, and when the checkpoint was stored. What is held does
/// not count, which has checks of its own.
pub fn reader<'a>(
    leader: Option<&Leader>,
    backlog: &Backlog,
    held: impl Iterator<Item = &'a Held> + Clone,
    checkpoint_age: Option<Duration>,
) -> Check {
    let name = CheckName::Reader;
    let stored = checkpoint_age.map_or_else(
        || "no checkpoint was stored yet".to_owned(),
        |age| format!("the checkpoint was stored {} ago", seconds(age)),
    );
    let seen = format!("{}; {stored}", waiting(backlog));
    if leader.is_none() {
        return Check::unknown(name, seen).because("nobody leads, so nobody reads").command("outboxd run");
    }
    let is_held = |topic: &str| held.clone().any(|held| held.lane.topic() == topic);
    let slow = backlog.topics.iter().find(|topic| topic.oldest > TOLERATED_WAIT && !is_held(&topic.topic));
    let Some(slow) = slow else { return Check::ok(name, seen) };
    let seen = format!("a message of topic {} has waited for {}; {stored}", slow.topic, seconds(slow.oldest));
    let command = "curl -s http://127.0.0.1:9187/readyz, of the leader";
    if checkpoint_age.is_some_and(|age| age <= CHECKPOINT_AGE) {
        let behind = Check::new(name, CheckStatus::Warning, seen);
        return behind.because("the relay moves, and is behind").command(command);
    }
    Check::new(name, CheckStatus::Failed, seen).because("the relay moves nothing").command(command)
}

/// Whether what waits moves, as the relay itself sees it.
pub fn reader_of(status: &Status, now: Instant) -> Check {
    let name = CheckName::Reader;
    let still = now.saturating_duration_since(status.last_progress);
    match (health::ready(status, now), status.phase) {
        (Ok(_), Phase::Leading) => Check::ok(name, format!("progress was made {} ago", seconds(still))),
        (Ok(role), _) => Check::ok(name, role),
        (Err(reason), Phase::Leading) => {
            Check::new(name, CheckStatus::Failed, reason).because("the relay moves nothing").command("read its log")
        }
        (Err(reason), _) => Check::unknown(name, reason),
    }
}

/// Whether the topics exist, and the relay may write to them: by what is held, and by what brokers said of others.
pub fn topics<'a>(held: impl Iterator<Item = &'a Held>, asked: &[(String, Option<HoldCause>)]) -> Check {
    let name = CheckName::Topics;
    let mut bad: Vec<(String, HoldCause)> = held
        .filter(|held| is_of_the_topic(held.cause))
        .map(|held| (held.lane.topic().to_owned(), held.cause))
        .chain(asked.iter().filter_map(|(topic, cause)| Some((topic.clone(), (*cause)?))))
        .collect();
    bad.sort();
    bad.dedup();
    let Some((first, cause)) = bad.first().cloned() else {
        let asked = if asked.is_empty() {
            "no topic is held".to_owned()
        } else {
            format!("{} asked for, all there", asked.len())
        };
        return Check::ok(name, asked);
    };
    let named: Vec<String> =
        bad.iter().take(TOPICS_NAMED).map(|(topic, cause)| format!("{topic}: {}", cause.as_str())).collect();
    let more = match bad.len().saturating_sub(TOPICS_NAMED) {
        0 => String::new(),
        more => format!(" and {} more", grouped(more as u64)),
    };
    let command = match cause {
        HoldCause::NotAuthorised => {
            format!("kafka-acls.sh --add --allow-principal User:RELAY --producer --topic {first}")
        }
        _ => format!("kafka-topics.sh --create --topic {first}, or correct the rows"),
    };
    let failed = Check::new(name, CheckStatus::Failed, format!("{}{more}", named.join(", ")));
    failed.because("their messages wait, and come out in order by themselves").command(command)
}

/// Whether lanes wait for a partition or an operator; whole topics have a check of their own.
pub fn held_lanes<'a>(held: impl Iterator<Item = &'a Held>) -> Check {
    let name = CheckName::HeldLanes;
    let held: Vec<&Held> = held.filter(|held| !is_of_the_topic(held.cause)).collect();
    let of = |cause: HoldCause| (cause, held.iter().filter(|held| held.cause == cause).count() as u64);
    let counted: Vec<String> = HoldCause::ALL
        .into_iter()
        .map(of)
        .filter(|(_, lanes)| *lanes > 0)
        .map(|(cause, lanes)| format!("{} {}", grouped(lanes), cause.as_str()))
        .collect();
    if counted.is_empty() {
        return Check::ok(name, "none");
    }
    let lanes = Check::new(name, CheckStatus::Warning, counted.join(", "));
    lanes.because("their messages wait, others flow").command("outboxd held ls")
}

/// Whether messages were given up.
pub fn dead_letters(backlog: &Backlog, table: &Table) -> Check {
    let name = CheckName::DeadLetters;
    if backlog.dead_letters == 0 {
        return Check::ok(name, "none");
    }
    let letters = Check::new(name, CheckStatus::Warning, grouped(backlog.dead_letters));
    let select = format!("select topic, code, message, died_at from {table}_dead order by died_at desc limit 20");
    letters.because("they were given up, and will not be published").command(select)
}

/// Whether a whole topic is held for it.
fn is_of_the_topic(cause: HoldCause) -> bool {
    matches!(cause, HoldCause::MissingTopic | HoldCause::NotAuthorised)
}

fn waiting(Backlog { unsent, capped, oldest, .. }: &Backlog) -> String {
    let at_least = if *capped { "at least " } else { "" };
    match unsent {
        0 => "nothing waits".to_owned(),
        1 => format!("1 message waits, for {}", seconds(*oldest)),
        unsent => format!("{at_least}{} messages wait, the oldest for {}", grouped(*unsent), seconds(*oldest)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::contract::TopicBacklog;
    use crate::outbox::{Lane, Term};

    fn leader() -> Leader {
        Leader { term: Term(7), holder: "relay-a".to_owned(), remaining: Duration::from_millis(2_450) }
    }

    fn waits(topic: &str, seconds: u64) -> Backlog {
        let oldest = Duration::from_secs(seconds);
        let topics = vec![TopicBacklog { topic: topic.to_owned(), unsent: 2, oldest }];
        Backlog { unsent: 2, oldest, topics, ..Backlog::default() }
    }

    fn held(lane: Lane, cause: HoldCause) -> Held {
        Held { lane, from_id: 1, after: None, cause, since: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn that_nobody_leads_has_failed_once_a_message_waits_for_long() {
        assert_eq!(lease(Some(&leader()), &waits("a", 900)).status, CheckStatus::Ok);
        assert_eq!(lease(None, &Backlog::default()).status, CheckStatus::Warning);
        assert_eq!(lease(None, &waits("a", 60)).status, CheckStatus::Warning);
        let missed = lease(None, &waits("a", 61));
        assert_eq!(missed.status, CheckStatus::Failed);
        assert_eq!(missed.evidence, "nobody leads, and 2 messages wait, the oldest for 1m 1s");
    }

    #[test]
    fn what_waits_for_long_is_behind_while_the_checkpoint_moves_and_stuck_when_it_does_not() {
        let seen = |waits: &Backlog, held: &[Held], age| reader(Some(&leader()), waits, held.iter(), age).status;
        let [moving, still] = [1, 61].map(|age| Some(Duration::from_secs(age)));
        assert_eq!(seen(&waits("a", 60), &[], still), CheckStatus::Ok);
        assert_eq!(seen(&waits("a", 61), &[], moving), CheckStatus::Warning);
        assert_eq!(seen(&waits("a", 61), &[], still), CheckStatus::Failed);
        assert_eq!(seen(&waits("a", 61), &[], None), CheckStatus::Failed);
        let lane = [held(Lane::topic_of("a"), HoldCause::MissingTopic)];
        assert_eq!(seen(&waits("a", 61), &lane, still), CheckStatus::Ok);
        assert_eq!(reader(None, &waits("a", 61), [].iter(), still).status, CheckStatus::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_moves_nothing_has_failed_and_a_standby_without_a_database_is_unknown() {
        let leading = Status { phase: Phase::Leading, ..Status::new() };
        assert_eq!(reader_of(&leading, Instant::now()).status, CheckStatus::Ok);
        tokio::time::advance(health::STALLED_AFTER).await;
        assert_eq!(reader_of(&leading, Instant::now()).status, CheckStatus::Failed);
        let standby = Status { phase: Phase::Standby, ..leading };
        assert_eq!(reader_of(&standby, Instant::now()).status, CheckStatus::Unknown);
    }

    #[test]
    fn each_topic_that_is_missing_or_barred_is_named_once_and_lanes_are_counted_apart() {
        let key = Lane::from_columns("users", Some("secret"), None);
        let all = [held(Lane::topic_of("oders"), HoldCause::MissingTopic), held(key, HoldCause::Rejected)];
        let asked = [
            ("oders".to_owned(), Some(HoldCause::MissingTopic)),
            ("orders".to_owned(), None),
            ("private".to_owned(), Some(HoldCause::NotAuthorised)),
        ];
        let check = topics(all.iter(), &asked);
        assert_eq!(
            (check.status, check.evidence.as_str()),
            (CheckStatus::Failed, "oders: missing_topic, private: not_authorised")
        );
        assert_eq!(topics([].iter(), &asked[1..2]).evidence, "1 asked for, all there");
        let lanes = held_lanes(all.iter());
        assert_eq!((lanes.status, lanes.evidence.as_str()), (CheckStatus::Warning, "1 rejected"));
        assert_eq!(held_lanes(all[..1].iter()).status, CheckStatus::Ok);
    }

    #[test]
    fn of_many_topics_only_some_are_named() {
        let many: Vec<Held> =
            (10..30).map(|n| held(Lane::topic_of(&format!("t{n}")), HoldCause::MissingTopic)).collect();
        assert!(topics(many.iter(), &[]).evidence.ends_with("t14: missing_topic and 15 more"));
    }

    #[test]
    fn dead_letters_are_worth_a_look() {
        let letters = Backlog { dead_letters: 1_200, ..Backlog::default() };
        let check = dead_letters(&letters, &"shop.messages".parse().expect("a name"));
        assert_eq!((check.status, check.evidence.as_str()), (CheckStatus::Warning, "1,200"));
        assert!(check.command.is_some_and(|command| command.contains("shop.messages_dead")));
        assert_eq!(dead_letters(&Backlog::default(), &Table::default()).status, CheckStatus::Ok);
    }
}
