//! Reading credentials out of a request. No I/O.

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, REFERER};
use http::{HeaderMap, HeaderName};
use uuid::Uuid;

use crate::error::{Error, Result};

/// The workspace a caller claims to be.
const CALLER: HeaderName = HeaderName::from_static("x-workspace-id");
/// Names the platform gives its own callers; nobody may send them.
const RESERVED_PREFIXES: [&str; 4] = ["webhook:", "system:", "test:", "channel:"];

/// The bearer token of a request. The scheme's case does not matter; an empty
/// token counts as none.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The whole `Authorization` value, for the one route that takes a token without
/// its scheme.
pub(super) fn bare_authorization(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    (!value.is_empty()).then_some(value)
}

/// Every cookie pair of a request, as name and value.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.trim(), value.trim())
        })
        .filter(|(name, value)| !(name.is_empty() && value.is_empty()))
}

/// Whose workspace the caller claims to be; none without the header.
///
/// # Errors
/// 403 `invalid caller ID` for a reserved name; 400 `invalid X-Workspace-ID` for
/// what is no UUID, and for two headers.
pub(crate) fn caller_id(headers: &HeaderMap) -> Result<Option<Uuid>> {
    let mut values = headers.get_all(CALLER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let invalid = || Error::invalid("invalid X-Workspace-ID");
    let text = value.to_str().map_err(|_| invalid())?.trim();
    if text.is_empty() && values.next().is_none() {
        return Ok(None);
    }
    let lower = text.to_ascii_lowercase();
    if RESERVED_PREFIXES.iter().any(|name| lower.starts_with(name)) {
        return Err(Error::forbidden("invalid caller ID"));
    }
    match (values.next(), Uuid::try_parse(text)) {
        (None, Ok(id)) => Ok(Some(id)),
        _ => Err(invalid()),
    }
}

/// True when the browser says that a page of this very host made the request.
/// Anyone but a browser can say so too: never enough alone.
///
/// `Origin` decides when it is there, `Referer` otherwise. `external_host` is
/// this server's name for the outside, where a proxy in front rewrites `Host`.
pub(super) fn is_same_origin(headers: &HeaderMap, external_host: Option<&str>) -> bool {
    let Some(host) = only(headers, &HOST).filter(|host| !host.is_empty()) else {
        return false;
    };
    let is_own = |authority: &str| {
        authority.eq_ignore_ascii_case(host)
            || external_host.is_some_and(|own| authority.eq_ignore_ascii_case(own))
    };
    if headers.contains_key(ORIGIN) {
        return only(headers, &ORIGIN).and_then(authority).is_some_and(
            // An origin has no path.
            |(authority, rest)| rest.is_empty() && is_own(authority),
        );
    }
    only(headers, &REFERER)
        .and_then(authority)
        .is_some_and(|(authority, rest)| {
            (rest.is_empty() || rest.starts_with('/')) && is_own(authority)
        })
}

/// The value of a header that is there exactly once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Host and port of an http URL, and what follows.
fn authority(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    is_http.then(|| rest.split_at(end))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn same_origin_compares_the_whole_host_and_lets_origin_decide() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[("origin", "http://molecule.test:8080")], true),
            (&[("origin", "https://Molecule.Test:8080")], true),
            (&[("referer", "http://molecule.test:8080")], true),
            (&[("referer", "http://molecule.test:8080/a?b#c")], true),
            (&[], false),
            (&[("origin", "http://molecule.test")], false),
            (&[("origin", "http://molecule.test:8080/")], false),
            (&[("origin", "http://molecule.test:8080.evil.test")], false),
            (&[("origin", "http://evil.test")], false),
            (&[("origin", "null")], false),
            (&[("origin", "ftp://molecule.test:8080")], false),
            (
                &[("referer", "http://molecule.test:8080.evil.test/")],
                false,
            ),
            (
                &[("referer", "http://molecule.test:8080@evil.test/")],
                false,
            ),
            (
                &[("referer", "http://evil.test/http://molecule.test:8080/")],
                false,
            ),
            (
                &[
                    ("origin", "http://evil.test"),
                    ("referer", "http://molecule.test:8080/"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "http://molecule.test:8080"),
                    ("origin", "http://evil.test"),
                ],
                false,
            ),
        ];
        for (pairs, expected) in cases {
            let mut map = headers(pairs);
            map.append(HOST, HeaderValue::from_static("molecule.test:8080"));
            assert_eq!(is_same_origin(&map, None), *expected, "{pairs:?}");
        }
        let without_host = headers(&[("origin", "http://molecule.test:8080")]);
        assert!(!is_same_origin(&without_host, None));
        let two_hosts = headers(&[("host", "a"), ("host", "b"), ("origin", "http://a")]);
        assert!(!is_same_origin(&two_hosts, None));
        let behind_proxy = headers(&[("host", "inner:1"), ("origin", "https://outer.test")]);
        assert!(is_same_origin(&behind_proxy, Some("outer.test")));
    }

    #[test]
    fn a_caller_is_a_uuid_and_no_reserved_name() {
        const ID: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
        let id = Uuid::parse_str(ID).unwrap();
        let caller = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|v| ("x-workspace-id", *v)).collect();
            caller_id(&headers(&pairs)).map_err(|error| error.message().to_owned())
        };
        assert_eq!(caller(&[]), Ok(None));
        assert_eq!(caller(&[""]), Ok(None));
        assert_eq!(caller(&[ID]), Ok(Some(id)));
        assert_eq!(caller(&[&format!(" {ID} ")]), Ok(Some(id)));
        assert_eq!(caller(&[&ID.to_uppercase()]), Ok(Some(id)));
        for reserved in [
            "webhook:x",
            "system:restart",
            "test:",
            "CHANNEL:a",
            " System:x",
        ] {
            let refused = caller(&[reserved]);
            assert_eq!(refused, Err("invalid caller ID".to_owned()), "{reserved}");
        }
        for bad in [&["x"][..], &[ID, ID], &["", ID], &["'; DROP TABLE x"]] {
            let refused = caller(bad);
            assert_eq!(refused, Err("invalid X-Workspace-ID".to_owned()), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut map = HeaderMap::new();
            for name in [AUTHORIZATION, COOKIE, HOST, ORIGIN, REFERER, CALLER] {
                map.append(name, value.clone());
            }
            let _ = (bearer(&map), bare_authorization(&map), caller_id(&map));
            let _ = (cookies(&map).count(), is_same_origin(&map, Some("x")));
        }
    }
}
