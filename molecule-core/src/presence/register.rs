//! `POST /registry/register`: an agent says where it is and who it is.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Presence, store};
use crate::auth::Gate;
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::outbound::Refusal;
use crate::store::timestamp;
use crate::workspaces::{LoadedPlugin, Trigger, next_status};

/// What an agent says when it starts.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Register {
    /// UUID of the workspace, required.
    id: Option<String>,
    /// URL of the agent, required.
    url: Option<String>,
    /// A2A agent card, required; `null` counts.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Value)]
    agent_card: Option<Value>,
    /// The plugins it has loaded, when it says so: 256 at most. What cannot be read is
    /// left alone.
    #[schema(value_type = Option<Vec<LoadedPlugin>>)]
    plugins: Option<Value>,
}

/// Tells a missing field from an explicit `null`.
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Who registered, and the token it got if this was its first time.
pub(crate) struct Registered {
    pub(crate) workspace_id: Uuid,
    pub(crate) auth_token: Option<molecule_hooks::Secret>,
}

impl Presence {
    /// Brings a workspace online.
    ///
    /// A workspace that is paused or hibernated stays so; its agent is told
    /// `registered` all the same.
    ///
    /// # Errors
    /// 400 `invalid request body` with a `detail`; 401; 404 `workspace not found`;
    /// 500 `registration failed`; 503.
    pub(crate) async fn register(
        &self,
        register: Register,
        bearer: Option<&str>,
    ) -> Result<Registered> {
        let problem = |detail: &str| Error::invalid("invalid request body").with("detail", detail);
        let id = Uuid::parse_str(register.id.as_deref().unwrap_or_default())
            .map_err(|_| problem("id must be a UUID"))?;
        let url = register
            .url
            .filter(|url| !url.is_empty())
            .ok_or_else(|| problem("url is required"))?;
        let mut card = register
            .agent_card
            .ok_or_else(|| problem("agent_card is required"))?;
        if contains_nul(&card) {
            return Err(problem("agent_card must not contain NUL characters"));
        }
        let (status, gate) = self.admit(id, bearer).await?;
        // Everyone may read the card.
        self.redactor.redact_json_of(id, &mut card);
        (self.workspaces.guard().check_registration(&url, id))
            .await
            .map_err(|refusal: Refusal| problem(&refusal.to_string()))?;
        let plugins = register.plugins.as_ref();
        let plugins = plugins.and_then(|plugins| self.plugins_text(id, plugins));
        let failed = |error: sqlx::Error| Error::from(error).says("registration failed");
        let mut tx = self.db.begin().await.map_err(failed)?;
        let row = store::Registration {
            id,
            url: &url,
            card: &card,
            plugins: plugins.as_deref(),
            now: timestamp(&self.clock),
        };
        let mut event = None;
        if next_status(status, Trigger::Register).is_some()
            && let Some(mode) = store::register(&mut tx, &row).await.map_err(failed)?
        {
            let payload = json!({ "url": url, "agent_card": card, "delivery_mode": mode });
            let recorded = self
                .events
                .record(&mut tx, EventType::WorkspaceOnline, id, payload);
            event = Some(recorded.await.map_err(failed)?);
        }
        let auth_token = match gate {
            Gate::Token => None,
            Gate::FirstContact => Some(self.auth.issue_first(&mut tx, id, bearer).await?),
        };
        tx.commit().await.map_err(failed)?;
        self.workspaces.directory().forget(id);
        self.live.restarted(id);
        if let Some(event) = event {
            tracing::info!(workspace.id = %id, from = %status, "agent registered");
            self.events.publish(event);
        }
        Ok(Registered {
            workspace_id: id,
            auth_token,
        })
    }
}

/// PostgreSQL cannot store this character, in text or in JSON.
pub(super) fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, field)| name.contains('\0') || contains_nul(field)),
        _ => false,
    }
}
