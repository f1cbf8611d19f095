//! The one place where errors become status codes.

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Json;
use crate::error::{Error, Kind};

/// What handlers return.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct ApiError(Error);

/// The body of every error. Some carry more, documented fields.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong; a documented text.
    error: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// Travels with the response to the access log, never to the client.
#[derive(Clone)]
pub(super) struct InternalContext(pub(super) String);

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::PaymentRequired => StatusCode::PAYMENT_REQUIRED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Gone => StatusCode::GONE,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooLarge | Kind::Oversized => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::BadGateway => StatusCode::BAD_GATEWAY,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = status(error.kind());
        let body = ErrorBody {
            error: error.message().to_owned(),
            extra: error.extra().clone(),
        };
        let mut response = (status, Json(body)).into_response();
        if error.kind() == Kind::TooLarge {
            // The rest of the body is not read, so the connection ends here; a client
            // must not use it again.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if let Some(seconds) = error.retry_after_secs() {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if status.is_server_error() {
            response
                .extensions_mut()
                .insert(InternalContext(error.internal_context()));
        }
        response
    }
}
