//! External workspaces: connection snippets and credentials.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, HOST};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::external::reached_at;
use super::WorkspaceId;
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::http::{ApiResult, ErrorBody, Json};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(rotate_credentials))
        .routes(routes!(get_connection))
}

/// The configured URL, else how the caller reached us, without a slash at the end.
pub(super) fn platform_url(app: &App, headers: &HeaderMap) -> String {
    let server = &app.config.server;
    if let Some(url) = &server.external_url {
        return url.trim_end_matches('/').to_owned();
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let otherwise = match &server.platform_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://localhost:{}", server.port),
    };
    let hosts = [header("x-forwarded-host"), header(HOST.as_str())];
    reached_at(header("x-forwarded-proto"), hosts, &otherwise)
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/external/rotate",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, description = "the connection with a new token; older ones are dead"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn rotate_credentials(
    _: WorkspaceAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let url = platform_url(&app, &headers);
    Ok(unstored(app.workspaces.rotate(id, &url).await?))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/external/connection",
    tag = "workspaces",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, description = "the connection, without the token"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_connection(
    _: WorkspaceAuth,
    State(app): State<App>,
    WorkspaceId(id): WorkspaceId,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let url = platform_url(&app, &headers);
    Ok(unstored(app.workspaces.connection(id, &url).await?))
}

/// A reply that no cache may keep.
fn unstored(body: Value) -> Response {
    let mut response = Json(body).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}
