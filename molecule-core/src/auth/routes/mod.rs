//! Routes that make, list and revoke credentials.

mod canvas_session;
mod org_tokens;
mod test_token;
mod tickets;
mod workspace_tokens;

use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::Json;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(org_tokens::router())
        .merge(workspace_tokens::router())
        .merge(test_token::router())
        .merge(tickets::router())
        .merge(canvas_session::router())
}

/// An answer that shows a credential: nobody on the way may keep it.
fn unstored(status: StatusCode, body: impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// A time as the wire writes it.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
