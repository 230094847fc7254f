//! The runbook's statements, as they stand there, run on a real outbox.

use std::fs;
use std::path::Path;

use sqlx::{Connection, PgConnection};

use super::server::{execute, servers};
use crate::support::database::Database;
use crate::support::services;

/// The statements of a page, with their placeholders filled in.
fn statements(page: &str) -> Vec<String> {
    let blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.map(|block| block.replace("FROM_ID", "1").replace("'TOPIC'", "'orders'").replace("PID", "0")).collect()
}

#[tokio::test]
async fn every_statement_of_the_runbook_runs_as_it_stands_there() {
    assert_eq!(
        statements("a\n```sql\nselect FROM_ID;\n```\nb\n```sql\nselect 2;\n```\n"),
        ["select 1;\n", "select 2;\n"]
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook");
    let pages = fs::read_dir(&folder).unwrap().map(|page| page.unwrap().path());
    let pages: Vec<_> = pages.map(|page| (page.display().to_string(), fs::read_to_string(&page).unwrap())).collect();
    let mut ran = 0;
    for server in [services::postgres(), services::postgres_13()] {
        let database = Database::migrated(&server).await;
        let mut conn = PgConnection::connect(database.url()).await.unwrap();
        for statement in pages.iter().flat_map(|(_, page)| statements(page)) {
            execute(&mut conn, &format!("begin; {statement}; rollback")).await;
            ran += 1;
        }
    }
    assert!(ran > 2 * servers().len(), "pages have statements");
}
