//! Plots of what was measured.

use std::path::Path;

use plotters::prelude::*;

use crate::Fallible;
use crate::results::{Summary, rounded};

const WIDTH: u32 = 900;
/// Height of a bar with the space around it.
const ROW: u32 = 34;
const TITLE: u32 = 50;

/// Horizontal bars of medians, with their spread drawn as a line.
pub(crate) fn bars(file: &Path, title: &str, bars: &[(&str, Summary)]) -> Fallible<()> {
    let height = TITLE + ROW * bars.len() as u32 + 20;
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(title.to_owned(), (20, 16), ("sans-serif", 20)))?;
    let widest = bars.iter().map(|(_, summary)| summary.most).fold(f64::MIN_POSITIVE, f64::max);
    let (left, room) = (230, f64::from(WIDTH) - 230.0 - 110.0);
    let at = |value: f64| left + (value / widest * room) as i32;
    for (number, (name, summary)) in bars.iter().enumerate() {
        let top = (TITLE + ROW * number as u32) as i32;
        let color = if name.starts_with("outboxd") { RGBColor(36, 113, 163) } else { RGBColor(170, 178, 189) };
        area.draw(&Text::new((*name).to_owned(), (20, top + 5), ("sans-serif", 15)))?;
        area.draw(&Rectangle::new([(left, top), (at(summary.median), top + 22)], color.filled()))?;
        area.draw(&PathElement::new(vec![(at(summary.least), top + 11), (at(summary.most), top + 11)], BLACK))?;
        let label = at(summary.median.max(summary.most)) + 8;
        area.draw(&Text::new(rounded(summary.median), (label, top + 5), ("sans-serif", 15)))?;
    }
    area.present()?;
    Ok(())
}
