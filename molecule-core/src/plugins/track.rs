//! Which revision of its upstream a plugin follows, and what happens when that moves.

use std::fmt;

use molecule_hooks::PluginRef;

use crate::error::Error;

/// Longest commit id or digest, in hexadecimal digits.
const MAX_COMMIT_DIGITS: usize = 64;
/// How much of a refused value is repeated to the client.
const MAX_SHOWN_CHARS: usize = 100;

/// What a plugin follows. As text: `none`, `tag:<name>`, `tag:latest`, `sha:<commit>`,
/// `ref:<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Track {
    /// Nothing: it stays as it was installed.
    #[default]
    None,
    /// The tag of this name.
    Tag(String),
    /// The highest release.
    LatestTag,
    /// This commit, which never moves.
    Commit(String),
    /// A tag, else a branch, of this name.
    Ref(String),
}

/// A text that is no [`Track`], cut to a length that can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid track value \"{0}\": expected 'none' | 'tag:vX.Y.Z' | 'tag:latest' | 'sha:<full>'"
)]
pub(crate) struct InvalidTrack(String);

impl From<InvalidTrack> for Error {
    fn from(invalid: InvalidTrack) -> Self {
        Self::invalid(invalid.to_string())
    }
}

impl Track {
    /// Reads the wire form; surrounding spaces do not count, and nothing is `none`.
    ///
    /// # Errors
    /// [`InvalidTrack`], whose text is for the client.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidTrack> {
        let trimmed = text.trim();
        let parsed = match trimmed.split_once(':') {
            None if trimmed.is_empty() || trimmed == "none" => Some(Self::None),
            Some(("tag", _)) => match PluginRef::of_fragment(trimmed) {
                Some(PluginRef::LatestTag) => Some(Self::LatestTag),
                Some(PluginRef::Tag(name)) => Some(Self::Tag(name)),
                _ => None,
            },
            Some(("ref", name)) => match PluginRef::of_fragment(name) {
                Some(PluginRef::Named(name)) => Some(Self::Ref(name)),
                _ => None,
            },
            Some(("sha", id)) if is_commit(id) => Some(Self::Commit(id.to_ascii_lowercase())),
            _ => None,
        };
        parsed.ok_or_else(|| InvalidTrack(shown(trimmed)))
    }

    /// What to ask the upstream for; none when there is nothing to ask.
    pub(crate) fn wanted(&self) -> Option<PluginRef> {
        match self {
            // A commit never moves.
            Self::None | Self::Commit(_) => None,
            Self::Tag(name) => Some(PluginRef::Tag(name.clone())),
            Self::LatestTag => Some(PluginRef::LatestTag),
            Self::Ref(name) => Some(PluginRef::Named(name.clone())),
        }
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tag(name) => write!(f, "tag:{name}"),
            Self::LatestTag => f.write_str("tag:latest"),
            Self::Commit(id) => write!(f, "sha:{id}"),
            Self::Ref(name) => write!(f, "ref:{name}"),
        }
    }
}

fn is_commit(id: &str) -> bool {
    (1..=MAX_COMMIT_DIGITS).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_hexdigit())
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

/// What happens when the tracked revision moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum UpdateMode {
    /// Nobody looks.
    Off,
    /// The update is queued for an administrator.
    #[default]
    Notify,
    /// The update is queued and applied at once.
    Auto,
}

/// A text that is no [`UpdateMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid update_mode value \"{0}\": expected 'off' | 'notify' | 'auto'")]
pub(crate) struct InvalidMode(String);

impl From<InvalidMode> for Error {
    fn from(invalid: InvalidMode) -> Self {
        Self::invalid(invalid.to_string())
    }
}

impl UpdateMode {
    /// Reads the wire form; nothing is the default.
    ///
    /// # Errors
    /// [`InvalidMode`], whose text is for the client.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidMode> {
        match text.trim() {
            "" | "notify" => Ok(Self::Notify),
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            other => Err(InvalidMode(shown(other))),
        }
    }

    /// The wire form.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Notify => "notify",
            Self::Auto => "auto",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read_and_written_the_same() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, track) in [
            ("none", Track::None),
            ("tag:v1.2.0", Track::Tag("v1.2.0".to_owned())),
            (
                "tag:release/2024-1",
                Track::Tag("release/2024-1".to_owned()),
            ),
            ("tag:latest", Track::LatestTag),
            ("ref:main", Track::Ref("main".to_owned())),
            (&format!("sha:{commit}"), Track::Commit(commit.to_owned())),
        ] {
            assert_eq!(Track::parse(text), Ok(track.clone()), "{text}");
            assert_eq!(track.to_string(), text);
        }
        assert_eq!(Track::parse(""), Ok(Track::None));
        assert_eq!(Track::parse("  none \n"), Ok(Track::None));
        let upper = Track::parse(&format!("sha:{}", commit.to_uppercase()));
        assert_eq!(upper, Ok(Track::Commit(commit.to_owned())));
    }

    #[test]
    fn what_no_upstream_could_have_is_refused_with_the_text_of_the_wire() {
        for text in [
            "tag:",
            "sha:",
            "ref:",
            "latest",
            "v1.2.0",
            "TAG:v1",
            "tag:-rf",
            "ref:--upload-pack=x",
            "tag:a b",
            "tag:a\nb",
            "tag:$(id)",
            "tag:a'b",
            "sha:xyz",
            "branch:main",
            "none:",
        ] {
            let error = Track::parse(text).expect_err(text);
            assert_eq!(
                error.to_string(),
                format!(
                    "invalid track value \"{text}\": expected 'none' | 'tag:vX.Y.Z' | 'tag:latest' | 'sha:<full>'"
                )
            );
        }
        let long = Track::parse(&format!("tag:{}", "é".repeat(10_000))).expect_err("long");
        assert!(long.to_string().chars().count() < 250, "{long}");
        assert!(Track::parse(&format!("tag:{}", "a".repeat(256))).is_err());
        assert!(Track::parse(&format!("sha:{}", "a".repeat(65))).is_err());
    }

    #[test]
    fn commits_and_nothing_are_never_asked_for() {
        assert_eq!(Track::None.wanted(), None);
        assert_eq!(Track::Commit("abc".to_owned()).wanted(), None);
        assert_eq!(Track::LatestTag.wanted(), Some(PluginRef::LatestTag));
        let main = Track::Ref("main".to_owned()).wanted();
        assert_eq!(main, Some(PluginRef::Named("main".to_owned())));
    }

    #[test]
    fn update_modes_are_three() {
        for mode in [UpdateMode::Off, UpdateMode::Notify, UpdateMode::Auto] {
            assert_eq!(UpdateMode::parse(mode.as_str()), Ok(mode));
        }
        assert_eq!(UpdateMode::parse(""), Ok(UpdateMode::Notify));
        let error = UpdateMode::parse("always").expect_err("none of them");
        assert_eq!(
            error.to_string(),
            "invalid update_mode value \"always\": expected 'off' | 'notify' | 'auto'"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_read_again(text in "(none|tag:|sha:|ref:|latest|[ -~]){0,4}.{0,40}") {
            if let Ok(track) = Track::parse(&text) {
                let written = track.to_string();
                prop_assert_eq!(Track::parse(&written), Ok(track));
                prop_assert!(!written.contains(char::is_whitespace));
            }
        }
    }
}
