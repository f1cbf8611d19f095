//! What a backend knows about itself, for `doctor`.

/// How good a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactLevel {
    /// As it should be.
    Good,
    /// Right in some situations.
    Doubtful,
    /// Workspaces will not start, or not survive.
    Bad,
}

/// One line of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// How good it is.
    pub level: FactLevel,
    /// What it is about, for example `registry`.
    pub what: &'static str,
    /// What was found. No secret.
    pub text: String,
    /// What to do about it; empty when there is nothing to do.
    pub advice: &'static str,
}
