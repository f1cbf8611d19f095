//! `GET /admin/workspaces/{id}/test-token`.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::unstored;
use crate::app::App;
use crate::http::{ApiResult, ErrorBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_test_token))
}

/// A new token of a workspace, for tests.
#[derive(Serialize, ToSchema)]
struct TestToken {
    auth_token: String,
    workspace_id: Uuid,
}

#[utoipa::path(
    get,
    path = "/admin/workspaces/{id}/test-token",
    tag = "tokens",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, body = TestToken),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "no such workspace, or the route is off"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn get_test_token(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let (workspace_id, token) = app.auth.mint_test_token(&id, &headers).await?;
    let body = TestToken {
        auth_token: token.expose().to_owned(),
        workspace_id,
    };
    Ok(unstored(StatusCode::OK, body))
}
