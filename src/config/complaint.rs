//! What is wrong with a configuration: every complaint at once, one line each.

use std::fmt;

use crate::config::written::Origin;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The setting, or the file that could not be read.
    pub subject: String,
    /// Where the value came from; `None` where it is missing altogether.
    pub origin: Option<Origin>,
    /// What is wrong, and what would do. Never holds a secret.
    pub problem: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin}): {}", self.subject, self.problem),
            None => write!(f, "{}: {}", self.subject, self.problem),
        }
    }
}

/// All that is wrong with a configuration; at least one complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaints(pub Vec<Complaint>);

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used")?;
        for complaint in &self.0 {
            write!(f, "\n  {complaint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaints {}
