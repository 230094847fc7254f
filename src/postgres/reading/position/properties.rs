//! The rule on which reading stands, over histories drawn at random: what a snapshot does not show and a later one does is
//! told by the earlier snapshot alone, and positions follow each other as the snapshots do.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{ReadPosition, Snapshot};

/// What happens in a cluster.
#[derive(Debug, Clone, Copy)]
enum Event {
    Begin,
    /// One of the open transactions ends.
    End(usize),
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![4 => Just(Event::Begin), 4 => any::<usize>().prop_map(Event::End), 2 => Just(Event::Look)]
}

/// Snapshots of a history, and which transactions each of them shows.
fn looks(events: &[Event]) -> Vec<(Snapshot, Vec<u64>)> {
    let (mut next, mut open, mut over, mut looks) = (700, Vec::new(), Vec::new(), Vec::new());
    for event in events {
        match *event {
            Event::Begin => {
                open.push(next);
                next += 1;
            }
            Event::End(which) if !open.is_empty() => over.push(open.remove(which % open.len())),
            Event::End(_) => {}
            Event::Look => {
                // As PostgreSQL does: up to one above the highest that is over.
                let xmax = over.iter().max().map_or(700, |highest| highest + 1);
                let open: Vec<u64> = open.iter().copied().filter(|xid| *xid < xmax).collect();
                let xmin = open.first().copied().unwrap_or(xmax);
                looks.push((Snapshot { xmin, xmax, open }, over.clone()));
            }
        }
    }
    looks
}

proptest! {
    #[test]
    fn what_is_new_is_told_by_the_snapshot_before(events in vec(event(), 1..200)) {
        let looks = looks(&events);
        for (number, (before, shown_before)) in looks.iter().enumerate() {
            for (_, shown) in &looks[number..] {
                let told: Vec<u64> =
                    shown.iter().copied().filter(|xid| *xid >= before.xmax || before.open.contains(xid)).collect();
                let new: Vec<u64> = shown.iter().copied().filter(|xid| !shown_before.contains(xid)).collect();
                prop_assert_eq!(told, new);
            }
        }
    }

    #[test]
    fn a_position_is_after_another_exactly_if_it_has_read_more(events in vec(event(), 1..200)) {
        let looks = looks(&events);
        let at = |snapshot: &Snapshot| ReadPosition { prev: snapshot.clone(), ..ReadPosition::default() };
        for (number, (before, shown_before)) in looks.iter().enumerate() {
            let text = before.to_string();
            prop_assert_eq!(text.parse::<Snapshot>().expect("what was written is read"), before.clone());
            for (after, shown) in &looks[number..] {
                prop_assert_eq!(at(after).is_after(&at(before)), shown.len() > shown_before.len());
                prop_assert!(!at(before).is_after(&at(after)));
            }
        }
    }
}
