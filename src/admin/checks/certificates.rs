//! The certificates that the configuration names.

use chrono::{DateTime, TimeDelta, Utc};

use crate::admin::checks::check::{Check, CheckName, CheckStatus};

/// This long before its end a certificate is to be replaced.
const RENEW_BEFORE: TimeDelta = TimeDelta::days(30);

/// Until when the certificates of each of these settings are valid; nothing where there are none.
pub fn certificates(named: &[(&'static str, Result<DateTime<Utc>, String>)], now: DateTime<Utc>) -> Option<Check> {
    let judged = named.iter().map(|(setting, until)| match until {
        Ok(until) if *until <= now => (CheckStatus::Failed, format!("{setting} ended on {}", until.format("%Y-%m-%d"))),
        Ok(until) => {
            let left = *until - now;
            let status = if left < RENEW_BEFORE { CheckStatus::Warning } else { CheckStatus::Ok };
            (status, format!("{setting}: {} days left", left.num_days()))
        }
        Err(problem) => (CheckStatus::Unknown, format!("{setting}: {problem}")),
    });
    let mut judged: Vec<(CheckStatus, String)> = judged.collect();
    judged.sort_by_key(|(status, _)| *status);
    let worst = judged.first()?.0;
    let evidence: Vec<String> = judged.into_iter().map(|(_, told)| told).collect();
    let check = Check::new(CheckName::Certificates, worst, evidence.join("; "));
    Some(match worst {
        CheckStatus::Failed => {
            check.because("connections with it are refused").command("replace it, and restart the relay")
        }
        CheckStatus::Warning => check.command("replace it in time, and restart the relay"),
        CheckStatus::Unknown | CheckStatus::Ok => check,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_ends_first_decides_and_days_are_told_of_each() {
        let now = DateTime::UNIX_EPOCH;
        let until = |days| Ok(now + TimeDelta::days(days));
        let check = |named: &[(&'static str, Result<DateTime<Utc>, String>)]| certificates(named, now).expect("some");
        assert_eq!(certificates(&[], now), None);
        let well = check(&[("a", until(30)), ("b", until(400))]);
        assert_eq!((well.status, well.evidence.as_str()), (CheckStatus::Ok, "a: 30 days left; b: 400 days left"));
        let near = check(&[("a", until(400)), ("b", until(29)), ("c", Err("it is gone".to_owned()))]);
        assert_eq!(
            (near.status, near.evidence.as_str()),
            (CheckStatus::Warning, "b: 29 days left; c: it is gone; a: 400 days left")
        );
        let ended = check(&[("a", until(400)), ("b", until(0))]);
        assert_eq!(
            (ended.status, ended.evidence.as_str()),
            (CheckStatus::Failed, "b ended on 1970-01-01; a: 400 days left")
        );
        assert_eq!(check(&[("c", Err("it is gone".to_owned()))]).status, CheckStatus::Unknown);
    }
}
