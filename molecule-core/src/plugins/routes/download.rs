//! `GET /workspaces/{id}/plugins/{name}/download`.

use std::ops::Range;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use molecule_hooks::PluginName;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Plugins;
use super::super::download::{Download, Part, lists, part};
use super::super::track::Track;
use super::{query, workspace_id};
use crate::app::App;
use crate::auth::WorkspaceAuth;
use crate::error::Error;
use crate::http::{ApiResult, ErrorBody, Json};
use crate::tree::TreeDigest;

const DIGEST: HeaderName = HeaderName::from_static("digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const PLUGIN_NAME: HeaderName = HeaderName::from_static("x-plugin-name");
const PLUGIN_SOURCE: HeaderName = HeaderName::from_static("x-plugin-source");
const PLUGIN_REVISION: HeaderName = HeaderName::from_static("x-plugin-revision");
const PLUGIN_TREE: HeaderName = HeaderName::from_static("x-plugin-tree-sha256");

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(download_plugin))
}

#[utoipa::path(
    get,
    path = "/workspaces/{id}/plugins/{name}/download",
    tag = "plugins",
    description = "A plugin as `tar.gz`, for agents that fetch their plugins themselves. The same tree is \
                   the same bytes. With the workspace's own token only, as long as it has one.",
    params(
        ("id" = String, Path, description = "workspace UUID"),
        ("name" = String, Path, description = "name of the plugin"),
        ("source" = Option<String>, Query, description = "where it comes from, if not `local://<name>`"),
        ("track" = Option<String>, Query, description = "what an external workspace follows from now on: \
                                                         `none`, `tag:vX.Y.Z`, `tag:latest` or `sha:<full>`"),
        ("Range" = Option<String>, Header, description = "one range of bytes"),
        ("If-Range" = Option<String>, Header, description = "the `ETag` that the range belongs to"),
        ("If-None-Match" = Option<String>, Header, description = "the `ETag` that is there already"),
    ),
    responses(
        (status = 200, description = "the archive", body = [u8], content_type = "application/gzip"),
        (status = 206, description = "a part of it", body = [u8], content_type = "application/gzip"),
        (status = 304, description = "it is there already"),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "not in the organisation's allowlist"),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody, description = "the plugin is too large"),
        (status = 416, body = ErrorBody, description = "there are no such bytes"),
        (status = 422, body = ErrorBody, description = "the plugin did not pass a check"),
        (status = 500, body = ErrorBody),
        (status = 502, body = ErrorBody),
        (status = 503, body = ErrorBody),
        (status = 504, body = ErrorBody),
    )
)]
async fn download_plugin(
    WorkspaceAuth(id): WorkspaceAuth,
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let name = path
        .ok()
        .and_then(|Path((_, name))| PluginName::parse(&name));
    let name = name.ok_or_else(|| Error::invalid("invalid plugin name"))?;
    let id = workspace_id(&id)?;
    app.auth.own_token_if_any(id, &headers).await?;
    let track = query(&uri, "track");
    let track = track.as_deref().map(Track::parse).transpose();
    let track = track.map_err(Error::from)?;
    let source = query(&uri, "source").filter(|source| !source.is_empty());
    let download = app.plugins.download(id, &name, source.as_deref()).await?;
    let answer = Answer::new(&method, &headers, &download);
    if method == Method::GET && answer.is_sent() {
        app.plugins.record_pull(id, &download.staged, track).await;
    }
    Ok(answer.send(&app.plugins, download))
}

/// What a client gets.
enum Answer {
    NotModified,
    Unsatisfiable,
    Bytes(Range<u64>),
}

impl Answer {
    fn new(method: &Method, headers: &HeaderMap, download: &Download) -> Self {
        let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let (tag, bytes) = (tag(download), download.archive.bytes);
        if header(IF_NONE_MATCH).is_some_and(|list| lists(list, &tag)) {
            return Self::NotModified;
        }
        // A part of something else is worth nothing: a weak tag does not do, nor a date.
        let same = header(IF_RANGE).is_none_or(|only| only.trim() == tag);
        let range = header(RANGE).filter(|_| same && method == Method::GET);
        match part(range, bytes) {
            Part::Whole => Self::Bytes(0..bytes),
            Part::Bytes(range) => Self::Bytes(range),
            Part::Unsatisfiable => Self::Unsatisfiable,
        }
    }

    fn is_sent(&self) -> bool {
        matches!(self, Self::Bytes(_))
    }

    fn send(self, plugins: &Plugins, download: Download) -> Response {
        let about = about(&download);
        let bytes = download.archive.bytes;
        let range = match self {
            Self::NotModified => return (StatusCode::NOT_MODIFIED, about).into_response(),
            Self::Unsatisfiable => {
                let range = [(CONTENT_RANGE, format!("bytes */{bytes}"))];
                let body = Json(json!({ "error": "no such range of bytes" }));
                return (StatusCode::RANGE_NOT_SATISFIABLE, range, body).into_response();
            }
            Self::Bytes(range) => range,
        };
        let length = range.end - range.start;
        let is_part = length < bytes;
        let mut response = about.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        // A plugin's name has no quotes.
        let file = format!("attachment; filename=\"{}.tar.gz\"", download.staged.name);
        insert(headers, CONTENT_DISPOSITION, &file);
        if is_part {
            let range = format!("bytes {}-{}/{bytes}", range.start, range.end - 1);
            insert(headers, CONTENT_RANGE, &range);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        *response.body_mut() = Body::from_stream(plugins.send(download, range));
        response
    }
}

fn tag(download: &Download) -> String {
    format!("\"{}\"", TreeDigest(download.archive.sha256))
}

/// What every answer about an archive says.
fn about(download: &Download) -> HeaderMap {
    let Download {
        staged, archive, ..
    } = download;
    let digest = STANDARD.encode(archive.sha256);
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    insert(&mut headers, ETAG, &tag(download));
    insert(&mut headers, DIGEST, &format!("sha-256={digest}"));
    insert(&mut headers, REPR_DIGEST, &format!("sha-256=:{digest}:"));
    insert(&mut headers, PLUGIN_NAME, staged.name.as_str());
    insert(&mut headers, PLUGIN_SOURCE, &staged.source.to_string());
    insert(&mut headers, PLUGIN_TREE, &staged.tree.digest().to_string());
    if let Some(revision) = &staged.revision {
        insert(&mut headers, PLUGIN_REVISION, revision);
    }
    headers
}

/// Leaves out what a header cannot hold.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(name, value);
    }
}
