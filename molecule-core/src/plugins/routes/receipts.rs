//! `GET /admin/plugin-receipts`.

use axum::extract::State;
use http::Uri;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::receipts::{MAX_PAGE, Reported, State as ReceiptState, USUAL_PAGE};
use super::query;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_plugin_receipts))
}

/// One page.
#[derive(Serialize, ToSchema)]
struct ReceiptsReply {
    receipts: Vec<Reported>,
    /// `cursor` of the next page; null when this was the last.
    next_cursor: Option<String>,
}

#[utoipa::path(
    get,
    path = "/admin/plugin-receipts",
    tag = "plugins",
    description = "Whether the plugins that workspaces should have are there, and loaded. No workspace is asked: \
                   `delivered` is what was written down when the instance that runs got its tree.",
    params(
        ("state" = Option<String>, Query, description = "only those of this state; a page may then have \
             fewer than `limit`, or none, and still not be the last"),
        ("limit" = Option<usize>, Query, description = "1 to 500; 100 if not given"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = ReceiptsReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_plugin_receipts(
    _: AdminAuth,
    State(app): State<App>,
    uri: Uri,
) -> ApiResult<Json<ReceiptsReply>> {
    let state = query(&uri, "state").filter(|state| !state.is_empty());
    let state = match state.as_deref() {
        None => None,
        Some(name) => Some(ReceiptState::parse(name).ok_or_else(|| {
            let names = ReceiptState::ALL.map(ReceiptState::as_str);
            Error::invalid("invalid state").with("states", names.to_vec())
        })?),
    };
    let limit = match query(&uri, "limit") {
        None => USUAL_PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_PAGE).contains(limit))
            .ok_or_else(|| Error::invalid("invalid limit"))?,
    };
    let cursor = query(&uri, "cursor").filter(|cursor| !cursor.is_empty());
    let page = app
        .plugins
        .receipts(state, limit, cursor.as_deref())
        .await?;
    Ok(Json(ReceiptsReply {
        receipts: page.receipts,
        next_cursor: page.next,
    }))
}
