//! `outboxd status`: whether all is well, as the database tells it; what is wrong if not, and what to do.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::admin::operations::{self, how_far};
use crate::contract::{Backlog, Leader, Store, StoreError, TopicBacklog};
use crate::observe::grouped;
use crate::outbox::{HeldLane, HoldCause, Operation, Orders, Pause, TopicPattern};

/// Messages that are counted at most.
const COUNT_LIMIT: u64 = 100_000;

/// How long a message may wait before that is said to be wrong: longer than a takeover.
pub(super) const TOLERATED_WAIT: Duration = Duration::from_secs(60);

/// How an outbox stands.
#[derive(Debug, Default)]
pub struct StatusReport {
    leader: Option<Leader>,
    backlog: Backlog,
    held: Vec<HeldLane>,
    orders: Orders,
    operation: Option<Operation>,
    standbys: Vec<String>,
}

/// What is wrong, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    problem: String,
    repair: String,
}

/// Asks the database how its outbox stands.
///
/// # Errors
/// When the database does not answer, or has no such outbox.
pub async fn look(store: &dyn Store) -> Result<StatusReport, StoreError> {
    let leader = store.leader().await?;
    let backlog = store.backlog(COUNT_LIMIT).await?;
    let held = store.held_lanes().await?;
    let orders = store.orders().await?;
    let operation = store.next_operation().await?;
    let standbys = standbys(store, leader.as_ref()).await?;
    Ok(StatusReport { leader, backlog, held, orders, operation, standbys })
}

/// The relays that wait as standby. One that leads by now was standby a moment ago, and is called in the lease as it was, with
/// a mark behind.
///
/// # Errors
/// When the database does not answer.
pub async fn standbys(store: &dyn Store, leader: Option<&Leader>) -> Result<Vec<String>, StoreError> {
    let mut standbys = store.standbys().await?;
    if let Some((name, _mark)) = leader.and_then(|leader| leader.holder.rsplit_once('/')) {
        standbys.retain(|standby| standby != name);
    }
    Ok(standbys)
}

impl StatusReport {
    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.findings().is_empty()
    }

    /// What is wrong, the worst first.
    fn findings(&self) -> Vec<Finding> {
        let nobody_leads = self.leader.is_none().then(|| Finding {
            problem: format!("nobody leads, and {}", self.waiting()),
            repair: "start a relay with `outboxd run`, or read the log of the one that should lead".to_owned(),
        });
        let slow = self.leader.is_some().then(|| self.longest_of_those_that_flow()).flatten();
        let slow = slow.filter(|topic| topic.oldest > TOLERATED_WAIT).map(|topic| Finding {
            problem: format!("a message of topic {} has waited for {}", topic.topic, seconds(topic.oldest)),
            repair: "the leader's `/readyz` and its log say what it waits for".to_owned(),
        });
        let causes = HoldCause::ALL.into_iter().filter_map(|cause| self.held_for(cause));
        let pauses = self.orders.pauses.iter().map(paused);
        nobody_leads.into_iter().chain(pauses).chain(slow).chain(causes).collect()
    }

    /// The topic that waits longest of those of which nothing is held or paused.
    fn longest_of_those_that_flow(&self) -> Option<&TopicBacklog> {
        let is_held = |topic: &TopicBacklog| {
            self.orders.pauses_topic(&topic.topic) || self.held.iter().any(|lane| lane.held.lane.topic() == topic.topic)
        };
        self.backlog.topics.iter().find(|topic| !is_held(topic))
    }

    fn held_for(&self, cause: HoldCause) -> Option<Finding> {
        let lanes: Vec<&HeldLane> = self.held.iter().filter(|lane| lane.held.cause == cause).collect();
        let first = &lanes.first()?.held.lane;
        let topic = first.topic();
        let repair = match cause {
            HoldCause::MissingTopic => format!("create the topic {topic}, or correct the rows"),
            HoldCause::NotAuthorised => format!("let the relay write to the topic {topic}"),
            HoldCause::UnavailablePartition => "bring back the broker that leads the partition".to_owned(),
            // They go on by themselves, in turns.
            // What is paused has a finding of its own.
            HoldCause::Suspected | HoldCause::Paused => return None,
            HoldCause::Rejected => {
                format!("mend what is rejected, then `outboxd held release --topic {topic}`")
            }
        };
        let others = match lanes.len() {
            1 => String::new(),
            many => format!(" and {} more lanes", grouped(many as u64 - 1)),
        };
        let problem = format!("{first}{others}: held, {}", cause.as_str());
        Some(Finding { problem, repair: format!("{repair}; `outboxd held ls` lists them") })
    }

    fn waiting(&self) -> String {
        let Backlog { unsent, capped, oldest, .. } = &self.backlog;
        match unsent {
            0 if *capped => "nothing waits among as many rows as are looked at; there are more".to_owned(),
            0 => "nothing waits".to_owned(),
            unsent => {
                let at_least = if *capped { "at least " } else { "" };
                let messages = if *unsent == 1 { "message waits" } else { "messages wait" };
                format!("{at_least}{} {messages}, the oldest for {}", grouped(*unsent), seconds(*oldest))
            }
        }
    }

    /// For people: a sentence first.
    pub fn to_text(&self) -> String {
        let findings = self.findings();
        let mut text = String::new();
        let mut line = |label: &str, said: &str| writeln!(text, "{label:<9} {said}").expect("a string takes it");
        match findings.as_slice() {
            [] => line("well", &self.waiting()),
            findings => {
                for Finding { problem, repair } in findings {
                    line("wrong", &format!("{problem}; {repair}"));
                }
            }
        }
        match &self.leader {
            None => line("leader", "none"),
            Some(Leader { term, holder, remaining }) => {
                line("leader", &format!("{holder}, term {term}; its lease lasts for {}", seconds(*remaining)));
            }
        }
        line("standbys", &if self.standbys.is_empty() { "none".to_owned() } else { self.standbys.join(", ") });
        line("waiting", &self.waiting());
        for TopicBacklog { topic, unsent, oldest } in &self.backlog.topics {
            line("", &format!("{topic}: {}, the oldest for {}", grouped(*unsent), seconds(*oldest)));
        }
        line("held", &grouped(self.held.len() as u64));
        line("dead", &grouped(self.backlog.dead_letters));
        if let Some(operation) = &self.operation {
            line("replay", &format!("operation {}: {}", operation.id, how_far(operation)));
        }
        text
    }

    /// One JSON object, for programs.
    pub fn to_json(&self) -> String {
        format!("{}\n", self.described())
    }

    /// How it stands, as JSON.
    pub fn described(&self) -> Value {
        let Self { leader, backlog, held, orders, operation, standbys } = self;
        let leader = leader.as_ref().map(|Leader { term, holder, remaining }| {
            json!({ "holder": holder, "term": term.0, "lease_remaining_seconds": remaining.as_secs_f64() })
        });
        let finding = |Finding { problem, repair }: Finding| json!({ "problem": problem, "repair": repair });
        json!({
            "well": self.is_well(),
            "findings": self.findings().into_iter().map(finding).collect::<Vec<_>>(),
            "leader": leader,
            "standbys": standbys,
            "unsent": backlog.unsent,
            "unsent_is_at_least": backlog.capped,
            "oldest_unsent_seconds": backlog.oldest.as_secs_f64(),
            "topics": backlog.topics.iter().map(topic).collect::<Vec<_>>(),
            "paused": orders.pauses.iter().map(pause).collect::<Vec<_>>(),
            "held_lanes": held.len(),
            "dead_letters": backlog.dead_letters,
            "operation": operation.as_ref().map(operations::object),
        })
    }
}

/// That something is paused, and how that ends.
fn paused(pause: &Pause) -> Finding {
    let command = resuming(&pause.topics);
    Finding { problem: pause.to_string(), repair: format!("`{command}` ends that") }
}

/// The command that ends a pause.
pub fn resuming(topics: &TopicPattern) -> String {
    match topics.is_any() {
        true => "outboxd resume".to_owned(),
        false => format!("outboxd resume --topic '{topics}'"),
    }
}

/// What is paused and until when, as it is typed, for the audit log.
pub fn pause_subject(topics: &TopicPattern, until: Option<DateTime<Utc>>) -> String {
    let topics = if topics.is_any() { "all".to_owned() } else { format!("--topic {topics}") };
    let until = until.map(|until| format!(" --until {}", until.to_rfc3339_opts(SecondsFormat::Secs, true)));
    format!("{topics}{}", until.unwrap_or_default())
}

/// A pause, as programs read it.
pub(super) fn pause(Pause { topics, since, until, reason, actor }: &Pause) -> Value {
    json!({ "topics": topics.as_str(), "since": since, "until": until, "reason": reason, "actor": actor })
}

/// How much of a topic waits, as programs read it.
pub(super) fn topic(topic: &TopicBacklog) -> Value {
    json!({
        "topic": topic.topic,
        "unsent": topic.unsent,
        "oldest_unsent_seconds": topic.oldest.as_secs_f64(),
    })
}

/// A time to the tenth of a second, or to the second where it is long.
pub(super) fn seconds(time: Duration) -> String {
    let millis =
        if time < Duration::from_secs(10) { time.as_millis() / 100 * 100 } else { time.as_millis() / 1_000 * 1_000 };
    humantime::format_duration(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))).to_string()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::{Held, Lane, Term};

    fn leader() -> Option<Leader> {
        Some(Leader { term: Term(7), holder: "relay-a".to_owned(), remaining: Duration::from_millis(2_450) })
    }

    fn waits(topics: &[(&str, u64, u64)]) -> Backlog {
        let topic = |&(topic, unsent, seconds): &(&str, u64, u64)| TopicBacklog {
            topic: topic.to_owned(),
            unsent,
            oldest: Duration::from_secs(seconds),
        };
        let topics: Vec<TopicBacklog> = topics.iter().map(topic).collect();
        let unsent = topics.iter().map(|topic| topic.unsent).sum();
        let oldest = topics.iter().map(|topic| topic.oldest).max().unwrap_or_default();
        Backlog { unsent, oldest, topics, ..Backlog::default() }
    }

    fn held(lane: Lane, cause: HoldCause) -> HeldLane {
        let held = Held { lane, from_id: 1, after: None, cause, since: DateTime::UNIX_EPOCH };
        HeldLane { held, release_requested: false }
    }

    #[test]
    fn a_leader_that_keeps_up_is_well_in_one_sentence() {
        let report =
            StatusReport { leader: leader(), backlog: waits(&[("orders", 1_200, 3)]), ..StatusReport::default() };
        assert!(report.is_well());
        let expected = "\
well      1,200 messages wait, the oldest for 3s
leader    relay-a, term 7; its lease lasts for 2s 400ms
standbys  none
waiting   1,200 messages wait, the oldest for 3s
          orders: 1,200, the oldest for 3s
held      0
dead      0
";
        assert_eq!(report.to_text(), expected);
    }

    #[test]
    fn what_is_wrong_comes_first_with_what_to_do() {
        let lane = Lane::from_columns("users", Some("secret"), None);
        let held = vec![
            held(Lane::topic_of("oders"), HoldCause::MissingTopic),
            held(lane, HoldCause::Rejected),
            held(Lane::topic_of("later"), HoldCause::Suspected),
        ];
        let backlog = waits(&[("oders", 2, 900), ("orders", 1, 61), ("users", 1, 5)]);
        let report = StatusReport { leader: leader(), backlog, held, ..StatusReport::default() };
        let text = report.to_text();
        let wrong: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("wrong     ")).collect();
        assert_eq!(
            wrong,
            [
                "a message of topic orders has waited for 1m 1s; the leader's `/readyz` and its log say what it waits for",
                "topic oders: held, missing_topic; create the topic oders, or correct the rows; `outboxd held ls` lists them",
                "a key of topic users: held, rejected; mend what is rejected, then `outboxd held release --topic users`; \
             `outboxd held ls` lists them",
            ]
        );
        assert!(!text.contains("secret"), "keys are the application's data");
        let json: Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!((&json["well"], &json["findings"].as_array().map(Vec::len)), (&Value::Bool(false), &Some(3)));
    }

    #[test]
    fn a_pause_is_told_with_who_asked_for_it_and_the_command_that_ends_it_and_excuses_what_waits() {
        let pause = |topics: &str, seconds| Pause {
            topics: topics.parse().expect("a pattern"),
            since: DateTime::UNIX_EPOCH,
            until: DateTime::from_timestamp(seconds, 0),
            reason: Some("Kafka moves".to_owned()),
            actor: "anna@relay-1".to_owned(),
        };
        let backlog = waits(&[("orders", 9, 7_200)]);
        let orders = Orders { pauses: vec![pause("ord*", 3_600)], ..Orders::default() };
        let report = StatusReport { leader: leader(), backlog: backlog.clone(), orders, ..StatusReport::default() };
        let line = report.to_text().lines().next().map(str::to_owned);
        let expected = "wrong     topics ord* are paused since 1970-01-01T00:00:00Z by anna@relay-1 until 1970-01-01T01:00:00Z \
             (Kafka moves); `outboxd resume --topic 'ord*'` ends that";
        assert_eq!(line.as_deref(), Some(expected));
        assert_eq!(report.findings().len(), 1, "{:?}", report.findings());
        let orders = Orders { pauses: vec![pause("*", 3_600)], ..Orders::default() };
        let report = StatusReport { leader: leader(), backlog, orders, ..StatusReport::default() };
        assert_eq!(report.findings().len(), 1, "{:?}", report.findings());
        assert!(
            report.to_text().contains("everything is paused since")
                && report.to_text().contains("`outboxd resume` ends that")
        );
    }

    #[test]
    fn that_nobody_leads_is_wrong_whatever_waits() {
        let report = StatusReport { leader: None, backlog: waits(&[]), ..StatusReport::default() };
        assert!(
            !report.is_well()
                && report.to_text().starts_with("wrong     nobody leads, and nothing waits; start a relay")
        );
        let all_but_looked_at = Backlog { capped: true, ..waits(&[]) };
        let report = StatusReport { leader: None, backlog: all_but_looked_at, ..StatusReport::default() };
        assert!(report.to_text().contains("nothing waits among as many rows as are looked at"), "{}", report.to_text());
        let report = StatusReport { leader: None, backlog: waits(&[("orders", 1, 700)]), ..StatusReport::default() };
        assert_eq!(report.findings().len(), 1);
        assert!(report.to_text().contains("nobody leads, and 1 message waits, the oldest for 11m 40s"));
    }
}
