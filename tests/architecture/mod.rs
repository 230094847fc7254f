//! Who may import whom, kept by the machine: an import goes down a floor, never up, and never sideways
//! between wings. Also: which crate may be used where, and how long a file may be.
//!
//! Works on the text of `src/`: `crate::room` paths, whether imported, grouped or written out in full.

mod circles;
mod source;

use std::fs;
use std::path::Path;

use source::{imports, paths_from, room_of, rust_files, sources, without_comments};

/// A file longer than this does too much.
const LINES: usize = 500;

/// The words and the few tools without which nothing works; they know nothing of the rest.
const GROUND: &[&str] = &["outbox", "contract", "observe", "reading", "backoff", "aligned_tick", "secret", "fuzz"];
const WINGS: &[&str] = &["postgres", "mysql", "sqlite", "kafka", "memory", "otel"];
const WORK: &[&str] = &["coordination", "relay", "housekeeping", "canary"];

/// A room, its floor, and the rooms it may import.
struct Room {
    name: &'static str,
    floor: u8,
    may_import: &'static [&'static [&'static str]],
}

const ROOMS: &[Room] = &[
    // In tests only.
    Room { name: "fuzz", floor: 0, may_import: &[] },
    Room { name: "outbox", floor: 1, may_import: &[&["fuzz"]] },
    Room { name: "observe", floor: 1, may_import: &[] },
    Room { name: "backoff", floor: 1, may_import: &[] },
    Room { name: "aligned_tick", floor: 1, may_import: &[] },
    Room { name: "secret", floor: 1, may_import: &[] },
    // What is read of a certificate.
    Room { name: "certificate", floor: 1, may_import: &[&["fuzz"]] },
    Room { name: "contract", floor: 2, may_import: &[&["outbox", "secret"]] },
    // What readers do alike.
    Room { name: "reading", floor: 2, may_import: &[&["outbox"]] },
    Room { name: "postgres", floor: 3, may_import: &[GROUND] },
    Room { name: "mysql", floor: 3, may_import: &[GROUND] },
    Room { name: "sqlite", floor: 3, may_import: &[GROUND] },
    Room { name: "kafka", floor: 3, may_import: &[GROUND] },
    Room { name: "memory", floor: 3, may_import: &[GROUND] },
    Room { name: "otel", floor: 3, may_import: &[GROUND] },
    Room {
        name: "coordination",
        floor: 3,
        may_import: &[&["contract", "outbox", "backoff", "aligned_tick", "observe"]],
    },
    Room {
        name: "relay",
        floor: 4,
        may_import: &[&["contract", "outbox", "backoff", "aligned_tick", "observe", "coordination"]],
    },
    // It runs only while the relay leads, and learns of that from the relay's status.
    Room {
        name: "housekeeping",
        floor: 4,
        may_import: &[&["contract", "outbox", "backoff", "observe", "coordination", "relay"]],
    },
    // It learns from the relay's status what is paused.
    Room { name: "canary", floor: 4, may_import: &[&["contract", "outbox", "observe", "relay"]] },
    Room { name: "admin", floor: 5, may_import: &[&["contract", "outbox", "observe", "relay", "canary", "secret"]] },
    // Composed of each room's own settings.
    Room { name: "config", floor: 5, may_import: &[GROUND, WINGS, WORK, &["certificate"]] },
    Room { name: "backends", floor: 6, may_import: &[GROUND, WINGS, &["config"]] },
    Room { name: "cli", floor: 6, may_import: &[&["admin", "config", "outbox", "observe"]] },
    Room { name: "daemon", floor: 7, may_import: &[GROUND, WORK, &["admin", "config", "backends"]] },
    // It asks what a relay would meet, beside one or before there is one.
    Room { name: "doctor", floor: 7, may_import: &[GROUND, &["admin", "config", "backends"]] },
    // It reads what the relay published.
    Room { name: "verify", floor: 7, may_import: &[GROUND, &["kafka"]] },
    // Both play the application and the consumer themselves.
    Room { name: "bench", floor: 7, may_import: &[GROUND, WORK, &["config", "backends", "kafka"]] },
    Room { name: "demo", floor: 7, may_import: &[GROUND, WORK, &["admin", "config", "backends", "sqlite", "kafka"]] },
    Room {
        name: "commands",
        floor: 8,
        may_import: &[GROUND, WINGS, WORK, &["admin", "config", "backends", "cli"], TOP],
    },
    Room { name: "main", floor: 9, may_import: &[&["cli", "commands", "config", "observe"]] },
    Room {
        name: "lib",
        floor: 9,
        may_import: &[GROUND, WINGS, WORK, &["admin", "config", "backends", "cli", "commands"], TOP],
    },
];
const TOP: &[&str] = &["bench", "daemon", "demo", "doctor", "verify"];

/// Crates that stay behind a wall, and the rooms behind it.
const WALLS: &[(&str, &[&str])] = &[
    ("sqlx", &["postgres", "mysql", "sqlite"]),
    ("rdkafka", &["kafka"]),
    ("opentelemetry", &["otel"]),
    ("opentelemetry_sdk", &["otel"]),
    ("opentelemetry_proto", &["otel"]),
    ("hyper", &["otel"]),
    ("rustls", &["otel"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
];

#[test]
fn imports_go_down_the_floors() {
    let complaints: Vec<_> = sources().iter().flat_map(|(path, text)| bad_imports(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn crates_stay_behind_their_walls() {
    let complaints: Vec<_> = sources().iter().flat_map(|(path, text)| breaches(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests", "examples"].map(|folder| root.join(folder));
    let files = folders.iter().filter(|folder| folder.is_dir()).flat_map(|folder| rust_files(folder));
    let long = files.filter_map(|path| {
        let lines = fs::read_to_string(&path).expect("a source file is text").lines().count();
        (lines > LINES).then(|| format!("{} has {lines} lines", path.display()))
    });
    let complaints: Vec<_> = long.collect();
    assert!(complaints.is_empty(), "more than {LINES} lines:\n{}", complaints.join("\n"));
}

#[test]
fn an_import_that_goes_up_or_sideways_is_reported() {
    let text = "//! Reads like [`crate::daemon`] are no imports.\n\
        use crate::{contract::{Store, StoreError}, outbox::Record, relay};\n\
        use crate::Message;\n\
        fn f() -> crate::kafka::Sink { todo!() } // crate::config\n";
    assert_eq!(
        bad_imports("src/postgres/fetch.rs", text),
        [
            "src/postgres/fetch.rs:2 imports room relay, which stands above it",
            "src/postgres/fetch.rs:4 imports room kafka, which stands beside it",
        ]
    );
    assert_eq!(bad_imports("src/contract/store.rs", text).len(), 2, "contract may import outbox, and itself");
    assert_eq!(bad_imports("src/lib.rs", text), Vec::<String>::new());
    assert_eq!(
        bad_imports("src/cellar/mod.rs", "use crate::outbox::Record;\n"),
        ["src/cellar/mod.rs: room cellar has no floor yet: give it one in tests/architecture/mod.rs"]
    );
}

#[test]
fn a_crate_outside_its_wall_is_reported() {
    let text = "use sqlx::PgPool;\nlet filter = \"sqlx=warn\"; // sqlx::query\ntype X = rdkafka::Message;\n";
    assert_eq!(
        breaches("src/kafka/sink.rs", text),
        ["src/kafka/sink.rs:1 uses crate sqlx, which belongs to postgres, mysql, sqlite"]
    );
    assert_eq!(breaches("src/relay/mod.rs", text).len(), 2);
}

/// Complaints about the imports of one file.
fn bad_imports(path: &str, text: &str) -> Vec<String> {
    let name = room_of(path);
    let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
        return vec![format!("{path}: room {name} has no floor yet: give it one in tests/architecture/mod.rs")];
    };
    let code = without_comments(text);
    let imported = imports(&code).into_iter().filter(|(_, other)| *other != name);
    imported.filter_map(|(line, other)| Some(format!("{path}:{line} {}", objection(room, &other)?))).collect()
}

fn objection(room: &Room, other: &str) -> Option<String> {
    let other = ROOMS.iter().find(|room| room.name == other)?;
    if room.may_import.iter().any(|rooms| rooms.contains(&other.name)) {
        return None;
    }
    let stands = match other.floor.cmp(&room.floor) {
        std::cmp::Ordering::Greater => "stands above it",
        std::cmp::Ordering::Equal => "stands beside it",
        std::cmp::Ordering::Less => "is none of its business",
    };
    Some(format!("imports room {}, which {stands}", other.name))
}

/// Complaints about the crates that one file uses.
fn breaches(path: &str, text: &str) -> Vec<String> {
    let (name, code) = (room_of(path), without_comments(text));
    let mut complaints = Vec::new();
    for (outside, rooms) in WALLS.iter().filter(|(_, rooms)| !rooms.contains(&name)) {
        for (line, _) in paths_from(&code, outside) {
            complaints.push(format!("{path}:{line} uses crate {outside}, which belongs to {}", rooms.join(", ")));
        }
    }
    complaints
}
