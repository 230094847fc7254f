//! Migrations carry the same numbers and names for every database, also where one has nothing to do, so that
//! a version means the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The migrations of each database: folder to file names.
fn migrations() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let entries = fs::read_dir(&root).expect("there is a folder of migrations");
    let folders = entries.map(|entry| entry.expect("a folder can be listed").path()).filter(|path| path.is_dir());
    folders.map(|folder| (name(&folder), files(&folder))).collect()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder can be listed");
    entries.map(|entry| name(&entry.expect("a folder can be listed").path())).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a path with a name").to_string_lossy().into_owned()
}

#[test]
fn every_database_has_the_same_migrations() {
    let migrations = migrations();
    let mut databases = migrations.iter();
    let (first, expected) = databases.next().expect("at least one database has migrations");
    for (database, found) in databases {
        assert_eq!(found, expected, "migrations/{database} differs from migrations/{first}");
    }
}

#[test]
fn migrations_are_numbered_from_1_without_gaps() {
    for (database, files) in migrations() {
        for (file, number) in files.iter().zip(1..) {
            let expected = format!("{number:04}_");
            let well_named = file.starts_with(&expected) && file.ends_with(".sql");
            assert!(well_named, "migrations/{database}/{file}: expected {expected}name.sql");
        }
    }
}
