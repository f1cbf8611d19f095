//! Whether a plugin that should be in a workspace is there, and whether the agent has
//! loaded it.
//!
//! Three witnesses are compared: the row says what is wanted, the marker (or, where no
//! workspace is asked, the row's last delivery) what was delivered, and the agent what
//! it has loaded.

mod report;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(super) use self::report::{MAX_PAGE, Reported, USUAL_PAGE};
use super::store::target::Target;
use super::store::tracking::Tracked;
use crate::workspaces::LoadedPlugin;

/// What a delivered tree says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Marker {
    pub(super) source: Option<String>,
    pub(super) sha: Option<String>,
    pub(super) tree_sha256: Option<String>,
    pub(super) installed_at: Option<String>,
}

impl Marker {
    /// One of another make says nothing but that it is there.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(serde_json::from_slice(bytes).unwrap_or_default())
    }
}

/// How the three witnesses agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Wanted, delivered and loaded are the same.
    InSync,
    /// It was delivered, and the agent sees it after its next restart.
    PendingRestart,
    /// It is not where it should be.
    NotDelivered,
    /// It is there, and the agent that started after it did not load it.
    NotLoaded,
    /// The agent says that it could not load it.
    LoadFailed,
    /// Another tree is there than the one that should be.
    Differs,
    /// It is there, and nothing says that it should be.
    Untracked,
    /// A witness is missing: nothing runs, or the agent does not say what it loaded.
    Unknown,
}

impl State {
    pub(super) const ALL: [Self; 8] = [
        Self::InSync,
        Self::PendingRestart,
        Self::NotDelivered,
        Self::NotLoaded,
        Self::LoadFailed,
        Self::Differs,
        Self::Untracked,
        Self::Unknown,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::PendingRestart => "pending_restart",
            Self::NotDelivered => "not_delivered",
            Self::NotLoaded => "not_loaded",
            Self::LoadFailed => "load_failed",
            Self::Differs => "differs",
            Self::Untracked => "untracked",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// The three witnesses and what they add up to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Receipt {
    /// What should be there; null when nothing says so.
    pub(super) wanted: Option<Wanted>,
    /// What is there; null when it is not, or nobody can tell.
    pub(super) delivered: Option<DeliveredTree>,
    /// What the agent says; null when it does not say, or does not name it.
    pub(super) loaded: Option<LoadedPlugin>,
    pub(super) state: State,
}

/// What should be there.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Wanted {
    pub(super) source: String,
    pub(super) tracked_ref: String,
    pub(super) update_mode: String,
    pub(super) sha: Option<String>,
    pub(super) tree_sha256: Option<String>,
}

/// What is there.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct DeliveredTree {
    pub(super) sha: Option<String>,
    pub(super) tree_sha256: Option<String>,
    /// RFC 3339.
    pub(super) at: Option<String>,
}

/// What is known about where the tree is.
#[derive(Debug, Clone)]
pub(super) enum Evidence {
    /// Nobody could look.
    None,
    /// Somebody looked and it is not there.
    Absent,
    /// It is there.
    There(DeliveredTree),
}

/// What is known of the agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agent<'a> {
    /// What it says; none when it says nothing.
    pub(super) loaded: Option<&'a [LoadedPlugin]>,
    /// It is restarted, or will be.
    pub(super) restarts: bool,
    pub(super) started_at: Option<DateTime<Utc>>,
}

impl<'a> Agent<'a> {
    pub(super) fn of(row: &Target, loaded: Option<&'a [LoadedPlugin]>) -> Self {
        Self {
            loaded,
            restarts: row.restart_waits || row.starting,
            started_at: row.provisioned_at,
        }
    }
}

impl Receipt {
    /// Compares the witnesses. `delivered_at` is when the tree got there, if that is
    /// written down.
    pub(super) fn new(
        plugin: &str,
        wanted: Option<Wanted>,
        evidence: Evidence,
        delivered_at: Option<DateTime<Utc>>,
        agent: Agent<'_>,
    ) -> Self {
        let loaded = agent
            .loaded
            .and_then(|list| list.iter().find(|one| one.name == plugin));
        let is_later = delivered_at > agent.started_at && delivered_at.is_some();
        let waits = agent.restarts || is_later;
        let state = state(
            wanted.as_ref(),
            &evidence,
            loaded,
            agent.loaded.is_some(),
            waits,
        );
        Self {
            wanted,
            delivered: match evidence {
                Evidence::There(tree) => Some(tree),
                Evidence::None | Evidence::Absent => None,
            },
            loaded: loaded.cloned(),
            state,
        }
    }
}

fn state(
    wanted: Option<&Wanted>,
    evidence: &Evidence,
    loaded: Option<&LoadedPlugin>,
    agent_says: bool,
    waits: bool,
) -> State {
    let Some(wanted) = wanted else {
        return match evidence {
            Evidence::There(_) => State::Untracked,
            Evidence::None | Evidence::Absent => State::Unknown,
        };
    };
    let agrees = |loaded: &LoadedPlugin| {
        same(&wanted.tree_sha256, &loaded.tree_sha256).or(same(&wanted.sha, &loaded.sha))
    };
    match evidence {
        Evidence::Absent => return State::NotDelivered,
        // An agent that has loaded this very tree proves that it is there.
        Evidence::None => {
            let proven =
                loaded.is_some_and(|loaded| loaded.error.is_none() && agrees(loaded) == Some(true));
            return match proven {
                true => State::InSync,
                false => State::Unknown,
            };
        }
        Evidence::There(tree) if same(&wanted.tree_sha256, &tree.tree_sha256) == Some(false) => {
            return State::Differs;
        }
        Evidence::There(_) => {}
    }
    let pending = match waits {
        true => State::PendingRestart,
        false => State::NotLoaded,
    };
    match loaded {
        None if agent_says => pending,
        None => State::Unknown,
        Some(loaded) => match (agrees(loaded), &loaded.error) {
            (Some(false), _) => pending,
            (None, _) if waits => State::PendingRestart,
            (_, Some(_)) => State::LoadFailed,
            (_, None) => State::InSync,
        },
    }
}

/// Whether two digests are the same; none when one is missing.
fn same(one: &Option<String>, other: &Option<String>) -> Option<bool> {
    let (one, other) = (one.as_ref()?, other.as_ref()?);
    Some(one.eq_ignore_ascii_case(other))
}

impl Wanted {
    pub(super) fn of(row: &Tracked) -> Self {
        Self {
            source: row.source_raw.clone(),
            tracked_ref: row.tracked_ref.clone(),
            update_mode: row.update_mode.clone(),
            sha: row.installed_sha.clone(),
            tree_sha256: row.tree_sha256.clone(),
        }
    }
}
