//! Which known word someone may have meant.

/// The known key nearest to an unknown one, if one is near enough to be a slip of the pen. A key that is right
/// but stands in the wrong section is found, too.
pub(crate) fn of<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let own_name = |key: &str| key.split_once('.').map(|(_, name)| name.to_owned());
    let moved = known.iter().find(|candidate| own_name(candidate).is_some() && own_name(candidate) == own_name(key));
    let spelt = known.iter().map(|candidate| (distance(key, candidate), candidate)).min();
    match (moved, spelt) {
        (Some(candidate), _) => Some(candidate),
        (None, Some((distance, candidate))) if distance <= 1 + key.len() / 5 => Some(candidate),
        _ => None,
    }
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let changed = usize::from(a[i - 1] != b[j - 1]);
                    let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        best = best.min(rows[i - 2][j - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_and_wrong_sections_are_understood_and_strangers_are_not() {
        let known: Vec<String> =
            ["outbox.retention", "outbox.settle", "lease.ttl", "http.listen"].map(str::to_owned).into();
        assert_eq!(of("outbox.retentoin", &known), Some("outbox.retention"));
        assert_eq!(of("relay.settle", &known), Some("outbox.settle"));
        assert_eq!(of("lease.tttl", &known), Some("lease.ttl"));
        assert_eq!(of("colour", &known), None);
        assert_eq!(of("http.tls.certificate", &known), None);
    }

    #[test]
    fn neighbours_swapped_count_once() {
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
