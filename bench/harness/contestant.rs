//! Contestants: the folders of `bench/peers/`.
//!
//! `contestant.toml` says how one is driven; see `bench/README.md`. Its scripts are given what they need in the
//! environment, and `run` is replaced by the contestant's own process (`exec`), which is stopped by SIGTERM.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::Fallible;
use crate::inserts::Writing;
use crate::load::{Load, Work};
use crate::process::Running;
use crate::rig::Rig;

/// A contestant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contestant {
    /// The folder's name.
    #[serde(skip)]
    pub(crate) name: String,
    #[serde(skip)]
    folder: PathBuf,
    /// Statements that make its table, one by one. `{table}` and `{topic}` are filled in.
    #[serde(default)]
    schema: Vec<String>,
    /// Statements that undo what dropping the schema does not.
    #[serde(default)]
    teardown: Vec<String>,
    /// What inserts `rows(topic, key, body)`.
    pub(crate) insert: String,
    /// How rows that were published long ago are written, if it can keep them.
    pub(crate) history: Option<String>,
    /// A query that says whether all rows are settled, if they are one by one.
    settled: Option<String>,
    #[serde(rename = "mode")]
    modes: Vec<Mode>,
}

/// One way of running a contestant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mode {
    pub(crate) name: String,
    /// The default one takes part in every load.
    #[serde(default)]
    default: bool,
    /// The loads that it takes part in, by how their names begin. Empty: in those that take all modes.
    #[serde(default)]
    loads: Vec<String>,
    /// Loads that it cannot do.
    #[serde(default)]
    not: Vec<String>,
    /// The mode, of whatever contestant, beside which it is measured, if that has another name.
    beside: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// Statements after the schema's.
    #[serde(default)]
    schema: Vec<String>,
    /// How an application writes to it, where that is what is measured.
    pub(crate) writing: Option<Writing>,
    /// Whether rows stay as they are.
    #[serde(default)]
    settles_nothing: bool,
    /// Whether nothing is started.
    #[serde(default)]
    pub(crate) alone: bool,
}

impl Contestant {
    /// All of them, by name.
    pub(crate) fn all() -> Fallible<Vec<Self>> {
        let peers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
        let mut folders: Vec<PathBuf> = fs::read_dir(peers)?.map(|entry| Ok(entry?.path())).collect::<Fallible<_>>()?;
        folders.sort();
        folders.into_iter().filter(|folder| folder.join("contestant.toml").is_file()).map(Self::read).collect()
    }

    fn read(folder: PathBuf) -> Fallible<Self> {
        let file = folder.join("contestant.toml");
        let text = fs::read_to_string(&file)?;
        let read: Self = toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, folder, ..read })
    }

    /// The query that says whether all rows are settled, if they are in this mode.
    pub(crate) fn settled(&self, rig: &Rig, mode: &Mode) -> Option<String> {
        self.settled.as_ref().filter(|_| !mode.settles_nothing).map(|query| rig.fill_in(query))
    }

    pub(crate) fn modes_for(&self, load: &Load) -> impl Iterator<Item = &Mode> {
        self.modes.iter().filter(|mode| mode.takes(load))
    }

    /// Builds or fetches what it needs. Done again, it does nothing.
    pub(crate) fn prepare(&self) -> Fallible<()> {
        if self.folder.join("prepare").is_file() { self.script("prepare", &[]) } else { Ok(()) }
    }

    /// A fresh table, with all that belongs to it.
    pub(crate) async fn make_table(&self, rig: &Rig, mode: &Mode, topic: &str) -> Fallible<()> {
        rig.run_ignoring_errors(&self.fill_in(rig, &self.teardown, topic)).await?;
        rig.fresh_schema().await?;
        if self.folder.join("schema").is_file() {
            self.script("schema", &self.variables(rig, mode, topic))?;
        }
        rig.run(&self.fill_in(rig, &self.schema, topic)).await?;
        rig.run(&self.fill_in(rig, &mode.schema, topic)).await
    }

    /// Removes what a table of its own leaves behind.
    pub(crate) async fn tear_down(&self, rig: &Rig) -> Fallible<()> {
        rig.run_ignoring_errors(&self.fill_in(rig, &self.teardown, "")).await
    }

    /// Starts it. What it says goes to a file. It dies with the harness, whatever kills that: who is left over slows
    /// down all that are measured later.
    pub(crate) fn start(&self, rig: &Rig, mode: &Mode, topic: &str) -> Fallible<Running> {
        let log = rig.folder().join(format!("{}.log", self.name));
        let output = File::create(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(self.folder.join("run"))
            .envs(self.variables(rig, mode, topic))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Running::new(child, log))
    }

    /// What its script prints of its stages, each alone with so many rows.
    pub(crate) fn stages(&self, rig: &Rig, mode: &Mode, rows: u64) -> Fallible<String> {
        let mut command = Command::new(self.folder.join("stages"));
        command.envs(self.variables(rig, mode, "")).env("ROWS", rows.to_string());
        let done = command.stderr(Stdio::null()).output()?;
        if !done.status.success() {
            return Err(format!("its script ended with {}", done.status).into());
        }
        Ok(String::from_utf8(done.stdout)?)
    }

    fn variables(&self, rig: &Rig, mode: &Mode, topic: &str) -> Vec<(String, String)> {
        let mut variables = rig.variables();
        variables.extend(mode.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        variables.push(("TOPIC".to_owned(), topic.to_owned()));
        variables.push(("MODE".to_owned(), mode.name.clone()));
        variables
    }

    fn fill_in(&self, rig: &Rig, statements: &[String], topic: &str) -> Vec<String> {
        statements.iter().map(|statement| rig.fill_in(statement).replace("{topic}", topic)).collect()
    }

    fn script(&self, name: &str, variables: &[(String, String)]) -> Fallible<()> {
        let script: &Path = &self.folder.join(name);
        let done = Command::new(script)
            .env("OUTBOXD", env!("CARGO_BIN_EXE_outboxd"))
            .env("CARGO", env!("CARGO"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .status()?;
        if done.success() { Ok(()) } else { Err(format!("{}: {done}", script.display()).into()) }
    }
}

impl Mode {
    /// The name of the mode beside which it is measured.
    pub(crate) fn beside(&self) -> &str {
        self.beside.as_deref().unwrap_or(&self.name)
    }

    /// Whether it is measured beside a default mode, or is one.
    pub(crate) fn is_beside_a_default(&self, contestants: &[Contestant]) -> bool {
        let mut modes = contestants.iter().flat_map(|contestant| &contestant.modes);
        modes.any(|mode| mode.default && mode.name == self.beside())
    }

    fn takes(&self, load: &Load) -> bool {
        let is_among = |names: &[String]| names.iter().any(|name| load.name.starts_with(name.as_str()));
        if is_among(&self.not) {
            return false;
        }
        // Who writes is measured where it is asked for: a relay that is not running has no writers to tax.
        let is_asked_for = is_among(&self.loads);
        match load.work {
            Work::Writers(_) | Work::Inserts(_) => is_asked_for,
            _ if !self.loads.is_empty() => is_asked_for,
            _ => self.default || load.all_modes,
        }
    }
}
