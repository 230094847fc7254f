//! How the database keeps the outbox: snapshots, vacuum, the retention, and its clock.

use std::time::Duration;

use chrono::TimeDelta;

use crate::admin::checks::check::{Check, CheckName, CheckStatus};
use crate::admin::status::seconds;
use crate::contract::{ClockDifference, Snapshot, SnapshotHolder, Snapshots, Vacuum, Vitals};
use crate::observe::grouped;

/// A snapshot that is older keeps vacuum from rows that were removed long ago.
const OLD_SNAPSHOT: Duration = Duration::from_secs(600);

/// So many dead rows pile up before vacuum has to have come by: twenty times as many as make the server begin.
const DEAD_ROWS: u64 = 100_000;

/// Within this time it should have come by, where there are so many: the server looks once a minute.
const VACUUM_INTERVAL: Duration = Duration::from_secs(600);

/// So many are too many, however often it came by.
const TOO_MANY_DEAD_ROWS: u64 = 2_000_000;

/// Rows may be kept for a tenth longer than the retention, and for this long at least.
const RETENTION_GRACE: Duration = Duration::from_secs(600);

/// By how much clocks may differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(2);

/// The checks that the database has something for.
pub fn upkeep(vitals: &Vitals, retention: Duration) -> Vec<Check> {
    let Vitals { clock, snapshots, vacuum, overdue, .. } = vitals;
    let snapshots = snapshots.as_ref().map(old_snapshot);
    let vacuum = vacuum.as_ref().map(vacuum_of);
    let clock = clock.map(clock_of);
    snapshots.into_iter().chain(vacuum).chain([retention_of(*overdue, retention)]).chain(clock).collect()
}

fn old_snapshot(Snapshots { oldest, hidden, role }: &Snapshots) -> Check {
    let name = CheckName::OldSnapshot;
    let is_old = oldest.as_ref().is_some_and(|oldest| oldest.age > OLD_SNAPSHOT);
    let seen = oldest.as_ref().map_or_else(|| "no snapshot is held".to_owned(), told);
    if is_old {
        let end = match oldest.as_ref().map(|oldest| &oldest.holder) {
            Some(SnapshotHolder::Session { pid, .. }) => format!("select pg_terminate_backend({pid})"),
            Some(SnapshotHolder::Prepared { gid, .. }) => {
                let gid = gid.replace('\'', "''");
                format!("commit prepared '{gid}', or rollback prepared '{gid}', as its application says")
            }
            None => String::new(),
        };
        let old = Check::new(name, CheckStatus::Warning, seen);
        return old.because("vacuum removes nothing that was deleted since: end it, if it was forgotten").command(end);
    }
    if *hidden > 0 {
        let evidence =
            format!("{seen}; role {role:?} may not see whether {} other sessions hold one", grouped(*hidden));
        return Check::unknown(name, evidence).command(format!("grant pg_read_all_stats to {role:?}"));
    }
    Check::ok(name, seen)
}

/// A snapshot and who holds it, in words.
fn told(Snapshot { age, holder }: &Snapshot) -> String {
    let age = seconds(*age);
    match holder {
        SnapshotHolder::Session { pid, application, user, state, query } => {
            let application = if application.is_empty() { "unnamed" } else { application };
            let query = query.as_ref().map_or_else(String::new, |query| format!(": {query}"));
            format!("pid {pid} ({application}, user {user}, {state}) has held the oldest snapshot for {age}{query}")
        }
        SnapshotHolder::Prepared { gid, owner } => {
            format!("the prepared transaction {gid:?} of {owner} has held the oldest snapshot for {age}")
        }
    }
}

fn vacuum_of(Vacuum { table, dead_rows, live_rows, since_last, is_automatic }: &Vacuum) -> Check {
    let last =
        since_last.map_or_else(|| "never vacuumed".to_owned(), |since| format!("vacuumed {} ago", seconds(since)));
    let seen = format!("{} dead rows beside {} live ones, {last}", grouped(*dead_rows), grouped(*live_rows));
    let warning = |cause: &str| Check::new(CheckName::Vacuum, CheckStatus::Warning, seen.clone()).because(cause);
    let is_behind = *dead_rows > DEAD_ROWS && since_last.is_none_or(|since| since > VACUUM_INTERVAL);
    if !is_automatic {
        let switch = format!("alter table {table} reset (autovacuum_enabled)");
        return warning("the server does not vacuum the outbox by itself: reading grows slower").command(switch);
    }
    if is_behind {
        let vacuum = format!("vacuum (verbose) {table}");
        return warning("vacuum does not keep up: its workers are busy, or cannot lock the table").command(vacuum);
    }
    if *dead_rows > TOO_MANY_DEAD_ROWS {
        let vacuum = format!("vacuum (verbose) {table}");
        return warning("vacuum removes less than becomes dead: an old snapshot may hold it back").command(vacuum);
    }
    Check::ok(CheckName::Vacuum, seen)
}

fn retention_of(overdue: Duration, retention: Duration) -> Check {
    let name = CheckName::Retention;
    let kept = seconds(retention);
    if overdue <= RETENTION_GRACE.max(retention / 10) {
        return Check::ok(name, format!("published rows go after {kept}"));
    }
    let evidence =
        format!("a published row is there {} after it should have gone; outbox.retention is {kept}", seconds(overdue));
    let late = Check::new(name, CheckStatus::Warning, evidence);
    late.because("nobody leads, or the leader's log says what keeps it from removing rows").command("outboxd status")
}

fn clock_of(ClockDifference { ahead, give_or_take }: ClockDifference) -> Check {
    let certain = ahead.abs() - TimeDelta::from_std(give_or_take).unwrap_or_default();
    let difference = seconds(ahead.abs().to_std().unwrap_or_default());
    let direction = if ahead < TimeDelta::zero() { "behind" } else { "ahead of" };
    let seen = format!("the database's clock is {difference} {direction} this host's");
    if certain <= CLOCK_TOLERANCE {
        return Check::ok(CheckName::Clock, seen);
    }
    let wrong = Check::new(CheckName::Clock, CheckStatus::Warning, seen);
    wrong.because("times that are compared between the two are wrong by that").command("timedatectl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_for(age: u64, query: Option<&str>) -> Snapshots {
        let holder = SnapshotHolder::Session {
            pid: 7,
            application: "report".to_owned(),
            user: "app".to_owned(),
            state: "idle in transaction".to_owned(),
            query: query.map(str::to_owned),
        };
        let oldest = Some(Snapshot { age: Duration::from_secs(age), holder });
        Snapshots { oldest, hidden: 0, role: "relay".to_owned() }
    }

    #[test]
    fn an_old_snapshot_is_told_with_who_holds_it_and_what_ends_it() {
        let check = old_snapshot(&held_for(601, Some("select 1")));
        assert_eq!(check.status, CheckStatus::Warning);
        assert_eq!(
            check.evidence,
            "pid 7 (report, user app, idle in transaction) has held the oldest snapshot for 10m 1s: select 1"
        );
        assert_eq!(check.command.as_deref(), Some("select pg_terminate_backend(7)"));
        assert_eq!(old_snapshot(&held_for(600, None)).status, CheckStatus::Ok);
        let holder = SnapshotHolder::Prepared { gid: "a'b".to_owned(), owner: "app".to_owned() };
        let oldest = Some(Snapshot { age: Duration::from_secs(9_999), holder });
        let prepared = old_snapshot(&Snapshots { oldest, ..held_for(0, None) });
        assert_eq!(
            prepared.command.as_deref(),
            Some("commit prepared 'a''b', or rollback prepared 'a''b', as its application says")
        );
    }

    #[test]
    fn sessions_that_the_role_may_not_look_into_make_it_unknown_unless_an_old_one_is_seen() {
        let hidden = |age| Snapshots { hidden: 3, ..held_for(age, None) };
        let check = old_snapshot(&hidden(5));
        assert_eq!(check.status, CheckStatus::Unknown);
        assert_eq!(check.command.as_deref(), Some("grant pg_read_all_stats to \"relay\""));
        assert_eq!(old_snapshot(&hidden(5_000)).status, CheckStatus::Warning);
    }

    #[test]
    fn vacuum_is_behind_where_dead_rows_pile_up_and_it_did_not_come_by() {
        let vacuum = |dead_rows, since: Option<u64>, is_automatic| {
            let since_last = since.map(Duration::from_secs);
            let vacuum = Vacuum { table: "\"outbox\"".to_owned(), dead_rows, live_rows: 5, since_last, is_automatic };
            vacuum_of(&vacuum).status
        };
        assert_eq!(vacuum(DEAD_ROWS + 1, Some(601), true), CheckStatus::Warning);
        assert_eq!(vacuum(DEAD_ROWS + 1, None, true), CheckStatus::Warning);
        assert_eq!(vacuum(DEAD_ROWS + 1, Some(599), true), CheckStatus::Ok);
        assert_eq!(vacuum(DEAD_ROWS, Some(99_999), true), CheckStatus::Ok);
        assert_eq!(vacuum(TOO_MANY_DEAD_ROWS + 1, Some(1), true), CheckStatus::Warning);
        assert_eq!(vacuum(0, Some(1), false), CheckStatus::Warning);
    }

    #[test]
    fn retention_is_behind_a_tenth_after_it_and_ten_minutes_at_least() {
        let day = Duration::from_secs(24 * 3600);
        let at = |overdue: u64, retention| retention_of(Duration::from_secs(overdue), retention).status;
        assert_eq!(
            [at(600, Duration::from_secs(1)), at(601, Duration::from_secs(1))],
            [CheckStatus::Ok, CheckStatus::Warning]
        );
        assert_eq!([at(8_640, day), at(8_641, day)], [CheckStatus::Ok, CheckStatus::Warning]);
    }

    #[test]
    fn clocks_differ_only_by_what_the_question_does_not_explain() {
        let at = |ahead, give_or_take| {
            let difference = ClockDifference {
                ahead: TimeDelta::milliseconds(ahead),
                give_or_take: Duration::from_millis(give_or_take),
            };
            clock_of(difference)
        };
        assert_eq!(at(-2_500, 100).status, CheckStatus::Warning);
        assert_eq!(at(-2_500, 100).evidence, "the database's clock is 2s 500ms behind this host's");
        assert_eq!(at(2_500, 600).status, CheckStatus::Ok);
    }

    #[test]
    fn what_a_database_has_nothing_for_is_left_out() {
        let checks = upkeep(&Vitals::default(), Duration::from_secs(60));
        assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), [CheckName::Retention]);
    }
}
