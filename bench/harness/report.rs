//! What is on record, as tables, plots and ratios.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Fallible;
use crate::plot;
use crate::results::{Results, Summary};

/// How a figure is held against an aim.
enum Aim {
    /// At least so many times the rival's figure of the same round.
    AtLeast(f64, &'static str),
    /// At most so many times the rival's figure of the same round.
    AtMost(f64, &'static str),
    /// At most so many times what it is under another load.
    Costs(f64, &'static str),
    /// At most this.
    Within(f64),
}

/// What the project wants to reach: a load, a contestant, a figure, and what it is held against.
const AIMS: &[(&str, &str, &str, Aim)] = &[
    ("drain", "outboxd/mark", "rows_per_second", Aim::AtLeast(1.0, "bare-loop/mark")),
    ("drain", "outboxd/delete", "rows_per_second", Aim::AtLeast(1.0, "bare-loop/delete")),
    ("drain", "outboxd/checkpoint", "rows_per_second", Aim::AtLeast(0.95, "bare-loop/produce")),
    ("drain", "outboxd/exactly-once", "rows_per_second", Aim::AtLeast(0.9, "outboxd/mark")),
    ("drain", "outboxd/mark", "rows_per_second", Aim::AtLeast(3.0, "debezium/streaming")),
    ("drain", "outboxd/mark", "second_half_rows_per_second", Aim::AtLeast(2.0, "debezium/streaming")),
    ("drain", "outboxd/mark", "cpu_seconds_per_million_rows", Aim::AtMost(1.0 / 6.0, "debezium/streaming")),
    ("drain", "outboxd/mark", "peak_mib", Aim::Within(100.0)),
    ("growth-10M", "outboxd/mark", "peak_mib", Aim::Within(100.0)),
    ("steady-1k", "outboxd/mark", "p50_ms", Aim::Within(1.5)),
    ("steady-1k", "outboxd/mark", "p99_ms", Aim::Within(5.0)),
    ("steady-1k", "outboxd/mark", "cpu_percent", Aim::Within(10.0)),
    ("steady-1k", "outboxd/exactly-once", "p50_ms", Aim::Within(8.0)),
    ("steady-1k", "outboxd/exactly-once", "p99_ms", Aim::Within(20.0)),
    ("steady-10k", "outboxd/mark", "p99_ms", Aim::Within(15.0)),
    ("held-snapshot", "outboxd/mark", "p50_ms", Aim::Costs(1.2, "steady-1k")),
    ("held-snapshot", "outboxd/mark", "p99_ms", Aim::Costs(1.2, "steady-1k")),
    ("big-table", "outboxd/mark", "p50_ms", Aim::Costs(1.1, "steady-1k")),
    ("big-table", "outboxd/mark", "cpu_percent", Aim::Costs(1.1, "steady-1k")),
    ("hour-5k", "outboxd/hour-deleting", "table_growth", Aim::Within(1.25)),
    ("hour-5k", "outboxd/hour-purging", "table_growth", Aim::Within(1.25)),
    ("idle", "outboxd/mark", "resident_mib", Aim::Within(20.0)),
    ("idle", "outboxd/mark", "cpu_percent", Aim::Within(0.1)),
    (
        "writers",
        "outboxd/writers-triggered",
        "transactions_per_second",
        Aim::AtLeast(0.9, "outboxd/writers-untriggered"),
    ),
];

/// What is drawn: a figure of a load, and what the axis says.
const PLOTS: &[(&str, &str, &str)] = &[
    ("drain", "rows_per_second", "backlog drained, rows a second"),
    ("drain", "cpu_seconds_per_million_rows", "CPU seconds per million rows"),
    ("drain", "peak_mib", "peak resident memory, MiB"),
    ("steady-1k", "p50_ms", "commit to consumer at 1,000 rows a second, median, ms"),
    ("steady-1k", "p99_ms", "commit to consumer at 1,000 rows a second, p99, ms"),
];

/// Writes `report.md` and its plots, and prints the former.
pub(crate) fn write(results: &Results, folder: &Path) -> Fallible<()> {
    let mut text = String::new();
    for (name, fact) in &results.machine {
        writeln!(text, "- {name}: {fact}")?;
    }
    aims(results, &mut text)?;
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
    println!("{text}");
    Ok(())
}

fn aims(results: &Results, text: &mut String) -> Fallible<()> {
    let mut rows = String::new();
    for (load, contestant, figure, aim) in AIMS {
        let of = |load: &str| results.summary(results.load(load)?, contestant, figure);
        let beside = |rival: &str| results.ratio(results.load(load)?, contestant, rival, figure);
        let Some(own) = of(load) else { continue };
        let (is_reached, value, wanted) = match aim {
            Aim::Within(limit) => (own.median <= *limit, own.to_string(), format!("≤ {limit}")),
            Aim::Costs(times, other) => {
                let Some(usual) = of(other) else { continue };
                let ratio = own.median / usual.median;
                (ratio <= *times, format!("{ratio:.2} × {other}"), format!("≤ {times:.2} ×"))
            }
            Aim::AtLeast(times, rival) => {
                let Some(ratio) = beside(rival) else { continue };
                (ratio.median >= *times, format!("{ratio} × {rival}"), format!("≥ {times:.2} ×"))
            }
            Aim::AtMost(times, rival) => {
                let Some(ratio) = beside(rival) else { continue };
                (ratio.median <= *times, format!("{ratio} × {rival}"), format!("≤ {times:.2} ×"))
            }
        };
        let word = if is_reached { "yes" } else { "**no**" };
        writeln!(rows, "| {load} | {contestant} | {} | {value} | {wanted} | {word} |", figure.replace('_', " "))?;
    }
    if !rows.is_empty() {
        write!(
            text,
            "\n## Aims\n\n| load | contestant | figure | measured | aim | reached |\n|---|---|---|---|---|---|\n"
        )?;
        text.push_str(&rows);
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
