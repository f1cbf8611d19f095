//! Rules of the `plugins` section.

use url::Url;

use crate::config::PluginsConfig;

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
