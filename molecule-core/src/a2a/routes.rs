//! `POST /workspaces/:id/a2a`.

use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::MAX_MESSAGE_BYTES;
use crate::app::App;
use crate::error::{Error, Kind};
use crate::http::{ApiResult, ErrorBody, JsonBody};

/// A message must have arrived within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(send_message))
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/a2a",
    tag = "a2a",
    params(
        ("id" = String, Path, description = "UUID of the workspace whose agent gets the message"),
        ("X-Workspace-ID" = Option<String>, Header, description = "the workspace that sends it, proven by its own token"),
        ("X-Timeout" = Option<String>, Header, description = "seconds to wait for the answer, 1800 at most"),
    ),
    request_body(content = serde_json::Value, description = "JSON-RPC call, or method and params"),
    responses(
        (status = 200, description = "the agent's answer as it is"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 402, body = ErrorBody, description = "its budget is spent"),
        (status = 403, body = ErrorBody, description = "outside the hierarchy, or a reserved caller"),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 502, body = ErrorBody, description = "its agent cannot be reached or understood"),
        (status = 503, body = ErrorBody, description = "it wakes, boots, restarts or is busy; retry"),
    )
)]
async fn send_message(
    State(app): State<App>,
    path: axum::extract::Path<String>,
    request: Request,
) -> ApiResult<Response> {
    // Who calls, before anything is read: this route has no deadline of its own.
    let headers = request.headers().clone();
    let caller = match app.auth.caller(&headers).await? {
        Some(caller) => Some(caller),
        None => {
            require_person(&app, &headers).await?;
            None
        }
    };
    let target = Uuid::parse_str(&path).map_err(|_| Error::not_found("workspace not found"))?;
    let reading = JsonBody::from_request(request, &app);
    let body = tokio::time::timeout(BODY_TIMEOUT, reading)
        .await
        .map_err(|_| Error::invalid("failed to read request body"))??;
    let body = body.at_most(MAX_MESSAGE_BYTES)?;
    let limit = timeout(&headers);
    let answer = app.a2a.send(caller, target, body.bytes(), limit).await?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let kind = HeaderValue::from_static("application/json");
    Ok((status, [(CONTENT_TYPE, kind)], answer.body).into_response())
}

/// Without a workspace that sends, it is a person with the canvas or an
/// administrator.
async fn require_person(app: &App, headers: &HeaderMap) -> ApiResult<()> {
    match app.auth.admin(headers).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == Kind::Unauthorized && app.auth.is_trusted_canvas(headers) => {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// What the caller is willing to wait; nonsense counts as nothing.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("x-timeout")?.to_str().ok()?;
    let secs: u64 = text.trim().parse().ok().filter(|secs| *secs > 0)?;
    Some(Duration::from_secs(secs))
}
