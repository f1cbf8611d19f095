//! Restart, pause, resume, hibernate.

use axum::extract::State;
use http::Uri;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::{RestartRequest, Restarting};
use super::{WorkspaceId, is_set};
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(restart_workspace))
        .routes(routes!(pause_workspace))
        .routes(routes!(resume_workspace))
        .routes(routes!(hibernate_workspace))
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/restart",
    tag = "workspaces",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("reset" = Option<String>, Query, description = "`true` discards the agent's session"),
    ),
    request_body(content = Option<RestartRequest>, description = "may be empty"),
    responses(
        (status = 200, description = "restarting, or nothing to restart"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "it or one above it is paused"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn restart_workspace(
    _: WorkspaceAuth,
    WorkspaceId(id): WorkspaceId,
    State(app): State<App>,
    uri: Uri,
    body: JsonBody,
) -> ApiResult<Json<Value>> {
    let mut request: RestartRequest = match body.is_empty() {
        true => RestartRequest::default(),
        false => body.decode("invalid request body")?,
    };
    if is_set(&uri, "reset") {
        request.reset = Some(true);
    }
    let reply = match app.workspaces.restart(id, request).await? {
        Restarting::Begun {
            config_dir,
            reset_session,
        } => json!({
            "status": "provisioning",
            "config_dir": config_dir,
            "reset_session": reset_session,
        }),
        Restarting::Noop { runtime } => {
            let message = match runtime.as_str() {
                "mock" => "mock workspaces have no container — restart is a no-op",
                _ => {
                    "external workspaces are operator-driven — restart your local poller; \
                     platform has nothing to restart"
                }
            };
            json!({ "status": "noop", "runtime": runtime, "message": message })
        }
    };
    Ok(Json(reply))
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/pause",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, description = "it and all below it are paused"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn pause_workspace(
    _: WorkspaceAuth,
    WorkspaceId(id): WorkspaceId,
    State(app): State<App>,
) -> ApiResult<Json<Value>> {
    let paused = app.workspaces.pause(id).await?;
    Ok(Json(json!({
        "status": "paused",
        "paused_count": paused.count,
        "stop_failures": paused.stop_failures,
    })))
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/resume",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, description = "it and all paused ones below it boot"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "one above it is paused"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn resume_workspace(
    _: WorkspaceAuth,
    WorkspaceId(id): WorkspaceId,
    State(app): State<App>,
) -> ApiResult<Json<Value>> {
    let resumed = app.workspaces.resume(id).await?;
    Ok(Json(
        json!({ "status": "provisioning", "resumed_count": resumed }),
    ))
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/hibernate",
    tag = "workspaces",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("force" = Option<String>, Query, description = "`true` ends active tasks"),
    ),
    responses(
        (status = 200, description = "it sleeps; a message wakes it"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "it is busy, external or just changed"),
        (status = 500, body = ErrorBody, description = "its compute could not be stopped"),
        (status = 503, body = ErrorBody),
    )
)]
async fn hibernate_workspace(
    _: WorkspaceAuth,
    WorkspaceId(id): WorkspaceId,
    State(app): State<App>,
    uri: Uri,
) -> ApiResult<Json<Value>> {
    app.workspaces.hibernate(id, is_set(&uri, "force")).await?;
    Ok(Json(json!({ "status": "hibernated" })))
}
