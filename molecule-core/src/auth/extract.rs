//! The extractors handlers name in their signature.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use super::{Auth, Principal};
use crate::error::Error;
use crate::http::ApiError;

/// State that knows who may do what; lets extractors stay ignorant of the rest.
pub(crate) trait HasAuth: Send + Sync {
    fn auth(&self) -> &Auth;
}

/// The request comes from an administrator: this one.
pub(crate) struct AdminAuth(pub(crate) Principal);

/// The request comes from the workspace in its path, whose id this is, or from
/// someone who may act for it. Who exactly is a `Principal` in the request's
/// extensions.
pub(crate) struct WorkspaceAuth(pub(crate) String);

/// The request comes from a canvas or from anyone with a live token.
pub(crate) struct CanvasOrBearer;

impl<S: HasAuth> FromRequestParts<S> for AdminAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(state.auth().admin(&parts.headers).await?))
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
        let who = state.auth().workspace(id, &parts.headers).await?;
        parts.extensions.insert(who);
        Ok(Self(id.to_owned()))
    }
}

impl<S: HasAuth> FromRequestParts<S> for CanvasOrBearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        state.auth().canvas_or_bearer(&parts.headers).await?;
        Ok(Self)
    }
}
