//! `GET /ws`: events as they happen, one JSON message each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::time::{MissedTickBehavior, interval_at};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::hub::{Audience, Ended, Subscription};
use super::super::{Frame, Full};
use super::proof::{Asked, Credentials, Listener};
use super::query;
use crate::app::App;
use crate::auth::{AdminAuth, bearer};
use crate::error::Error;
use crate::http::origin::{self, Origin};
use crate::http::{ApiResult, ErrorBody};

const X_WORKSPACE_ID: HeaderName = HeaderName::from_static("x-workspace-id");
const GAUGE: &str = "molecule_websocket_connections_active";
/// Nothing that clients say is of interest, least of all at length.
const MAX_INBOUND_BYTES: usize = 4 * 1024;
const READ_BUFFER_BYTES: usize = 1024;
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Messages that are written before they are sent together.
const MOST_AT_ONCE: usize = 64;
/// A client with a ticket comes with a new one after this time.
const TICKET_LASTS: Duration = Duration::from_secs(3600);
/// Clients that were turned away for want of room wait this long.
const RETRY_SECS: u64 = 10;

/// How long things may take on one socket.
#[derive(Clone, Copy)]
struct Timing {
    /// Between two pings.
    ping: Duration,
    /// Without a word from the client, be it the answer to a ping.
    silence: Duration,
    /// For the client to take what is sent.
    write: Duration,
    /// For the client to answer a goodbye.
    farewell: Duration,
}

const TIMING: Timing = Timing {
    ping: Duration::from_secs(30),
    silence: Duration::from_secs(75),
    write: Duration::from_secs(10),
    farewell: Duration::from_secs(1),
};

pub(super) fn router() -> OpenApiRouter<App> {
    // The series is there before the first client is.
    metrics::gauge!(GAUGE).increment(0.0);
    OpenApiRouter::new().routes(routes!(open_websocket))
}

#[utoipa::path(
    get,
    path = "/ws",
    tag = "events",
    description = "Events as JSON text messages. An agent sends `X-Workspace-ID` and its own token and \
                   hears of the workspaces it may communicate with; an administrator hears everything. \
                   A browser, which cannot send headers, brings a ticket.",
    params(
        ("X-Workspace-ID" = Option<String>, Header, description = "the agent's workspace UUID"),
        ("ticket" = Option<String>, Query, description = "a one-time ticket"),
    ),
    responses(
        (status = 101, description = "the connection is a WebSocket now"),
        (status = 400, content_type = "text/plain", body = String, description = "not a WebSocket request"),
        (status = 401, body = ErrorBody),
        (status = 403, content_type = "text/plain", body = String, description = "opened by a page that may not"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "also when there are too many connections"),
    )
)]
async fn open_websocket(
    State(app): State<App>,
    parts: Parts,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let headers = &parts.headers;
    let ticket = query(&parts.uri, "ticket");
    let known = match (agent(headers)?, &ticket) {
        (Some(id), _) => {
            app.auth.own_token(id, headers).await?;
            let credentials = Credentials::Agent(id, headers.clone());
            Some((Audience::Agent(id), credentials))
        }
        (None, Some(_)) => None,
        (None, None) => {
            AdminAuth::from_request_parts(&mut parts.clone(), &app).await?;
            let credentials = Credentials::Admin(Asked::new(&parts));
            Some((Audience::Everything, credentials))
        }
    };
    let Ok(upgrade) = upgrade else {
        return Ok((StatusCode::BAD_REQUEST, "Bad Request").into_response());
    };
    // Only browsers carry credentials that somebody else's page could use.
    let open = app.auth.is_fail_open();
    let shown = ticket.is_some() || bearer(headers).is_some();
    match origin::judge(headers, &app.config.server.cors_origins, open) {
        Origin::Good => {}
        Origin::Missing if shown || open => {}
        Origin::Missing | Origin::Bad => {
            return Ok((StatusCode::FORBIDDEN, "Forbidden").into_response());
        }
    }
    let (audience, credentials) = match known {
        Some(known) => known,
        // Last, because it works only once.
        None => redeem(&app, &ticket.unwrap_or_default()).await?,
    };
    let supervisor = app.supervisor.clone();
    let events = app.events.clone();
    let listener = Arc::new(Listener { app, credentials });
    let subscription = events.listen(audience, listener).await;
    let subscription = subscription.map_err(|Full| {
        Error::not_now("too many live connections, try again later").retry_after(RETRY_SECS)
    })?;
    let upgrade = upgrade
        .max_message_size(MAX_INBOUND_BYTES)
        .max_frame_size(MAX_INBOUND_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        supervisor.spawn("websocket", async move {
            let _counted = Counted::new();
            serve(socket, subscription, TIMING).await;
        });
    }))
}

/// The workspace that an agent says it is.
fn agent(headers: &HeaderMap) -> Result<Option<Uuid>, Error> {
    let mut values = headers.get_all(X_WORKSPACE_ID).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let id = value.to_str().ok().and_then(|id| Uuid::parse_str(id).ok());
    match (id, values.next()) {
        (Some(id), None) => Ok(Some(id)),
        _ => Err(Error::invalid("invalid workspace ID")),
    }
}

async fn redeem(app: &App, ticket: &str) -> Result<(Audience, Credentials), Error> {
    let found = app.auth.redeem_ticket(ticket).await?;
    let ticket = found.ok_or_else(|| Error::unauthorized("invalid or expired ticket"))?;
    let audience = match ticket.workspace_id {
        Some(id) => Audience::Agent(id),
        None => Audience::Everything,
    };
    let until = Instant::now() + TICKET_LASTS;
    Ok((audience, Credentials::Ticket(ticket, until)))
}

/// Counts a socket for as long as it is open.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!(GAUGE).increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(GAUGE).decrement(1.0);
    }
}

/// How a socket ends.
enum End {
    /// The peer is gone or said goodbye.
    Gone,
    /// It gets a reason.
    Because(u16, &'static str),
}

impl From<Ended> for End {
    fn from(why: Ended) -> Self {
        match why {
            Ended::Slow => Self::Because(close_code::POLICY, "too slow"),
            Ended::Refused => Self::Because(close_code::POLICY, "credentials are no longer valid"),
            Ended::Removed => Self::Because(close_code::POLICY, "workspace removed"),
            Ended::Behind => Self::Because(close_code::AGAIN, "events were missed"),
            Ended::Closing => Self::Because(close_code::AWAY, "server is shutting down"),
        }
    }
}

/// A socket from its first event to its end.
async fn serve<S>(mut socket: S, mut events: Subscription, timing: Timing)
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    let end = talk(&mut socket, &mut events, timing).await;
    // Its place is free; what still waits for it is not sent.
    drop(events);
    let farewell = async {
        if let End::Because(code, reason) = end {
            let reason = Utf8Bytes::from_static(reason);
            let frame = CloseFrame { code, reason };
            socket.send(Message::Close(Some(frame))).await?;
            // A connection that is closed with words unread may lose ours.
            while let Some(Ok(_)) = socket.next().await {}
        }
        socket.close().await
    };
    let _ = tokio::time::timeout(timing.farewell, farewell).await;
}

async fn talk<S>(socket: &mut S, events: &mut Subscription, timing: Timing) -> End
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    let mut ping = interval_at(tokio::time::Instant::now() + timing.ping, timing.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let first = tokio::select! {
            event = events.next() => match event {
                Ok(frame) => message(&frame),
                Err(why) => return why.into(),
            },
            said = socket.next() => match said {
                Some(Ok(Message::Close(_))) | None => return End::Gone,
                Some(Ok(_)) => {
                    heard = Instant::now();
                    continue;
                }
                // A message over the limit, or no WebSocket at all.
                Some(Err(_)) => return End::Because(close_code::SIZE, "message too big"),
            },
            _ = ping.tick() => {
                if heard.elapsed() > timing.silence {
                    return End::Because(close_code::POLICY, "no sign of life");
                }
                Message::Ping(Default::default())
            }
        };
        if let Err(end) = write(socket, first, events, timing.write).await {
            return end;
        }
    }
}

/// Sends a message, and with it the events that are there already.
async fn write<S>(
    socket: &mut S,
    first: Message,
    events: &mut Subscription,
    patience: Duration,
) -> Result<(), End>
where
    S: Sink<Message, Error = axum::Error> + Unpin,
{
    let mut more = vec![first];
    while more.len() < MOST_AT_ONCE
        && let Some(frame) = events.try_next()
    {
        more.push(message(&frame));
    }
    let sending = async {
        for message in more {
            socket.feed(message).await?;
        }
        socket.flush().await
    };
    tokio::select! {
        sent = tokio::time::timeout(patience, sending) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(Ended::Slow.into()),
        },
        why = events.ended() => Err(why.into()),
    }
}

/// The event as a text message; its bytes are shared.
fn message(frame: &Frame) -> Message {
    // JSON is UTF-8.
    Message::Text(Utf8Bytes::try_from(frame.json()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
