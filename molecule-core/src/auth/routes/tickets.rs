//! `POST /ws/ticket`.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::unstored;
use crate::app::App;
use crate::auth::tickets::LIFETIME_SECS;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create_websocket_ticket))
}

/// For whom the ticket is.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct CreateTicket {
    /// UUID of a workspace, whose view the ticket opens; without one it opens
    /// everything and takes an administrator.
    workspace_id: Option<String>,
}

/// A ticket for one WebSocket.
#[derive(Serialize, ToSchema)]
struct CreatedTicket {
    ticket: String,
    /// Seconds.
    expires_in: u32,
}

#[utoipa::path(
    post,
    path = "/ws/ticket",
    tag = "events",
    request_body = CreateTicket,
    responses(
        (status = 200, body = CreatedTicket),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn create_websocket_ticket(
    State(app): State<App>,
    headers: HeaderMap,
    body: JsonBody,
) -> ApiResult<Response> {
    let wanted: CreateTicket = match body.is_empty() {
        true => CreateTicket::default(),
        false => body.decode("invalid request body")?,
    };
    let workspace = wanted.workspace_id.as_deref();
    let workspace = workspace
        .map(Uuid::try_parse)
        .transpose()
        .map_err(|_| Error::invalid("invalid workspace ID"))?;
    let ticket = app.auth.issue_ticket(workspace, &headers).await?;
    let body = CreatedTicket {
        ticket: ticket.expose().to_owned(),
        expires_in: LIFETIME_SECS,
    };
    Ok(unstored(StatusCode::OK, body))
}
