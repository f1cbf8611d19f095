//! What the next boot of a workspace would get, without any value.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::env_plan::EnvPlan;
use super::super::payload::CreateWorkspace;
use super::WorkspaceId;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_env_plan))
        .routes(routes!(plan_env))
}

/// What the next boot of a workspace would get.
///
/// Every variable with its writers, a keyed hash instead of the value, and the
/// difference from what the running container booted with. The hooks really run,
/// with their side effects (a token may be minted); nothing is stored. A boot that
/// would fail is answered with 200 and `error` or `missing`.
#[utoipa::path(
    get,
    path = "/admin/workspaces/{id}/env-plan",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, body = EnvPlan),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "there is no such workspace, or it was removed"),
        (status = 409, body = ErrorBody, description = "the workspace is external: nothing boots"),
        (status = 429, body = ErrorBody, description = "too many plans; try again as Retry-After says"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_env_plan(
    _: AdminAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
) -> ApiResult<Json<EnvPlan>> {
    Ok(Json(app.workspaces.env_plan(id).await?))
}

/// What the first boot of a workspace would get, without creating it.
///
/// Takes the payload of `POST /workspaces` and refuses what that refuses. The
/// workspace id is made up, and its hashes compare with nothing.
#[utoipa::path(
    post,
    path = "/admin/env-plan",
    tag = "workspaces",
    request_body = CreateWorkspace,
    responses(
        (status = 200, body = EnvPlan),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "too many plans; try again as Retry-After says"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn plan_env(
    _: AdminAuth,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<EnvPlan>> {
    let payload: CreateWorkspace = body.decode("invalid workspace payload")?;
    Ok(Json(app.workspaces.env_plan_of_payload(payload).await?))
}
