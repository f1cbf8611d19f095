//! Routes of this room.

mod global;
mod model;
mod workspace;

use std::sync::Arc;

use anyhow::anyhow;
use molecule_hooks::Secret;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::change::Entry;
use super::model::Scope;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::JsonBody;

/// The text of every 400 about a body.
const BAD_BODY: &str = "invalid request body";

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(workspace::router())
        .merge(model::router())
        .merge(global::router())
}

/// A secret to store.
#[derive(Deserialize, ToSchema)]
struct SetSecret {
    /// Name of the environment variable: letters, digits and underscores, at most
    /// 128; not one of the platform's own.
    key: Option<String>,
    /// At most 64 KiB, without NUL.
    #[schema(value_type = Option<String>)]
    value: Option<Secret>,
}

/// Who would be restarted by a change.
#[derive(Serialize, ToSchema)]
struct Dependents {
    /// Workspace ids.
    dependents: Vec<Uuid>,
}

/// A change was made.
#[derive(Serialize, ToSchema)]
struct Changed {
    /// `saved` or `deleted`.
    status: &'static str,
    /// Name of the secret.
    key: String,
    /// `global`; absent for a workspace's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
}

impl Changed {
    fn new(status: &'static str, scope: Scope, key: String) -> Self {
        let scope = (scope == Scope::Global).then_some("global");
        Self { status, key, scope }
    }
}

/// Stores the secret in the body.
async fn set(app: &App, scope: Scope, body: &JsonBody) -> Result<Changed> {
    let SetSecret { key, value } = body.decode(BAD_BODY)?;
    let entry = Entry::new(key, value).map_err(|problem| bad_body(&problem))?;
    let key = entry.key().to_owned();
    let secrets = app.secrets.clone();
    to_the_end(app, async move { secrets.set(scope, &entry).await }).await?;
    Ok(Changed::new("saved", scope, key))
}

/// Deletes a secret.
async fn delete(app: &App, scope: Scope, key: &str) -> Result<Changed> {
    let (secrets, key) = (app.secrets.clone(), Arc::<str>::from(key));
    let deleted = Arc::clone(&key);
    to_the_end(app, async move { secrets.delete(scope, &deleted).await }).await?;
    Ok(Changed::new("deleted", scope, key.to_string()))
}

/// Makes a change in a task of its own, so that a client that leaves half-way
/// takes nothing back, and has restarts looked for when it says so.
async fn to_the_end(
    app: &App,
    change: impl Future<Output = Result<bool>> + Send + 'static,
) -> Result<()> {
    let (sender, outcome) = oneshot::channel();
    let workspaces = app.workspaces.clone();
    app.supervisor.spawn("secret-change", async move {
        let changed = change.await;
        if matches!(changed, Ok(true)) {
            workspaces.poke_restarts();
        }
        // Nobody listens any more when the client left.
        let _ = sender.send(changed.map(drop));
    });
    outcome.await.unwrap_or_else(|_| {
        Err(Error::internal(
            "internal error",
            anyhow!("the change of a secret panicked"),
        ))
    })
}

/// The workspace of a path: a UUID in lower case.
fn workspace_id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text)
        .ok()
        .filter(|id| id.to_string() == text)
        .ok_or_else(|| Error::invalid("invalid workspace ID"))
}

/// As [`workspace_id`], for a workspace that exists and is not removed.
async fn existing_workspace(app: &App, text: &str) -> Result<Uuid> {
    let id = workspace_id(text)?;
    app.workspaces.require(text).await?;
    Ok(id)
}

fn bad_body(detail: &str) -> Error {
    Error::invalid(BAD_BODY).with("detail", detail)
}
