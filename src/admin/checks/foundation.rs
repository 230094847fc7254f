//! What all else rests on: the database, its tables, and what the relay may do there.

use crate::admin::checks::check::{Check, CheckName, CheckStatus};
use crate::contract::{Rights, StoreError};
use crate::observe::chain;

/// Whether the database answers; what answered is the evidence.
pub fn database(answer: Result<&str, &StoreError>) -> Check {
    match answer {
        Ok(server) => Check::ok(CheckName::Database, server),
        Err(error) => {
            let failed = judged(CheckName::Database, CheckStatus::Failed, error);
            failed.because("nothing is read or recorded while it is away")
        }
    }
}

/// Whether the tables are what this version needs.
pub fn schema(tables: Result<(), &StoreError>) -> Check {
    match tables {
        Ok(()) => Check::ok(CheckName::Schema, "the tables are what this version needs"),
        Err(error) => refused(CheckName::Schema, error),
    }
}

/// Whether the relay's role may do what it has to, and no more.
pub fn rights(rights: Result<&Rights, &StoreError>) -> Check {
    let Rights { warnings, excess, repair } = match rights {
        Ok(rights) => rights,
        Err(error) => return refused(CheckName::Rights, error),
    };
    let seen: Vec<&str> = excess.iter().chain(warnings).map(String::as_str).collect();
    if seen.is_empty() {
        return Check::ok(CheckName::Rights, "the relay may do what it has to, and no more");
    }
    let mut check = Check::new(CheckName::Rights, CheckStatus::Warning, seen.join("; "));
    if !excess.is_empty() {
        check =
            check.because("the relay needs less: `outboxd migrate --grants APP,RELAY` grants a role all that it needs");
    }
    check.command = repair.clone();
    check
}

/// Whether anything speaks against the server as it is set up.
pub fn setup(warnings: Result<&[String], &StoreError>) -> Check {
    match warnings {
        Ok([]) => Check::ok(CheckName::Setup, "nothing speaks against the server as it is set up"),
        Ok(warnings) => Check::new(CheckName::Setup, CheckStatus::Warning, warnings.join("; ")),
        Err(error) => refused(CheckName::Setup, error),
    }
}

/// What the database refuses has failed; where it does not answer nothing is known.
fn refused(name: CheckName, error: &StoreError) -> Check {
    let status = if error.is_transient() { CheckStatus::Unknown } else { CheckStatus::Failed };
    judged(name, status, error)
}

/// An error names its repair, where there is one.
fn judged(name: CheckName, status: CheckStatus, error: &StoreError) -> Check {
    match error {
        StoreError::Unusable { problem, repair, source } | StoreError::Incompatible { problem, repair, source } => {
            let said = source.as_ref().map_or_else(String::new, |source| format!(": {}", chain(source.as_ref())));
            Check::new(name, status, format!("{problem}{said}")).command(repair)
        }
        other => Check::new(name, status, chain(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_has_failed_and_what_is_not_answered_is_unknown() {
        let refused =
            StoreError::Unusable { problem: "no table".to_owned(), repair: "make it".to_owned(), source: None };
        let away = StoreError::Unavailable { doing: "looking", source: "refused".into() };
        let check = schema(Err(&refused));
        assert_eq!((check.status, check.evidence.as_str()), (CheckStatus::Failed, "no table"));
        assert_eq!(check.command.as_deref(), Some("make it"));
        assert_eq!([schema(Err(&away)).status, rights(Err(&away)).status], [CheckStatus::Unknown; 2]);
        assert_eq!(database(Err(&away)).status, CheckStatus::Failed);
        assert_eq!(database(Err(&away)).evidence, "the database is not available while looking: refused");
    }

    #[test]
    fn what_the_role_may_do_beyond_what_it_needs_is_worth_a_warning() {
        let excess = vec!["role \"app\" is superuser".to_owned()];
        let seen = Rights { excess, repair: Some("alter role".to_owned()), warnings: vec!["a trigger".to_owned()] };
        let check = rights(Ok(&seen));
        assert_eq!(
            (check.status, check.evidence.as_str()),
            (CheckStatus::Warning, "role \"app\" is superuser; a trigger")
        );
        assert_eq!(rights(Ok(&Rights::default())).status, CheckStatus::Ok);
        assert_eq!(setup(Ok(&["a warning".to_owned()])).status, CheckStatus::Warning);
    }
}
