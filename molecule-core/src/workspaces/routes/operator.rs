//! What operators and the control plane tell and ask.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::operator::BootstrapFailure;
use super::WorkspaceId;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(report_bootstrap_failure))
        .routes(routes!(get_console))
        .routes(routes!(set_hibernation))
}

/// The reply to a report.
#[derive(Serialize, ToSchema)]
struct ReportReply {
    ok: bool,
    /// There and true when the workspace was not booting (any more).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_change: bool,
}

#[utoipa::path(
    post,
    path = "/admin/workspaces/{id}/bootstrap-failed",
    tag = "admin",
    params(("id" = String, Path, description = "workspace UUID")),
    request_body = BootstrapFailure,
    responses(
        (status = 200, body = ReportReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn report_bootstrap_failure(
    _: AdminAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    body: JsonBody,
) -> ApiResult<Json<ReportReply>> {
    let report: BootstrapFailure = body.decode("invalid request body")?;
    let changed = app.workspaces.bootstrap_failed(id, report).await?;
    Ok(Json(ReportReply {
        ok: true,
        no_change: !changed,
    }))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/console",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, description = "`output`: what its machine printed last"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 501, body = ErrorBody, description = "this backend has no console"),
        (status = 502, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_console(
    _: AdminAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
) -> ApiResult<Response> {
    let output = app.workspaces.console(id).await?;
    let mut response = Json(json!({ "output": output })).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

/// The reply to a new idle time.
#[derive(Serialize, ToSchema)]
struct HibernationReply {
    status: &'static str,
    idle_minutes: Option<i64>,
}

#[utoipa::path(
    put,
    path = "/admin/workspaces/{id}/hibernation",
    tag = "admin",
    params(("id" = String, Path, description = "workspace UUID")),
    request_body(content = Object, description = "`idle_minutes`: 1 to 525600, or `null` for never"),
    responses(
        (status = 200, body = HibernationReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn set_hibernation(
    _: AdminAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    body: JsonBody,
) -> ApiResult<Json<HibernationReply>> {
    let body: Map<String, Value> = body.decode("invalid request body")?;
    let idle_minutes = app.workspaces.set_hibernation(id, &body).await?;
    Ok(Json(HibernationReply {
        status: "updated",
        idle_minutes,
    }))
}
