//! A submission while it is written, and what travels with each of its records.

use std::sync::Arc;

use crate::contract::Outcome;
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
    /// One of so many records, in this slot.
    pub(super) fn new(ledger: &Arc<Ledger>, slot: usize, records: usize) -> Self {
        Self { ledger: Arc::clone(ledger), slot, to_send: records, handed_over: Vec::new() }
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

/// A slot, an index in it, and whether the record is the first of a cold partition.
pub(super) struct Ticket {
    pub(super) slot: usize,
    pub(super) index: usize,
    pub(super) first: bool,
}

impl Ticket {
    /// What travels through the client.
    fn write(&self) -> usize {
        debug_assert!(self.slot < 1 << 31 && self.index < 1 << 32);
        usize::from(self.first) << 63 | self.slot << 32 | self.index
    }

    /// Reads what [`write`](Self::write) made.
    pub(super) fn read(opaque: usize) -> Self {
        Self { slot: opaque >> 32 & 0x7fff_ffff, index: opaque & 0xffff_ffff, first: opaque >> 63 == 1 }
    }
}
