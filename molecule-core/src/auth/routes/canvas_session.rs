//! `/canvas/session`: the cookie by which this server knows its own canvas.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::unstored;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::auth::canvas_cookie::{LIFETIME, NAME};
use crate::error::{Error, Result};
use crate::http::{ApiResult, ErrorBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(open_canvas_session, close_canvas_session))
}

/// The canvas is let in from now on.
#[derive(Serialize, ToSchema)]
struct OpenedCanvasSession {
    status: &'static str,
    /// Seconds.
    expires_in: u64,
}

/// Sets the cookie. The browser keeps it from scripts and from other sites.
#[utoipa::path(
    post,
    path = "/canvas/session",
    tag = "canvas",
    responses(
        (status = 200, body = OpenedCanvasSession),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "an org token"),
        (status = 404, body = ErrorBody, description = "no canvas proxy or no administrator token is configured"),
        (status = 503, body = ErrorBody),
    )
)]
async fn open_canvas_session(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let value = app.auth.open_canvas_session(&who)?;
    let expires_in = LIFETIME.as_secs();
    let body = OpenedCanvasSession {
        status: "opened",
        expires_in,
    };
    let mut response = unstored(StatusCode::OK, body);
    let cookie = set_cookie(value.expose(), expires_in, &headers)?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// The browser has forgotten its cookie.
#[derive(Serialize, ToSchema)]
struct ClosedCanvasSession {
    status: &'static str,
}

/// Clears the cookie. Nobody needs a right to lose one.
#[utoipa::path(
    delete,
    path = "/canvas/session",
    tag = "canvas",
    security(()),
    responses((status = 200, body = ClosedCanvasSession))
)]
async fn close_canvas_session(headers: HeaderMap) -> ApiResult<Response> {
    let body = ClosedCanvasSession { status: "closed" };
    let mut response = unstored(StatusCode::OK, body).into_response();
    let cookie = set_cookie("", 0, &headers)?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

fn set_cookie(value: &str, max_age: u64, headers: &HeaderMap) -> Result<HeaderValue> {
    let secure = if is_https(headers) { "; Secure" } else { "" };
    let text =
        format!("{NAME}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}");
    let mut cookie = HeaderValue::try_from(text)
        .map_err(|error| Error::internal("failed to make the cookie", error))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

/// Whether the browser came by HTTPS, as far as it or a proxy says. Who lies gets
/// a cookie that suits only the lie.
fn is_https(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    text("x-forwarded-proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
        || text(ORIGIN.as_str()).is_some_and(|origin| origin.starts_with("https://"))
}
