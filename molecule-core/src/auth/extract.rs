//! The extractors handlers name in their signature.

use axum::extract::{FromRequestParts, RawPathParams};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::Auth;
use crate::error::Error;
use crate::http::ApiError;

/// State that knows who may do what; lets extractors stay ignorant of the rest.
pub(crate) trait HasAuth: Send + Sync {
    fn auth(&self) -> &Auth;
}

/// The request comes from an administrator.
pub(crate) struct AdminAuth;

/// The request comes from the workspace in its path, whose id this is, or from an
/// administrator.
pub(crate) struct WorkspaceAuth(pub(crate) String);

impl<S: HasAuth> FromRequestParts<S> for AdminAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let auth: &Auth = state.auth();
        auth.admin(bearer(&parts.headers)).await?;
        Ok(Self)
    }
}

impl<S: HasAuth> FromRequestParts<S> for WorkspaceAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, &())
            .await
            .map_err(|_| Error::unauthorized("missing workspace ID"))?;
        let id = params
            .iter()
            .find(|(name, _)| *name == "id")
            .map_or("", |(_, id)| id);
        state.auth().workspace(id, bearer(&parts.headers)).await?;
        Ok(Self(id.to_owned()))
    }
}

/// The bearer token of a request. The scheme's case does not matter; an empty
/// token counts as none.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
