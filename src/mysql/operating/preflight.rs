//! What speaks against running on this database, found out before anything is read.

use sqlx::{MySqlConnection, Row};

use crate::contract::StoreError;
use crate::mysql::address::Address;
use crate::mysql::errors::{classify, unusable};
use crate::mysql::operating::rights::{check_rights, has_process};
use crate::mysql::operating::schema::check_tables;
use crate::mysql::session::{Job, Session, ask, sql};
use crate::mysql::settings::Settings;
use crate::mysql::table::{MARK, OutboxTable};
use crate::outbox::Settle;

/// A table of fewer rows may be read as a whole.
const MANY_ROWS: u64 = 10_000;

/// Looks at the tables and at what the user may do to them, and returns the warnings.
pub(crate) async fn check(session: &mut Session, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    check_tables(&mut session.conn, table).await?;
    check_rights(&mut session.conn, table).await
}

/// Looks at everything, and returns the warnings.
pub(crate) async fn preflight(address: &Address, settle: Settle) -> Result<Vec<String>, StoreError> {
    let mut session = address.connect(Job::Inspect).await?;
    let mut warnings = check(&mut session, address.table()).await?;
    warnings.extend(set_up(&mut session.conn, address.table(), settle).await?);
    Ok(warnings)
}

/// Looks at how the server is set up, and returns the warnings.
pub(crate) async fn setup(address: &Address, settle: Settle) -> Result<Vec<String>, StoreError> {
    let mut session = address.connect(Job::Inspect).await?;
    set_up(&mut session.conn, address.table(), settle).await
}

async fn set_up(conn: &mut MySqlConnection, table: &OutboxTable, settle: Settle) -> Result<Vec<String>, StoreError> {
    let settings = Settings::of(conn).await?;
    refuse_statements_in_the_binlog(&settings)?;
    let mut warnings = unflushed_commits(&settings);
    warnings.extend(several_primaries(&settings));
    if !has_process(conn).await? {
        warnings.push(
            "the user may not see what others run (PROCESS): ids that were rolled back are looked for until a time limit; \
             grant process on *.*"
                .to_owned(),
        );
    }
    if settle != Settle::Checkpoint {
        warnings.extend(index_on_mark(conn, table).await?);
    }
    warnings.extend(slow_plan(conn, table).await?);
    Ok(warnings)
}

/// InnoDB writes nothing at READ COMMITTED where the binlog holds statements.
fn refuse_statements_in_the_binlog(settings: &Settings) -> Result<(), StoreError> {
    if settings.is("log_bin", "ON") && settings.is("binlog_format", "STATEMENT") {
        return Err(unusable(
            "binlog_format is STATEMENT, with which the server lets no session write at READ COMMITTED",
            "set it to ROW or MIXED (`set global binlog_format = 'ROW'`, and in the server's configuration)",
        ));
    }
    Ok(())
}

/// A database that acknowledges commits it can lose may take rows back after they were published.
fn unflushed_commits(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(value) = settings.get("innodb_flush_log_at_trx_commit").filter(|value| *value != "1") {
        warnings.push(format!(
            "innodb_flush_log_at_trx_commit is {value}: the server acknowledges commits before they are flushed, and a crash can \
             take back what was published; set it to 1"
        ));
    }
    if settings.is("log_bin", "ON")
        && let Some(value) = settings.get("sync_binlog").filter(|value| *value != "1")
    {
        warnings.push(format!(
            "sync_binlog is {value}: after a crash replicas may lack, or have, what this server has not; set it to 1"
        ));
    }
    warnings
}

/// No probe at one node is a proof for all of them.
fn several_primaries(settings: &Settings) -> Option<String> {
    settings.several_primaries().map(|why| {
        format!(
            "{why}: several nodes may take writes, and what is under way at another one this one does not know; a missing id is \
             waited for by time alone, longer transactions are found by the sweep and may come after later messages of their keys; \
             applications have to update, and not only lock, what a key stands for"
        )
    })
}

async fn index_on_mark(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let doing = "looking at indexes";
    let statement = "/* outboxd: indexes_on_sent_at */
        select distinct cast(index_name as char) from information_schema.statistics
        where table_schema = ? and table_name = ? and column_name = ?";
    let statement = sqlx::query_scalar::<_, String>(statement).bind(table.schema()).bind(table.name()).bind(MARK);
    let found = ask(doing, statement.fetch_all(conn)).await?;
    let warn = |index| {
        format!(
            "index {index} contains {MARK}: a settled row must be written there, too, which takes twice as long; drop it"
        )
    };
    Ok(found.into_iter().map(warn).collect())
}

/// What is new is to be found by ids, whatever the table holds.
async fn slow_plan(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Option<String>, StoreError> {
    let doing = "asking for the plan of a read";
    let columns = table.columns();
    let text = format!(
        "/* outboxd: plan */ explain select {selected} from {outbox} force index (primary)
         where {id} > 1000 or {id} in (7, 9) or {id} between 20 and 30 order by {id} limit 100",
        selected = columns.selected(),
        outbox = table.outbox(),
        id = columns.id
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
    let read = || -> Result<(Option<String>, Option<u64>), sqlx::Error> {
        Ok((row.try_get("type")?, row.try_get_unchecked("rows")?))
    };
    let (kind, rows) = read().map_err(|error| classify(doing, error))?;
    // Of a table that is empty the server tells no kind, and a small one it reads as a whole.
    let is_whole = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("all") || kind.eq_ignore_ascii_case("index"));
    let outbox = table.outbox();
    let warn = || format!("the server would look for new rows of {outbox} in all of it; run `analyze table {outbox}`");
    Ok((is_whole && rows.is_some_and(|rows| rows > MANY_ROWS)).then(warn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::told(pairs)
    }

    #[test]
    fn several_primaries_are_known_by_any_of_their_signs() {
        for pairs in [
            &[("wsrep_on", "ON"), ("auto_increment_increment", "1")][..],
            &[("group_replication_group_name", "a"), ("group_replication_single_primary_mode", "OFF")],
            &[("auto_increment_increment", "3")],
        ] {
            assert!(several_primaries(&settings(pairs)).is_some(), "{pairs:?}");
        }
        let one =
            settings(&[("wsrep_on", "OFF"), ("auto_increment_increment", "1"), ("group_replication_group_name", "")]);
        assert_eq!(several_primaries(&one), None);
    }

    #[test]
    fn a_binlog_of_statements_is_refused_and_unflushed_commits_are_warned_of() {
        let statements = settings(&[("log_bin", "ON"), ("binlog_format", "STATEMENT")]);
        assert!(refuse_statements_in_the_binlog(&statements).is_err());
        assert!(
            refuse_statements_in_the_binlog(&settings(&[("log_bin", "OFF"), ("binlog_format", "STATEMENT")])).is_ok()
        );
        let lazy = settings(&[("innodb_flush_log_at_trx_commit", "2"), ("log_bin", "ON"), ("sync_binlog", "0")]);
        assert_eq!(unflushed_commits(&lazy).len(), 2);
        assert!(
            unflushed_commits(&settings(&[("innodb_flush_log_at_trx_commit", "1"), ("sync_binlog", "0")])).is_empty()
        );
    }
}
