//! `/org/tokens`.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{rfc3339, unstored};
use crate::app::App;
use crate::auth::mint_limit::Standing;
use crate::auth::store::org::OrgTokenRow;
use crate::auth::{AdminAuth, Principal};
use crate::error::{Error, Result};
use crate::http::{ApiError, ApiResult, ErrorBody, Json, JsonBody, Network};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_org_tokens, mint_org_token))
        .routes(routes!(update_org_token, revoke_org_token))
}

/// A live org token.
#[derive(Serialize, ToSchema)]
struct OrgTokenItem {
    id: Uuid,
    /// The first eight characters.
    prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The organisation it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<Uuid>,
    /// Who minted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    created_at: String,
    /// The last use, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
}

impl From<OrgTokenRow> for OrgTokenItem {
    fn from(row: OrgTokenRow) -> Self {
        Self {
            id: row.id,
            prefix: row.prefix,
            name: row.name,
            org_id: row.org_id,
            created_by: row.created_by,
            created_at: rfc3339(row.created_at),
            last_used_at: row.last_used_at.map(rfc3339),
        }
    }
}

/// The live org tokens, newest first, 500 at most.
#[derive(Serialize, ToSchema)]
struct OrgTokenList {
    tokens: Vec<OrgTokenItem>,
    count: usize,
}

#[utoipa::path(
    get,
    path = "/org/tokens",
    tag = "tokens",
    responses(
        (status = 200, body = OrgTokenList),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_org_tokens(_: AdminAuth, State(app): State<App>) -> ApiResult<Json<OrgTokenList>> {
    let rows = app.auth.org_tokens().await?;
    Ok(Json(OrgTokenList {
        count: rows.len(),
        tokens: rows.into_iter().map(Into::into).collect(),
    }))
}

/// What a new token should be; all of it optional.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct MintOrgToken {
    /// At most 100 bytes.
    #[schema(value_type = Option<String>)]
    name: Value,
    /// UUID of the workspace that is the organisation.
    #[schema(value_type = Option<String>)]
    org_id: Value,
}

/// A new token. Its text is shown this once.
#[derive(Serialize, ToSchema)]
struct MintedToken {
    id: Uuid,
    prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<Uuid>,
    auth_token: String,
    warning: &'static str,
}

#[utoipa::path(
    post,
    path = "/org/tokens",
    tag = "tokens",
    request_body = MintOrgToken,
    responses(
        (status = 200, body = MintedToken),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "an org token for another organisation"),
        (status = 404, body = ErrorBody, description = "no such organisation"),
        (status = 413, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "ten an hour"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn mint_org_token(
    AdminAuth(who): AdminAuth,
    Network(network): Network,
    State(app): State<App>,
    body: JsonBody,
) -> Response {
    let standing = app.auth.count_mint(&who, &network);
    let mut response = match standing {
        Some(standing) if !standing.allowed => ApiError::from(over_limit(standing)).into_response(),
        _ => mint(&app, &who, &body).await.into_response(),
    };
    put_standing(response.headers_mut(), standing);
    response
}

async fn mint(app: &App, who: &Principal, body: &JsonBody) -> ApiResult<Response> {
    // A body that cannot be read counts as none.
    let wanted: MintOrgToken = body.decode("").unwrap_or_default();
    let name = wanted.name.as_str().map(str::to_owned);
    let org_id = parse_org(&wanted.org_id)?;
    let minted = app.auth.mint_org_token(who, name, org_id).await?;
    let body = MintedToken {
        id: minted.id,
        prefix: minted.prefix,
        name: minted.name,
        org_id: minted.org_id,
        auth_token: minted.token.expose().to_owned(),
        warning: "copy this token now; it will not be shown again",
    };
    Ok(unstored(StatusCode::OK, body))
}

fn over_limit(standing: Standing) -> Error {
    Error::rate_limited("rate limit exceeded", standing.reset_secs)
        .with("retry_after", standing.reset_secs)
}

/// Says how many mints are left, in place of what the server's own limit says.
fn put_standing(headers: &mut HeaderMap, standing: Option<Standing>) {
    let Some(standing) = standing else {
        headers.insert(LIMIT, HeaderValue::from_static("unlimited"));
        return;
    };
    headers.insert(LIMIT, standing.limit.into());
    headers.insert(REMAINING, standing.remaining.into());
    headers.insert(RESET, standing.reset_secs.into());
}

/// Null and the empty text mean none.
fn parse_org(value: &Value) -> Result<Option<Uuid>> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text.as_str(),
        _ => "",
    };
    let id = Uuid::try_parse(text).map_err(|_| Error::invalid("invalid org_id"))?;
    Ok(Some(id))
}

/// What changes about a token.
#[derive(Debug, Deserialize, ToSchema)]
struct UpdateOrgToken {
    /// UUID of the workspace that is the organisation; null for none. Required.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    org_id: Option<Value>,
}

/// Tells a missing field from an explicit `null`.
fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[utoipa::path(
    patch,
    path = "/org/tokens/{id}",
    tag = "tokens",
    params(("id" = String, Path, description = "token UUID")),
    request_body = UpdateOrgToken,
    responses(
        (status = 200, body = OrgTokenItem),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "an org token for another organisation"),
        (status = 404, body = ErrorBody, description = "no such live token, or no such organisation"),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn update_org_token(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(id): Path<String>,
    body: JsonBody,
) -> ApiResult<Json<OrgTokenItem>> {
    let update: UpdateOrgToken = body.decode("invalid request body")?;
    let org_id = update.org_id.ok_or_else(|| {
        Error::invalid("invalid request body").with("detail", "org_id is required")
    })?;
    let row = app
        .auth
        .bind_org_token(&who, &id, parse_org(&org_id)?)
        .await?;
    Ok(Json(row.into()))
}

/// The id of the token that counts no more.
#[derive(Serialize, ToSchema)]
struct Revoked {
    revoked: Uuid,
}

#[utoipa::path(
    delete,
    path = "/org/tokens/{id}",
    tag = "tokens",
    params(("id" = String, Path, description = "token UUID")),
    responses(
        (status = 200, body = Revoked),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn revoke_org_token(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Revoked>> {
    let revoked = app.auth.revoke_org_token(&who, &id).await?;
    Ok(Json(Revoked { revoked }))
}
