//! `/workspaces`: creating, reading and deleting; the rest in the files below.

mod env_plan;
mod external;
mod lifecycle;
mod operator;
mod update;

use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::model::Status;
use super::payload::CreateWorkspace;
use super::view::{WorkspaceDetail, WorkspaceListItem, rfc3339};
use crate::app::App;
use crate::auth::AdminAuth;
use crate::error::Error;
use crate::http::{ApiError, ApiResult, ErrorBody, Json, JsonBody};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_workspace, list_workspaces))
        .routes(routes!(get_workspace, delete_workspace))
        .merge(env_plan::router())
        .merge(external::router())
        .merge(lifecycle::router())
        .merge(operator::router())
        .merge(update::router())
}

#[utoipa::path(
    post,
    path = "/workspaces",
    tag = "workspaces",
    request_body = CreateWorkspace,
    responses(
        (status = 201, description = "accepted; the agent boots in the background"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn create_workspace(
    _: AdminAuth,
    State(app): State<App>,
    headers: HeaderMap,
    body: JsonBody,
) -> ApiResult<Response> {
    let payload: CreateWorkspace = body.decode("invalid workspace payload")?;
    let url = external::platform_url(&app, &headers);
    let created = app.workspaces.create(payload, &url).await?;
    Ok((StatusCode::CREATED, Json(created.0)).into_response())
}

#[utoipa::path(
    get,
    path = "/workspaces",
    tag = "workspaces",
    responses(
        (status = 200, body = [WorkspaceListItem]),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_workspaces(
    _: AdminAuth,
    State(app): State<App>,
) -> ApiResult<Json<Vec<WorkspaceListItem>>> {
    let rows = app.workspaces.list().await?;
    let timeouts = app.workspaces.declared_timeouts().await;
    let view = |row| WorkspaceListItem::new(row, &timeouts);
    Ok(Json(rows.into_iter().map(view).collect()))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}",
    tag = "workspaces",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("include_removed" = Option<String>, Query, description = "`true` also answers for a removed workspace"),
    ),
    security(()),
    responses(
        (status = 200, body = WorkspaceDetail),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 410, body = ErrorBody, description = "the workspace was removed"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_workspace(
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    uri: Uri,
) -> ApiResult<Json<WorkspaceDetail>> {
    let workspace = app.workspaces.get(id).await?;
    let removed = workspace.status() == Status::Removed;
    if removed && !is_set(&uri, "include_removed") {
        return Err(Error::gone("workspace removed")
            .with("id", workspace.id.to_string())
            .with("removed_at", workspace.removed_at.map(rfc3339))
            .with(
                "hint",
                "Regenerate workspace + token from the canvas → Tokens tab",
            )
            .into());
    }
    Ok(Json(workspace.into()))
}

#[utoipa::path(
    delete,
    path = "/workspaces/{id}",
    tag = "workspaces",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("confirm" = Option<String>, Query, description = "`true` deletes sub-workspaces as well"),
        ("purge" = Option<String>, Query, description = "`true` deletes the row and all that hangs on it"),
    ),
    responses(
        (status = 200, description = "removed or purged; also for an unknown id"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "it has sub-workspaces"),
        (status = 500, body = ErrorBody, description = "compute could not be stopped; retry"),
        (status = 503, body = ErrorBody),
    )
)]
async fn delete_workspace(
    _: AdminAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    uri: Uri,
) -> ApiResult<Response> {
    let done = app
        .workspaces
        .delete(id, is_set(&uri, "confirm"), is_set(&uri, "purge"))
        .await?;
    let body = json!({ "status": done.status, "cascade_deleted": done.cascade_deleted });
    Ok(Json(body).into_response())
}

/// The workspace in the path.
pub(super) struct WorkspaceId(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for WorkspaceId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await.ok();
        path.and_then(|Path(text)| Uuid::parse_str(&text).ok())
            .map(Self)
            .ok_or_else(|| Error::invalid("invalid workspace ID").into())
    }
}

/// True for `?name=true`. Of several the first counts; nothing is refused.
pub(super) fn is_set(uri: &Uri, name: &str) -> bool {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .is_some_and(|(_, value)| value == "true")
}
