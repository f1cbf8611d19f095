//! `GET /plugins`, `GET /plugins/sources`.

use axum::extract::State;
use http::Uri;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::manifest::PluginRecord;
use super::query;
use crate::app::App;
use crate::http::Json;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_registry_plugins))
        .routes(routes!(list_plugin_sources))
}

/// Where plugins can come from.
#[derive(Serialize, ToSchema)]
struct SourcesReply {
    /// What can stand before `://`, sorted.
    schemes: Vec<String>,
}

#[utoipa::path(
    get,
    path = "/plugins",
    tag = "plugins",
    description = "The plugins in the folder of this server, by name.",
    params(
        ("runtime" = Option<String>, Query, description = "only those that may run on it"),
    ),
    security(()),
    responses((status = 200, body = [PluginRecord], description = "empty when the folder cannot be read"))
)]
async fn list_registry_plugins(State(app): State<App>, uri: Uri) -> Json<Vec<PluginRecord>> {
    let runtime = query(&uri, "runtime");
    Json(app.plugins.available(runtime.as_deref()).await)
}

#[utoipa::path(
    get,
    path = "/plugins/sources",
    tag = "plugins",
    description = "The schemes of the sources that plugins can come from.",
    security(()),
    responses((status = 200, body = SourcesReply))
)]
async fn list_plugin_sources(State(app): State<App>) -> Json<SourcesReply> {
    Json(SourcesReply {
        schemes: app.plugins.schemes(),
    })
}
