//! `POST /workspaces/{id}/plugins`, `DELETE /workspaces/{id}/plugins/{name}`.

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderValue, Uri};
use molecule_hooks::PluginName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::deliver::DeliverOptions;
use super::super::install::Install;
use super::super::pins::Pins;
use super::super::source::SourceRef;
use super::super::track::{Track, UpdateMode};
use super::workspace_id;
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::error::{Error, Kind, Result};
use crate::http::{ApiError, ApiResult, ErrorBody, Json, JsonBody};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(install_plugin))
        .routes(routes!(uninstall_plugin))
}

/// What to install.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct InstallRequest {
    /// `scheme://spec`, or the name of a plugin of the server. Required.
    source: Option<String>,
    /// SHA-256 of its `plugin.yaml`, in hexadecimal digits.
    sha256: Option<String>,
    /// Digest (version 2) of its tree, in hexadecimal digits.
    tree_sha256: Option<String>,
    /// Signature over the digest of the tree.
    signature: Option<String>,
    /// What it follows: `none`, `tag:vX.Y.Z`, `tag:latest` or `sha:<full>`.
    track: Option<String>,
    /// What happens when that moves: `off`, `notify` (if not given) or `auto`.
    update_mode: Option<String>,
    /// `false` delivers it without restarting the agent.
    restart: Option<bool>,
    /// `true` delivers a tree that is there already.
    force: Option<bool>,
}

/// What was installed.
#[derive(Serialize, ToSchema)]
struct InstallReply {
    status: &'static str,
    /// Its name from now on.
    plugin: String,
    /// `scheme://spec`.
    source: String,
    /// The exact revision, if its source has such a thing.
    installed_sha: Option<String>,
    /// Digest (version 2) of its tree.
    tree_sha256: String,
    /// The agent is restarted.
    restarting: bool,
    /// This tree was there already; nothing was written.
    unchanged: bool,
    /// `cold`: agents see it after a restart; `skill-content-only`: they read it by
    /// themselves; `unchanged`.
    restart_reason: &'static str,
    /// The same for people.
    restart_detail: &'static str,
}

#[utoipa::path(
    post,
    path = "/workspaces/{id}/plugins",
    tag = "plugins",
    params(("id" = String, Path, description = "workspace UUID")),
    request_body = InstallRequest,
    responses(
        (status = 200, body = InstallReply),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "its organisation may not have it"),
        (status = 404, body = ErrorBody, description = "there is no such plugin or revision"),
        (status = 409, body = ErrorBody, description = "something else happens to this plugin"),
        (status = 413, body = ErrorBody, description = "the plugin is too large"),
        (status = 422, body = ErrorBody, description = "external, not pinned, or a check failed"),
        (status = 500, body = ErrorBody),
        (status = 502, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "the workspace does not run"),
        (status = 504, body = ErrorBody),
    )
)]
async fn install_plugin(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    request: Request,
) -> ApiResult<Response> {
    let id = workspace_id(&id)?;
    app.plugins
        .refuse_external(
            id,
            "plugin install via push is not supported for external runtimes",
            "external workspaces pull plugins via GET /workspaces/:id/plugins/:name/download",
        )
        .await?;
    let limit = app.config.plugins.install_body_max_bytes;
    let body = match JsonBody::read(request.into_body(), limit).await {
        Ok(body) => body,
        Err(error) => return Ok(unreadable(&error)),
    };
    let request: InstallRequest = body.decode("invalid request body")?;
    let installed = app.plugins.install(id, wanted(request)?).await?;
    let (staged, delivered) = (installed.staged, installed.delivered);
    let reply = InstallReply {
        status: "installed",
        plugin: staged.name.to_string(),
        source: staged.source.to_string(),
        installed_sha: staged.revision,
        tree_sha256: staged.tree.digest().to_string(),
        restarting: delivered.restarting,
        unchanged: delivered.unchanged,
        restart_reason: delivered.reason.as_str(),
        restart_detail: delivered.reason.explain(),
    };
    Ok(Json(reply).into_response())
}

/// The answer to a body that was not read whole; nor is the rest of it, so that the
/// connection must end.
fn unreadable(error: &Error) -> Response {
    let mut answer = ApiError::from(Error::invalid("invalid request body")).into_response();
    if error.kind() == Kind::TooLarge {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

/// Checks what can be checked before anything is fetched.
fn wanted(request: InstallRequest) -> Result<Install> {
    let source = request.source.unwrap_or_default();
    if source.is_empty() {
        return Err(Error::invalid(
            "'source' is required (e.g. \"local://my-plugin\" or \"github://owner/repo\")",
        ));
    }
    let source = SourceRef::parse(&source).map_err(|_| Error::invalid("invalid plugin source"))?;
    let track = Track::parse(request.track.as_deref().unwrap_or_default())?;
    let update_mode = UpdateMode::parse(request.update_mode.as_deref().unwrap_or_default())?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Install {
        source,
        pins: Pins {
            sha256: given(request.sha256),
            tree_sha256: given(request.tree_sha256),
            signature: given(request.signature),
            ..Pins::default()
        },
        track,
        update_mode,
        options: DeliverOptions {
            restart: request.restart.unwrap_or(true),
            force: request.force.unwrap_or(false),
        },
    })
}

/// What was removed.
#[derive(Serialize, ToSchema)]
struct UninstallReply {
    status: &'static str,
    plugin: String,
    /// The agent is restarted.
    restarting: bool,
}

#[utoipa::path(
    delete,
    path = "/workspaces/{id}/plugins/{name}",
    tag = "plugins",
    description = "Removes a plugin and what it owns. Of two plugins whose names are routes of their own \
                   (`available`, `compatibility`) write the first letter as `%61` and `%63`.",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("name" = String, Path, description = "name of the plugin"),
        ("restart" = Option<String>, Query, description = "`false` does not restart the agent"),
    ),
    responses(
        (status = 200, body = UninstallReply, description = "also when it was not there"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "something else happens to this plugin"),
        (status = 422, body = ErrorBody, description = "an external workspace"),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "the workspace does not run"),
    )
)]
async fn uninstall_plugin(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    path: std::result::Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    uri: Uri,
) -> ApiResult<Json<UninstallReply>> {
    let id = workspace_id(&id)?;
    app.plugins
        .refuse_external(
            id,
            "plugin uninstall via docker exec is not supported for external runtimes",
            "external workspaces manage their own plugin directory; remove it locally",
        )
        .await?;
    let name = path
        .ok()
        .and_then(|Path((_, name))| PluginName::parse(&name));
    let name = name.ok_or_else(|| Error::invalid("invalid plugin name"))?;
    let restart = super::query(&uri, "restart").as_deref() != Some("false");
    let plugin = name.to_string();
    let removed = app.plugins.uninstall(id, name, restart).await?;
    Ok(Json(UninstallReply {
        status: "uninstalled",
        plugin,
        restarting: removed.restarting,
    }))
}
