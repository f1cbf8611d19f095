//! The right to listen, asked for again while a connection is open.

use std::time::Instant;

use async_trait::async_trait;
use axum::extract::FromRequestParts;
use axum::response::IntoResponse;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use uuid::Uuid;

use super::super::hub::Proof;
use crate::app::App;
use crate::auth::{AdminAuth, Ticket, WorkspaceAuth};

/// What a client listens with.
pub(super) enum Credentials {
    /// A workspace's own token, in these headers.
    Agent(Uuid, HeaderMap),
    /// Those of an administrator.
    Admin(Asked),
    /// Those for the workspace in the path.
    Workspace(Asked),
    /// A ticket: it was good once, and stands for whoever asked for it until then.
    Ticket(Ticket, Instant),
}

/// A request as the extractors see it.
pub(super) struct Asked(Parts);

impl Asked {
    pub(super) fn new(parts: &Parts) -> Self {
        let (mut kept, ()) = Request::new(()).into_parts();
        kept.method = parts.method.clone();
        kept.uri = parts.uri.clone();
        kept.headers = parts.headers.clone();
        kept.extensions = parts.extensions.clone();
        Self(kept)
    }

    /// Whether the extractor lets the same request in again; none when nobody can say.
    async fn passes<E>(&self, app: &App) -> Option<bool>
    where
        E: FromRequestParts<App>,
    {
        let Self(mut parts) = Self::new(&self.0);
        match E::from_request_parts(&mut parts, app).await {
            Ok(_) => Some(true),
            Err(refusal) => refused(refusal.into_response().status()),
        }
    }
}

/// A client's credentials, and whom to ask about them.
pub(super) struct Listener {
    pub(super) app: App,
    pub(super) credentials: Credentials,
}

#[async_trait]
impl Proof for Listener {
    async fn holds(&self) -> Option<bool> {
        match &self.credentials {
            Credentials::Agent(id, headers) => match self.app.auth.own_token(*id, headers).await {
                Ok(()) => Some(true),
                Err(error) => {
                    let error = crate::http::ApiError::from(error);
                    refused(error.into_response().status())
                }
            },
            Credentials::Admin(asked) => asked.passes::<AdminAuth>(&self.app).await,
            Credentials::Workspace(asked) => asked.passes::<WorkspaceAuth>(&self.app).await,
            Credentials::Ticket(ticket, until) => {
                if Instant::now() >= *until {
                    return Some(false);
                }
                let holder = self.app.auth.ticket_holder(ticket).await.ok()?;
                Some(holder.is_some())
            }
        }
    }
}

/// A datastore that does not answer refuses nobody.
fn refused(status: StatusCode) -> Option<bool> {
    let is_final = matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE
    );
    is_final.then_some(false)
}
