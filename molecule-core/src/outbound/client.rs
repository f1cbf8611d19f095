//! A client that reaches the vetted addresses of one URL and nothing else.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use url::Host;

use super::VettedUrl;

/// What one call may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until the connection stands.
    pub(crate) connect: Duration,
    /// From the first byte out to the last byte in.
    pub(crate) total: Duration,
    /// Largest body that is read, in bytes.
    pub(crate) max_body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(30),
            max_body_bytes: 1024 * 1024,
        }
    }
}

/// Why a call did not work. For logs: the text may name hosts, never bodies.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No client, no connection, no answer, or not in time.
    #[error("outbound call failed")]
    Failed(#[from] reqwest::Error),
    /// The body is larger than the caller wants to read.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl VettedUrl {
    /// A client for calls to this URL's host. It connects to the addresses that
    /// were vetted, whatever the name means by then, follows no redirect and
    /// ignores the proxies of the environment.
    ///
    /// # Errors
    /// [`CallError::Failed`] when the system has no certificates for `https`.
    pub(crate) fn client(&self, limits: &Limits) -> Result<Client, CallError> {
        let mut builder = Client::builder()
            .connect_timeout(limits.connect)
            .timeout(limits.total)
            .redirect(Policy::none())
            .no_proxy()
            // One host, one call or a few: nothing to keep for later.
            .pool_max_idle_per_host(1)
            .user_agent(concat!("molecule/", env!("CARGO_PKG_VERSION")));
        if let Some(Host::Domain(name)) = self.url.host() {
            builder = builder.resolve_to_addrs(name, &self.addresses);
        }
        if self.url.scheme() == "http" {
            // Reading the system's certificates takes longer than the call.
            builder = builder.tls_certs_only([]);
        }
        Ok(builder.build()?)
    }
}

/// Reads a body, at most [`Limits::max_body_bytes`] of it.
///
/// # Errors
/// [`CallError`]; what was read of a body that is too large is dropped.
pub(crate) async fn read_body(
    mut response: Response,
    limits: &Limits,
) -> Result<Vec<u8>, CallError> {
    let limit = limits.max_body_bytes;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(CallError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
