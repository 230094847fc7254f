//! Each stage of a contestant alone, as it measures itself: its script `stages` prints them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::Stages;
use crate::results::Figures;
use crate::rig::Rig;

/// What the script prints, and what that is called here.
const FIGURES: [(&str, &str); 4] = [
    ("write", "written_per_second"),
    ("read", "read_per_second"),
    ("publish", "published_per_second"),
    ("settle_alone", "settled_per_second"),
];

pub(crate) fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, load: &Stages) -> Fallible<Figures> {
    let printed = contestant.stages(rig, mode, load.rows)?;
    let report: BTreeMap<String, Value> = serde_json::from_str(&printed)?;
    let figure = |(printed, name): (&str, &'static str)| Some((name, report.get(printed)?.as_f64()?));
    Ok(FIGURES.into_iter().filter_map(figure).collect())
}
