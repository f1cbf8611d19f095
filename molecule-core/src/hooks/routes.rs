//! `GET …/github-installation-token` and `GET …/credentials`.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use molecule_hooks::{Token, TokenScope};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{AdminAuth, WorkspaceAuth};
use crate::http::{ApiResult, ErrorBody, Json};

use super::credentials::Provider;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_admin_installation_token))
        .routes(routes!(get_workspace_installation_token))
        .routes(routes!(list_credentials))
        .routes(routes!(get_credential))
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
    let provider = app.credentials.github()?;
    let token = app.credentials.for_admin(&provider).await?;
    Ok(render(InstallationToken::of(token)))
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
    let provider = app.credentials.github()?;
    let token = workspace_token(&app, &provider, &id).await?;
    Ok(render(InstallationToken::of(token)))
}

/// What a workspace may ask for live tokens.
#[derive(Serialize, ToSchema)]
struct CredentialList {
    /// In the order of the chain of hooks; empty without a provider.
    credentials: Vec<ListedCredential>,
}

/// One provider of tokens.
#[derive(Serialize, ToSchema)]
struct ListedCredential {
    /// Name of the hook: the last segment of the path to its tokens.
    provider: String,
    /// What its tokens open, such as `github`.
    service: String,
    /// `shared` when all workspaces get one token, else `workspace`.
    scope: &'static str,
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/credentials",
    tag = "credentials",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, body = CredentialList),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "no such workspace"),
    )
)]
async fn list_credentials(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
) -> ApiResult<Response> {
    app.workspaces.require(&canonical(&id)).await?;
    let providers = app.credentials.providers();
    let listed = |provider: &Provider| ListedCredential {
        provider: provider.name().to_owned(),
        service: provider.service().to_owned(),
        scope: match provider.scope() {
            TokenScope::Shared => "shared",
            _ => "workspace",
        },
    };
    let credentials = providers.iter().map(listed).collect();
    Ok(render(CredentialList { credentials }))
}

/// A live token of one provider. The JSON is compact.
#[derive(Serialize, ToSchema)]
struct Credential {
    /// The token itself.
    token: String,
    /// RFC 3339, UTC, whole seconds.
    expires_at: String,
    /// Name of the hook.
    provider: String,
    /// What it opens, such as `github`.
    service: String,
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/credentials/{provider}",
    tag = "credentials",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("provider" = String, Path, description = "name of the hook, as the list has it"),
    ),
    responses(
        (status = 200, body = Credential),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "no such provider or workspace"),
        (status = 500, body = ErrorBody, description = "the provider has no token now"),
    )
)]
async fn get_credential(
    WorkspaceAuth(id): WorkspaceAuth,
    path: Path<(String, String)>,
    State(app): State<App>,
) -> ApiResult<Response> {
    let Path((_, name)) = path;
    let provider = app.credentials.named(&name)?;
    let token = workspace_token(&app, &provider, &id).await?;
    let InstallationToken { token, expires_at } = InstallationToken::of(token);
    Ok(render(Credential {
        token,
        expires_at,
        provider: provider.name().to_owned(),
        service: provider.service().to_owned(),
    }))
}

async fn workspace_token(app: &App, provider: &Provider, id: &str) -> ApiResult<Token> {
    let id = canonical(id);
    let require = || app.workspaces.require(&id);
    let context = || app.workspaces.hook_context(&id);
    let token = app
        .credentials
        .for_workspace(provider, &id, require, context);
    Ok(token.await?)
}

/// One spelling per workspace, so that it has one cache.
fn canonical(id: &str) -> String {
    Uuid::parse_str(id).map_or_else(|_| id.to_owned(), |id| id.to_string())
}

impl InstallationToken {
    fn of(token: Token) -> Self {
        Self {
            token: token.secret.expose().to_owned(),
            expires_at: token.expires_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }
}

/// No cache on the way keeps a token.
fn render(body: impl Serialize) -> Response {
    let mut response = Json(body).into_response();
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
