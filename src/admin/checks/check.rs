//! A check, its list, and how that is shown.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How a check came out, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// Something does not work.
    Failed,
    /// It works, and somebody should look at it.
    Warning,
    /// It could not be found out.
    Unknown,
    /// All is well.
    Ok,
}

impl CheckStatus {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Failed, Self::Warning, Self::Unknown, Self::Ok];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckStatus::Failed => "failed",
            CheckStatus::Warning => "warning",
            CheckStatus::Unknown => "unknown",
            CheckStatus::Ok => "ok",
        }
    }
}

/// What is checked, in the order in which one thing rests on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckName {
    /// The database answers.
    Database,
    /// The tables are what this version needs.
    Schema,
    /// The relay's role may do what it has to, and no more.
    Rights,
    /// Nothing speaks against the server as it is set up.
    Setup,
    /// Some relay leads.
    Lease,
    /// What is read and published moves.
    Reader,
    /// Brokers answer.
    Brokers,
    /// The topics exist, and the relay may write to them.
    Topics,
    /// The Kafka client works, and is not built anew again and again.
    Producer,
    /// No snapshot holds back vacuum.
    OldSnapshot,
    /// Vacuum keeps up.
    Vacuum,
    /// Published rows go after their retention.
    Retention,
    /// The clocks of the database and of this host agree.
    Clock,
    /// The certificates that the configuration names are valid.
    Certificates,
    /// No lane waits for an operator or a partition.
    HeldLanes,
    /// No message was given up.
    DeadLetters,
    /// The canary's rows come back.
    Canary,
}

impl CheckName {
    /// The name, as operators and metrics read it.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckName::Database => "database",
            CheckName::Schema => "schema",
            CheckName::Rights => "rights",
            CheckName::Setup => "setup",
            CheckName::Lease => "lease",
            CheckName::Reader => "reader",
            CheckName::Brokers => "brokers",
            CheckName::Topics => "topics",
            CheckName::Producer => "producer",
            CheckName::OldSnapshot => "old_snapshot",
            CheckName::Vacuum => "vacuum",
            CheckName::Retention => "retention",
            CheckName::Clock => "clock",
            CheckName::Certificates => "certificates",
            CheckName::HeldLanes => "held_lanes",
            CheckName::DeadLetters => "dead_letters",
            CheckName::Canary => "canary",
        }
    }
}

/// How one thing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: CheckName,
    /// How it came out.
    pub status: CheckStatus,
    /// What was seen.
    pub evidence: String,
    /// What that comes from or comes to, where it is not well.
    pub cause: Option<String>,
    /// What to do about it: a command to type, where one does.
    pub command: Option<String>,
}

impl Check {
    /// A check that came out so, by this evidence.
    pub fn new(name: CheckName, status: CheckStatus, evidence: impl Into<String>) -> Self {
        Self { name, status, evidence: evidence.into(), cause: None, command: None }
    }

    /// All is well, by this evidence.
    pub fn ok(name: CheckName, evidence: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Ok, evidence)
    }

    /// It could not be found out, for this reason.
    pub fn unknown(name: CheckName, evidence: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Unknown, evidence)
    }

    /// Only the relay knows it, for this reason; `page` is where that serves what it knows.
    pub fn unseen(name: CheckName, evidence: impl Into<String>, page: Option<&str>) -> Self {
        let unseen = Self::unknown(name, evidence);
        match page {
            Some(listen) => unseen.command(format!("curl -s http://{listen}/status")),
            None => unseen,
        }
    }

    /// With what it comes from or comes to.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

/// A line a check, the worst first.
pub fn to_text(checks: &[Check]) -> String {
    let mut sorted: Vec<&Check> = checks.iter().collect();
    sorted.sort_by_key(|check| (check.status, check.name));
    let mut text = String::new();
    for Check { name, status, evidence, cause, command } in sorted {
        let cause = cause.as_ref().map_or_else(String::new, |cause| format!("; {cause}"));
        let command = command.as_ref().map_or_else(String::new, |command| format!(" -> {command}"));
        let line = format!("{:<8} {:<13} {evidence}{cause}{command}", status.as_str(), name.as_str());
        writeln!(text, "{}", line.replace(['\n', '\r'], " ")).expect("a string takes it");
    }
    text
}

/// One JSON object, for programs: the worst first.
pub fn to_json(checks: &[Check]) -> String {
    let mut sorted = checks.to_vec();
    sorted.sort_by_key(|check| (check.status, check.name));
    let failed = sorted.iter().any(|check| check.status == CheckStatus::Failed);
    format!("{}\n", json!({ "failed": failed, "checks": to_value(&sorted) }))
}

/// The checks as programs read them.
pub fn to_value(checks: &[Check]) -> Value {
    let object = |Check { name, status, evidence, cause, command }: &Check| {
        json!({
            "check": name.as_str(),
            "status": status.as_str(),
            "evidence": evidence,
            "cause": cause,
            "command": command,
        })
    };
    checks.iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_one_line_and_the_worst_come_first() {
        let checks = [
            Check::ok(CheckName::Database, "PostgreSQL 18.1"),
            Check::unknown(CheckName::Producer, "the relay knows"),
            Check::new(CheckName::Topics, CheckStatus::Failed, "oders:\nmissing")
                .because("they wait")
                .command("create it"),
            Check::new(CheckName::Clock, CheckStatus::Warning, "5s ahead"),
        ];
        let expected = "\
failed   topics        oders: missing; they wait -> create it
warning  clock         5s ahead
unknown  producer      the relay knows
ok       database      PostgreSQL 18.1
";
        assert_eq!(to_text(&checks), expected);
        let json: Value = serde_json::from_str(&to_json(&checks)).expect("JSON");
        assert_eq!((&json["failed"], &json["checks"][0]["check"]), (&json!(true), &json!("topics")));
        assert_eq!(json["checks"][3]["command"], Value::Null);
        assert!(to_json(&checks[..1]).starts_with("{\"checks\""), "{}", to_json(&checks[..1]));
    }
}
