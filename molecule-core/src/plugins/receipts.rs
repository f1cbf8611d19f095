//! Whether a plugin that should be in a workspace is there, and whether the agent has
//! loaded it.
//!
//! Three witnesses are compared: the row says what is wanted, the marker (or, where no
//! workspace is asked, the row's last delivery) what was delivered, and the agent what
//! it has loaded.

use chrono::{DateTime, SecondsFormat, Utc};
use molecule_hooks::PluginName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Plugins;
use super::store::receipts::{self as sql, Standing};
use super::store::target::Target;
use super::store::tracking::Tracked;
use crate::error::{Error, Result};
use crate::workspaces::LoadedPlugin;

/// Receipts of one page.
pub(super) const MAX_PAGE: usize = 500;
pub(super) const USUAL_PAGE: usize = 100;
/// Rows that one page looks at, when a state is wanted that few have.
const MAX_SCANNED: usize = 5000;

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

/// A receipt of the report.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Reported {
    pub(super) workspace_id: Uuid,
    pub(super) workspace_name: String,
    pub(super) workspace_status: String,
    pub(super) plugin: String,
    /// Why its workspace started without it last.
    pub(super) delivery_error: Option<String>,
    pub(super) receipt: Receipt,
}

/// One page of the report, and where the next one begins.
pub(super) struct Page {
    pub(super) receipts: Vec<Reported>,
    pub(super) next: Option<String>,
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

impl From<Standing> for Reported {
    fn from(row: Standing) -> Self {
        let evidence = row.evidence();
        let loaded = row.loaded_plugins.as_deref().and_then(LoadedPlugin::stored);
        let agent = Agent {
            loaded: loaded.as_deref(),
            restarts: row.restart_waits,
            started_at: row.provisioned_at,
        };
        let wanted = Wanted {
            source: row.source_raw,
            tracked_ref: row.tracked_ref,
            update_mode: row.update_mode,
            sha: row.installed_sha,
            tree_sha256: row.tree_sha256,
        };
        let receipt = Receipt::new(
            &row.plugin_name,
            Some(wanted),
            evidence,
            row.delivered_at,
            agent,
        );
        Self {
            workspace_id: row.workspace_id,
            workspace_name: row.workspace_name,
            workspace_status: row.status,
            plugin: row.plugin_name,
            delivery_error: row.delivery_error,
            receipt,
        }
    }
}

impl Standing {
    /// What the row itself says of the tree: no workspace is asked.
    fn evidence(&self) -> Evidence {
        if self.delivery_error.is_some() {
            return Evidence::Absent;
        }
        match self.instance_id.is_some() && self.delivered_to == self.instance_id {
            true => Evidence::There(DeliveredTree {
                sha: self.installed_sha.clone(),
                tree_sha256: self.tree_sha256.clone(),
                at: self
                    .delivered_at
                    .map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            }),
            false => Evidence::None,
        }
    }
}

impl Plugins {
    /// Receipts of all plugins that workspaces should have, in the order of workspace
    /// and name, without asking any workspace. With a state only those, out of the
    /// next few thousand.
    ///
    /// # Errors
    /// 400 `invalid cursor`; 500 `failed to list plugin receipts`; 503.
    pub(super) async fn receipts(
        &self,
        state: Option<State>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page> {
        let (mut workspace, mut plugin) = match cursor {
            None => (Uuid::nil(), String::new()),
            Some(cursor) => parse_cursor(cursor).ok_or_else(|| Error::invalid("invalid cursor"))?,
        };
        let limit = limit.clamp(1, MAX_PAGE);
        let (mut receipts, mut scanned) = (Vec::new(), 0);
        loop {
            let most = match state {
                None => limit,
                Some(_) => MAX_PAGE,
            };
            let after = (workspace, plugin.as_str());
            let rows = sql::page(
                &self.services.db,
                after,
                i64::try_from(most).unwrap_or(i64::MAX),
            );
            let rows = rows
                .await
                .map_err(|error| Error::from(error).says("failed to list plugin receipts"))?;
            let is_last = rows.len() < most;
            for row in rows {
                (workspace, plugin) = (row.workspace_id, row.plugin_name.clone());
                scanned += 1;
                let reported = Reported::from(row);
                if state.is_none_or(|state| reported.receipt.state == state) {
                    receipts.push(reported);
                    if receipts.len() == limit {
                        break;
                    }
                }
            }
            let is_full = receipts.len() == limit || scanned >= MAX_SCANNED;
            if is_full || is_last {
                let next = is_full.then(|| format!("{workspace}/{plugin}"));
                return Ok(Page { receipts, next });
            }
        }
    }
}

fn parse_cursor(text: &str) -> Option<(Uuid, String)> {
    let (workspace, plugin) = text.split_once('/')?;
    let plugin = PluginName::parse(plugin)?;
    Some((Uuid::parse_str(workspace).ok()?, plugin.to_string()))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            source: "local://a".to_owned(),
            tracked_ref: "none".to_owned(),
            update_mode: "notify".to_owned(),
            sha: None,
            tree_sha256: Some("new".to_owned()),
        }
    }

    fn there(digest: Option<&str>) -> Evidence {
        Evidence::There(DeliveredTree {
            sha: None,
            tree_sha256: digest.map(str::to_owned),
            at: None,
        })
    }

    fn loaded(digest: Option<&str>, error: Option<&str>) -> Vec<LoadedPlugin> {
        vec![LoadedPlugin {
            name: "a".to_owned(),
            tree_sha256: digest.map(str::to_owned),
            error: error.map(str::to_owned),
            ..LoadedPlugin::default()
        }]
    }

    #[test]
    fn the_table_of_states() {
        let new = || there(Some("new"));
        let none: Option<Vec<LoadedPlugin>> = None;
        let cases = [
            (new(), none.clone(), false, State::Unknown),
            (new(), none.clone(), true, State::Unknown),
            (Evidence::Absent, none.clone(), false, State::NotDelivered),
            (
                Evidence::Absent,
                Some(loaded(Some("new"), None)),
                false,
                State::NotDelivered,
            ),
            (Evidence::None, none.clone(), false, State::Unknown),
            (Evidence::None, Some(vec![]), false, State::Unknown),
            (
                Evidence::None,
                Some(loaded(Some("new"), None)),
                false,
                State::InSync,
            ),
            (
                Evidence::None,
                Some(loaded(Some("new"), Some("x"))),
                false,
                State::Unknown,
            ),
            (
                Evidence::None,
                Some(loaded(None, None)),
                false,
                State::Unknown,
            ),
            (
                there(Some("old")),
                Some(loaded(Some("new"), None)),
                false,
                State::Differs,
            ),
            (new(), Some(vec![]), true, State::PendingRestart),
            (new(), Some(vec![]), false, State::NotLoaded),
            (
                new(),
                Some(loaded(Some("old"), None)),
                true,
                State::PendingRestart,
            ),
            (
                new(),
                Some(loaded(Some("old"), None)),
                false,
                State::NotLoaded,
            ),
            (new(), Some(loaded(Some("NEW"), None)), true, State::InSync),
            (new(), Some(loaded(Some("new"), None)), false, State::InSync),
            (
                new(),
                Some(loaded(Some("new"), Some("x"))),
                false,
                State::LoadFailed,
            ),
            (
                new(),
                Some(loaded(Some("old"), Some("x"))),
                true,
                State::PendingRestart,
            ),
            (new(), Some(loaded(None, None)), false, State::InSync),
            (new(), Some(loaded(None, None)), true, State::PendingRestart),
            (
                new(),
                Some(loaded(None, Some("x"))),
                false,
                State::LoadFailed,
            ),
            (
                there(None),
                Some(loaded(Some("new"), None)),
                false,
                State::InSync,
            ),
        ];
        for (evidence, loaded, restarts, expected) in cases {
            let agent = Agent {
                loaded: loaded.as_deref(),
                restarts,
                started_at: None,
            };
            let what = format!("{evidence:?} {loaded:?} {restarts}");
            let receipt = Receipt::new("a", Some(wanted()), evidence, None, agent);
            assert_eq!(receipt.state, expected, "{what}");
            assert_eq!(State::parse(expected.as_str()), Some(expected));
        }
    }

    #[test]
    fn what_was_delivered_after_the_start_waits_for_a_restart() {
        let now = Utc::now();
        for (delivered_at, started_at, expected) in [
            (
                Some(now),
                Some(now - TimeDelta::seconds(1)),
                State::PendingRestart,
            ),
            (Some(now), None, State::PendingRestart),
            (
                Some(now),
                Some(now + TimeDelta::seconds(1)),
                State::NotLoaded,
            ),
            (None, Some(now), State::NotLoaded),
            (None, None, State::NotLoaded),
        ] {
            let agent = Agent {
                loaded: Some(&[]),
                restarts: false,
                started_at,
            };
            let receipt =
                Receipt::new("a", Some(wanted()), there(Some("new")), delivered_at, agent);
            assert_eq!(receipt.state, expected, "{delivered_at:?} {started_at:?}");
        }
    }

    #[test]
    fn what_nothing_asks_for_is_untracked() {
        let agent = Agent {
            loaded: None,
            restarts: false,
            started_at: None,
        };
        let receipt = Receipt::new("a", None, there(None), None, agent);
        assert_eq!(receipt.state, State::Untracked);
        assert_eq!(
            Receipt::new("a", None, Evidence::None, None, agent).state,
            State::Unknown
        );
    }

    #[test]
    fn markers_of_other_makes_are_markers() {
        for text in [
            "",
            "{}",
            "x",
            "[]",
            r#"{"sha":5}"#,
            r#"{"version":1,"more":[]}"#,
        ] {
            assert_eq!(
                Marker::parse(text.as_bytes()),
                Some(Marker::default()),
                "{text}"
            );
        }
        let marker = Marker::parse(br#"{"version":1,"sha":null,"tree_sha256":"abc"}"#).unwrap();
        assert_eq!(marker.tree_sha256.as_deref(), Some("abc"));
    }

    #[test]
    fn cursors_are_taken_apart_or_refused() {
        let id = Uuid::from_u128(7);
        assert_eq!(
            parse_cursor(&format!("{id}/a.b")),
            Some((id, "a.b".to_owned()))
        );
        for bad in [
            "",
            "/",
            "x/a",
            &format!("{id}"),
            &format!("{id}/"),
            &format!("{id}/a/b"),
        ] {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }
}
