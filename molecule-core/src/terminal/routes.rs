//! `GET /workspaces/{id}/terminal`; what is said over its socket in the file below.

mod session;

use std::time::{Duration, Instant};

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{Visitor, protocol};
use crate::app::App;
use crate::auth::{Principal, Ticket, bearer};
use crate::backend::TerminalUser;
use crate::error::{Error, Kind};
use crate::http::origin::{self, Origin};
use crate::http::{ApiResult, ErrorBody, RemoteAddress};

/// Largest message a client may send.
const MAX_INBOUND_BYTES: usize = 64 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
/// A client with a ticket comes with a new one after this time.
const TICKET_LASTS: Duration = Duration::from_secs(3600);
/// The same for a ticket whose issuer nobody can be asked about meanwhile.
const SESSION_TICKET_LASTS: Duration = Duration::from_secs(300);

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(open_terminal))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/terminal",
    tag = "workspaces",
    description = "A shell next to the agent, over a WebSocket. Binary messages are bytes, both ways. Text \
                   messages are JSON: the client sends `{\"type\":\"resize\",\"cols\":120,\"rows\":40}`, the \
                   server `{\"type\":\"error\",\"message\":\"…\"}` and at the end of the shell \
                   `{\"type\":\"exit\",\"code\":0}`. For administrators and the workspace itself; a browser, \
                   which cannot send headers, brings a ticket. Beginning and end are recorded.",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("cols" = Option<u16>, Query, description = "characters per line, 1 to 1000; 80 if not given"),
        ("rows" = Option<u16>, Query, description = "lines, 1 to 1000; 24 if not given"),
        ("ticket" = Option<String>, Query, description = "a one-time ticket"),
    ),
    responses(
        (status = 101, description = "the connection is a WebSocket now"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "opened by a page that may not"),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "nothing runs, or there is no shell"),
        (status = 500, body = ErrorBody),
        (status = 501, body = ErrorBody, description = "this backend has no terminals"),
        (status = 502, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "also when too many are open"),
    )
)]
async fn open_terminal(
    State(app): State<App>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    RemoteAddress(remote): RemoteAddress,
    parts: Parts,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let id = path.ok().and_then(|Path(id)| Uuid::parse_str(&id).ok());
    let id = id.ok_or_else(|| Error::invalid("invalid workspace ID"))?;
    let headers = &parts.headers;
    let ticket = query(&parts.uri, "ticket");
    let known = match &ticket {
        Some(_) => None,
        None => Some(app.auth.own_or_admin(id, headers).await?),
    };
    // Only browsers carry credentials that somebody else's page could use.
    let open = app.auth.is_fail_open();
    let shown = ticket.is_some() || bearer(headers).is_some();
    match origin::judge(headers, &app.config.server.cors_origins, open) {
        Origin::Good => {}
        Origin::Missing if shown || open => {}
        Origin::Missing | Origin::Bad => {
            return Err(Error::forbidden("this page may not open a terminal").into());
        }
    }
    let size = protocol::wanted(
        query(&parts.uri, "cols").as_deref(),
        query(&parts.uri, "rows").as_deref(),
    );
    let size = size.ok_or_else(|| Error::invalid("invalid terminal size"))?;
    let Ok(upgrade) = upgrade else {
        return Ok((StatusCode::BAD_REQUEST, "Bad Request").into_response());
    };
    let (who, right) = match known {
        Some(who) => (who, Right::Headers(headers.clone())),
        // Last, because it works only once.
        None => redeem(&app, id, &ticket.unwrap_or_default()).await?,
    };
    let visitor = Visitor {
        by: who.actor(),
        remote,
        user: match who {
            Principal::Workspace(_) => TerminalUser::Agent,
            _ => TerminalUser::Operator,
        },
    };
    let opened = app.terminals.open(id, visitor, size).await?;
    let visit = session::Visit {
        app: app.clone(),
        id,
        right,
    };
    let supervisor = app.supervisor.clone();
    let upgrade = upgrade
        .max_message_size(MAX_INBOUND_BYTES)
        .max_frame_size(MAX_INBOUND_BYTES)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_INBOUND_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        supervisor.spawn("terminal", session::serve(socket, opened, visit));
    }))
}

/// What a terminal stays open with.
enum Right {
    /// The credentials in these headers.
    Headers(HeaderMap),
    /// A ticket, until then.
    Ticket(Ticket, Instant),
}

impl Right {
    /// Whether it is still good; none when a datastore does not answer, which
    /// refuses nobody.
    async fn holds(&self, app: &App, id: Uuid) -> Option<bool> {
        match self {
            Self::Headers(headers) => match app.auth.own_or_admin(id, headers).await {
                Ok(_) => Some(true),
                Err(error) => (error.kind() == Kind::Unauthorized).then_some(false),
            },
            Self::Ticket(_, until) if Instant::now() >= *until => Some(false),
            Self::Ticket(ticket, _) => {
                let holder = app.auth.ticket_holder(ticket).await.ok()?;
                Some(holder.is_some())
            }
        }
    }
}

async fn redeem(app: &App, id: Uuid, ticket: &str) -> Result<(Principal, Right), Error> {
    let invalid = || Error::unauthorized("invalid or expired ticket");
    let ticket = app.auth.redeem_ticket(ticket).await?.ok_or_else(invalid)?;
    // One without a workspace was asked for by an administrator.
    if ticket.workspace_id.is_some_and(|only| only != id) {
        return Err(invalid());
    }
    let who = app.auth.ticket_holder(&ticket).await?.ok_or_else(invalid)?;
    let lasts = match who {
        Principal::Session { .. } => SESSION_TICKET_LASTS,
        _ => TICKET_LASTS,
    };
    Ok((who, Right::Ticket(ticket, Instant::now() + lasts)))
}

/// The first value of a query parameter.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
