//! The canary's rows.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::checks::check::{Check, CheckName, CheckStatus};
use crate::canary::{Back, Unwritten, View};
use crate::observe::grouped;

/// Whether what is committed comes to a consumer in time.
pub fn canary(view: &View, lost_after: Duration, now: Instant) -> Check {
    let name = CheckName::Canary;
    let View { back, lost, is_paused, unwritten, unread } = view;
    if *is_paused {
        return Check::unknown(name, "its topic is paused").command("outboxd resume, when the pause is over");
    }
    if *lost > 0 {
        let within = humantime::format_duration(lost_after);
        let seen = match lost {
            1 => format!("the last row that was due did not come back within {within}"),
            many => format!("the last {} rows that were due did not come back within {within}", grouped(*many)),
        };
        let failed = Check::new(name, CheckStatus::Failed, seen);
        return failed.because("what is committed does not reach consumers in time").command("outboxd status");
    }
    let unproven = "messages flow or not, it does not show";
    if let Some(Unwritten { problem, repair }) = unwritten {
        let mut check =
            Check::new(name, CheckStatus::Warning, format!("its rows are not written: {problem}")).because(unproven);
        check.command.clone_from(repair);
        return check;
    }
    if let Some(why) = unread {
        let check = Check::new(name, CheckStatus::Warning, format!("its topic cannot be read: {why}"));
        return check.because(unproven).command("let the relay read the topic of canary.topic (Read, Describe)");
    }
    match back {
        None => Check::unknown(name, "no row has come back yet"),
        Some(Back { at, took }) => {
            let ago = humantime::format_duration(Duration::from_secs(now.saturating_duration_since(*at).as_secs()));
            Check::ok(name, format!("a row came back in {} ms, {ago} ago", took.as_millis()))
        }
    }
}

/// What is known of the canary from where it is not; `page` is where the relay serves what it knows.
pub fn canary_unseen(page: Option<&str>) -> Check {
    Check::unseen(CheckName::Canary, "the relay alone knows its canary", page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_last_fails_and_what_cannot_be_known_does_not() {
        let now = Instant::now() + Duration::from_secs(60);
        let judged = |view: View| {
            let check = canary(&view, Duration::from_secs(60), now);
            (check.status, check.evidence, check.command.unwrap_or_default())
        };
        let back = Some(Back { at: now - Duration::from_secs(12), took: Duration::from_micros(3_400) });
        assert_eq!(judged(View::default()).0, CheckStatus::Unknown);
        let well = judged(View { back, ..View::default() });
        assert_eq!((well.0, well.1.as_str()), (CheckStatus::Ok, "a row came back in 3 ms, 12s ago"));
        let lost = judged(View { back, lost: 2, unread: Some("away".to_owned()), ..View::default() });
        assert_eq!(lost.0, CheckStatus::Failed);
        assert_eq!(lost.1, "the last 2 rows that were due did not come back within 1m");
        assert_eq!(judged(View { lost: 2, is_paused: true, ..View::default() }).0, CheckStatus::Unknown);
        let refused = Unwritten { problem: "no right".to_owned(), repair: Some("grant it".to_owned()) };
        let refused = judged(View { back, unwritten: Some(refused), ..View::default() });
        assert_eq!((refused.0, refused.2.as_str()), (CheckStatus::Warning, "grant it"));
        assert_eq!(judged(View { back, unread: Some("away".to_owned()), ..View::default() }).0, CheckStatus::Warning);
        assert_eq!(canary_unseen(Some("h:1")).command.as_deref(), Some("curl -s http://h:1/status"));
    }
}
