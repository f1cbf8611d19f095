use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, MAX_ENV_VALUE_BYTES, Secret,
    WorkspaceContext, async_trait, check_foreign_env_name, tracing,
};
use serde_json::{Map, Value};

use crate::api::{Api, LookUp, Read};
use crate::config::Config;
use crate::session::Session;
use crate::template::PathTemplate;

/// Shorter than the server's usual deadline for a hook (10 s), whose passing
/// would keep the workspace from starting.
const BOOT_PATIENCE: Duration = Duration::from_secs(8);

struct Vault {
    api: Arc<Api>,
    session: Session,
    mount: String,
    paths: Vec<PathTemplate>,
    prefix: String,
    required: bool,
}

type Variables = BTreeMap<String, Secret>;

pub(crate) fn build(config: Config, context: &BuildContext) -> BuildResult {
    let Some(settings) = config.resolve()? else {
        return Ok(None);
    };
    let api = Arc::new(settings.api);
    Ok(Some(Arc::new(Vault {
        session: Session::new(Arc::clone(&api), settings.login, context.clock.clone()),
        api,
        mount: settings.mount,
        paths: settings.paths,
        prefix: settings.prefix,
        required: settings.required,
    })))
}

#[async_trait]
impl EnvMutator for Vault {
    fn name(&self) -> &str {
        "vault"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let read = tokio::time::timeout(BOOT_PATIENCE, self.read_all(workspace))
            .await
            .unwrap_or_else(|_| Err(HookError::transient("no answer yet")));
        let variables = match read {
            Ok(variables) => variables,
            Err(error) if error.is_transient() && !self.required => {
                tracing::warn!(
                    workspace.id = %workspace.id,
                    error = %error.chain(),
                    "vault: no secrets for now; the workspace boots without them"
                );
                return Ok(());
            }
            Err(error) => return Err(prefixed(&error)),
        };
        for (name, value) in &variables {
            env.set_secret(name, value.expose())
                .map_err(|error| prefixed(&error.into()))?;
        }
        Ok(())
    }
}

impl Vault {
    /// Every secret that concerns this workspace, or none at all.
    async fn read_all(&self, workspace: &WorkspaceContext) -> Result<Variables, HookError> {
        let mut variables = Variables::new();
        for template in &self.paths {
            let Some(path) = template.render(workspace) else {
                tracing::debug!(
                    workspace.id = %workspace.id,
                    path = %template,
                    "vault: the workspace has no such path"
                );
                continue;
            };
            match self.read(template, &path).await? {
                Some(data) => self.add(template, data, &mut variables),
                None => tracing::debug!(
                    workspace.id = %workspace.id,
                    path = %template,
                    "vault: nothing is stored there"
                ),
            }
        }
        Ok(variables)
    }

    /// One secret; a token that died meanwhile is replaced once.
    async fn read(
        &self,
        template: &PathTemplate,
        path: &str,
    ) -> Result<Option<Map<String, Value>>, HookError> {
        let what = format!("{template:?}", template = template.to_string());
        let token = self.session.token().await?;
        match self.api.read(&token, &self.mount, path, &what).await? {
            Read::Found(data) => return Ok(Some(data)),
            Read::Missing => return Ok(None),
            Read::Dead(_) => {}
            // An older Vault calls a dead token by its name only when asked for it.
            Read::Denied(error) => match self.api.look_up(&token).await? {
                LookUp::Dead => {}
                LookUp::Known(_) | LookUp::NotAllowed => return Err(error),
            },
        }
        self.session.discard(&token);
        let token = self.session.token().await?;
        match self.api.read(&token, &self.mount, path, &what).await? {
            Read::Found(data) => Ok(Some(data)),
            Read::Missing => Ok(None),
            Read::Dead(error) | Read::Denied(error) => Err(error),
        }
    }

    /// What cannot be a variable is left out, and the log says so once a boot.
    fn add(&self, template: &PathTemplate, data: Map<String, Value>, to: &mut Variables) {
        for (key, value) in data {
            let name = format!("{}{key}", self.prefix);
            let problem = match check_foreign_env_name(&name) {
                Err(_) => Some("its name cannot be that of a variable"),
                Ok(()) => match text(value).filter(|text| is_value(text)) {
                    Some(text) => {
                        to.insert(name, Secret::new(text));
                        None
                    }
                    None => Some("its value is no text that fits into a variable"),
                },
            };
            if let Some(problem) = problem {
                // The key may be anything, even a value in the wrong place.
                tracing::warn!(path = %template, problem, "vault: an entry is left out");
            }
        }
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn is_value(text: &str) -> bool {
    !text.contains('\0') && text.len() <= MAX_ENV_VALUE_BYTES
}

fn prefixed(error: &HookError) -> HookError {
    let text = format!("vault: {error}");
    match (error.is_transient(), error.retry_after()) {
        (true, Some(wait)) => HookError::transient(text).with_retry_after(wait),
        (true, None) => HookError::transient(text),
        (false, _) => HookError::permanent(text),
    }
}
