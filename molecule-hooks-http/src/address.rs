use std::net::IpAddr;

use reqwest::Url;

const FRAGMENT: &str = "must not have a # and what follows it";
const NO_PATH_END: &str = "must end with its path, without ? or #";

/// Reads the base URL of an upstream: `http` or `https`, a host, no credentials,
/// no query and no fragment.
///
/// # Errors
/// What is wrong, as the end of a sentence that starts with the name of the
/// setting. The value is not repeated: it may hold a password.
///
/// ```
/// use molecule_hooks_http::base_url;
/// assert!(base_url("https://vault.example.org:8200/prefix").is_ok());
/// assert_eq!(base_url("nonsense"), Err("is not a URL"));
/// ```
pub fn base_url(text: &str) -> Result<Url, &'static str> {
    let url = endpoint_url(text).map_err(|what| match what {
        FRAGMENT => NO_PATH_END,
        other => other,
    })?;
    match url.query() {
        Some(_) => Err(NO_PATH_END),
        None => Ok(url),
    }
}

/// Reads the URL of a single endpoint, which may have a query: `http` or `https`, a
/// host, no credentials and no fragment.
///
/// # Errors
/// As [`base_url`].
///
/// ```
/// use molecule_hooks_http::endpoint_url;
/// assert!(endpoint_url("https://login.example.org/token?tenant=1").is_ok());
/// assert!(endpoint_url("https://login.example.org/token#1").is_err());
/// ```
pub fn endpoint_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "is not a URL")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must start with https:// or http:// and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password");
    }
    match url.fragment() {
        Some(_) => Err(FRAGMENT),
        None => Ok(url),
    }
}

/// The base with these path segments behind it, each escaped as needed, whether
/// or not the base ends with a slash.
pub fn join<'a>(base: &Url, segments: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    // Fails only for URLs that cannot have a path, which base_url refuses.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// True for this machine itself, which is never reached through a proxy and
/// needs no encryption.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
