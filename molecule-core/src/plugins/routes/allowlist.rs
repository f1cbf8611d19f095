//! `/orgs/{id}/plugins/allowlist`.

use axum::extract::{Path, State};
use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::allowlist::NewList;
use super::super::store::allowlist::Allowed;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_plugin_allowlist, put_plugin_allowlist))
}

/// A plugin that the organisation may have.
#[derive(Serialize, ToSchema)]
struct AllowedView {
    plugin_name: String,
    enabled_by: String,
    /// RFC 3339.
    enabled_at: String,
}

impl From<Allowed> for AllowedView {
    fn from(row: Allowed) -> Self {
        Self {
            plugin_name: row.plugin_name,
            enabled_by: row.enabled_by,
            enabled_at: row.enabled_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        }
    }
}

/// The list of an organisation.
#[derive(Serialize, ToSchema)]
struct AllowlistReply {
    org_id: Uuid,
    plugins: Vec<AllowedView>,
    /// The list is empty: everything is allowed.
    allow_all: bool,
}

#[utoipa::path(
    get,
    path = "/orgs/{id}/plugins/allowlist",
    tag = "plugins",
    description = "The plugins that the workspaces of an organisation may have. The list that counts for a \
                   workspace is that of the one at the top of its hierarchy.",
    params(("id" = String, Path, description = "UUID of the workspace at the top")),
    responses(
        (status = 200, body = AllowlistReply),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "a token of another organisation"),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_plugin_allowlist(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> ApiResult<Json<AllowlistReply>> {
    let (org_id, list) = app.plugins.allowlist(&text(path), &who).await?;
    Ok(Json(AllowlistReply {
        org_id,
        allow_all: list.is_empty(),
        plugins: list.into_iter().map(AllowedView::from).collect(),
    }))
}

/// A new list.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct AllowlistRequest {
    /// Names of plugins; none allows everything.
    plugins: Option<Vec<String>>,
    /// Who decided it. Required.
    enabled_by: Option<String>,
}

/// The list as it is now.
#[derive(Serialize, ToSchema)]
struct AllowlistSet {
    org_id: Uuid,
    plugins: Vec<String>,
    allow_all: bool,
}

#[utoipa::path(
    put,
    path = "/orgs/{id}/plugins/allowlist",
    tag = "plugins",
    description = "Replaces the list. What is installed stays installed.",
    params(("id" = String, Path, description = "UUID of the workspace at the top")),
    request_body = AllowlistRequest,
    responses(
        (status = 200, body = AllowlistSet),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "a token of another organisation"),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn put_plugin_allowlist(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    body: JsonBody,
) -> ApiResult<Json<AllowlistSet>> {
    let request: AllowlistRequest = body.decode("invalid request body")?;
    let new = NewList {
        plugins: request.plugins.unwrap_or_default(),
        enabled_by: request.enabled_by.unwrap_or_default(),
    };
    let (org_id, plugins) = app.plugins.set_allowlist(&text(path), &who, &new).await?;
    Ok(Json(AllowlistSet {
        org_id,
        allow_all: plugins.is_empty(),
        plugins,
    }))
}

/// What is no text names no organisation.
fn text(path: Result<Path<String>, axum::extract::rejection::PathRejection>) -> String {
    path.map(|Path(id)| id).unwrap_or_default()
}
