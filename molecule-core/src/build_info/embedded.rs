//! The manifest that the build script of the server wrote.

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};

/// The text of a manifest, submitted by [`build_info!`](crate::build_info).
#[derive(Debug)]
pub struct EmbeddedManifest(&'static str);

impl EmbeddedManifest {
    /// Used by [`build_info!`](crate::build_info).
    #[doc(hidden)]
    pub const fn new(text: &'static str) -> Self {
        Self(text)
    }
}

inventory::collect!(EmbeddedManifest);

/// What the build script wrote down. One of another version may know more or less.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Manifest {
    pub(super) package: Option<Crate>,
    pub(super) git: Option<Commit>,
    pub(super) lock_sha256: Option<String>,
    pub(super) rustc: Option<String>,
    pub(super) target: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) features: Vec<String>,
    pub(super) source_date_epoch: Option<i64>,
    pub(super) hook_crates: Vec<Crate>,
}

/// A crate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
}

/// What the sources were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Commit {
    /// The commit, hexadecimal.
    pub(super) revision: String,
    /// Whether tracked files differed from it.
    pub(super) dirty: bool,
}

/// The manifest of this binary, if it has one that can be read.
pub(crate) fn manifest() -> Option<Manifest> {
    let embedded = inventory::iter::<EmbeddedManifest>.into_iter().next()?;
    read(embedded.0)
}

fn read(text: &str) -> Option<Manifest> {
    serde_json::from_str(text).ok()
}

/// RFC 3339, UTC.
pub(super) fn date(epoch_secs: i64) -> Option<String> {
    let date = DateTime::from_timestamp(epoch_secs, 0)?;
    Some(date.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_another_version_is_read_as_far_as_it_goes() {
        let found = read(r#"{"rustc":"rustc 9","later":[1],"git":null}"#).expect("a manifest");
        assert_eq!(found.rustc.as_deref(), Some("rustc 9"));
        assert!(found.git.is_none() && found.features.is_empty());
        for text in ["", "null", "{", r#"{"rustc":1}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_date_is_told_in_utc() {
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(date(i64::MAX), None);
    }
}
