//! Finding an id by a time, where ids follow the times at which their rows were written.

/// A search for the lowest id from which on rows were written at some time or later. Ask of the first row from
/// [`next`](Self::next) on, [say](Self::told) whether it was, and ask again.
#[derive(Debug, Clone, Copy)]
pub struct FirstSince {
    low: i64,
    beyond: i64,
}

impl FirstSince {
    /// A search among the rows from one id to another.
    pub fn between(low: i64, high: i64) -> Self {
        Self { low, beyond: high.saturating_add(1) }
    }

    /// The id to ask of; nothing once the answer is known.
    pub fn next(&self) -> Option<i64> {
        // Between two ids of different signs the middle may be rounded up.
        (self.low < self.beyond).then(|| self.low.midpoint(self.beyond).clamp(self.low, self.beyond - 1))
    }

    /// Takes the answer in: whether the first row from `asked` on was written then or later, or there is none.
    pub fn told(&mut self, asked: i64, is_since: bool) {
        if is_since {
            self.beyond = asked;
        } else {
            self.low = asked + 1;
        }
    }

    /// The id that was looked for; one above the highest where no row was written then or later.
    pub fn found(&self) -> i64 {
        self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with these ids, each written at the time that is its id.
    fn found(ids: &[i64], since: i64) -> i64 {
        let mut search = FirstSince::between(ids[0], ids[ids.len() - 1]);
        while let Some(asked) = search.next() {
            let first = ids.iter().find(|id| **id >= asked);
            search.told(asked, first.is_none_or(|id| *id >= since));
        }
        search.found()
    }

    #[test]
    fn the_first_row_of_a_time_is_found_among_ids_with_gaps() {
        let ids = [-7, -3, 1, 2, 3, 900, 901, 100_000];
        for since in -10..1_000 {
            let from = found(&ids, since);
            let expected: Vec<&i64> = ids.iter().filter(|id| **id >= since).collect();
            assert_eq!(ids.iter().filter(|id| **id >= from).collect::<Vec<_>>(), expected, "{since}");
        }
        assert_eq!(found(&ids, 100_001), 100_001, "none");
    }
}
