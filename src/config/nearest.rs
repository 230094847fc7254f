//! Which known word someone may have meant.

/// The known key nearest to an unknown one, if one is near enough to be a slip of the pen. A key that is right
/// but stands in the wrong section is found, too.
pub(crate) fn of<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let own_name = |key: &str| key.split_once('.').map(|(_, name)| name.to_owned());
    let moved = known.iter().find(|candidate| own_name(candidate).is_some() && own_name(candidate) == own_name(key));
    let spelt = known.iter().map(|candidate| (strsim::osa_distance(key, candidate), candidate)).min();
    match (moved, spelt) {
        (Some(candidate), _) => Some(candidate),
        (None, Some((distance, candidate))) if distance <= 1 + key.len() / 5 => Some(candidate),
        _ => None,
    }
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
        let known = ["a.bc".to_owned()];
        assert_eq!(of("a.cb", &known), Some("a.bc"));
        assert_eq!(of("a.de", &known), None);
    }
}
