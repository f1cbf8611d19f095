//! `/plugins`, `/workspaces/{id}/plugins`, `/orgs/{id}/plugins` and what administrators
//! do with them.

mod updates;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().merge(updates::router())
}
