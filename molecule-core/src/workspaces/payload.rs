//! The body of `POST /workspaces`, checked.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use molecule_hooks::Secret;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::memories::{self, InitialMemory, NewMemory};
use super::rules::{check_dir, check_text, check_tier};
use crate::error::{Error, Result};
use crate::secrets::{MAX_SECRETS, check_secret};

/// Tier of a workspace created without one.
const DEFAULT_TIER: i64 = 3;

/// A request to create a workspace. Unknown fields are ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct CreateWorkspace {
    /// Display name, required.
    name: Option<String>,
    /// Free text such as `pmm-lead`.
    role: Option<String>,
    /// Folder under the templates directory.
    template: Option<String>,
    /// Isolation tier, 1 to 4.
    tier: Option<i64>,
    /// Model identifier.
    model: Option<String>,
    /// Agent runtime.
    runtime: Option<String>,
    /// True for an agent that runs elsewhere.
    external: Option<bool>,
    /// URL of an external agent.
    url: Option<String>,
    /// `push` or `poll`.
    delivery_mode: Option<String>,
    /// Host folder to mount as `/workspace`.
    workspace_dir: Option<String>,
    /// `none`, `read_only` or `read_write`.
    workspace_access: Option<String>,
    /// UUID of the parent workspace.
    parent_id: Option<String>,
    /// Budget in USD cents.
    budget_limit: Option<i64>,
    /// Environment variables, encrypted at rest.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    secrets: Option<BTreeMap<String, Secret>>,
    /// Tasks the agent takes at once.
    max_concurrent_tasks: Option<i64>,
    /// Place on the canvas.
    canvas: Option<Canvas>,
    /// What its agent remembers from the start.
    initial_memories: Option<Vec<InitialMemory>>,
}

/// A place on the canvas.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub(crate) struct Canvas {
    #[serde(default)]
    pub(super) x: f64,
    #[serde(default)]
    pub(super) y: f64,
}

/// A checked request.
#[derive(Debug)]
pub(crate) struct NewWorkspace {
    pub(super) name: String,
    pub(super) role: Option<String>,
    pub(super) template: Option<String>,
    pub(super) tier: i64,
    pub(super) model: Option<String>,
    pub(super) runtime: Option<String>,
    pub(super) external: bool,
    pub(super) url: Option<String>,
    pub(super) delivery_mode: String,
    pub(super) workspace_dir: Option<String>,
    pub(super) workspace_access: String,
    pub(super) parent_id: Option<Uuid>,
    pub(super) budget_limit: Option<i64>,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) max_concurrent_tasks: i64,
    pub(super) canvas: Canvas,
    pub(super) memories: Vec<NewMemory>,
}

impl CreateWorkspace {
    /// Checks every rule of the contract that needs no database and no disk.
    ///
    /// # Errors
    /// 400 with the documented text and, in `detail`, the field and the rule.
    pub(crate) fn check(self) -> Result<NewWorkspace> {
        let name = filled(self.name).ok_or_else(|| payload("name is required"))?;
        let (role, model) = (filled(self.role), filled(self.model));
        let (runtime, template) = (filled(self.runtime), filled(self.template));
        let texts = [
            ("name", Some(&name)),
            ("role", role.as_ref()),
            ("model", model.as_ref()),
            ("runtime", runtime.as_ref()),
        ];
        for (field, value) in texts {
            check_text(field, value.map_or("", String::as_str)).map_err(fields)?;
        }
        let tier = match self.tier.unwrap_or(0) {
            0 => DEFAULT_TIER,
            tier => check_tier(tier).map_err(fields)?,
        };
        if let Some(template) = &template
            && !is_plain_relative(template)
        {
            return Err(invalid(
                "invalid template",
                "template must be a relative path without ..",
            ));
        }
        let delivery_mode = filled(self.delivery_mode).unwrap_or_else(|| "push".into());
        if !matches!(delivery_mode.as_str(), "push" | "poll") {
            return Err(Error::invalid("delivery_mode must be 'push' or 'poll'"));
        }
        let workspace_dir = filled(self.workspace_dir);
        if let Some(dir) = &workspace_dir {
            check_dir(dir).map_err(|detail| invalid("invalid workspace directory", &detail))?;
        }
        let workspace_access = filled(self.workspace_access).unwrap_or_else(|| "none".into());
        match (workspace_access.as_str(), &workspace_dir) {
            ("none", _) | ("read_only" | "read_write", Some(_)) => {}
            ("read_only" | "read_write", None) => {
                let detail = format!("workspace_access {workspace_access} needs workspace_dir");
                return Err(invalid("invalid workspace access", &detail));
            }
            _ => {
                let detail = "workspace_access must be none, read_only or read_write";
                return Err(invalid("invalid workspace access", detail));
            }
        }
        let parent_id = filled(self.parent_id)
            .map(|id| Uuid::parse_str(&id))
            .transpose()
            .map_err(|_| payload("parent_id must be a UUID"))?;
        let secrets = self.secrets.unwrap_or_default();
        if secrets.len() > MAX_SECRETS {
            return Err(fields(format!("secrets: at most {MAX_SECRETS} entries")));
        }
        for (key, value) in &secrets {
            check_secret(key, value.expose()).map_err(fields)?;
        }
        let external = self.external.unwrap_or(false) || runtime.as_deref() == Some("external");
        let url = filled(self.url);
        if let Some(url) = url.as_deref().filter(|_| external) {
            let plain = |u: url::Url| {
                // Everyone may read it.
                let has_credentials = !u.username().is_empty() || u.password().is_some();
                matches!(u.scheme(), "http" | "https") && u.has_host() && !has_credentials
            };
            // The parser drops or escapes control characters; the text is stored.
            let printable = !url.contains(char::is_control);
            if !printable || !url::Url::parse(url).is_ok_and(plain) {
                return Err(fields(
                    "url must be an http:// or https:// URL without credentials".into(),
                ));
            }
        }
        let memories =
            memories::check(self.initial_memories.unwrap_or_default()).map_err(fields)?;
        let canvas = self.canvas.unwrap_or_default();
        if !canvas.x.is_finite() || !canvas.y.is_finite() {
            return Err(fields(
                "canvas.x and canvas.y must be finite numbers".into(),
            ));
        }
        Ok(NewWorkspace {
            name,
            role,
            template,
            tier,
            model,
            runtime,
            external,
            url,
            delivery_mode,
            workspace_dir,
            workspace_access,
            parent_id,
            budget_limit: self.budget_limit,
            secrets,
            max_concurrent_tasks: self.max_concurrent_tasks.unwrap_or(0).max(1),
            canvas,
            memories,
        })
    }
}

fn filled(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn invalid(error: &str, detail: &str) -> Error {
    Error::invalid(error).with("detail", detail)
}

fn payload(detail: &str) -> Error {
    invalid("invalid workspace payload", detail)
}

fn fields(detail: String) -> Error {
    invalid("invalid workspace fields", &detail)
}

/// Relative, and made of ordinary components only.
pub(super) fn is_plain_relative(path: &str) -> bool {
    let path = Path::new(path);
    let mut components = path.components().peekable();
    components.peek().is_some() && components.all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(body: serde_json::Value) -> Result<NewWorkspace> {
        serde_json::from_value::<CreateWorkspace>(body)
            .unwrap()
            .check()
    }

    #[test]
    fn each_rule_names_its_field() {
        let long = "x".repeat(256);
        let table = [
            (json!({}), "invalid workspace payload", "name"),
            (json!({"name": ""}), "invalid workspace payload", "name"),
            (json!({"name": long}), "invalid workspace fields", "name"),
            (json!({"name": "a\nb"}), "invalid workspace fields", "name"),
            (
                json!({"name": "a\u{7}b"}),
                "invalid workspace fields",
                "name",
            ),
            (json!({"name": "a{b"}), "invalid workspace fields", "name"),
            (
                json!({"name": "a", "role": "r!"}),
                "invalid workspace fields",
                "role",
            ),
            (
                json!({"name": "a", "model": "x".repeat(101)}),
                "invalid workspace fields",
                "model",
            ),
            (
                json!({"name": "a", "runtime": "a\rb"}),
                "invalid workspace fields",
                "runtime",
            ),
            (
                json!({"name": "a", "tier": 5}),
                "invalid workspace fields",
                "tier",
            ),
            (
                json!({"name": "a", "tier": -1}),
                "invalid workspace fields",
                "tier",
            ),
            (
                json!({"name": "a", "template": "../x"}),
                "invalid template",
                "template",
            ),
            (
                json!({"name": "a", "template": "/x"}),
                "invalid template",
                "template",
            ),
            (
                json!({"name": "a", "workspace_dir": "x"}),
                "invalid workspace directory",
                "workspace_dir",
            ),
            (
                json!({"name": "a", "workspace_dir": "/srv/../etc"}),
                "invalid workspace directory",
                "workspace_dir",
            ),
            (
                json!({"name": "a", "workspace_dir": "/etc/x"}),
                "invalid workspace directory",
                "workspace_dir",
            ),
            (
                json!({"name": "a", "workspace_dir": "/"}),
                "invalid workspace directory",
                "workspace_dir",
            ),
            (
                json!({"name": "a", "workspace_access": "read_only"}),
                "invalid workspace access",
                "workspace_dir",
            ),
            (
                json!({"name": "a", "workspace_access": "all"}),
                "invalid workspace access",
                "workspace_access",
            ),
            (
                json!({"name": "a", "parent_id": "x"}),
                "invalid workspace payload",
                "parent_id",
            ),
            (
                json!({"name": "a", "secrets": {"A-B": "v"}}),
                "invalid workspace fields",
                "secrets",
            ),
            (
                json!({"name": "a", "secrets": {"TIER": "v"}}),
                "invalid workspace fields",
                "TIER",
            ),
            (
                json!({"name": "a", "secrets": {"LD_PRELOAD": "v"}}),
                "invalid workspace fields",
                "LD_PRELOAD",
            ),
            (
                json!({"name": "a", "external": true, "url": "ftp://x"}),
                "invalid workspace fields",
                "url",
            ),
            (
                json!({"name": "a", "external": true, "url": "https://user:password@example.org"}),
                "invalid workspace fields",
                "url",
            ),
        ];
        for (body, text, field) in table {
            let error = check(body.clone()).unwrap_err();
            assert_eq!(error.message(), text, "{body}");
            let detail = error.extra()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(field), "{body}: {detail}");
        }
        let error = check(json!({"name": "a", "delivery_mode": "x"})).unwrap_err();
        assert_eq!(error.message(), "delivery_mode must be 'push' or 'poll'");
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let new =
            check(json!({"name": "a", "role": "", "max_concurrent_tasks": -3, "x": 1})).unwrap();
        assert_eq!((new.tier, new.max_concurrent_tasks), (3, 1));
        assert_eq!(
            (new.delivery_mode.as_str(), new.workspace_access.as_str()),
            ("push", "none")
        );
        assert!(new.role.is_none() && !new.external);
    }

    proptest! {
        #[test]
        fn accepted_templates_stay_below_their_folder(path in ".{0,40}") {
            if is_plain_relative(&path) {
                let joined = Path::new("/templates").join(&path);
                prop_assert!(joined.starts_with("/templates"));
                prop_assert!(!joined.components().any(|c| matches!(c, Component::ParentDir)));
            }
        }
    }
}
