//! Rules of the `plugins` section.

use url::Url;

use crate::config::{PluginsConfig, SignaturePolicy};
use crate::plugins::TrustedKey;

/// Nobody waits longer for an answer.
const MAX_INSTALL_TIMEOUT_SECS: u64 = 24 * 3600;

/// One sentence per problem.
pub(super) fn problems(plugins: &PluginsConfig, found: &mut Vec<String>) {
    let limits = [
        (
            "install_body_max_bytes",
            plugins.install_body_max_bytes as u64,
        ),
        ("install_timeout_secs", plugins.install_timeout_secs),
        ("max_dir_bytes", plugins.max_dir_bytes),
        ("max_entries", plugins.max_entries as u64),
        ("drift_concurrency", plugins.drift_concurrency as u64),
    ];
    for (field, _) in limits.into_iter().filter(|(_, value)| *value == 0) {
        found.push(format!("plugins.{field}: must be at least 1"));
    }
    if plugins.install_timeout_secs > MAX_INSTALL_TIMEOUT_SECS {
        found.push(format!(
            "plugins.install_timeout_secs: must be at most {MAX_INSTALL_TIMEOUT_SECS}, a day"
        ));
    }
    // By their number: what stands in the wrong place may be a secret.
    for (entry, key) in (1..).zip(&plugins.trusted_keys) {
        if let Err(problem) = TrustedKey::parse(key) {
            found.push(format!(
                "plugins.trusted_keys (PLUGIN_TRUSTED_KEYS): entry {entry} {problem}"
            ));
        }
    }
    if plugins.require_signature == SignaturePolicy::Enforce && plugins.trusted_keys.is_empty() {
        found.push(
            "plugins.require_signature (PLUGIN_REQUIRE_SIGNATURE): enforce needs \
             plugins.trusted_keys, or no plugin can be installed"
                .to_owned(),
        );
    }
    let url = Url::parse(&plugins.github_url);
    if !url.is_ok_and(|url| is_base(&url)) {
        found.push(
            "plugins.github_url (PLUGIN_GITHUB_URL): must be an https:// URL without user, query \
             and fragment (http:// for this machine only)"
                .to_owned(),
        );
    }
}

fn is_base(url: &Url) -> bool {
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain && (url.scheme() == "https" || (url.scheme() == "http" && local))
}
