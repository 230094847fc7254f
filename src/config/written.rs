//! A value as it was written, and where.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The defaults built into the binary.
    Default,
    /// A line of the file given with `--config`.
    File {
        /// The file as it was given.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// The variable's name.
        variable: String,
    },
    /// A flag on the command line.
    Flag {
        /// The flag as typed, `--http`.
        name: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { variable } => write!(f, "environment {variable}"),
            Origin::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

impl Origin {
    /// Which layer it is: of two values the one of the higher layer wins.
    pub(crate) fn layer(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File { .. } => 1,
            Origin::Environment { .. } => 2,
            Origin::Flag { .. } => 3,
        }
    }
}

/// What a value looked like where it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text in quotes.
    Text,
    /// A number without quotes.
    Number,
    /// `true` or `false`.
    Switch,
    /// A list.
    List,
    /// From an environment variable or a flag, where everything is text.
    Loose,
}

/// A value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Its text; a list's items are joined by commas.
    pub text: String,
    /// What it looked like.
    pub kind: Kind,
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The value.
    pub value: Scalar,
    /// Where it came from.
    pub origin: Origin,
}
