//! `/plugins`, `/workspaces/{id}/plugins`, `/orgs/{id}/plugins` and what administrators
//! do with them.

mod allowlist;
mod download;
mod install;
mod installed;
mod receipts;
mod registry;
mod updates;

use std::time::Duration;

use http::Uri;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::app::App;
use crate::config::Config;
use crate::error::{Error, Result};

/// What an answer may take after an install's own deadline: what is under way is taken
/// back first.
const AFTER_DEADLINE: Duration = Duration::from_secs(30);
/// Routes that fetch, deliver or wait for who does.
const SLOW: [&str; 4] = [
    "/admin/plugin-updates/:id/apply",
    "/workspaces/:id/plugins",
    "/workspaces/:id/plugins/:name",
    "/workspaces/:id/plugins/:name/download",
];

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(allowlist::router())
        .merge(download::router())
        .merge(install::router())
        .merge(installed::router())
        .merge(receipts::router())
        .merge(registry::router())
        .merge(updates::router())
}

/// Routes that may take as long as an install, as the metrics call them.
pub(crate) fn slow(config: &Config) -> impl Iterator<Item = (&'static str, Duration)> {
    let most = config.plugins.install_timeout() + AFTER_DEADLINE;
    SLOW.into_iter().map(move |route| (route, most))
}

/// The first value of a query parameter.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// The workspace of a path, once its caller was let in.
fn workspace_id(id: &str) -> Result<Uuid> {
    Uuid::parse_str(id).map_err(|_| Error::invalid("invalid workspace ID"))
}
