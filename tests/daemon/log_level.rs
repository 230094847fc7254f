//! What is logged changes while the relay runs.

use std::fs;

use tempfile::NamedTempFile;

use crate::daemon::small::Small;
use crate::support::daemon::Running;
use crate::support::wait::{self, PATIENCE};

/// Lines that tell of one published record.
fn published_lines(relay: &Running) -> Vec<String> {
    relay.log().lines().filter(|line| line.contains(" published ")).map(str::to_owned).collect()
}

async fn logged(relay: &Running, what: &str, times: usize) {
    wait::until_true(what, PATIENCE, async || relay.log().matches(what).count() == times).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_has_the_level_read_anew_and_each_published_record_is_told_at_debug() {
    let small = Small::new().await;
    let file = NamedTempFile::new().expect("a temporary file can be made");
    let write =
        |level: &str| fs::write(file.path(), format!("[log]\nlevel = \"{level}\"\n")).expect("it can be written");
    write("info");
    let path = file.path().to_str().expect("a path that is text");
    let mut relay = small.daemon().argument("--config").argument(path).start().await;
    small.write(3).await;
    relay.reaches("outboxd_published_total", 3.0).await;
    assert_eq!(published_lines(&relay), Vec::<String>::new());

    write("warn,outboxd::published=debug");
    relay.signal("HUP");
    logged(&relay, "the log level is read anew", 1).await;
    small.write(1).await;
    relay.reaches("outboxd_published_total", 4.0).await;
    wait::until_true("it is told", PATIENCE, async || published_lines(&relay).len() == 1).await;
    let line = published_lines(&relay).remove(0);
    for told in ["topic=orders", "partition=", "offset=", "id=4", "event_id="] {
        assert!(line.contains(told), "{told}: {line}");
    }
    assert!(!line.contains("order-"), "a key is the application's data: {line}");

    write("loud");
    relay.signal("HUP");
    logged(&relay, "the configuration is refused, the log level stays", 1).await;
    small.write(1).await;
    wait::until_true("it is told", PATIENCE, async || published_lines(&relay).len() == 2).await;

    write("info");
    relay.signal("HUP");
    logged(&relay, "the log level is read anew", 2).await;
    small.write(1).await;
    relay.reaches("outboxd_published_total", 6.0).await;
    assert_eq!(published_lines(&relay).len(), 2);
    assert_eq!(relay.stop().await, Some(0));
}
