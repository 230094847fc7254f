//! Saying once that something fails, however often it is tried, and once that it works again.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something fails at present.
#[derive(Debug, Default)]
pub struct Outage {
    is_on: AtomicBool,
}

impl Outage {
    /// Notes a failure. Whether it is the first since a success, and is to be said.
    pub fn begins(&self) -> bool {
        !self.is_on.swap(true, Ordering::Relaxed)
    }

    /// Notes a success. Whether an outage ends with it.
    pub fn ends(&self) -> bool {
        // Read first: successes may come for every record.
        self.is_on() && self.is_on.swap(false, Ordering::Relaxed)
    }

    /// Whether it lasts.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_once_and_ends_once() {
        let outage = Outage::default();
        assert!(!outage.ends() && !outage.is_on());
        assert_eq!([outage.begins(), outage.begins(), outage.is_on()], [true, false, true]);
        assert_eq!([outage.ends(), outage.ends(), outage.is_on()], [true, false, false]);
        assert!(outage.begins(), "the next one is said, too");
    }
}
