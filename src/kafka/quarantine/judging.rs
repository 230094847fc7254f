//! Judging suspects, each way of delivering in its own manner: what becomes of each, and until when there is time for more.

use tokio::time::Instant;

use crate::contract::Outcome;
use crate::kafka::errors::INVALID_TIMESTAMP;
use crate::kafka::knowledge::Knowledge;
use crate::kafka::producer::sending::{RecordOutcome, Sending};
use crate::outbox::Record;

/// Suspects of one submission that are being judged.
pub(crate) struct Judging<'a> {
    records: &'a [Record],
    /// Until when others may wait for them, if any do.
    until: Option<Instant>,
    judged: Vec<RecordOutcome>,
}

impl<'a> Judging<'a> {
    /// Begins with so many suspects among these records.
    pub(crate) fn new(records: &'a [Record], suspects: usize, until: Option<Instant>) -> Self {
        Self { records, until, judged: Vec::with_capacity(suspects) }
    }

    /// Whether there is no time left.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether a suspect is still to be sent, after what was learnt since.
    pub(crate) fn is_due(&mut self, sending: Sending, knowledge: &mut Knowledge) -> bool {
        match knowledge.kept_back(&self.records[sending.index], sending) {
            Some(outcome) => {
                self.judged.push(RecordOutcome { index: sending.index, outcome });
                false
            }
            None => true,
        }
    }

    /// Takes note of what became of a suspect. Returns it if it is to be sent again.
    pub(crate) fn judge(&mut self, sending: Sending, outcome: Outcome, knowledge: &mut Knowledge) -> Option<Sending> {
        let again = as_of_now(sending, &outcome);
        if again.is_none() {
            knowledge.judge(&self.records[sending.index], sending, &outcome);
            self.judged.push(RecordOutcome { index: sending.index, outcome });
        }
        again
    }

    /// Holds the suspects that are left, for which there is no time. Returns what became of all.
    pub(crate) fn end(mut self, left: impl Iterator<Item = Sending>, knowledge: &mut Knowledge) -> Vec<RecordOutcome> {
        let put_off = left.map(|sending| {
            let outcome = knowledge.put_off(&self.records[sending.index]);
            RecordOutcome { index: sending.index, outcome }
        });
        self.judged.extend(put_off);
        self.judged
    }
}

/// A record whose time was refused is to be sent again, as of now.
fn as_of_now(sending: Sending, outcome: &Outcome) -> Option<Sending> {
    let is_time = matches!(outcome, Outcome::Rejected(rejection) if rejection.code == INVALID_TIMESTAMP);
    (is_time && !sending.is_untimely).then_some(Sending { is_untimely: true, ..sending })
}
