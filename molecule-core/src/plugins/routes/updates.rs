//! Updates that wait for an administrator, and what a plugin follows.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use chrono::{DateTime, SecondsFormat, Utc};
use molecule_hooks::PluginName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::follow::{Followed, Following};
use super::super::store::queue::Entry;
use super::super::updates::{self, Applied, Dismissed};
use crate::app::App;
use crate::auth::{AdminAuth, WorkspaceAuth};
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_pending_plugin_updates))
        .routes(routes!(apply_plugin_update))
        .routes(routes!(dismiss_plugin_update))
        .routes(routes!(follow_plugin))
}

/// A tracked plugin whose upstream moved.
#[derive(Serialize, ToSchema)]
struct PendingUpdate {
    id: Uuid,
    workspace_id: Uuid,
    plugin_name: String,
    /// What it follows: `tag:…`, `tag:latest`, `ref:…`.
    tracked_ref: String,
    /// What the workspace has.
    current_sha: String,
    /// What the upstream had when somebody looked last; what applying installs.
    latest_sha: String,
    status: String,
    created_at: String,
    /// What the last attempt to apply it answered, if that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl From<Entry> for PendingUpdate {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            workspace_id: entry.workspace_id,
            plugin_name: entry.plugin_name,
            tracked_ref: entry.tracked_ref,
            current_sha: entry.current_sha,
            latest_sha: entry.latest_sha,
            status: entry.status,
            created_at: rfc3339(entry.created_at),
            last_error: entry.last_error,
        }
    }
}

#[utoipa::path(
    get,
    path = "/admin/plugin-updates-pending",
    tag = "admin",
    responses(
        (status = 200, body = Vec<PendingUpdate>, description = "newest first"),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_pending_plugin_updates(
    _: AdminAuth,
    State(app): State<App>,
) -> ApiResult<Json<Vec<PendingUpdate>>> {
    let pending = app.plugins.pending_updates().await?;
    Ok(Json(pending.into_iter().map(Into::into).collect()))
}

/// What came of a decision about an update.
#[derive(Serialize, ToSchema)]
struct Decision {
    /// `applied`, `already_applied`, `dismissed` or `already_dismissed`.
    status: &'static str,
    workspace_id: Uuid,
    plugin_name: String,
    /// The revision that the workspace has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    installed_sha: Option<String>,
    /// Whether the workspace restarts to see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    restarting: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

impl Decision {
    fn new(status: &'static str, entry: Entry) -> Self {
        Self {
            status,
            workspace_id: entry.workspace_id,
            plugin_name: entry.plugin_name,
            installed_sha: None,
            restarting: None,
            message: None,
        }
    }

    fn before(status: &'static str, entry: Entry, message: &'static str) -> Self {
        Self {
            message: Some(message),
            ..Self::new(status, entry)
        }
    }
}

#[utoipa::path(
    post,
    path = "/admin/plugin-updates/{id}/apply",
    tag = "admin",
    params(("id" = String, Path, description = "id of a pending update")),
    responses(
        (status = 200, body = Decision, description = "applied now, or before"),
        (status = 400, body = ErrorBody, description = "what came is no such plugin"),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "the organisation does not allow the plugin"),
        (status = 404, body = ErrorBody, description = "no such update, the plugin is not tracked any more, or its upstream does not have the revision any more"),
        (status = 409, body = ErrorBody, description = "it was dismissed, or somebody changes the plugin at this moment"),
        (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 502, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "also a workspace that does not run"),
        (status = 504, body = ErrorBody),
    )
)]
async fn apply_plugin_update(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    path: UpdatePath,
    uri: Uri,
) -> ApiResult<Json<Decision>> {
    let id = update_id(path, &uri)?;
    tracing::info!(actor = who.actor(), plugin.update = %id, "update of a plugin to be applied");
    let decision = match app.plugins.apply_update(id).await? {
        Applied::Now {
            entry,
            installed_sha,
            restarting,
        } => Decision {
            installed_sha: Some(installed_sha),
            restarting: Some(restarting),
            ..Decision::new("applied", entry)
        },
        Applied::Before(entry) => {
            let message = "drift update was already applied";
            Decision::before("already_applied", entry, message)
        }
    };
    Ok(Json(decision))
}

#[utoipa::path(
    post,
    path = "/admin/plugin-updates/{id}/dismiss",
    tag = "admin",
    params(("id" = String, Path, description = "id of a pending update")),
    responses(
        (status = 200, body = Decision, description = "dismissed now, or before"),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "it was applied, or somebody applies it at this moment"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn dismiss_plugin_update(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    path: UpdatePath,
    uri: Uri,
) -> ApiResult<Json<Decision>> {
    let id = update_id(path, &uri)?;
    let decision = match app.plugins.dismiss_update(id).await? {
        Dismissed::Now(entry) => {
            tracing::info!(actor = who.actor(), plugin.update = %id, "update of a plugin dismissed");
            Decision::new("dismissed", entry)
        }
        Dismissed::Before(entry) => {
            let message = "drift update was already dismissed";
            Decision::before("already_dismissed", entry, message)
        }
    };
    Ok(Json(decision))
}

/// What a tracked plugin shall follow from now on. What is absent stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(in crate::plugins) struct FollowRequest {
    /// `none`, `tag:<name>`, `tag:latest`, `ref:<name>` or `sha:<commit>`.
    pub(in crate::plugins) track: Option<String>,
    /// `off`, `notify` or `auto`.
    pub(in crate::plugins) update_mode: Option<String>,
}

/// What a tracked plugin follows.
#[derive(Serialize, ToSchema)]
struct FollowReply {
    status: &'static str,
    plugin: String,
    source: String,
    track: String,
    update_mode: String,
    installed_sha: Option<String>,
}

impl From<Followed> for FollowReply {
    fn from(followed: Followed) -> Self {
        Self {
            status: "updated",
            plugin: followed.plugin,
            source: followed.source,
            track: followed.track.to_string(),
            update_mode: followed.update_mode.as_str().to_owned(),
            installed_sha: followed.installed_sha,
        }
    }
}

#[utoipa::path(
    patch,
    path = "/workspaces/{id}/plugins/{name}",
    tag = "plugins",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("name" = String, Path, description = "a plugin that was installed in it"),
    ),
    request_body = FollowRequest,
    responses(
        (status = 200, body = FollowReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "the plugin is not tracked"),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn follow_plugin(
    _: WorkspaceAuth,
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: JsonBody,
) -> ApiResult<Json<FollowReply>> {
    // Nothing that is no text names a plugin.
    let named = path.ok().map(|Path(named)| named);
    let (id, name) = named.ok_or_else(|| Error::invalid("invalid plugin name"))?;
    if PluginName::parse(&name).is_none() {
        return Err(Error::invalid("invalid plugin name").into());
    }
    let request: FollowRequest = body.decode("invalid request body")?;
    let following = Following::parse(request.track.as_deref(), request.update_mode.as_deref());
    let followed = app.plugins.follow(&id, &name, following?).await?;
    Ok(Json(followed.into()))
}

type UpdatePath = Result<Path<String>, PathRejection>;

/// No update has an id that is no UUID, or no text.
fn update_id(path: UpdatePath, uri: &Uri) -> ApiResult<Uuid> {
    let written = || uri.path().rsplit('/').nth(1).unwrap_or_default().to_owned();
    let text = path.map_or_else(|_| written(), |Path(text)| text);
    Uuid::parse_str(&text).map_err(|_| updates::unknown(&text).into())
}

/// RFC 3339, UTC, `Z`, microseconds.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
