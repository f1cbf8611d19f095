//! `POST /registry/update-card`: an agent describes itself anew.

use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::register::{contains_nul, present};
use super::{Presence, store};
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::store::timestamp;

/// A new agent card.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct CardUpdate {
    /// UUID of the workspace, required.
    workspace_id: Option<String>,
    /// A2A agent card, required; `null` counts.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Value)]
    agent_card: Option<Value>,
}

impl Presence {
    /// Stores the card of an agent, and tells of it if it is another one.
    ///
    /// # Errors
    /// 400 `invalid request body` with a `detail`; 401; 404 `workspace not found`;
    /// 500 `failed to update card`; 503.
    pub(crate) async fn update_card(&self, update: CardUpdate, bearer: Option<&str>) -> Result<()> {
        let problem = |detail: &str| Error::invalid("invalid request body").with("detail", detail);
        let id = Uuid::parse_str(update.workspace_id.as_deref().unwrap_or_default())
            .map_err(|_| problem("workspace_id must be a UUID"))?;
        let mut card = update
            .agent_card
            .ok_or_else(|| problem("agent_card is required"))?;
        if contains_nul(&card) {
            return Err(problem("agent_card must not contain NUL characters"));
        }
        self.admit(id, bearer).await?;
        // Everyone may read the card.
        self.redactor.redact_json_of(id, &mut card);
        let failed = |error: sqlx::Error| Error::from(error).says("failed to update card");
        let now = timestamp(&self.clock);
        let mut tx = self.db.begin().await.map_err(failed)?;
        if !store::update_card(&mut tx, id, &card, now)
            .await
            .map_err(failed)?
        {
            drop(tx);
            return self.is_there(id).await.map_err(failed)?;
        }
        let payload = json!({ "agent_card": card });
        let recorded = self
            .events
            .record(&mut tx, EventType::AgentCardUpdated, id, payload);
        let event = recorded.await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.events.publish(event);
        Ok(())
    }

    /// Tells a card that is stored already from a workspace that went meanwhile.
    async fn is_there(&self, id: Uuid) -> sqlx::Result<Result<()>> {
        let there = store::is_there(&self.db, id).await?;
        Ok(match there {
            true => Ok(()),
            false => Err(Error::not_found("workspace not found")),
        })
    }
}
