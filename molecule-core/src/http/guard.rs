//! One server of an organisation answers that organisation only.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

const ORG_ID: HeaderName = HeaderName::from_static("x-molecule-org-id");
const REPLAY_SOURCE: HeaderName = HeaderName::from_static("fly-replay-src");

/// For health checks and for agents, which know no organisation.
const EXEMPT: [&str; 5] = [
    "/health",
    "/metrics",
    "/readyz",
    "/registry/heartbeat",
    "/registry/register",
];

/// Says whether a request comes from this server's own canvas, by something that
/// cannot be forged; headers that anybody can write do not count.
pub(crate) type TrustedCanvas = Arc<dyn Fn(&HeaderMap) -> bool + Send + Sync>;

/// Lets requests pass that name the organisation.
pub(crate) struct TenantGuard {
    org_id: String,
    is_trusted_canvas: TrustedCanvas,
}

impl TenantGuard {
    /// None without an organisation: then everything passes.
    pub(crate) fn new(org_id: Option<&str>, is_trusted_canvas: TrustedCanvas) -> Option<Self> {
        let org_id = org_id.map(str::trim).filter(|id| !id.is_empty())?;
        Some(Self {
            org_id: org_id.to_owned(),
            is_trusted_canvas,
        })
    }

    pub(super) fn lets_pass(&self, path: &str, headers: &HeaderMap) -> bool {
        let is_ours = |value: &HeaderValue| value.as_bytes() == self.org_id.as_bytes();
        EXEMPT.contains(&path)
            || path.starts_with("/cp/")
            || headers.get(ORG_ID).is_some_and(is_ours)
            || self.was_replayed(headers)
            || (self.is_trusted_canvas)(headers)
    }

    /// The edge says for whom it sent the request here: `…;state=<organisation>`.
    fn was_replayed(&self, headers: &HeaderMap) -> bool {
        let source = headers
            .get(REPLAY_SOURCE)
            .and_then(|source| source.to_str().ok());
        let mut segments = source.into_iter().flat_map(|source| source.split(';'));
        segments
            .find_map(|segment| segment.trim().strip_prefix("state="))
            .is_some_and(|state| state == self.org_id)
    }
}
