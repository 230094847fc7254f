//! The text of the sources, as far as the tests of the architecture read it.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms that code names by `crate::`, with the line of each.
pub(super) fn imports(code: &str) -> Vec<(usize, String)> {
    let found = paths_from(code, "crate").into_iter();
    found
        .flat_map(|(line, rest)| {
            let mut paths = Vec::new();
            add_paths(&[], rest, &mut paths);
            let mut rooms: Vec<String> = paths.into_iter().filter_map(|path| path.into_iter().next()).collect();
            rooms.dedup();
            rooms.into_iter().map(move |room| (line, room))
        })
        .collect()
}

/// The paths, in full, that code names from `root::` on; of a group each member.
pub(super) fn paths(code: &str, root: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    paths_from(code, root).into_iter().for_each(|(_, rest)| add_paths(&[], rest, &mut paths));
    paths
}

/// Adds the paths that begin with these parts and go on with that text.
fn add_paths(before: &[String], text: &str, paths: &mut Vec<Vec<String>>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        member_texts(group).into_iter().for_each(|member| add_paths(before, member, paths));
        return;
    }
    let part = identifier(text);
    let path = [before, std::slice::from_ref(&part)].concat();
    match text[part.len()..].strip_prefix("::") {
        Some(rest) if !part.is_empty() => add_paths(&path, rest, paths),
        _ if part.is_empty() || part == "self" => paths.push(before.to_vec()),
        _ => paths.push(path),
    }
}

/// The members of a group, of which the opening brace is already taken off.
fn member_texts(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut texts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                texts.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                texts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    texts.retain(|text| !text.trim().is_empty());
    texts
}

/// Where a path begins with `root::`, with the line and what follows.
pub(super) fn paths_from<'a>(code: &'a str, root: &str) -> Vec<(usize, &'a str)> {
    let start = format!("{root}::");
    let found = code.match_indices(&start).filter(|(at, _)| {
        !code[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
    });
    found.map(|(at, _)| (code[..at].lines().count().max(1), code[at + start.len()..].trim_start())).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The code with its lines kept and its comments gone.
pub(super) fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| match line.find("//") {
        Some(at) if line[..at].trim_end().len() < at || at == 0 => &line[..at],
        _ => line,
    });
    code.collect::<Vec<_>>().join("\n")
}

/// The room a file belongs to: the folder or file right under `src/`.
pub(super) fn room_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").expect("a path under src");
    inside.split('/').next().expect("a first part").trim_end_matches(".rs")
}

/// Every source file by its path from the root of the project, with its text.
pub(super) fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = rust_files(&root.join("src")).into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("a source file is text");
        let inside = path.strip_prefix(root).expect("it is under the root").to_string_lossy().into_owned();
        (inside, text)
    });
    let sources: Vec<_> = files.collect();
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

pub(super) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder can be listed");
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let files = paths.flat_map(|path| match path.is_dir() {
        true => rust_files(&path),
        false => vec![path],
    });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}
