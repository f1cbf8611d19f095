//! JSON in and out, with the wire's habits.

mod fold;

use std::fmt;
use std::marker::PhantomData;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::LengthLimitError;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_path_to_error::Track;

use fold::Fold;

use super::ApiError;
use crate::error::{Error, Result};

/// A compact JSON response.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let kind = HeaderValue::from_static("application/json; charset=utf-8");
                ([(CONTENT_TYPE, kind)], body).into_response()
            }
            // Our own types always encode.
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// State that knows how many bytes the body of a request may have.
pub(crate) trait HasBodyLimit: Send + Sync {
    fn max_body_bytes(&self) -> usize;
}

/// The body of a request, not yet decoded. `Content-Type` is ignored, as on the
/// reference platform.
pub(crate) struct JsonBody(Bytes);

impl<S: HasBodyLimit> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, ApiError> {
        Ok(Self::read(request.into_body(), state.max_body_bytes()).await?)
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<LengthLimitError>())
}

impl JsonBody {
    /// Reads a body of at most `limit` bytes, for routes that must decide something
    /// before they look at it.
    ///
    /// # Errors
    /// 413 `request body too large`; 400 `invalid request body` when it does not arrive.
    pub(crate) async fn read(body: Body, limit: usize) -> Result<Self> {
        if body.size_hint().lower() > limit as u64 {
            // Nobody waits for what will be refused.
            return Err(Error::too_large());
        }
        match axum::body::to_bytes(body, limit).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) if is_too_large(&error) => Err(Error::too_large()),
            Err(_) => Err(Error::invalid("invalid request body")),
        }
    }

    /// Refuses a body over `limit` bytes, where a route allows less than the
    /// server does.
    ///
    /// # Errors
    /// 413 `request body too large`.
    pub(crate) fn at_most(self, limit: usize) -> Result<Self> {
        match self.0.len() > limit {
            true => Err(Error::too_large()),
            false => Ok(self),
        }
    }

    /// The bytes, for routes that decode them themselves.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// True when there is no body; routes where it is optional ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(u8::is_ascii_whitespace)
    }

    /// Decodes the body, a JSON object. Keys of structs match in any case.
    ///
    /// # Errors
    /// 400 with the route's documented text; `detail` says where and why, without
    /// repeating any value.
    pub(crate) fn decode<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        let mut decoder = serde_json::Deserializer::from_slice(&self.0);
        let mut track = Track::new();
        let folding = Fold(&mut decoder);
        let tracking = serde_path_to_error::Deserializer::new(folding, &mut track);
        let decoded = match self.is_object() {
            true => T::deserialize(tracking),
            // Not even a type that reads itself from something else may.
            false => tracking.deserialize_map(Object(PhantomData)),
        };
        let invalid = |detail: String| Error::invalid(text).with("detail", detail);
        let value = decoded.map_err(|error| {
            let path = track.path().to_string();
            let at = if path == "." {
                String::new()
            } else {
                format!("{path}: ")
            };
            invalid(format!("{at}{}", describe(&error)))
        })?;
        decoder.end().map_err(|error| invalid(describe(&error)))?;
        Ok(value)
    }

    fn is_object(&self) -> bool {
        let first = self.0.iter().find(|byte| !byte.is_ascii_whitespace());
        first == Some(&b'{')
    }
}

/// Refuses everything but objects.
struct Object<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// serde's own texts quote the offending value, which may be a secret.
fn describe(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "wrong type",
        serde_json::error::Category::Eof => "unexpected end of JSON",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "not valid JSON",
    };
    match error.line() {
        // Under a key of another case, which was read ahead.
        0 => what.to_owned(),
        line => format!("{what} at line {line} column {}", error.column()),
    }
}
