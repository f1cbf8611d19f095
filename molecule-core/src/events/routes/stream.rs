//! `GET /workspaces/{id}/events/stream`: the events of one workspace, and those
//! that a reader missed since it was here last.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::hub::{Audience, Subscription};
use super::super::replay::{Cursor, Sent, WINDOW, fingerprint, floor_of_now, window_before};
use super::super::{Full, store};
use super::proof::{Asked, Credentials, Listener};
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody};
use crate::store::Db;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const PING: Bytes = Bytes::from_static(b": ping\n\n");
const PING_EVERY: Duration = Duration::from_secs(15);
/// Missed events that are read at once.
const PAGE: i64 = 256;
/// Events within a window that are compared. With more of them a reader gets the
/// window again.
const MOST_COMPARED: i64 = 1_000;
const RETRY_SECS: u64 = 10;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stream_events))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/events/stream",
    tag = "events",
    description = "Server-sent events. The id of an event is where a reader goes on with `Last-Event-ID`; \
                   recorded events come at least once, and the part of their id before the dot is their row.",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("Last-Event-ID" = Option<String>, Header, description = "the last `id:` that was read"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "also when there are too many connections"),
    )
)]
async fn stream_events(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    parts: Parts,
) -> ApiResult<Response> {
    let cursor = last_event_id(&parts.headers)?;
    app.workspaces.require(&id).await?;
    let id = Uuid::parse_str(&id).map_err(|_| Error::not_found("workspace not found"))?;
    let (db, events) = (app.db.clone(), app.events.clone());
    // Before the subscription: what is in both is sent once, what is in neither is
    // missing in the fingerprint and sent to the next request.
    let from = Start::find(&db, id, cursor).await?;
    let credentials = Credentials::Workspace(Asked::new(&parts));
    let listener = Arc::new(Listener { app, credentials });
    let subscription = events.listen(Audience::Workspace(id), listener).await;
    let subscription = subscription.map_err(|Full| {
        Error::not_now("too many live connections, try again later").retry_after(RETRY_SECS)
    })?;
    let live = Live::new(db, id, subscription, from, PING_EVERY);
    let body = unfold(live, |mut live| async move {
        let bytes = live.next().await?;
        Some((Ok::<_, Infallible>(bytes), live))
    });
    let header = HeaderValue::from_static;
    let headers = [
        (CONTENT_TYPE, header("text/event-stream")),
        (CACHE_CONTROL, header("no-cache")),
        (X_ACCEL_BUFFERING, header("no")),
    ];
    let mut response = (headers, Body::from_stream(body)).into_response();
    if parts.version <= Version::HTTP_11 {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, header("keep-alive"));
    }
    Ok(response)
}

/// Where the reader says it is. An empty header is none: readers that have read
/// nothing may send one.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, Error> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let cursor = value.to_str().ok().and_then(Cursor::parse);
    match cursor {
        Some(cursor) => Ok(Some(cursor)),
        None => Err(Error::invalid("invalid Last-Event-ID")),
    }
}

/// Where a stream starts.
struct Start {
    sent: Sent,
    /// Missed events are those after this one.
    missed_after: Option<Uuid>,
}

impl Start {
    async fn find(db: &Db, workspace: Uuid, cursor: Option<Cursor>) -> sqlx::Result<Self> {
        let Some(cursor) = cursor else {
            let now = floor_of_now(Duration::ZERO);
            let since = floor_of_now(WINDOW);
            let ids = store::ids_between(db, workspace, since, Uuid::max(), MOST_COMPARED).await?;
            return Ok(Self {
                sent: Sent::starting_at(now, ids),
                missed_after: None,
            });
        };
        let since = window_before(cursor.newest);
        let mut ids =
            store::ids_between(db, workspace, since, cursor.newest, MOST_COMPARED).await?;
        let found = fingerprint(cursor.newest, ids.iter().copied());
        // Without a fingerprint the reader says that it wants nothing before.
        let complete = cursor
            .fingerprint
            .is_none_or(|expected| found == expected && (ids.len() as i64) < MOST_COMPARED);
        let missed_after = match complete {
            true => cursor.newest,
            false => {
                // Something became visible late. What the reader has of the window
                // is not known, but for the newest.
                ids.retain(|id| *id == cursor.newest);
                since
            }
        };
        Ok(Self {
            sent: Sent::starting_at(cursor.newest, ids),
            missed_after: Some(missed_after),
        })
    }
}

/// One stream.
struct Live {
    db: Db,
    workspace: Uuid,
    subscription: Subscription,
    sent: Sent,
    missed_after: Option<Uuid>,
    ready: VecDeque<Bytes>,
    ping: Interval,
}

impl Live {
    fn new(
        db: Db,
        workspace: Uuid,
        subscription: Subscription,
        start: Start,
        ping_every: Duration,
    ) -> Self {
        let mut ping = interval_at(tokio::time::Instant::now() + ping_every, ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A reader that goes away before the first event knows where it was, too.
        let place = start.sent.cursor();
        let place = format!("id: {}\n\n", place.with_event(place.newest));
        Self {
            db,
            workspace,
            subscription,
            sent: start.sent,
            missed_after: start.missed_after,
            ready: VecDeque::from([PING, place.into()]),
            ping,
        }
    }

    /// The next bytes; none at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if let Some(after) = self.missed_after {
                self.read_missed(after).await?;
                continue;
            }
            tokio::select! {
                event = self.subscription.next() => {
                    let frame = event.ok()?;
                    self.send(frame.event().id, frame.data());
                }
                _ = self.ping.tick() => return Some(PING),
            }
        }
    }

    /// Reads a page of missed events; none at the end of the stream.
    async fn read_missed(&mut self, after: Uuid) -> Option<()> {
        let reading = store::after(&self.db, Some(self.workspace), after, PAGE);
        let page = tokio::select! {
            page = reading => page,
            _ = self.subscription.ended() => return None,
        };
        // The reader comes again, to where it is.
        let page = page
            .inspect_err(|error| tracing::warn!(%error, "missed events cannot be read"))
            .ok()?;
        let full = page.len() as i64 == PAGE;
        self.missed_after = page.last().map(|row| row.id).filter(|_| full);
        for row in page {
            self.send(Some(row.id), row.data());
        }
        Some(())
    }

    /// Queues an event, unless it was sent already.
    fn send(&mut self, id: Option<Uuid>, data: Bytes) {
        match id {
            None => self.ready.push_back(data),
            Some(id) if self.sent.insert(id) => {
                let id = format!("id: {}\n", self.sent.cursor().with_event(id));
                self.ready.push_back([id.as_bytes(), &data].concat().into());
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
