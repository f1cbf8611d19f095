//! The HTTP shell: decoding, encoding, errors, middleware. It knows no domain
//! room; `server` puts the rooms' routers into it.

mod error;
mod json;
mod middleware;
mod openapi;
mod serve;
mod system;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;

pub(crate) use error::{ApiError, ApiResult, ErrorBody};
pub(crate) use json::{HasBodyLimit, Json, JsonBody};
pub(crate) use middleware::Shell;
pub(crate) use openapi::document;
pub(crate) use serve::{Limits, Serving};
pub(crate) use system::router as system_router;

use crate::error::Error;

/// Puts the shell around the rooms' routes.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(
    routes: OpenApiRouter<S>,
    state: S,
    shell: Shell,
) -> Router {
    let (routes, _) = routes.split_for_parts();
    routes
        .fallback(not_found)
        // The wire has no 405: a wrong method is an unknown route.
        .method_not_allowed_fallback(not_found)
        .with_state(state)
        .layer(from_fn_with_state(shell, middleware::shell))
}

async fn not_found() -> ApiError {
    Error::not_found("404 page not found").into()
}
