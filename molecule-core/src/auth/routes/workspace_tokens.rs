//! `/workspaces/{id}/tokens`.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{rfc3339, unstored};
use crate::app::App;
use crate::auth::{Principal, WorkspaceAuth};
use crate::error::{Error, Result};
use crate::http::{ApiResult, ErrorBody, Json};

const DEFAULT_LIMIT: i64 = 50;
const LARGEST_LIMIT: i64 = 200;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_workspace_tokens, mint_workspace_token))
        .routes(routes!(revoke_workspace_token))
}

/// A live token of a workspace.
#[derive(Serialize, ToSchema)]
struct WorkspaceTokenItem {
    id: Uuid,
    /// The first eight characters.
    prefix: String,
    created_at: String,
    /// The last use, to the minute; null before the first.
    last_used_at: Option<String>,
}

/// A page of a workspace's live tokens, newest first.
#[derive(Serialize, ToSchema)]
struct WorkspaceTokenList {
    tokens: Vec<WorkspaceTokenItem>,
    /// Tokens on this page.
    count: usize,
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/tokens",
    tag = "tokens",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("limit" = Option<i64>, Query, description = "1 to 200, default 50; anything else is the default"),
        ("offset" = Option<i64>, Query, description = "how many to skip, default 0"),
    ),
    responses(
        (status = 200, body = WorkspaceTokenList),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_workspace_tokens(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    uri: Uri,
) -> ApiResult<Json<WorkspaceTokenList>> {
    let limit = number(&uri, "limit").filter(|n| (1..=LARGEST_LIMIT).contains(n));
    let offset = number(&uri, "offset").filter(|n| *n >= 0);
    let rows = app.auth.workspace_tokens(
        parse(&id)?,
        limit.unwrap_or(DEFAULT_LIMIT),
        offset.unwrap_or_default(),
    );
    let tokens: Vec<_> = rows
        .await?
        .into_iter()
        .map(|row| WorkspaceTokenItem {
            id: row.id,
            prefix: row.prefix,
            created_at: rfc3339(row.created_at),
            last_used_at: row.last_used_at.map(rfc3339),
        })
        .collect();
    Ok(Json(WorkspaceTokenList {
        count: tokens.len(),
        tokens,
    }))
}

/// A new token. Its text is shown this once.
#[derive(Serialize, ToSchema)]
struct MintedWorkspaceToken {
    auth_token: String,
    workspace_id: Uuid,
    message: &'static str,
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/tokens",
    tag = "tokens",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 201, body = MintedWorkspaceToken),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "the canvas by its cookie"),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "it has 50 live tokens"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn mint_workspace_token(
    WorkspaceAuth(id): WorkspaceAuth,
    Extension(who): Extension<Principal>,
    State(app): State<App>,
) -> ApiResult<Response> {
    let workspace_id = parse(&id)?;
    let token = app.auth.mint_workspace_token(&who, workspace_id).await?;
    let body = MintedWorkspaceToken {
        auth_token: token.expose().to_owned(),
        workspace_id,
        message: "Save this token now — it cannot be retrieved again.",
    };
    Ok(unstored(StatusCode::CREATED, body))
}

/// What became of the token.
#[derive(Serialize, ToSchema)]
struct RevokedWorkspaceToken {
    status: &'static str,
}

#[utoipa::path(
    delete,
    path = "/workspaces/{id}/tokens/{token_id}",
    tag = "tokens",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("token_id" = String, Path, description = "token UUID"),
    ),
    responses(
        (status = 200, body = RevokedWorkspaceToken),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn revoke_workspace_token(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    Path(ids): Path<(String, String)>,
) -> ApiResult<Json<RevokedWorkspaceToken>> {
    let (workspace, (_, token_id)) = (parse(&id)?, ids);
    app.auth
        .revoke_workspace_token(workspace, &token_id)
        .await?;
    Ok(Json(RevokedWorkspaceToken { status: "revoked" }))
}

fn parse(id: &str) -> Result<Uuid> {
    Uuid::try_parse(id).map_err(|_| Error::invalid("invalid workspace ID"))
}

/// A number in the query. Of several the first counts.
fn number(uri: &Uri, name: &str) -> Option<i64> {
    let query = uri.query().unwrap_or_default();
    let (_, value) = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?;
    value.parse().ok()
}
