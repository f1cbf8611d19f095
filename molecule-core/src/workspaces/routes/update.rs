//! `PATCH /workspaces/:id`, state and budget.

use axum::extract::{Extension, State};
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::model::Status;
use super::super::update::{By, UpdateWorkspace};
use super::WorkspaceId;
use crate::app::App;
use crate::auth::{AdminAuth, Principal, WorkspaceAuth};
use crate::error::{Error, Kind};
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(update_workspace))
        .routes(routes!(get_state))
        .routes(routes!(get_budget, update_budget))
}

/// The reply to a change.
#[derive(Serialize, ToSchema)]
struct UpdateReply {
    status: &'static str,
    /// There and true when the agent sees the change only after a restart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_restart: bool,
}

#[utoipa::path(
    patch,
    path = "/workspaces/{id}",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    request_body = UpdateWorkspace,
    responses(
        (status = 200, body = UpdateReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "a workspace wants a higher tier or another folder for itself"),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the name is taken, or the parent is below it"),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn update_workspace(
    _: WorkspaceAuth,
    Extension(who): Extension<Principal>,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    body: JsonBody,
) -> ApiResult<Json<UpdateReply>> {
    let update: UpdateWorkspace = body.decode("invalid request body")?;
    let by = match who {
        // Where workspace tokens are administrators, they may do this like the rest.
        Principal::Workspace(_) if !app.auth.is_administrator(&who) => By::Itself,
        _ => By::Operator,
    };
    let needs_restart = app.workspaces.update(id, update, by).await?;
    Ok(Json(UpdateReply {
        status: "updated",
        needs_restart,
    }))
}

/// What an agent that runs elsewhere asks again and again.
#[derive(Serialize, ToSchema)]
struct StateReply {
    workspace_id: Uuid,
    status: String,
    paused: bool,
    deleted: bool,
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/state",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, body = StateReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "unknown or removed: `deleted` is true"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_state(
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    headers: HeaderMap,
) -> ApiResult<Json<StateReply>> {
    app.auth.own_or_admin(id, &headers).await?;
    let deleted = |error: Error| {
        error
            .with("workspace_id", id.to_string())
            .with("deleted", true)
    };
    let workspace =
        app.workspaces
            .get(id)
            .await
            .map_err(|error| match error.kind() == Kind::NotFound {
                true => deleted(error),
                false => error,
            })?;
    if workspace.status() == Status::Removed {
        let error = deleted(Error::not_found("workspace not found"));
        return Err(error.with("status", Status::Removed.as_str()).into());
    }
    Ok(Json(StateReply {
        workspace_id: id,
        paused: workspace.status() == Status::Paused,
        status: workspace.status,
        deleted: false,
    }))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/budget",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, description = "USD cents: `budget_limit`, `monthly_spend`, `budget_remaining`"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_budget(
    _: WorkspaceAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
) -> ApiResult<Json<Value>> {
    Ok(Json(app.workspaces.budget(id).await?))
}

#[utoipa::path(
    patch,
    path = "/workspaces/{id}/budget",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    request_body(content = Object, description = "`budget_limit`: USD cents, or `null` for no limit"),
    responses(
        (status = 200, description = "as of the GET"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn update_budget(
    _: AdminAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    body: JsonBody,
) -> ApiResult<Json<Value>> {
    let body: Map<String, Value> = body.decode("invalid request body")?;
    Ok(Json(app.workspaces.set_budget(id, &body).await?))
}
