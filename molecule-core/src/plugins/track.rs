//! What somebody follows of an upstream.

use std::fmt;

/// What a plugin follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Track {
    None,
    Tag(String),
    LatestTag,
    Commit(String),
    Ref(String),
}

impl Track {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "" | "none" => Some(Self::None),
            "tag:latest" => Some(Self::LatestTag),
            text => match text.split_once(':') {
                Some(("tag", tag)) if !tag.is_empty() => Some(Self::Tag(tag.to_owned())),
                Some(("sha", sha)) if !sha.is_empty() => Some(Self::Commit(sha.to_owned())),
                Some(("ref", name)) if !name.is_empty() => Some(Self::Ref(name.to_owned())),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::LatestTag => f.write_str("tag:latest"),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
            Self::Commit(sha) => write!(f, "sha:{sha}"),
            Self::Ref(name) => write!(f, "ref:{name}"),
        }
    }
}

/// What happens when it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum UpdateMode {
    Off,
    #[default]
    Notify,
    Auto,
}

impl UpdateMode {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "notify" => Some(Self::Notify),
            "auto" => Some(Self::Auto),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Notify => "notify",
            Self::Auto => "auto",
        }
    }
}
