//! Judging suspects ahead of what is submitted with them, while the relay can still decide what becomes of them before
//! anything that follows in their lanes. So a session goes on, however many records are refused. All others wait meanwhile:
//! what takes longer than a turn is held, and goes on in the next one.

use std::time::Duration;

use tokio::time::Instant;

use crate::contract::{Outcome, Refusal, SinkError};
use crate::kafka::plan::Plan;
use crate::kafka::producer::Role;
use crate::kafka::sink::Sink;
use crate::outbox::Record;

/// How long the others of a submission wait for its suspects.
const JUDGING_TURN: Duration = Duration::from_millis(400);

impl Sink {
    /// Publishes the suspects among these records, and says which of them the broker refuses for themselves. What is
    /// delivered is told with the submission that follows.
    pub(crate) async fn judge_suspects(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        if self.suspects.is_empty() {
            return Ok(Vec::new());
        }
        let mut plan = Plan::default();
        let producer_limits = plan.make(self, records);
        if plan.alone.is_empty() {
            return Ok(Vec::new());
        }
        let until = Some(*self.judging_until.get_or_insert_with(|| Instant::now() + JUDGING_TURN));
        // What was handed over before in their lanes is not overtaken.
        self.last_transaction().await?;
        let judged = match self.settings.role() {
            Role::Main | Role::Quarantine => self.send_quarantined(records, plan.alone, until).await?,
            Role::Transactional => {
                self.another_transaction().await?;
                if !self.healthy()?.limits.serves(&producer_limits) {
                    self.rebuild_for_limits().await?;
                }
                self.quarantine_in_transactions(records, plan.alone, until).await?
            }
        };
        let mut refusals = Vec::new();
        for (index, outcome) in judged {
            let record = &records[index];
            match outcome {
                Outcome::Delivered { .. } => {
                    self.ahead.insert(record.id, outcome);
                }
                Outcome::Rejected(rejection) => {
                    // What follows in its lane comes with the next call, when it is decided what becomes of this one.
                    if let Some(lane) = record.lane() {
                        self.blocked.remove(&lane);
                    }
                    refusals.push(Refusal { index, rejection: *rejection });
                }
                // Submitting tells.
                Outcome::Held(_) | Outcome::Unknown => {}
            }
        }
        refusals.sort_unstable_by_key(|refusal| refusal.index);
        Ok(refusals)
    }
}
