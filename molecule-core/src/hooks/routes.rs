//! `GET …/github-installation-token`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use molecule_hooks::Token;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{AdminAuth, WorkspaceAuth};
use crate::http::{ApiResult, ErrorBody, Json};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_admin_installation_token))
        .routes(routes!(get_workspace_installation_token))
}

/// A live token. Agents cut it out with a regular expression: the JSON must stay
/// compact.
#[derive(Serialize, ToSchema)]
struct InstallationToken {
    /// The token itself.
    token: String,
    /// RFC 3339, UTC, whole seconds.
    expires_at: String,
}

#[utoipa::path(
    get,
    path = "/admin/github-installation-token",
    tag = "credentials",
    responses(
        (status = 200, body = InstallationToken),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "no provider is registered"),
        (status = 500, body = ErrorBody),
    )
)]
async fn get_admin_installation_token(_: AdminAuth, State(app): State<App>) -> ApiResult<Response> {
    Ok(render(app.credentials.for_admin().await?))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/github-installation-token",
    tag = "credentials",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, body = InstallationToken),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "no provider is registered"),
        (status = 500, body = ErrorBody),
    )
)]
async fn get_workspace_installation_token(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
) -> ApiResult<Response> {
    // One spelling per workspace, so that it has one cache.
    let id = Uuid::parse_str(&id).map_or(id, |id| id.to_string());
    let require = || app.workspaces.require(&id);
    let context = || app.workspaces.hook_context(&id);
    let token = app.credentials.for_workspace(&id, require, context);
    Ok(render(token.await?))
}

fn render(token: Token) -> Response {
    let body = InstallationToken {
        token: token.secret.expose().to_owned(),
        expires_at: token.expires_at.to_rfc3339_opts(SecondsFormat::Secs, true),
    };
    let mut response = Json(body).into_response();
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
