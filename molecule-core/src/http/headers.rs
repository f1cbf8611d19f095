//! What every response says to browsers, unless its handler knows better.

use http::header::{
    CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::limit;

const SECURITY: [(HeaderName, HeaderValue); 5] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000; includeSubDomains"),
    ),
    (
        REFERRER_POLICY,
        HeaderValue::from_static("strict-origin-when-cross-origin"),
    ),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), microphone=(), geolocation=()"),
    ),
];

/// Answers of the API are no pages.
const API_CSP: HeaderValue = HeaderValue::from_static("default-src 'self'");
/// What the canvas needs.
const PAGE_CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data: blob:; connect-src 'self' ws: wss:; font-src 'self' data:",
);

/// First segments of the API's paths.
const API: [&str; 16] = [
    "admin",
    "approvals",
    "bundles",
    "channels",
    "events",
    "health",
    "metrics",
    "org",
    "orgs",
    "plugins",
    "registry",
    "settings",
    "templates",
    "webhooks",
    "workspaces",
    "ws",
];

/// Whether a path is the API's: one of the prefixes, alone or with a slash and
/// more.
pub(super) fn is_api(path: &str) -> bool {
    let first = path.strip_prefix('/').unwrap_or(path);
    let first = first.split('/').next().unwrap_or_default();
    API.contains(&first)
}

/// Asked by probes, which must not be told to come back later.
pub(super) fn is_unlimited(path: &str) -> bool {
    ["/health", "/metrics", "/readyz"].contains(&path)
}

/// Ready-made headers. A copy of these with the handler's put into it is cheaper
/// than looking for each.
pub(super) struct Headers {
    api: HeaderMap,
    page: HeaderMap,
}

impl Headers {
    pub(super) fn new() -> Self {
        let with = |csp: HeaderValue| {
            // Room for what is added to a copy.
            let mut headers = HeaderMap::with_capacity(16);
            headers.extend(SECURITY);
            headers.insert(CONTENT_SECURITY_POLICY, csp);
            headers
        };
        Self {
            api: with(API_CSP),
            page: with(PAGE_CSP),
        }
    }

    pub(super) fn copy_for(&self, is_api: bool) -> HeaderMap {
        match is_api {
            true => self.api.clone(),
            false => self.page.clone(),
        }
    }
}

/// Says that nobody counts: development without an administrator token.
pub(super) fn write_unlimited(headers: &mut HeaderMap) {
    headers.insert(limit::LIMIT, HeaderValue::from_static("unlimited"));
}

#[cfg(test)]
mod tests {
    use super::is_api;

    #[test]
    fn a_path_is_the_apis_by_its_whole_first_segment() {
        for path in [
            "/workspaces",
            "/workspaces/a/b",
            "/ws",
            "/ws/",
            "/org/tokens",
            "/orgs",
        ] {
            assert!(is_api(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/workspacesx",
            "/canvas/viewport",
            "/instructions",
            "/cp/auth/login",
            "//workspaces",
            "/Workspaces",
            "/x/workspaces",
            "workspace",
            "/organ",
        ] {
            assert!(!is_api(path), "{path}");
        }
    }
}
