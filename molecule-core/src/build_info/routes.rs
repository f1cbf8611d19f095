//! `GET /admin/build-info`.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::BuildInfo;
use crate::app::App;
use crate::auth::AdminAuth;
use crate::http::{ErrorBody, Json};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_build_info))
}

#[utoipa::path(
    get,
    path = "/admin/build-info",
    tag = "system",
    responses(
        (status = 200, body = BuildInfo, description = "versions, sources and toolchain of the binary, and the hooks linked into it"),
        (status = 401, body = ErrorBody),
    )
)]
async fn get_build_info(_: AdminAuth) -> Json<BuildInfo> {
    Json(BuildInfo::of_this_binary())
}
