//! The report on the plugins of all workspaces.

use chrono::SecondsFormat;
use molecule_hooks::PluginName;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Plugins;
use super::super::store::receipts::{self as sql, Standing};
use super::{Agent, DeliveredTree, Evidence, Receipt, State, Wanted};
use crate::error::{Error, Result};
use crate::workspaces::LoadedPlugin;

/// Receipts of one page.
pub(in crate::plugins) const MAX_PAGE: usize = 500;
pub(in crate::plugins) const USUAL_PAGE: usize = 100;
/// Rows that one page looks at, when a state is wanted that few have.
const MAX_SCANNED: usize = 5000;

/// A receipt of the report.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::plugins) struct Reported {
    pub(in crate::plugins) workspace_id: Uuid,
    pub(in crate::plugins) workspace_name: String,
    pub(in crate::plugins) workspace_status: String,
    pub(in crate::plugins) plugin: String,
    /// Why its workspace started without it last.
    pub(in crate::plugins) delivery_error: Option<String>,
    pub(in crate::plugins) receipt: Receipt,
}

/// One page of the report, and where the next one begins.
pub(in crate::plugins) struct Page {
    pub(in crate::plugins) receipts: Vec<Reported>,
    pub(in crate::plugins) next: Option<String>,
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
    pub(in crate::plugins) async fn receipts(
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
    use super::*;

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
