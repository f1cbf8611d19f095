//! The environment of a boot, before the hooks.

use std::collections::BTreeMap;

use molecule_hooks::{EnvError, EnvMap, EnvSource, Secret};

use super::model::Workspace;
use crate::backend::DEFAULT_ENV;
use crate::secrets::Bundle;

/// Domain of the made-up addresses agents commit with.
const AGENT_MAIL_DOMAIN: &str = "agents.moleculesai.app";

/// What a boot starts from.
pub(super) struct Base {
    pub(super) env: EnvMap,
    /// Stored secrets that no environment can hold.
    pub(super) ignored: Vec<Ignored>,
}

/// A stored secret that is left out.
pub(super) struct Ignored {
    pub(super) name: String,
    pub(super) source: EnvSource,
    pub(super) error: EnvError,
}

/// Stacks the sources in the contract's order (§3.1): suggestions of the
/// platform, awareness, global secrets, workspace secrets, identity.
pub(super) fn base(workspace: &Workspace, secrets: &Bundle, awareness_url: Option<&str>) -> Base {
    let mut env = EnvMap::new();
    let mut ignored = Vec::new();
    for (name, value) in DEFAULT_ENV {
        set(&mut env, name, value);
    }
    if let (Some(namespace), Some(url)) = (&workspace.awareness_namespace, awareness_url) {
        set(&mut env, "AWARENESS_NAMESPACE", namespace);
        set(&mut env, "AWARENESS_URL", url);
    }
    for (source, stored) in [
        (EnvSource::GlobalSecret, &secrets.global),
        (EnvSource::WorkspaceSecret, &secrets.workspace),
    ] {
        env.set_writer(source.clone());
        set_secrets(&mut env, &source, stored, &mut ignored);
    }
    env.set_writer(EnvSource::Identity);
    identity(&mut env, workspace);
    env.set_writer(EnvSource::Platform);
    Base { env, ignored }
}

fn identity(env: &mut EnvMap, workspace: &Workspace) {
    let name = workspace.name.trim();
    if !name.is_empty() {
        let full = format!("Molecule AI {name}");
        let mail = format!("{}@{AGENT_MAIL_DOMAIN}", slug(name));
        for (key, value) in [
            ("GIT_AUTHOR_NAME", &full),
            ("GIT_COMMITTER_NAME", &full),
            ("GIT_AUTHOR_EMAIL", &mail),
            ("GIT_COMMITTER_EMAIL", &mail),
        ] {
            if !env.contains(key) {
                set(env, key, value);
            }
        }
    }
    let model = workspace
        .model
        .clone()
        .or_else(|| env.get("MODEL_PROVIDER").map(str::to_owned))
        .filter(|model| !model.is_empty());
    if let Some(model) = model {
        set(env, "MODEL", &model);
        if workspace.runtime == "hermes" {
            set(env, "HERMES_DEFAULT_MODEL", &model);
        }
    }
    if let Some(role) = workspace.role.as_deref().filter(|role| !role.is_empty()) {
        set(env, "MOLECULE_AGENT_ROLE", role);
    }
    if let Some(parent) = workspace.parent_id {
        set(env, "PARENT_ID", &parent.to_string());
    }
}

fn set_secrets(
    env: &mut EnvMap,
    source: &EnvSource,
    secrets: &BTreeMap<String, Secret>,
    ignored: &mut Vec<Ignored>,
) {
    for (name, value) in secrets {
        // Stored before the name became reserved, or by another server.
        if let Err(error) = env.set_secret(name, value.expose()) {
            tracing::warn!(%error, "a stored secret is left out of the environment");
            ignored.push(Ignored {
                name: name.clone(),
                source: source.clone(),
                error,
            });
        }
    }
}

fn set(env: &mut EnvMap, name: &str, value: &str) {
    // Our own names are valid; a value can only be refused for a NUL byte, which
    // payload validation already refused.
    if let Err(error) = env.set(name, value) {
        tracing::warn!(%error, "a variable is left out of the environment");
    }
}

/// Lower-case ASCII letters, digits and single hyphens.
fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() {
        "agent".to_owned()
    } else {
        out.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_a_mail_address() {
        assert_eq!(slug("Dev  Lead (EU)"), "dev-lead-eu");
        assert_eq!(slug("äöü"), "agent");
    }
}
