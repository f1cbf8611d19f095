//! Which plugins the workspaces of an organisation may have.
//!
//! An organisation is the workspace at the top of a hierarchy. Without a list it may
//! have all of them.

use std::collections::BTreeSet;

use molecule_hooks::PluginName;
use uuid::Uuid;

use super::Plugins;
use super::store::allowlist::{self as sql, Allowed};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::store::timestamp;

/// Longest name of who enabled plugins.
const MAX_ENABLED_BY_BYTES: usize = 255;
/// Plugins on one list.
const MAX_LISTED: usize = 1000;

/// What should be on a list.
pub(super) struct NewList {
    pub(super) plugins: Vec<String>,
    pub(super) enabled_by: String,
}

impl Plugins {
    /// Whether a workspace may have a plugin.
    ///
    /// # Errors
    /// 403 `plugin "<name>" is not in the org allowlist`; 503 when the list cannot be
    /// read and `plugins.allowlist_fail_closed` is set.
    pub(super) async fn gate(&self, workspace: Uuid, name: &PluginName) -> Result<()> {
        let refused = match self.is_allowed(workspace, name).await {
            Ok(true) => return Ok(()),
            Ok(false) => Error::forbidden(format!("plugin \"{name}\" is not in the org allowlist")),
            Err(error) if !self.services.config.plugins.allowlist_fail_closed => {
                tracing::warn!(
                    workspace.id = %workspace, plugin.name = %name, %error,
                    "allowlist could not be read; let through"
                );
                return Ok(());
            }
            Err(error) => Error::unavailable(error),
        };
        tracing::info!(
            workspace.id = %workspace, plugin.name = %name, reason = refused.message(),
            "plugin refused"
        );
        Err(refused)
    }

    async fn is_allowed(&self, workspace: Uuid, name: &PluginName) -> anyhow::Result<bool> {
        let tree = self.services.workspaces.hierarchy().tree().await?;
        if !tree.contains(workspace) {
            tracing::info!(workspace.id = %workspace, "workspace of no organisation");
            return Ok(true);
        }
        let root = tree.root(workspace);
        let root = root.ok_or_else(|| anyhow::anyhow!("its parents lead nowhere"))?;
        let standing = sql::standing(&self.services.db, root, name.as_str()).await?;
        Ok(standing.listed == 0 || standing.found > 0)
    }

    /// The list of an organisation, by name.
    ///
    /// # Errors
    /// 404 `org not found`; 403 `org access denied`; 500 `failed to verify org` or
    /// `failed to fetch allowlist`; 503.
    pub(super) async fn allowlist(
        &self,
        org: &str,
        who: &Principal,
    ) -> Result<(Uuid, Vec<Allowed>)> {
        let org = self.org_of(org, who).await?;
        let mut list = sql::list(&self.services.db, org)
            .await
            .map_err(|error| Error::from(error).says("failed to fetch allowlist"))?;
        // Databases have orders of their own.
        list.sort_by(|one, other| one.plugin_name.cmp(&other.plugin_name));
        Ok((org, list))
    }

    /// Replaces the list of an organisation; answers with what is on it now, by name.
    ///
    /// # Errors
    /// 400 `enabled_by is required` or `invalid plugin name`; then as
    /// [`allowlist`](Self::allowlist); 500 `failed to start transaction`, `failed to
    /// update allowlist` or `failed to commit allowlist update`; 503.
    pub(super) async fn set_allowlist(
        &self,
        org: &str,
        who: &Principal,
        new: &NewList,
    ) -> Result<(Uuid, Vec<String>)> {
        let enabled_by = new.enabled_by.trim();
        if enabled_by.is_empty() {
            return Err(Error::invalid("enabled_by is required"));
        }
        let invalid = |detail: &str| Error::invalid("invalid request body").with("detail", detail);
        if enabled_by.len() > MAX_ENABLED_BY_BYTES || enabled_by.contains('\0') {
            return Err(invalid("enabled_by is too long or has a NUL in it"));
        }
        if let Some(name) = (new.plugins.iter()).find(|name| PluginName::parse(name).is_none()) {
            return Err(Error::invalid("invalid plugin name")
                .with("plugin_name", name.as_str())
                .with(
                    "detail",
                    "a letter or digit, then letters, digits, '.', '_' and '-', without '..', 128 at most",
                ));
        }
        let plugins: BTreeSet<&str> = new.plugins.iter().map(String::as_str).collect();
        if plugins.len() > MAX_LISTED {
            return Err(invalid("more than 1000 plugins"));
        }
        let org = self.org_of(org, who).await?;
        let plugins: Vec<&str> = plugins.into_iter().collect();
        let services = &self.services;
        let says = |text: &'static str| move |error: sqlx::Error| Error::from(error).says(text);
        let now = timestamp(&services.clock);
        let mut tx = (services.db.begin().await).map_err(says("failed to start transaction"))?;
        sql::replace(&mut tx, org, &plugins, enabled_by, now)
            .await
            .map_err(says("failed to update allowlist"))?;
        (tx.commit().await).map_err(says("failed to commit allowlist update"))?;
        tracing::info!(
            org.id = %org, count = plugins.len(), by = who.actor(),
            "plugin allowlist replaced"
        );
        Ok((org, plugins.into_iter().map(str::to_owned).collect()))
    }

    /// The organisation of this id, for who may see it.
    async fn org_of(&self, id: &str, who: &Principal) -> Result<Uuid> {
        let not_found = || Error::not_found("org not found");
        let id = Uuid::parse_str(id).map_err(|_| not_found())?;
        let exists = sql::org_exists(&self.services.db, id)
            .await
            .map_err(|error| Error::from(error).says("failed to verify org"))?;
        if !exists {
            return Err(not_found());
        }
        match who {
            Principal::Org(token) if token.org_id != Some(id) => {
                Err(Error::forbidden("org access denied"))
            }
            _ => Ok(id),
        }
    }
}
