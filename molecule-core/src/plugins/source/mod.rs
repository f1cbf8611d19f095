//! Texts that say where a plugin comes from.

use std::fmt;

/// `scheme://spec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceRef {
    pub(super) scheme: String,
    pub(super) spec: String,
}

/// The text names no source.
#[derive(Debug)]
pub(super) struct InvalidSource;

impl SourceRef {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidSource> {
        let text = text.trim();
        let (scheme, spec) = text.split_once("://").unwrap_or(("local", text));
        let spec = spec.trim();
        match spec.is_empty() {
            true => Err(InvalidSource),
            false => Ok(Self {
                scheme: scheme.to_owned(),
                spec: spec.to_owned(),
            }),
        }
    }
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.spec)
    }
}
