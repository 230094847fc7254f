//! The effective configuration for people to read: each value, and where it came from; no secret.

use std::fmt::Write;

use crate::config::raw::Raw;
use crate::config::secrets;
use crate::config::written::Kind;

/// Writes every setting that has a value, section by section, like TOML.
pub fn show(raw: &Raw) -> String {
    let mut lines = Vec::new();
    let mut shown_sections: Vec<&str> = Vec::new();
    for key in raw.known() {
        let (section, _) = split(key);
        if shown_sections.contains(&section) {
            continue;
        }
        shown_sections.push(section);
        lines.push((format!("[{section}]"), String::new()));
        lines.extend(section_lines(raw, section));
        lines.push((String::new(), String::new()));
    }
    aligned(&lines)
}

/// The settings of one section: in the order of the defaults file, then what has no default.
fn section_lines(raw: &Raw, section: &str) -> Vec<(String, String)> {
    let in_order = raw.known().iter().filter(|key| split(key).0 == section);
    let others = raw.values().keys().filter(|key| split(key).0 == section && !raw.known().contains(key));
    let line = |key: &String| {
        let written = raw.get(key)?;
        let shown = secrets::shown(key, &written.value.text);
        let value = match written.value.kind {
            Kind::Number | Kind::Switch => shown,
            Kind::Text | Kind::Loose => format!("{shown:?}"),
            Kind::List => format!("{:?}", shown.split(',').collect::<Vec<_>>()),
        };
        Some((format!("{} = {value}", split(key).1), format!("# from {}", written.origin)))
    };
    in_order.chain(others).filter_map(line).collect()
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or(("", key))
}

/// Puts the remarks below each other, a little to the right of the settings.
fn aligned(lines: &[(String, String)]) -> String {
    let width = lines.iter().map(|(setting, _)| setting.chars().count()).filter(|width| *width < 60).max().unwrap_or(0);
    let mut text = String::new();
    for (setting, remark) in lines {
        match remark.is_empty() {
            true => writeln!(text, "{setting}"),
            false => writeln!(text, "{setting:width$}  {remark}"),
        }
        .expect("writing to a string cannot fail");
    }
    text.trim_end().to_owned() + "\n"
}
