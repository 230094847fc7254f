//! Values of labels whose number is bounded, however many there are.

use std::collections::HashSet;

use parking_lot::Mutex;

/// The first values seen keep their names; later ones become `other`.
pub(super) struct BoundedLabel {
    most: usize,
    seen: Mutex<Option<HashSet<String>>>,
}

impl BoundedLabel {
    /// A label of so many values of its own at most.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, seen: Mutex::new(None) }
    }

    /// How a value is shown.
    pub(super) fn of(&self, value: &str) -> String {
        let mut seen = self.seen.lock();
        let seen = seen.get_or_insert_default();
        if seen.contains(value) {
            return value.to_owned();
        }
        if seen.len() < self.most {
            seen.insert(value.to_owned());
            return value.to_owned();
        }
        "other".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let label = BoundedLabel::new(200);
        let shown: HashSet<String> = (0..2_000).map(|n| label.of(&format!("topic-{n}"))).collect();
        assert_eq!(shown.len(), 201);
        assert!(shown.contains("other"));
        assert_eq!(label.of("topic-7"), "topic-7");
    }
}
