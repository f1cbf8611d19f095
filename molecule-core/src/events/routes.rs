//! `/events` and the live streams; the streams in the files below.

mod proof;
mod socket;
mod stream;

use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use http::Uri;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::model::rfc3339;
use super::store::{self, EventRow};
use crate::app::App;
use crate::auth::AdminAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json};

/// Events in one answer, unless `limit` says otherwise.
const USUAL_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 1000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_events))
        .routes(routes!(list_workspace_events))
        .merge(socket::router())
        .merge(stream::router())
}

/// A recorded event.
#[derive(Serialize, ToSchema)]
struct RecordedEvent {
    id: Uuid,
    event_type: String,
    workspace_id: Option<Uuid>,
    payload: Value,
    #[serde(serialize_with = "rfc3339")]
    created_at: DateTime<Utc>,
}

impl From<EventRow> for RecordedEvent {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            event_type: row.event_type,
            workspace_id: row.workspace_id,
            payload: row.payload.0,
            created_at: row.created_at,
        }
    }
}

#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    params(
        ("limit" = Option<i64>, Query, description = "1 to 1000 events; 100 if not given"),
        ("before" = Option<String>, Query, description = "only events before the one with this id"),
    ),
    responses(
        (status = 200, body = [RecordedEvent], description = "newest first"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_events(
    _: AdminAuth,
    State(app): State<App>,
    uri: Uri,
) -> ApiResult<Json<Vec<RecordedEvent>>> {
    history(&app, None, &uri).await
}

#[utoipa::path(
    get,
    path = "/events/{workspaceId}",
    tag = "events",
    params(
        ("workspaceId" = String, Path, description = "workspace UUID"),
        ("limit" = Option<i64>, Query, description = "1 to 1000 events; 100 if not given"),
        ("before" = Option<String>, Query, description = "only events before the one with this id"),
    ),
    responses(
        (status = 200, body = [RecordedEvent], description = "newest first; none for an unknown workspace"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_workspace_events(
    _: AdminAuth,
    State(app): State<App>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    uri: Uri,
) -> ApiResult<Json<Vec<RecordedEvent>>> {
    let id = path.ok().and_then(|Path(id)| Uuid::parse_str(&id).ok());
    let id = id.ok_or_else(|| Error::invalid("invalid workspace ID"))?;
    history(&app, Some(id), &uri).await
}

async fn history(
    app: &App,
    workspace: Option<Uuid>,
    uri: &Uri,
) -> ApiResult<Json<Vec<RecordedEvent>>> {
    let limit = match query(uri, "limit") {
        None => USUAL_LIMIT,
        Some(text) => (text.parse().ok())
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| Error::invalid("invalid limit"))?,
    };
    let before = match query(uri, "before") {
        None => Uuid::max(),
        Some(text) => Uuid::parse_str(&text).map_err(|_| Error::invalid("invalid before"))?,
    };
    let rows = store::latest(&app.db, workspace, before, limit).await?;
    Ok(Json(rows.into_iter().map(Into::into).collect()))
}

/// The first value of a query parameter.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
