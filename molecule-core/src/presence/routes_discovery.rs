//! `/registry`: agents finding each other.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::{HeaderMap, Uri};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{AccessQuestion, Discovered, PeerView};
use crate::app::App;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(discover))
        .routes(routes!(list_peers))
        .routes(routes!(check_access))
}

/// What the path names; nothing when it is no text, which nobody is called.
fn name(id: Result<Path<String>, PathRejection>) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}

#[utoipa::path(
    get,
    path = "/registry/discover/{id}",
    tag = "registry",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("X-Workspace-ID" = String, Header, description = "UUID of the workspace that asks"),
    ),
    responses(
        (status = 200, body = Discovered),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "not related, or there is no such workspace"),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "it cannot be reached now; `status` says why"),
    )
)]
async fn discover(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> ApiResult<Json<Discovered>> {
    Ok(Json(app.presence.discover(&name(id), &headers).await?))
}

#[utoipa::path(
    get,
    path = "/registry/{id}/peers",
    tag = "registry",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("q" = Option<String>, Query, description = "part of the name or the role"),
    ),
    responses(
        (status = 200, body = [PeerView], description = "siblings, children, parent; at most 1,000"),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_peers(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Json<Vec<PeerView>>> {
    // Of several the first counts; a query that is no UTF-8 is not refused.
    let q = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "q")
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    Ok(Json(app.presence.peers(&name(id), &q, &headers).await?))
}

/// The answer about an access.
#[derive(Serialize, ToSchema)]
struct AccessReply {
    allowed: bool,
}

#[utoipa::path(
    post,
    path = "/registry/check-access",
    tag = "registry",
    request_body = AccessQuestion,
    responses(
        (status = 200, body = AccessReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn check_access(
    State(app): State<App>,
    headers: HeaderMap,
    body: JsonBody,
) -> ApiResult<Json<AccessReply>> {
    app.presence.somebody_known(&headers).await?;
    let body = body.at_most(app.config.server.max_body_bytes / 4)?;
    let question: AccessQuestion = body.decode("invalid request body")?;
    let allowed = app.presence.check_access(question).await?;
    Ok(Json(AccessReply { allowed }))
}
