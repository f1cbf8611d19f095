//! Which web pages may open a WebSocket: browsers do not ask CORS for them.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName};

/// What a request says about the page that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No browser made it, or a page did that is listed.
    Good,
    /// It does not say.
    Missing,
    /// A page made it that is not listed.
    Bad,
}

/// Judges the `Origin` of a request. A page from this very server is good too; on
/// a server that is `open` only under a loopback name, because a stranger's page
/// can reach it through a name of its own.
pub(crate) fn judge(headers: &HeaderMap, listed: &[String], open: bool) -> Origin {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Origin::Missing;
    };
    let origin = match (origin.to_str(), origins.next()) {
        (Ok(origin), None) => origin.to_ascii_lowercase(),
        _ => return Origin::Bad,
    };
    let is_listed = |entry: &String| *entry == "*" || entry.eq_ignore_ascii_case(&origin);
    if listed.iter().any(is_listed) {
        return Origin::Good;
    }
    let host = one(headers, HOST).map(str::to_ascii_lowercase);
    let own = host.is_some_and(|host| {
        let page = (origin.strip_prefix("https://")).or_else(|| origin.strip_prefix("http://"));
        page == Some(host.as_str()) && (!open || is_loopback(&host))
    });
    match own {
        true => Origin::Good,
        false => Origin::Bad,
    }
}

/// The value of a header that is there once.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || (name.parse::<std::net::IpAddr>()).is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn judged(origin: &str, host: &str, listed: &[&str], open: bool) -> Origin {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_str(origin).expect("a value"));
        headers.insert(HOST, HeaderValue::from_str(host).expect("a value"));
        let listed: Vec<String> = listed.iter().map(|&entry| entry.to_owned()).collect();
        judge(&headers, &listed, open)
    }

    #[test]
    fn listed_pages_and_own_pages_are_good() {
        let listed = ["http://localhost:3000", "https://canvas.example"];
        for (origin, host, open, expected) in [
            ("http://localhost:3000", "a", false, Origin::Good),
            ("HTTPS://Canvas.Example", "a", false, Origin::Good),
            ("https://canvas.example.evil", "a", false, Origin::Bad),
            ("https://canvas.example:444", "a", false, Origin::Bad),
            ("null", "a", false, Origin::Bad),
            ("https://a", "a", false, Origin::Good),
            ("https://a:8080", "A:8080", false, Origin::Good),
            ("https://a:8080", "a", false, Origin::Bad),
            ("ftp://a", "a", false, Origin::Bad),
            // A stranger's name for this machine.
            ("http://evil:8080", "evil:8080", true, Origin::Bad),
            (
                "http://localhost:8080",
                "localhost:8080",
                true,
                Origin::Good,
            ),
            (
                "http://127.0.0.1:8080",
                "127.0.0.1:8080",
                true,
                Origin::Good,
            ),
            ("http://[::1]:8080", "[::1]:8080", true, Origin::Good),
            ("http://localhost.evil", "localhost.evil", true, Origin::Bad),
        ] {
            assert_eq!(
                judged(origin, host, &listed, open),
                expected,
                "{origin} {host}"
            );
        }
        assert_eq!(judged("https://any", "a", &["*"], true), Origin::Good);
    }

    #[test]
    fn no_origin_is_missing_and_two_are_bad() {
        let mut headers = HeaderMap::new();
        assert_eq!(judge(&headers, &[], false), Origin::Missing);
        headers.append(ORIGIN, HeaderValue::from_static("http://a"));
        headers.append(ORIGIN, HeaderValue::from_static("http://a"));
        assert_eq!(
            judge(&headers, &["http://a".to_owned()], false),
            Origin::Bad
        );
    }

    proptest! {
        #[test]
        fn what_is_not_listed_is_never_good(origin in "[!-~]{0,30}") {
            prop_assert_eq!(judged(&origin, "here", &["https://listed"], false) == Origin::Good,
                ["http://here", "https://here", "https://listed"]
                    .contains(&origin.to_ascii_lowercase().as_str()));
        }
    }
}
