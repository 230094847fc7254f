//! `outboxd support-bundle`: what is in it, and what is not.

use std::process::Command;

use crate::daemon::small::Small;
use crate::daemon::{outboxd, ran, stderr, stdout};

/// The files of an archive, as tar shows them.
fn files(archive: &std::path::Path) -> String {
    let listed = Command::new("tar").arg("-tzf").arg(archive).output().expect("tar is there");
    String::from_utf8(listed.stdout).expect("names are UTF-8")
}

fn all_text(archive: &std::path::Path) -> String {
    let text = Command::new("tar").arg("-xzOf").arg(archive).output().expect("tar is there");
    String::from_utf8(text.stdout).expect("all of it is UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_holds_what_helpers_ask_for_and_no_secret_no_key_and_no_payload() {
    let small = Small::new().await;
    let relay = small.daemon().start().await;
    small.run("insert into outbox (topic, key, payload) values ('orders', 'secret-key', 'secret-payload')").await;
    relay.reaches("outboxd_published_total", 1.0).await;
    small
        .run(
            "insert into outbox_held (topic, key, from_id, cause, since)
             values ('orders', 'secret-key', 1, 'rejected', '2026-01-31T12:00:00Z')",
        )
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("relay.log");
    std::fs::write(&log, "a line of the log\n").expect("a log");
    let archive = folder.path().join("bundle.tar.gz");
    let [archive_name, log_name] = [&archive, &log].map(|path| path.to_str().expect("UTF-8"));
    let http = relay.address();
    let url = small.url();
    let arguments =
        ["support-bundle", "--database-url", &url, "--http", &http, "--output", archive_name, "--log", log_name];
    let mut command = outboxd(&[&arguments[..], &["-X", "sasl.password=hunter2"]].concat());
    let output = command.output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("wrote {archive_name}; it holds no secret, no key and no payload\n"));
    let files = files(&archive);
    for part in ["version", "config", "status", "held", "audit-log", "metrics", "readyz", "page", "log"] {
        assert!(files.contains(&format!("outboxd-support/{part}.")), "{part} is missing: {files}");
    }
    let text = all_text(&archive);
    assert!(text.contains("outboxd_published_total") && text.contains("a line of the log"), "{text}");
    for secret in ["hunter2", "secret-key", "secret-payload"] {
        assert!(!text.contains(secret), "{secret} is in it");
    }
    let again = ran(&arguments);
    assert_eq!(again.status.code(), Some(1), "it overwrites nothing");
    assert!(stderr(&again).contains("name another with --output"), "{}", stderr(&again));
}

#[tokio::test]
async fn what_cannot_be_had_is_left_out_and_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("bundle.tar.gz");
    let name = archive.to_str().expect("UTF-8");
    let url = "postgres://nobody:hunter2@127.0.0.1:1/nothing";
    let output = ran(&["support-bundle", "--database-url", url, "--http", "127.0.0.1:1", "--output", name]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("left out status.json: the database is not available"), "{}", stderr(&output));
    let text = all_text(&archive);
    assert!(text.contains("metrics.txt: ") && text.contains("[outbox]"), "{text}");
    assert!(!text.contains("hunter2"));
}
