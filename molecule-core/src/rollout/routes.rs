//! `/admin/workspace-images/refresh`.

use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::refresh::Refreshed;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::http::{ApiResult, ErrorBody, Json};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(refresh_workspace_images))
}

#[derive(Deserialize, IntoParams)]
struct RefreshQuery {
    /// One runtime; all that are known without it.
    runtime: Option<String>,
    /// Restart who uses an older image; anything but `true` means no. Default `true`.
    recreate: Option<String>,
}

#[utoipa::path(
    post,
    path = "/admin/workspace-images/refresh",
    tag = "admin",
    params(RefreshQuery),
    responses(
        (status = 200, body = Refreshed),
        (status = 400, body = ErrorBody, description = "an unknown runtime, with `known_runtimes`"),
        (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "a refresh that another administrator asked for runs"),
        (status = 500, body = ErrorBody, description = "with `partial_result`"),
        (status = 501, body = ErrorBody, description = "this backend runs no images"),
        (status = 503, body = ErrorBody),
    )
)]
async fn refresh_workspace_images(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Query(query): Query<RefreshQuery>,
) -> ApiResult<Json<Refreshed>> {
    let runtime = query.runtime.filter(|runtime| !runtime.is_empty());
    let recreate = query.recreate.is_none_or(|text| text == "true");
    tracing::info!(actor = who.actor(), recreate, "refresh of images asked for");
    let refreshed = app.rollout.refresh(runtime.as_deref(), recreate).await?;
    Ok(Json(refreshed))
}
