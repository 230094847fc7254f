//! What is on record, as tables, plots and ratios.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Fallible;
use crate::aims::{self, Judged};
use crate::plot;
use crate::results::{Results, Summary};

/// What is drawn: a figure of a load, and what the axis says.
const PLOTS: &[(&str, &str, &str)] = &[
    ("drain", "rows_per_second", "backlog drained, rows a second"),
    ("drain", "cpu_seconds_per_million_rows", "CPU seconds per million rows"),
    ("drain", "peak_mib", "peak resident memory, MiB"),
    ("steady-1k", "p50_ms", "commit to consumer at 1,000 rows a second, median, ms"),
    ("steady-1k", "p99_ms", "commit to consumer at 1,000 rows a second, p99, ms"),
];

/// Writes `report.md`, the same as `report.json`, and plots; prints the first.
pub(crate) fn write(results: &Results, folder: &Path) -> Fallible<()> {
    let judged = aims::judge(results);
    let mut text = String::new();
    for (name, fact) in &results.machine {
        writeln!(text, "- {name}: {fact}")?;
    }
    table_of_aims(&judged, &mut text)?;
    for load in results.loads() {
        table(results, load, &mut text)?;
    }
    for (load, figure, title) in PLOTS {
        let Some(load) = results.load(load) else { continue };
        let bars: Vec<(&str, Summary)> = results
            .contestants(load)
            .into_iter()
            .filter_map(|name| Some((name, results.summary(load, name, figure)?)))
            .collect();
        plot::bars(&folder.join(format!("{}-{}.svg", load.0, figure.replace('_', "-"))), title, &bars)?;
    }
    fs::write(folder.join("report.md"), &text)?;
    fs::write(folder.join("report.json"), serde_json::to_vec_pretty(&summaries(results, &judged))?)?;
    println!("{text}");
    Ok(())
}

fn table_of_aims(judged: &[Judged], text: &mut String) -> Fallible<()> {
    if judged.is_empty() {
        return Ok(());
    }
    write!(
        text,
        "\n## Aims\n\n| load | contestant | figure | measured | aim | reached |\n|---|---|---|---|---|---|\n"
    )?;
    for Judged { load, contestant, figure, measured, times, aim, at_least, is_reached } in judged {
        let sign = if *at_least { "≥" } else { "≤" };
        let (value, wanted) = match times {
            Some(rival) => (format!("{measured} × {rival}"), format!("{sign} {aim:.2} ×")),
            None => (measured.to_string(), format!("{sign} {aim}")),
        };
        let word = if *is_reached { "yes" } else { "**no**" };
        writeln!(text, "| {load} | {contestant} | {} | {value} | {wanted} | {word} |", figure.replace('_', " "))?;
    }
    Ok(())
}

fn table(results: &Results, load: (&str, &str), text: &mut String) -> Fallible<()> {
    let figures = results.figures(load);
    write!(text, "\n## {}\n\n{}; median (least–most).\n\n| contestant |", load.0, load.1)?;
    for figure in &figures {
        write!(text, " {} |", figure.replace('_', " "))?;
    }
    writeln!(text, "\n|---|{}", "---|".repeat(figures.len()))?;
    for contestant in results.contestants(load) {
        write!(text, "| {contestant} |")?;
        for figure in &figures {
            match results.summary(load, contestant, figure) {
                Some(summary) => write!(text, " {summary} |")?,
                None => text.push_str(" |"),
            }
        }
        text.push('\n');
    }
    Ok(())
}

/// All of it for programs: median, least and most of every figure, and of every ratio that is aimed at.
fn summaries(results: &Results, judged: &[Judged]) -> Value {
    let of_contestant = |load: (&str, &str), contestant: &str| -> Map<String, Value> {
        let summary = |figure: &str| Some((figure.to_owned(), json!(results.summary(load, contestant, figure)?)));
        results.figures(load).into_iter().filter_map(summary).collect()
    };
    let of_load = |load: (&str, &str)| {
        let contestants = results.contestants(load).into_iter();
        let contestants: Map<String, Value> =
            contestants.map(|contestant| (contestant.to_owned(), of_contestant(load, contestant).into())).collect();
        json!({ "name": load.0, "parameters": load.1, "contestants": contestants })
    };
    let loads: Vec<Value> = results.loads().into_iter().map(of_load).collect();
    json!({ "machine": results.machine, "aims": judged, "loads": loads })
}
