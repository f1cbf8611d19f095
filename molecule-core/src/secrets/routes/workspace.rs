//! `/workspaces/{id}/secrets`.

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Changed, Dependents, SetSecret, delete, existing_workspace, set, workspace_id};
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};
use crate::secrets::{Scope, SecretItem};

/// Workspace and key; a key that is not even text is none.
type KeyPath = Result<Path<(String, String)>, PathRejection>;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_secrets, create_secret, put_secret))
        .routes(routes!(get_secret_values, delete_secret_called_values))
        .routes(routes!(delete_secret))
        .routes(routes!(list_secret_dependents))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/secrets",
    tag = "secrets",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    responses(
        (status = 200, body = [SecretItem], description = "its own by name, then the global ones it does not override"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_secrets(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
) -> ApiResult<Json<Vec<SecretItem>>> {
    let id = existing_workspace(&app, &id).await?;
    Ok(Json(app.secrets.list(id).await?))
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/secrets",
    tag = "secrets",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    request_body = SetSecret,
    responses(
        (status = 200, body = Changed, description = "stored; the agent restarts if the value is new"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn create_secret(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<Changed>> {
    let id = workspace_id(&id)?;
    Ok(Json(set(&app, Scope::Workspace(id), &body).await?))
}

#[utoipa::path(
    put,
    path = "/workspaces/{id}/secrets",
    tag = "secrets",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    request_body = SetSecret,
    responses(
        (status = 200, body = Changed, description = "stored; the agent restarts if the value is new"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn put_secret(
    auth: WorkspaceAuth,
    state: State<App>,
    body: JsonBody,
) -> ApiResult<Json<Changed>> {
    create_secret(auth, state, body).await
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/secrets/values",
    tag = "secrets",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    responses(
        (status = 200, body = BTreeMap<String, String>, description = "key to value, for the agent itself: wants its own token"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody, description = "with `failed_keys` when values do not decrypt"),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_secret_values(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let id = existing_workspace(&app, &id).await?;
    app.auth.own_token(id, &headers).await?;
    let values = app.secrets.values(id).await?;
    let shown: BTreeMap<&str, &str> = values
        .iter()
        .map(|(key, value)| (key.as_str(), value.expose()))
        .collect();
    let mut response = Json(shown).into_response();
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[utoipa::path(
    delete,
    path = "/workspaces/{id}/secrets/{key}",
    tag = "secrets",
    params(
        ("id" = String, Path, description = "workspace UUID, lower case"),
        ("key" = String, Path, description = "name of the secret"),
    ),
    responses(
        (status = 200, body = Changed),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn delete_secret(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    path: KeyPath,
) -> ApiResult<Json<Changed>> {
    let id = workspace_id(&id)?;
    let Ok(Path((_, key))) = path else {
        return Err(Error::not_found("secret not found").into());
    };
    Ok(Json(delete(&app, Scope::Workspace(id), &key).await?))
}

#[utoipa::path(
    delete,
    path = "/workspaces/{id}/secrets/values",
    tag = "secrets",
    description = "Deletes the secret called `values`, whose path belongs to another route.",
    params(("id" = String, Path, description = "workspace UUID, lower case")),
    responses(
        (status = 200, body = Changed),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn delete_secret_called_values(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
) -> ApiResult<Json<Changed>> {
    let id = workspace_id(&id)?;
    Ok(Json(delete(&app, Scope::Workspace(id), "values").await?))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/secrets/{key}/dependents",
    tag = "secrets",
    params(
        ("id" = String, Path, description = "workspace UUID, lower case"),
        ("key" = String, Path, description = "name of the secret"),
    ),
    responses(
        (status = 200, body = Dependents, description = "the workspace itself, if a change of the key would restart it"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_secret_dependents(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    path: KeyPath,
) -> ApiResult<Json<Dependents>> {
    let id = existing_workspace(&app, &id).await?;
    let key = path.map(|Path((_, key))| key).unwrap_or_default();
    let dependents = app.secrets.dependents(Scope::Workspace(id), &key).await?;
    Ok(Json(Dependents { dependents }))
}
