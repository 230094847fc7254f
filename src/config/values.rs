//! Reading one value: durations, sizes, counts. Pure; each error says what would do.

use std::time::Duration;

use crate::config::written::{Kind, Scalar};

/// Reads a duration: a number and a unit.
pub(crate) fn duration(value: &Scalar) -> Result<Duration, String> {
    let example = "write a number and a unit in quotes, for example \"500ms\", \"3s\" or \"7d\"";
    match value.kind {
        Kind::Text | Kind::Loose => humantime::parse_duration(value.text.trim())
            .map_err(|_| format!("{:?} is no duration; {example}", value.text)),
        _ => Err(format!("{} is no duration; {example}", value.text)),
    }
}

/// Reads a size: bytes, or a number and a unit.
pub(crate) fn size(value: &Scalar) -> Result<usize, String> {
    let wrong = || format!("{:?} is no size; write bytes, or for example \"64KiB\" or \"32MiB\"", value.text);
    let text = value.text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.parse::<usize>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

/// Reads a whole number.
pub(crate) fn whole(value: &Scalar) -> Result<i64, String> {
    match value.kind {
        Kind::Number | Kind::Loose => value.text.trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| format!("{:?} is no whole number; write it in digits, without quotes", value.text))
}

/// Reads what is on or off.
pub(crate) fn switch(value: &Scalar) -> Result<bool, String> {
    let wrong = || format!("{:?} is neither true nor false; write one of them, without quotes", value.text);
    match value.kind {
        Kind::Switch | Kind::Loose => value.text.trim().parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// Reads text.
pub(crate) fn text(value: &Scalar) -> Result<&str, String> {
    match value.kind {
        Kind::Text | Kind::Loose => Ok(&value.text),
        _ => Err(format!("{} is not text; put it in quotes", value.text)),
    }
}

/// Reads a list of words; outside files they are separated by commas.
pub(crate) fn list(value: &Scalar) -> Result<Vec<&str>, String> {
    match value.kind {
        Kind::List | Kind::Loose => Ok(value.text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()),
        _ => Err(format!("{} is no list; write [\"one\", \"two\"]", value.text)),
    }
}

/// Checks `HOST:PORT`.
pub(crate) fn address(text: &str) -> Result<(), String> {
    let well_formed = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if well_formed {
        Ok(())
    } else {
        Err(format!("{text:?} is no address; write HOST:PORT, for example \"0.0.0.0:9187\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, kind: Kind) -> Scalar {
        Scalar { text: text.to_owned(), kind }
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_wherever_it_stands() {
        assert_eq!(duration(&written("1h 30m", Kind::Text)), Ok(Duration::from_secs(5400)));
        assert_eq!(duration(&written("250ms", Kind::Loose)), Ok(Duration::from_millis(250)));
        for value in [written("7", Kind::Number), written("7", Kind::Loose), written("soon", Kind::Text)] {
            assert!(duration(&value).expect_err("no duration").contains("\"7d\""), "{value:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        assert_eq!(size(&written("4MiB", Kind::Text)), Ok(4 << 20));
        assert_eq!(size(&written("4 kb", Kind::Loose)), Ok(4000));
        assert_eq!(size(&written("1000", Kind::Number)), Ok(1000));
        for text in ["", "MiB", "4 elephants", "-1", "99999999999999999999", "1.5MiB"] {
            assert!(size(&written(text, Kind::Text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_in_quotes_is_refused_in_a_file_and_fine_in_a_variable() {
        assert!(whole(&written("5", Kind::Text)).is_err());
        assert_eq!(whole(&written("5", Kind::Loose)), Ok(5));
        assert!(text(&written("5", Kind::Number)).is_err());
    }

    #[test]
    fn a_switch_is_true_or_false_and_no_text() {
        assert_eq!(switch(&written("true", Kind::Switch)), Ok(true));
        assert_eq!(switch(&written(" false", Kind::Loose)), Ok(false));
        for value in [written("true", Kind::Text), written("yes", Kind::Loose), written("1", Kind::Number)] {
            assert!(switch(&value).expect_err("no switch").contains("true nor false"), "{value:?}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:9187", "[::1]:0", "localhost:80"] {
            assert_eq!(address(good), Ok(()), "{good}");
        }
        for bad in ["9187", ":9187", "localhost", "localhost:http", "localhost:99999"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
