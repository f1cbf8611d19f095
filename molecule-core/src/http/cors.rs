//! Which web pages of other origins may call the API.

use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,OPTIONS");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Origin,Content-Type,X-Workspace-Id,Authorization,X-Molecule-Org-Id,X-Molecule-Org-Slug,X-Timeout",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-RateLimit-Limit,X-RateLimit-Remaining,X-RateLimit-Reset,Retry-After",
);
const VARIES: [HeaderValue; 3] = [
    HeaderValue::from_static("Origin"),
    HeaderValue::from_static("Access-Control-Request-Method"),
    HeaderValue::from_static("Access-Control-Request-Headers"),
];

/// The origins of the configuration.
pub(crate) struct Cors {
    any: bool,
    origins: Vec<String>,
}

/// What CORS has to say about one request.
pub(super) enum Verdict {
    /// Nothing: no page of another origin sent it.
    Skip,
    /// A page of this origin may have the answer.
    Allow(Granted),
    /// The request ends here.
    End(Response),
}

/// What tells a browser that its page may have the answer.
pub(super) struct Granted {
    /// The page's origin; none when every origin may.
    origin: Option<HeaderValue>,
}

impl Cors {
    /// Origins as configured; `*` allows all of them.
    pub(crate) fn new(origins: &[String]) -> Self {
        let origins: Vec<String> = origins
            .iter()
            .map(|origin| origin.trim().to_ascii_lowercase())
            .collect();
        Self {
            any: origins.iter().any(|origin| origin == "*"),
            origins,
        }
    }

    pub(super) fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return Verdict::Skip;
        };
        if is_same_host(origin, uri, headers) {
            return Verdict::Skip;
        }
        let granted = match origin.to_str() {
            _ if self.any => Granted { origin: None },
            Ok(text) if self.origins.iter().any(|known| known == text) => Granted {
                origin: Some(origin.clone()),
            },
            _ => return Verdict::End(StatusCode::FORBIDDEN.into_response()),
        };
        if method == Method::OPTIONS {
            return Verdict::End(granted.preflight());
        }
        Verdict::Allow(granted)
    }
}

impl Granted {
    fn preflight(self) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        self.write_origin(headers);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        for header in VARIES {
            headers.append(VARY, header);
        }
        response
    }

    /// Puts the grant on an answer, beside what its handler says about `Vary`.
    pub(super) fn write_to(self, headers: &mut HeaderMap) {
        if self.origin.is_some() {
            let [varies, ..] = VARIES;
            headers.append(VARY, varies);
        }
        self.write_origin(headers);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }

    fn write_origin(self, headers: &mut HeaderMap) {
        match self.origin {
            Some(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                let yes = HeaderValue::from_static("true");
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            }
            // Never together with credentials: any page could use a visitor's cookie.
            None => {
                let any = HeaderValue::from_static("*");
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, any);
            }
        }
    }
}

/// `http://<Host>` or `https://<Host>`: a page of this server.
fn is_same_host(origin: &HeaderValue, uri: &Uri, headers: &HeaderMap) -> bool {
    let origin = origin.as_bytes();
    let origin = (origin.strip_prefix(b"http://")).or_else(|| origin.strip_prefix(b"https://"));
    match (origin, host(uri, headers)) {
        (Some(origin), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// The host that was asked. HTTP/2 has it in the request line.
pub(super) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let header = headers.get(HOST).map(HeaderValue::as_bytes);
    let host = header.or_else(|| uri.authority().map(|host| host.as_str().as_bytes()));
    host.filter(|host| !host.is_empty())
}
