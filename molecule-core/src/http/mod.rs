//! The HTTP shell: decoding, encoding, errors, middleware, proxies. It knows no
//! domain room; `server` puts the rooms' routers into it.

mod caller;
mod cors;
mod detach;
mod error;
mod fallback;
mod guard;
mod headers;
mod json;
mod limit;
mod measure;
mod middleware;
mod openapi;
pub(crate) mod origin;
mod proxy;
mod serve;
mod system;
mod templates;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;

pub(crate) use caller::{Network, RemoteAddress};
pub(crate) use cors::Cors;
pub(crate) use error::{ApiError, ApiResult, ErrorBody};
pub(crate) use guard::{TenantGuard, TrustedCanvas};
pub(crate) use json::{HasBodyLimit, Json, JsonBody};
pub(crate) use limit::RateLimiter;
pub(crate) use middleware::{KnownCredential, Shell, ShellParts};
pub(crate) use openapi::document;
pub(crate) use proxy::Proxies;
pub(crate) use serve::{Limits, Serving};
pub(crate) use system::router as system_router;

use fallback::Fallback;
use templates::Templates;

/// Puts the shell around the rooms' routes.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(
    routes: OpenApiRouter<S>,
    state: S,
    shell: Shell,
    proxies: Proxies,
) -> Router {
    let (routes, document) = routes.split_for_parts();
    let to_the_end = from_fn_with_state(shell.clone(), detach::to_the_end);
    Fallback::new(Templates::of(&document), proxies)
        .put_behind(routes.with_state(state).layer(to_the_end))
        .layer(from_fn_with_state(shell, middleware::shell))
}
