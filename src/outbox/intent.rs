//! What an operator is about to do, and why.

/// A change that an operator asks for, as the audit log will tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The command, such as `held release`.
    pub command: &'static str,
    /// What it is about: the filters that it was given, as they are typed, but for keys.
    pub subject: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who asks: a user and a host, or the identity of an HTTP request.
    pub actor: String,
}
