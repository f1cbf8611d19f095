//! The model of a workspace: a secret by name, a column of the row by weight.
//!
//! A boot takes the column first, so both are written together.

use molecule_hooks::Secret;
use uuid::Uuid;

use super::change::{Change, Refused};
use super::model::Scope;
use super::{MODEL_KEY, PROVIDER_KEY, Secrets, store};
use crate::error::{Error, Result};
use crate::store::Tx;

/// Providers a `prefix/model` name may select, and what they are called in
/// `LLM_PROVIDER`.
const LLM_PROVIDERS: &[(&str, &str)] = &[
    ("nousresearch", "openrouter"),
    ("openai", "openrouter"),
    ("openrouter", "openrouter"),
    ("anthropic", "anthropic"),
];

/// Who serves a model, if its name says so.
fn provider_of(model: &str) -> Option<&'static str> {
    let prefix = model.split_once('/')?.0.to_ascii_lowercase();
    let known = LLM_PROVIDERS.iter().find(|(name, _)| *name == prefix)?;
    Some(known.1)
}

/// `MODEL_PROVIDER`, and `LLM_PROVIDER` for a model with a known prefix.
pub(crate) fn model_secrets(model: &str) -> Vec<(&'static str, Secret)> {
    let provider = provider_of(model).map(|provider| (PROVIDER_KEY, Secret::new(provider)));
    let model = (MODEL_KEY, Secret::new(model));
    [Some(model), provider].into_iter().flatten().collect()
}

impl Secrets {
    /// The model that was set for a workspace.
    ///
    /// # Errors
    /// 500 `query failed` and `failed to decrypt`.
    pub(crate) async fn model(&self, workspace: Uuid) -> Result<Option<String>> {
        let Some(row) = store::read(&self.db, workspace, MODEL_KEY).await? else {
            return Ok(None);
        };
        let model = self
            .open(Scope::Workspace(workspace), &row)
            .map_err(|error| Error::internal("failed to decrypt", error))?;
        Ok(Some(model.expose().to_owned()))
    }

    /// Sets the model of a workspace, or with none leaves the choice to its
    /// runtime. True when the agent must restart for it.
    ///
    /// # Errors
    /// 404; 500 with the documented texts.
    pub(crate) async fn set_model(&self, workspace: Uuid, model: Option<&Secret>) -> Result<bool> {
        self.make(Scope::Workspace(workspace), Change::Model(model))
            .await
    }

    /// True when anything is different now.
    pub(super) async fn write_model(
        &self,
        tx: &mut Tx,
        scope: Scope,
        model: Option<&Secret>,
    ) -> Result<bool, Refused> {
        const TEXT: &str = "failed to encrypt model";
        let Scope::Workspace(workspace) = scope else {
            return Ok(false);
        };
        let old = store::find(tx, scope, MODEL_KEY).await?;
        let old_model = old.as_ref().and_then(|row| self.open(scope, row).ok());
        let implied = |model: Option<&Secret>| model.and_then(|name| provider_of(name.expose()));
        let mut changed = match model {
            Some(model) => {
                self.write(tx, scope, MODEL_KEY, model, old.as_ref(), TEXT)
                    .await?
            }
            None => store::delete(tx, scope, MODEL_KEY).await?,
        };
        let name = model.map(Secret::expose);
        changed |= store::set_model(tx, workspace, name).await?;
        let old = store::find(tx, scope, PROVIDER_KEY).await?;
        // A provider that the old model did not imply is somebody's choice.
        let is_derived = old.as_ref().is_none_or(|row| {
            let provider = self.open(scope, row);
            provider.is_ok_and(|it| implied(old_model.as_ref()) == Some(it.expose()))
        });
        changed |= match implied(model) {
            _ if !is_derived => false,
            Some(provider) => {
                let provider = Secret::new(provider);
                self.write(tx, scope, PROVIDER_KEY, &provider, old.as_ref(), TEXT)
                    .await?
            }
            None => store::delete(tx, scope, PROVIDER_KEY).await?,
        };
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_prefix_says_who_serves_the_model() {
        for (model, provider) in [
            ("anthropic/claude", Some("anthropic")),
            ("OpenAI/gpt", Some("openrouter")),
            ("nousresearch/hermes", Some("openrouter")),
            ("openrouter/auto/x", Some("openrouter")),
            ("meta/llama", None),
            ("anthropic:claude", None),
            ("anthropic", None),
            ("/x", None),
            ("", None),
        ] {
            assert_eq!(provider_of(model), provider, "{model}");
            let secrets = model_secrets(model);
            assert_eq!(secrets.len(), 1 + usize::from(provider.is_some()));
            assert_eq!((secrets[0].0, secrets[0].1.expose()), (MODEL_KEY, model));
        }
    }
}
