//! `/admin/runtime-image-pins`.

use axum::extract::{Path, State};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Images;
use super::pins::{Decided, PinRequest};
use super::store::{Decision, Running};
use crate::app::App;
use crate::auth::AdminAuth;
use crate::backend::ImageDigest;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_image_pins))
        .routes(routes!(set_image_pin, clear_image_pin))
        .routes(routes!(list_image_pin_history))
        .routes(routes!(roll_back_image_pin))
}

/// A decision about the image of a runtime.
#[derive(Serialize, ToSchema)]
struct PinItem {
    /// The runtime.
    template_name: String,
    /// The content; null when it is not pinned.
    digest: Option<String>,
    /// What the backend asks for; null without a backend that runs images.
    reference: Option<String>,
    updated_at: String,
    /// The kind of credential it was decided with.
    updated_by: Option<String>,
    notes: Option<String>,
}

impl PinItem {
    fn new(images: &Images, decision: Decision) -> Self {
        let pin = decision.digest.as_deref().and_then(ImageDigest::parse);
        Self {
            reference: images.reference(&decision.template_name, pin),
            template_name: decision.template_name,
            digest: decision.digest,
            updated_at: rfc3339(decision.updated_at),
            updated_by: decision.updated_by,
            notes: decision.notes,
        }
    }
}

/// How many workspaces run a content.
#[derive(Serialize, ToSchema)]
struct RunningItem {
    /// Null: it is not known.
    digest: Option<String>,
    workspaces: i64,
}

/// A pin, and what workspaces of its runtime run.
#[derive(Serialize, ToSchema)]
struct ListedPin {
    #[serde(flatten)]
    pin: PinItem,
    running: Vec<RunningItem>,
}

impl ListedPin {
    fn new(images: &Images, decision: Decision, running: &[Running]) -> Self {
        let of_runtime = running
            .iter()
            .filter(|item| item.runtime == decision.template_name)
            .map(|item| RunningItem {
                digest: item.digest.clone(),
                workspaces: item.workspaces,
            });
        Self {
            running: of_runtime.collect(),
            pin: PinItem::new(images, decision),
        }
    }
}

/// A decision that was just taken. It restarts nothing.
#[derive(Serialize, ToSchema)]
struct DecidedPin {
    #[serde(flatten)]
    pin: PinItem,
    /// Workspaces that do not run, for all we know, what they would boot with now.
    needs_restart: i64,
}

impl DecidedPin {
    fn new(images: &Images, decided: Decided) -> Json<Self> {
        Json(Self {
            pin: PinItem::new(images, decided.decision),
            needs_restart: decided.needs_restart,
        })
    }
}

#[utoipa::path(
    get,
    path = "/admin/runtime-image-pins",
    tag = "admin",
    responses(
        (status = 200, body = Vec<ListedPin>),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_image_pins(_: AdminAuth, State(app): State<App>) -> ApiResult<Json<Vec<ListedPin>>> {
    let (pins, running) = app.images.pins().await?;
    let pins = pins.into_iter();
    let listed = pins.map(|pin| ListedPin::new(&app.images, pin, &running));
    Ok(Json(listed.collect()))
}

#[utoipa::path(
    put,
    path = "/admin/runtime-image-pins/{runtime}",
    tag = "admin",
    params(("runtime" = String, Path, description = "a runtime with an image")),
    request_body = PinRequest,
    responses(
        (status = 200, body = DecidedPin),
        (status = 400, body = ErrorBody, description = "also an unknown runtime, with `known_runtimes`"),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn set_image_pin(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(runtime): Path<String>,
    body: JsonBody,
) -> ApiResult<Json<DecidedPin>> {
    let request: PinRequest = body.decode("invalid request body")?;
    let decided = app.images.pin(&runtime, request, &who.actor()).await?;
    Ok(DecidedPin::new(&app.images, decided))
}

#[utoipa::path(
    delete,
    path = "/admin/runtime-image-pins/{runtime}",
    tag = "admin",
    params(("runtime" = String, Path, description = "a pinned runtime")),
    responses(
        (status = 200, body = DecidedPin),
        (status = 400, body = ErrorBody, description = "an unknown runtime, with `known_runtimes`"),
        (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "it is not pinned"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn clear_image_pin(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(runtime): Path<String>,
) -> ApiResult<Json<DecidedPin>> {
    let decided = app.images.clear(&runtime, &who.actor()).await?;
    Ok(DecidedPin::new(&app.images, decided))
}

#[utoipa::path(
    get,
    path = "/admin/runtime-image-pins/{runtime}/history",
    tag = "admin",
    params(("runtime" = String, Path, description = "a runtime with an image")),
    responses(
        (status = 200, body = Vec<PinItem>, description = "the last fifty, newest first"),
        (status = 400, body = ErrorBody, description = "an unknown runtime, with `known_runtimes`"),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_image_pin_history(
    _: AdminAuth,
    State(app): State<App>,
    Path(runtime): Path<String>,
) -> ApiResult<Json<Vec<PinItem>>> {
    let history = app.images.history(&runtime).await?.into_iter();
    let items = history.map(|decision| PinItem::new(&app.images, decision));
    Ok(Json(items.collect()))
}

#[utoipa::path(
    post,
    path = "/admin/runtime-image-pins/{runtime}/rollback",
    tag = "admin",
    params(("runtime" = String, Path, description = "a runtime with an image")),
    responses(
        (status = 200, body = DecidedPin),
        (status = 400, body = ErrorBody, description = "an unknown runtime, with `known_runtimes`"),
        (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "nothing else was ever decided"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn roll_back_image_pin(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(runtime): Path<String>,
) -> ApiResult<Json<DecidedPin>> {
    let decided = app.images.roll_back(&runtime, &who.actor()).await?;
    Ok(DecidedPin::new(&app.images, decided))
}

/// RFC 3339, UTC, `Z`, microseconds.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
