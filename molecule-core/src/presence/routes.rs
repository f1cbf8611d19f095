//! `/registry`: what agents say of themselves.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{CardUpdate, Heartbeat, Register, routes_discovery};
use crate::app::App;
use crate::auth::bearer;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(heartbeat))
        .routes(routes!(update_card))
        .merge(routes_discovery::router())
}

/// The reply to a registration; the token is there once.
#[derive(Serialize, ToSchema)]
struct RegisterReply {
    status: &'static str,
    /// Only with the registration that minted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<String>,
}

#[utoipa::path(
    post,
    path = "/registry/register",
    tag = "registry",
    request_body = Register,
    responses(
        (status = 200, body = RegisterReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn register(
    State(app): State<App>,
    headers: HeaderMap,
    body: JsonBody,
) -> ApiResult<Response> {
    let body = body.at_most(app.config.server.max_body_bytes / 4)?;
    let register: Register = body.decode("invalid request body")?;
    let registered = app.presence.register(register, bearer(&headers)).await?;
    app.workspaces.refresh_url(registered.workspace_id);
    let auth_token = registered.auth_token.map(|token| token.expose().to_owned());
    let mut response = Json(RegisterReply {
        status: "registered",
        auth_token,
    })
    .into_response();
    let no_store = http::HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(http::header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// The reply to a heartbeat.
#[derive(Serialize, ToSchema)]
struct HeartbeatReply {
    status: &'static str,
}

#[utoipa::path(
    post,
    path = "/registry/heartbeat",
    tag = "registry",
    request_body = Heartbeat,
    responses(
        (status = 200, body = HeartbeatReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn heartbeat(
    State(app): State<App>,
    headers: HeaderMap,
    body: JsonBody,
) -> ApiResult<Json<HeartbeatReply>> {
    let body = body.at_most(app.config.server.max_body_bytes / 4)?;
    let beat: Heartbeat = body.decode("invalid request body")?;
    app.presence.heartbeat(beat, bearer(&headers)).await?;
    Ok(Json(HeartbeatReply { status: "ok" }))
}

/// The reply to a new agent card.
#[derive(Serialize, ToSchema)]
struct CardReply {
    status: &'static str,
}

#[utoipa::path(
    post,
    path = "/registry/update-card",
    tag = "registry",
    request_body = CardUpdate,
    responses(
        (status = 200, body = CardReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn update_card(
    State(app): State<App>,
    headers: HeaderMap,
    body: JsonBody,
) -> ApiResult<Json<CardReply>> {
    let body = body.at_most(app.config.server.max_body_bytes / 4)?;
    let update: CardUpdate = body.decode("invalid request body")?;
    app.presence.update_card(update, bearer(&headers)).await?;
    Ok(Json(CardReply { status: "updated" }))
}
