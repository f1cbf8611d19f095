//! Routes about the server itself.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiResult, ErrorBody, Json};
use crate::app::App;
use crate::auth::AdminAuth;
use crate::telemetry::render_metrics;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_health))
        .routes(routes!(get_readyz))
        .routes(routes!(get_metrics))
        .routes(routes!(get_liveness))
        .routes(routes!(get_openapi))
}

/// The process is up.
#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

#[utoipa::path(get, path = "/health", tag = "system", security(()), responses((status = 200, body = Health)))]
async fn get_health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the server can do its work.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready` or `unavailable`.
    status: &'static str,
    /// `ok` or `unavailable`.
    database: &'static str,
    /// Kind of the backend, or `unavailable`.
    backend: &'static str,
}

#[utoipa::path(
    get,
    path = "/readyz",
    tag = "system",
    security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
async fn get_readyz(State(app): State<App>) -> Response {
    let (database, backend) = app.readiness().await;
    let ready = database && backend;
    let body = Readiness {
        status: if ready { "ready" } else { "unavailable" },
        database: if database { "ok" } else { "unavailable" },
        backend: if backend {
            app.backend.kind().as_str()
        } else {
            "unavailable"
        },
    };
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

#[utoipa::path(
    get,
    path = "/metrics",
    tag = "system",
    security(()),
    responses((status = 200, content_type = "text/plain", body = String))
)]
async fn get_metrics() -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], render_metrics().await).into_response()
}

#[utoipa::path(
    get,
    path = "/admin/liveness",
    tag = "system",
    responses((status = 200, description = "last round of every loop, and whether this server runs those that run once"), (status = 401, body = ErrorBody))
)]
async fn get_liveness(_: AdminAuth, State(app): State<App>) -> ApiResult<Json<Value>> {
    let subsystems: Map<String, Value> = app
        .supervisor
        .ticks()
        .into_iter()
        .map(|(name, tick)| {
            let at_text = tick.at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            // Not from the wall clock, which somebody may set.
            let seconds_ago = tick.since.elapsed().as_secs();
            (
                name.to_owned(),
                json!({ "last_tick_at": at_text, "seconds_ago": seconds_ago }),
            )
        })
        .collect();
    let leader = app.leader.is_leader();
    Ok(Json(json!({ "subsystems": subsystems, "leader": leader })))
}

#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "system",
    security(()),
    responses((status = 200, description = "this document"))
)]
async fn get_openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(crate::app::openapi())
}
