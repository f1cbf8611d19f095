//! Global secrets: `/settings/secrets`, its older name `/admin/secrets`, and the
//! check of a secret that is not stored.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use molecule_hooks::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{BAD_BODY, Changed, Dependents, SetSecret, delete, set};
use crate::app::App;
use crate::auth::AdminAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};
use crate::secrets::change::Entry;
use crate::secrets::{Scope, SecretItem};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            list_global_secrets,
            create_global_secret,
            put_global_secret
        ))
        .routes(routes!(delete_global_secret))
        .routes(routes!(list_global_secret_dependents))
        .routes(routes!(list_admin_secrets, create_admin_secret))
        .routes(routes!(delete_admin_secret))
        .routes(routes!(validate_secret))
}

/// The key of a path; one that is not even text is none.
type Key = Result<Path<String>, PathRejection>;

#[utoipa::path(
    get,
    path = "/settings/secrets",
    tag = "secrets",
    responses(
        (status = 200, body = [SecretItem]),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_global_secrets(
    _: AdminAuth,
    State(app): State<App>,
) -> ApiResult<Json<Vec<SecretItem>>> {
    Ok(Json(app.secrets.list_global().await?))
}

#[utoipa::path(
    post,
    path = "/settings/secrets",
    tag = "secrets",
    request_body = SetSecret,
    responses(
        (status = 200, body = Changed, description = "stored; agents that inherit it restart if the value is new"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn create_global_secret(
    _: AdminAuth,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<Changed>> {
    Ok(Json(set(&app, Scope::Global, &body).await?))
}

#[utoipa::path(
    put,
    path = "/settings/secrets",
    tag = "secrets",
    request_body = SetSecret,
    responses(
        (status = 200, body = Changed, description = "stored; agents that inherit it restart if the value is new"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn put_global_secret(
    _: AdminAuth,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<Changed>> {
    Ok(Json(set(&app, Scope::Global, &body).await?))
}

#[utoipa::path(
    delete,
    path = "/settings/secrets/{key}",
    tag = "secrets",
    params(("key" = String, Path, description = "name of the secret")),
    responses(
        (status = 200, body = Changed),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn delete_global_secret(
    _: AdminAuth,
    State(app): State<App>,
    key: Key,
) -> ApiResult<Json<Changed>> {
    let Ok(Path(key)) = key else {
        return Err(Error::not_found("secret not found").into());
    };
    Ok(Json(delete(&app, Scope::Global, &key).await?))
}

#[utoipa::path(
    get,
    path = "/admin/secrets",
    tag = "secrets",
    responses(
        (status = 200, body = [SecretItem]),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_admin_secrets(
    _: AdminAuth,
    State(app): State<App>,
) -> ApiResult<Json<Vec<SecretItem>>> {
    Ok(Json(app.secrets.list_global().await?))
}

#[utoipa::path(
    post,
    path = "/admin/secrets",
    tag = "secrets",
    request_body = SetSecret,
    responses(
        (status = 200, body = Changed, description = "stored; agents that inherit it restart if the value is new"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn create_admin_secret(
    _: AdminAuth,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<Changed>> {
    Ok(Json(set(&app, Scope::Global, &body).await?))
}

#[utoipa::path(
    delete,
    path = "/admin/secrets/{key}",
    tag = "secrets",
    params(("key" = String, Path, description = "name of the secret")),
    responses(
        (status = 200, body = Changed),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn delete_admin_secret(
    _: AdminAuth,
    State(app): State<App>,
    key: Key,
) -> ApiResult<Json<Changed>> {
    let Ok(Path(key)) = key else {
        return Err(Error::not_found("secret not found").into());
    };
    Ok(Json(delete(&app, Scope::Global, &key).await?))
}

#[utoipa::path(
    get,
    path = "/settings/secrets/{key}/dependents",
    tag = "secrets",
    params(("key" = String, Path, description = "name of the secret")),
    responses(
        (status = 200, body = Dependents, description = "the workspaces that a change of the key would restart"),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_global_secret_dependents(
    _: AdminAuth,
    State(app): State<App>,
    key: Key,
) -> ApiResult<Json<Dependents>> {
    let key = key.map(|Path(key)| key).unwrap_or_default();
    let dependents = app.secrets.dependents(Scope::Global, &key).await?;
    Ok(Json(Dependents { dependents }))
}

/// A secret that might be stored.
#[derive(Deserialize, ToSchema)]
struct ValidateSecret {
    /// Name of the environment variable.
    key: String,
    /// Its value.
    #[schema(value_type = String)]
    value: Secret,
}

/// What storing it would say.
#[derive(Serialize, ToSchema)]
struct Validity {
    /// Whether it could be stored.
    valid: bool,
    /// The rule that it breaks, without the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[utoipa::path(
    post,
    path = "/secrets/validate",
    tag = "secrets",
    description = "Says whether a secret could be stored, and stores nothing.",
    request_body = ValidateSecret,
    responses(
        (status = 200, body = Validity, description = "valid or not"),
        (status = 400, body = ErrorBody, description = "not an object with the two texts"),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn validate_secret(_: AdminAuth, body: JsonBody) -> ApiResult<Json<Validity>> {
    let ValidateSecret { key, value } = body.decode(BAD_BODY)?;
    let error = Entry::new(Some(key), Some(value)).err();
    let valid = error.is_none();
    Ok(Json(Validity { valid, error }))
}
