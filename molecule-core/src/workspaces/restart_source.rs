//! Where a restart takes its configuration from, and which runtime its agent says
//! it is.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use utoipa::ToSchema;

use super::Services;
use super::agent_config::safe_runtime;
use super::boot::{Boot, BootSource};
use super::model::Workspace;
use super::template::{self, CONFIG_FILE, ConfigFacts};

/// Template folders that are looked at for a name.
const MAX_FOLDERS: usize = 1000;

/// The body of `POST /workspaces/:id/restart`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct RestartRequest {
    /// Template to copy over the workspace's files; ignored if there is none of
    /// that name.
    pub(crate) template: Option<String>,
    /// Copy the template of the workspace's name, else its runtime's default.
    pub(crate) apply_template: Option<bool>,
    /// Discard the agent's session.
    pub(crate) reset: Option<bool>,
    /// Copy the org template of the workspace's name.
    pub(crate) rebuild_config: Option<bool>,
}

/// What came of a restart.
pub(crate) enum Restarting {
    /// It is under way.
    Begun {
        config_dir: String,
        reset_session: bool,
    },
    /// There is nothing to restart.
    Noop { runtime: String },
}

impl Services {
    /// The contract's order (§2.5): a named template, one of the workspace's name,
    /// an org template of its name, the runtime's default, what is there.
    pub(super) async fn restart_source(
        &self,
        row: &Workspace,
        request: &RestartRequest,
    ) -> (Boot, String) {
        let (source, config_dir) = self.source_and_name(row, request).await;
        let boot = Boot {
            source,
            reset_session: request.reset == Some(true),
            automatic: false,
        };
        (boot, config_dir)
    }

    async fn source_and_name(
        &self,
        row: &Workspace,
        request: &RestartRequest,
    ) -> (BootSource, String) {
        let root = self.config.workspaces.templates_dir.as_deref();
        let apply = request.apply_template == Some(true);
        if let (Some(root), Some(name)) = (root, &request.template)
            && template::named(root, name).await.is_some()
        {
            return (BootSource::Template(name.clone()), name.clone());
        }
        if let Some(root) = root {
            if apply && let Some(name) = of_name(root, &row.name).await {
                return (BootSource::Template(name.clone()), name);
            }
            if request.rebuild_config == Some(true)
                && let Some(org) = org_templates(root)
                && let Some(name) = of_name(&org, &row.name).await
            {
                let shown = format!("org-templates/{name}");
                return (BootSource::OrgTemplate(name), shown);
            }
            let runtime = safe_runtime(&row.runtime, &self.config.workspaces.default_runtime);
            if apply && template::default_for(root, runtime).await.is_some() {
                return (BootSource::RuntimeDefault, format!("{runtime}-default"));
            }
        }
        let boot = Boot::again(row.booted_at.is_some());
        let shown = match (&boot.source, &row.template) {
            (BootSource::Created, Some(template)) => template.clone(),
            _ => "existing-volume".to_owned(),
        };
        (boot.source, shown)
    }

    /// The runtime that the agent's own `config.yaml` names, if it is another one
    /// than the row's.
    pub(super) async fn runtime_of_agent(&self, row: &Workspace) -> Option<String> {
        let facts = self.facts_of_agent(row).await?;
        let runtime = facts.runtime?;
        let fits = safe_runtime(&runtime, "") == runtime && runtime != row.runtime;
        fits.then_some(runtime)
    }

    /// What the `config.yaml` in the workspace's storage says. None when it cannot
    /// be read, which is no reason to fail: the backend looks for the file again.
    pub(super) async fn facts_of_agent(&self, row: &Workspace) -> Option<ConfigFacts> {
        match self.backend.read_config(row.id, CONFIG_FILE).await {
            Ok(bytes) => Some(ConfigFacts::parse(&String::from_utf8_lossy(&bytes?))),
            Err(error) => {
                let error = self.describe(error);
                tracing::warn!(workspace.id = %row.id, error, "config.yaml could not be read");
                None
            }
        }
    }
}

/// `org-templates` inside or beside the templates directory.
pub(super) fn org_templates(root: &Path) -> Option<PathBuf> {
    let beside = root.parent().map(|parent| parent.join("org-templates"));
    let candidates = [Some(root.join("org-templates")), beside];
    candidates.into_iter().flatten().find(|dir| dir.is_dir())
}

/// The template folder of a workspace's name: the name in lower case with hyphens,
/// else the folder whose `config.yaml` carries it.
async fn of_name(root: &Path, name: &str) -> Option<String> {
    let folder = name.trim().to_lowercase().replace(' ', "-");
    if template::named(root, &folder).await.is_some() {
        return Some(folder);
    }
    let mut entries = tokio::fs::read_dir(root).await.ok()?;
    let mut names = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with("ws-")
            && !name.starts_with('.')
        {
            names.push(name);
        }
        if names.len() == MAX_FOLDERS {
            break;
        }
    }
    names.sort_unstable();
    for candidate in names {
        let Some(dir) = template::named(root, &candidate).await else {
            continue;
        };
        let called = ConfigFacts::of_folder(&dir).await.name;
        if called.is_some_and(|called| called.to_lowercase() == name.trim().to_lowercase()) {
            return Some(candidate);
        }
    }
    None
}
