//! The servers behind this one: the SaaS control plane and the web canvas.

mod headers;
mod path;

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, UPGRADE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use uuid::Uuid;

use super::caller::Client;
use super::error::InternalContext;
use super::{ApiError, cors};
use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than servers commonly keep an idle connection, so that a request does
/// not meet one that is closing.
const POOL_IDLE: Duration = Duration::from_secs(4);
const POOL_CONNECTIONS: usize = 32;
/// Which servers of ours a request passed, to notice a circle.
const PASSED: HeaderName = HeaderName::from_static("x-molecule-passed");

/// What the router and the metrics call requests for the control plane.
pub(super) const CONTROL_PLANE_ROUTE: &str = "/cp/{*path}";

/// What of the control plane may be asked through us. The segment ends where the
/// prefix does.
const CONTROL_PLANE_PREFIXES: [&str; 5] = [
    "/cp/auth/",
    "/cp/billing/",
    "/cp/legal/",
    "/cp/orgs",
    "/cp/templates",
];

/// A proxy cannot be set up.
#[derive(thiserror::Error, Debug)]
#[error("proxy: {0}")]
pub(crate) struct ProxyError(String);

/// The servers behind this one, as far as they are configured.
#[derive(Default)]
pub(crate) struct Proxies {
    pub(super) control_plane: Option<Upstream>,
    pub(super) canvas: Option<Upstream>,
}

/// One server behind this one.
pub(crate) struct Upstream {
    client: reqwest::Client,
    /// Scheme, host and path, without a slash at the end.
    base: String,
    rules: Rules,
    /// For the head of a response, and for every wait in its body.
    timeout: Duration,
    /// Names this process.
    passed: HeaderValue,
}

struct Rules {
    /// None lets every path pass.
    prefixes: Option<&'static [&'static str]>,
    credentials: Credentials,
    /// The text of a 502.
    unavailable: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credentials {
    Forward,
    Strip,
}

const CONTROL_PLANE: Rules = Rules {
    prefixes: Some(&CONTROL_PLANE_PREFIXES),
    credentials: Credentials::Forward,
    unavailable: "control plane unavailable",
};

const CANVAS: Rules = Rules {
    prefixes: None,
    credentials: Credentials::Strip,
    unavailable: "canvas unavailable",
};

impl Proxies {
    /// Proxies to these base URLs. `timeout` is that of a request of ours.
    ///
    /// # Errors
    /// [`ProxyError`] when a URL is none or no TLS client can be made.
    pub(crate) fn new(
        control_plane: Option<&str>,
        canvas: Option<&str>,
        timeout: Duration,
    ) -> Result<Self, ProxyError> {
        let upstream = |url: Option<&str>, rules: Rules| {
            url.map(|url| Upstream::new(url, rules, timeout))
                .transpose()
        };
        Ok(Self {
            control_plane: upstream(control_plane, CONTROL_PLANE)?,
            canvas: upstream(canvas, CANVAS)?,
        })
    }

    /// Templates of the routes, for the metrics.
    pub(crate) fn templates(&self) -> impl Iterator<Item = String> + use<> {
        let routes = self.control_plane.as_ref().map(|_| CONTROL_PLANE_ROUTE);
        routes.into_iter().map(str::to_owned)
    }
}

impl Upstream {
    fn new(url: &str, rules: Rules, timeout: Duration) -> Result<Self, ProxyError> {
        let url = url::Url::parse(url).map_err(|error| ProxyError(error.to_string()))?;
        let mut builder = reqwest::Client::builder()
            // The environment's proxies are for somebody else.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(timeout)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_CONNECTIONS);
        if url.scheme() == "http" {
            // Without TLS nobody needs the system's certificates, which small images
            // do not have.
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|error| ProxyError(format!("{:#}", anyhow::Error::from(error))))?;
        let passed = Uuid::new_v4().simple().to_string();
        Ok(Self {
            client,
            base: url[..url::Position::AfterPath]
                .trim_end_matches('/')
                .to_owned(),
            rules,
            // Ours must end before the request's own.
            timeout: timeout.mul_f32(0.9),
            passed: HeaderValue::try_from(passed).unwrap_or(HeaderValue::from_static("here")),
        })
    }

    /// Sends the request on and its answer back, both as they come.
    pub(super) async fn forward(&self, request: Request) -> Response {
        let path = request.uri().path();
        let may_pass = |prefixes: &[&str]| prefixes.iter().any(|p| path::is_below(path, p));
        let is_allowed = path::is_plain(path) && self.rules.prefixes.is_none_or(may_pass);
        // TRACE would show a page its own cookies, CONNECT asks for a tunnel.
        if !is_allowed || [Method::TRACE, Method::CONNECT].contains(request.method()) {
            return match self.rules.prefixes {
                Some(_) => StatusCode::NOT_FOUND.into_response(),
                None => ApiError::from(Error::not_found("404 page not found")).into_response(),
            };
        }
        // Other upgrades are offers that a server may pass over.
        let upgrade = request.headers().get(UPGRADE);
        if upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            let error = Error::not_implemented("connections through the proxy cannot be upgraded");
            return ApiError::from(error).into_response();
        }
        let passed = request.headers().get_all(PASSED);
        if passed.iter().any(|passed| *passed == self.passed) {
            return self.unavailable("the upstream sends requests back to this server");
        }
        match self.send(request).await {
            Ok(response) => response,
            Err(cause) => self.unavailable(&cause),
        }
    }

    async fn send(&self, request: Request) -> Result<Response, String> {
        let (parts, body) = request.into_parts();
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let url = format!("{}{target}", self.base);
        let url = reqwest::Url::parse(&url).map_err(|error| error.to_string())?;
        let mut headers = headers::of_request(
            &parts.headers,
            self.rules.credentials,
            cors::host(&parts.uri, &parts.headers),
            parts.extensions.get::<Client>(),
        );
        headers.append(PASSED, self.passed.clone());
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = headers;
        if !body.is_end_stream() {
            let body = reqwest::Body::wrap_stream(body.into_data_stream());
            *request.body_mut() = Some(body);
        }
        let answer = tokio::time::timeout(self.timeout, self.client.execute(request)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            // Without the URL: its query is the client's.
            Ok(Err(error)) => {
                return Err(format!("{:#}", anyhow::Error::from(error.without_url())));
            }
            Err(_) => return Err("the upstream did not answer in time".to_owned()),
        };
        let (status, headers) = (answer.status(), headers::of_response(answer.headers()));
        let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        Ok(response)
    }

    fn unavailable(&self, cause: &str) -> Response {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let headers = [(CONTENT_TYPE, text)];
        let body = self.rules.unavailable;
        let mut response = (StatusCode::BAD_GATEWAY, headers, body).into_response();
        let context = InternalContext(format!("{body}: {cause}"));
        response.extensions_mut().insert(context);
        response
    }
}
