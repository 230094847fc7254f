//! How much is asked.

/// Which checks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Database, schema, rights and brokers: what a relay needs to begin.
    Quick,
    /// All of them.
    Full,
}
