//! `GET /workspaces/{id}/plugins`, `…/available`, `…/compatibility`.

use axum::extract::State;
use chrono::SecondsFormat;
use http::Uri;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::installed::InstalledRow;
use super::super::manifest::PluginRecord;
use super::super::receipts::Receipt;
use super::{query, workspace_id};
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_installed_plugins))
        .routes(routes!(list_available_plugins))
        .routes(routes!(check_plugin_compatibility))
}

/// A plugin of a workspace.
#[derive(Serialize, ToSchema)]
struct InstalledView {
    #[serde(flatten)]
    plugin: PluginRecord,
    /// It lies in the workspace; false only where `include=wanted` was asked for.
    installed: bool,
    /// Its marker says that it is whole.
    complete: bool,
    /// Where it came from; null for one that is not tracked.
    source: Option<String>,
    tracked_ref: Option<String>,
    update_mode: Option<String>,
    installed_sha: Option<String>,
    tree_sha256: Option<String>,
    /// When it was installed first, RFC 3339.
    installed_at: Option<String>,
    /// Why the workspace started without it last.
    delivery_error: Option<String>,
    receipt: Receipt,
}

impl From<InstalledRow> for InstalledView {
    fn from(row: InstalledRow) -> Self {
        let tracked = row.tracked.as_ref();
        let delivered = row.receipt.delivered.as_ref();
        Self {
            plugin: row.record,
            installed: row.installed,
            complete: row.complete,
            source: tracked.map(|row| row.source_raw.clone()),
            tracked_ref: tracked.map(|row| row.tracked_ref.clone()),
            update_mode: tracked.map(|row| row.update_mode.clone()),
            // What lies there, if it says so.
            installed_sha: (delivered.and_then(|tree| tree.sha.clone()))
                .or_else(|| tracked.and_then(|row| row.installed_sha.clone())),
            tree_sha256: (delivered.and_then(|tree| tree.tree_sha256.clone()))
                .or_else(|| tracked.and_then(|row| row.tree_sha256.clone())),
            installed_at: tracked.map(|row| {
                row.installed_at
                    .to_rfc3339_opts(SecondsFormat::Micros, true)
            }),
            delivery_error: tracked.and_then(|row| row.delivery_error.clone()),
            receipt: row.receipt,
        }
    }
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/plugins",
    tag = "plugins",
    description = "What is installed, with a receipt each: wanted, delivered, loaded, and how they agree.",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("include" = Option<String>, Query, description = "`wanted`: also what should be there and is not"),
    ),
    responses(
        (status = 200, body = [InstalledView], description = "empty when nothing runs"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_installed_plugins(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    uri: Uri,
) -> ApiResult<Json<Vec<InstalledView>>> {
    let wanted = query(&uri, "include").as_deref() == Some("wanted");
    let rows = app.plugins.installed(workspace_id(&id)?, wanted).await;
    Ok(Json(rows.into_iter().map(InstalledView::from).collect()))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/plugins/available",
    tag = "plugins",
    description = "The plugins of this server that work with the workspace's runtime.",
    params(("id" = String, Path, description = "workspace UUID")),
    responses(
        (status = 200, body = [PluginRecord]),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn list_available_plugins(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
) -> ApiResult<Json<Vec<PluginRecord>>> {
    Ok(Json(app.plugins.available_to(workspace_id(&id)?).await))
}

/// How installed plugins go with a runtime.
#[derive(Serialize, ToSchema)]
struct CompatibilityReply {
    target_runtime: String,
    compatible: Vec<PluginRecord>,
    incompatible: Vec<PluginRecord>,
    all_compatible: bool,
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/plugins/compatibility",
    tag = "plugins",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("runtime" = String, Query, description = "the runtime that the workspace might have"),
    ),
    responses(
        (status = 200, body = CompatibilityReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
async fn check_plugin_compatibility(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    uri: Uri,
) -> ApiResult<Json<CompatibilityReply>> {
    let id = workspace_id(&id)?;
    let runtime = query(&uri, "runtime").filter(|runtime| !runtime.is_empty());
    let runtime = runtime.ok_or_else(|| Error::invalid("runtime query parameter is required"))?;
    let found = app.plugins.compatibility(id, &runtime).await?;
    Ok(Json(CompatibilityReply {
        all_compatible: found.incompatible.is_empty(),
        compatible: found.compatible,
        incompatible: found.incompatible,
        target_runtime: runtime,
    }))
}
