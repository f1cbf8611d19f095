//! `/canvas/viewport`.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Viewport, ViewportChange};
use crate::app::App;
use crate::auth::CanvasOrBearer;
use crate::http::{ApiResult, ErrorBody, Json, JsonBody};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_viewport, put_viewport))
}

/// Which part of the canvas is looked at, and how closely.
#[derive(Serialize, ToSchema)]
struct ViewportBody {
    x: f64,
    y: f64,
    zoom: f64,
}

#[utoipa::path(
    get,
    path = "/canvas/viewport",
    tag = "canvas",
    security(()),
    responses((status = 200, body = ViewportBody))
)]
async fn get_viewport(State(app): State<App>) -> Json<ViewportBody> {
    let Viewport { x, y, zoom } = app.canvas.viewport().await;
    Json(ViewportBody { x, y, zoom })
}

/// What changes; what is missing stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
struct PutViewport {
    x: Option<f64>,
    y: Option<f64>,
    /// Above zero.
    zoom: Option<f64>,
}

/// The change is kept.
#[derive(Serialize, ToSchema)]
struct SavedViewport {
    status: &'static str,
}

#[utoipa::path(
    put,
    path = "/canvas/viewport",
    tag = "canvas",
    request_body = PutViewport,
    responses(
        (status = 200, body = SavedViewport),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn put_viewport(
    _: CanvasOrBearer,
    State(app): State<App>,
    body: JsonBody,
) -> ApiResult<Json<SavedViewport>> {
    let put: PutViewport = body.decode("invalid viewport data")?;
    let change = ViewportChange {
        x: put.x,
        y: put.y,
        zoom: put.zoom,
    };
    app.canvas.move_viewport(change).await?;
    Ok(Json(SavedViewport { status: "saved" }))
}
