//! What an audit found, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

/// Examples of each kind that are shown.
const EXAMPLES_SHOWN: usize = 10;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Where {
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

/// One thing that was found. Never a key or a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The topic, where it is known.
    pub topic: Option<String>,
    /// The partition, where it is known.
    pub partition: Option<i32>,
    /// The offset, where there is a record.
    pub offset: Option<i64>,
    /// The row's id; `None` where a record does not tell.
    pub id: Option<i64>,
}

impl Finding {
    pub(crate) fn at(at: &Where, offset: i64, id: i64) -> Self {
        Self { topic: Some(at.topic.clone()), partition: Some(at.partition), offset: Some(offset), id: Some(id) }
    }

    pub(crate) fn without_id(at: &Where, offset: i64) -> Self {
        Self { id: None, ..Self::at(at, offset, 0) }
    }

    pub(crate) fn row(id: i64) -> Self {
        Self { topic: None, partition: None, offset: None, id: Some(id) }
    }
}

/// All things of one kind: their number, and the first few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many there are.
    pub count: u64,
    /// The first few.
    pub examples: Vec<Finding>,
}

impl Findings {
    pub(crate) fn add(&mut self, finding: impl FnOnce() -> Finding) {
        self.add_many(1, finding);
    }

    /// Adds several of which one is an example.
    pub(crate) fn add_many(&mut self, count: u64, finding: impl FnOnce() -> Finding) {
        self.count += count;
        if self.examples.len() < EXAMPLES_SHOWN {
            self.examples.push(finding());
        }
    }
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Topics that were read.
    pub topics: Vec<String>,
    /// Committed rows that were looked at.
    pub rows: u64,
    /// Those that are not recorded as published yet; nothing is said of them.
    pub not_published_yet: u64,
    /// Records of this outbox that were read, duplicates included.
    pub records: u64,
    /// Different rows among them.
    pub published: u64,
    /// Records of others in the same topics.
    pub foreign: u64,
    /// Records that were sent again because an operator asked for a replay; nothing else is said of them.
    pub replayed: u64,
    /// Rows whose records consumers with `read_committed` do not see yet, because a transaction before them is open.
    pub hidden: u64,
    /// Rows that are recorded as published and that the broker does not hold.
    pub lost: Findings,
    /// First occurrences that follow that of a later row of their lane.
    pub reordered: Findings,
    /// Records that no committed row explains.
    pub unexpected: Findings,
    /// Records beyond the first of their row.
    pub duplicates: Findings,
    /// Lanes whose last record is not the highest.
    pub stale_last: Findings,
    /// Records that an operator put back after they had been given up: their place is after what was sent meanwhile.
    pub requeued: u64,
    /// Dead letters there are.
    pub dead_letters: u64,
    /// Held lanes there are.
    pub held_lanes: u64,
    /// What could not be audited, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether the promise was kept: nothing lost, no lane reordered, nothing published that did not commit.
    /// `exactly_once` asks for no duplicates either.
    pub fn is_kept(&self, exactly_once: bool) -> bool {
        let once = self.duplicates.count == 0 && self.stale_last.count == 0;
        self.lost.count + self.reordered.count + self.unexpected.count == 0 && (once || !exactly_once)
    }

    fn findings(&self) -> [(&'static str, &'static str, &Findings); 5] {
        [
            ("lost", "recorded as published, and not in Kafka", &self.lost),
            ("reordered", "published after a later row of their lane", &self.reordered),
            ("unexpected", "in Kafka, and no committed row explains them", &self.unexpected),
            ("duplicates", "records beyond the first of their row", &self.duplicates),
            ("stale_last", "lanes whose last record is not the highest", &self.stale_last),
        ]
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string cannot fail");
        line(format!("topics             {}", self.topics.join(", ")));
        line(format!("committed rows     {} ({} not published yet)", self.rows, self.not_published_yet));
        line(format!("records            {} of {} rows ({} foreign)", self.records, self.published, self.foreign));
        line(format!("requeued           {:<8} put back by an operator, after what was sent meanwhile", self.requeued));
        line(format!("replayed           {}", self.replayed));
        line(format!("dead letters       {}", self.dead_letters));
        line(format!("held lanes         {}", self.held_lanes));
        for (name, meaning, findings) in self.findings() {
            line(format!("{name:<18} {:<8} {meaning}", findings.count));
            for Finding { topic, partition, offset, id } in &findings.examples {
                let place = match (topic, partition, offset) {
                    (Some(topic), Some(partition), Some(offset)) => format!(" at {topic}/{partition}@{offset}"),
                    _ => String::new(),
                };
                let row = id.map_or_else(|| "no row".to_owned(), |id| format!("row {id}"));
                line(format!("                     {row}{place}"));
            }
        }
        for note in &self.notes {
            line(format!("note: {note}"));
        }
        text
    }

    /// For programs.
    pub fn to_json(&self, exactly_once: bool) -> String {
        let mut object = json!({
            "kept": self.is_kept(exactly_once),
            "topics": self.topics,
            "rows": self.rows,
            "not_published_yet": self.not_published_yet,
            "records": self.records,
            "published": self.published,
            "foreign": self.foreign,
            "replayed": self.replayed,
            "hidden": self.hidden,
            "requeued": self.requeued,
            "dead_letters": self.dead_letters,
            "held_lanes": self.held_lanes,
            "notes": self.notes,
        });
        let mut examples = serde_json::Map::new();
        for (name, _, findings) in self.findings() {
            object[name] = findings.count.into();
            examples.insert(name.to_owned(), findings.examples.iter().map(example).collect());
        }
        object["examples"] = Value::Object(examples);
        format!("{object}\n")
    }
}

fn example(Finding { topic, partition, offset, id }: &Finding) -> Value {
    json!({ "topic": topic, "partition": partition, "offset": offset, "id": id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_break_the_promise_of_exactly_once_only() {
        let mut report = Report::default();
        assert!(report.is_kept(true));
        report.duplicates.add(|| Finding::row(1));
        assert!(report.is_kept(false) && !report.is_kept(true));
        report.lost.add(|| Finding::row(2));
        assert!(!report.is_kept(false));
        let json: Value = serde_json::from_str(&report.to_json(false)).expect("JSON");
        assert_eq!(
            (&json["lost"], &json["kept"], &json["examples"]["lost"][0]["id"]),
            (&json!(1), &json!(false), &json!(2))
        );
        assert!(report.to_text().contains("lost               1"), "{}", report.to_text());
    }
}
