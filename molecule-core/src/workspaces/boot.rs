//! What a boot takes its configuration from.

use serde::{Deserialize, Serialize};

/// How a workspace is booted, kept in its row while the boot is under way, so that
/// a server that takes it over does the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot {
    /// Where the files of the config volume come from.
    pub(super) source: BootSource,
    /// Discard what the agent remembers of earlier sessions.
    #[serde(default)]
    pub(super) reset_session: bool,
    /// Nobody waits for it: if it fails for a reason that passes, it is tried again.
    #[serde(default)]
    pub(super) automatic: bool,
}

/// Where the files of the config volume come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BootSource {
    /// The template it was created from, else its runtime's default, else a
    /// generated file.
    #[default]
    Created,
    /// This folder below the templates directory.
    Template(String),
    /// This folder below the org templates.
    OrgTemplate(String),
    /// The default template of its runtime.
    RuntimeDefault,
    /// What is in its volume: the edits of its user stay.
    Existing,
}

impl Boot {
    /// A boot from what is there already, or a first one.
    pub(super) fn again(booted_before: bool) -> Self {
        let source = match booted_before {
            true => BootSource::Existing,
            false => BootSource::Created,
        };
        Self {
            source,
            ..Self::default()
        }
    }

    /// The same, tried again should it fail for a reason that passes.
    pub(super) fn automatic(self) -> Self {
        Self {
            automatic: true,
            ..self
        }
    }
}
