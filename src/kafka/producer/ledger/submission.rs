//! A submission while it is written.

use std::sync::Arc;

use crate::contract::{Outcome, Receipt};
use crate::kafka::producer::ledger::ticket::Ticket;
use crate::kafka::producer::ledger::{Ledger, State};
use crate::kafka::producer::sending::Destination;

/// A submission while it is being written. Dropping it says that no more of its records will be sent: the others
/// stay [`Outcome::Unknown`].
#[derive(Debug)]
pub(crate) struct Submission {
    ledger: Arc<Ledger>,
    slot: usize,
    to_send: usize,
    /// Where records went of which the ledger was not told yet.
    handed_over: Vec<(u32, Destination)>,
}

impl Submission {
    /// Begins a submission of so many records. Its receipt resolves once it is written and all of them are reported.
    pub(crate) fn begin(ledger: &Arc<Ledger>, records: usize) -> (Self, Receipt) {
        let (slot, receipt) = ledger.open(records);
        (Self { ledger: Arc::clone(ledger), slot, to_send: records, handed_over: Vec::new() }, receipt)
    }

    /// What travels with a record through the client.
    pub(crate) fn ticket(&self, index: usize) -> usize {
        Ticket { slot: self.slot, index, first: false }.write()
    }

    /// As [`ticket`](Self::ticket), for the first record of a cold partition: [`Ledger::warmed`] waits for it.
    pub(crate) fn first_ticket(&self, index: usize) -> usize {
        self.ledger.state().warming += 1;
        Ticket { slot: self.slot, index, first: true }.write()
    }

    /// Notes that a record was handed to the client, which will report it.
    pub(crate) fn sent(&mut self) {
        self.to_send -= 1;
    }

    /// Notes where the record of this place went.
    pub(crate) fn went_to(&mut self, index: usize, destination: Destination) {
        self.handed_over.push((index as u32, destination));
    }

    /// Tells the ledger where records went; done once for many, and at the latest when the submission is written.
    pub(crate) fn tell_destinations(&mut self) {
        let ledger = Arc::clone(&self.ledger);
        self.tell(&mut ledger.state());
    }

    fn tell(&mut self, state: &mut State) {
        if let Some(Some(slot)) = state.slots.get_mut(self.slot) {
            slot.destinations.append(&mut self.handed_over);
        }
    }

    /// Sets the outcome of a record that is not sent.
    pub(crate) fn set(&self, index: usize, outcome: Outcome) {
        let mut state = self.ledger.state();
        if let Some(Some(slot)) = state.slots.get_mut(self.slot) {
            slot.outcomes[index] = outcome;
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        let ledger = Arc::clone(&self.ledger);
        let mut state = ledger.state();
        if !state.abandoned {
            self.tell(&mut state);
            ledger.count_down(&mut state, self.slot, self.to_send + 1);
        }
    }
}
