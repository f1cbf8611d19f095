//! Paths that mean the same to us and to whoever is behind us.

/// Whether nobody can read this path as another one: it has no dot segments, no
/// empty segments, no backslashes, and none of these in disguise.
///
/// The check of a prefix is worth nothing on a path that the next server takes
/// apart differently.
pub(super) fn is_plain(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else {
        return false;
    };
    // An empty segment at the end is a slash at the end, and plain.
    let mut segments = path.strip_suffix('/').unwrap_or(path).split('/');
    path.is_empty() || (segments.all(is_plain_segment) && !has_disguise(path))
}

fn is_plain_segment(segment: &str) -> bool {
    // Some servers cut a segment at its first semicolon.
    let name = segment.split(';').next().unwrap_or_default();
    !matches!(name, "" | "." | "..") && !segment.contains('\\')
}

/// An encoded slash, backslash, dot or NUL; also encoded twice, for a server that
/// decodes twice. And what is no encoding at all.
fn has_disguise(path: &str) -> bool {
    path.match_indices('%').any(|(at, _)| {
        let mut rest = &path.as_bytes()[at + 1..];
        let is_encoding = rest
            .get(..2)
            .is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit));
        while let Some(again) = rest.strip_prefix(b"25") {
            rest = again;
        }
        let hidden = rest.get(..2).is_some_and(|code| {
            let is = |wanted: &[u8; 2]| code.eq_ignore_ascii_case(wanted);
            is(b"2f") || is(b"5c") || is(b"2e") || is(b"00")
        });
        hidden || !is_encoding
    })
}

/// Whether a path is `prefix` or below it; only below it, if that ends with a slash.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    match (path.strip_prefix(prefix), prefix.ends_with('/')) {
        (Some(rest), true) => !rest.is_empty(),
        (Some(rest), false) => rest.is_empty() || rest.starts_with('/'),
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_paths_pass() {
        for path in [
            "/",
            "/cp/auth/login",
            "/cp/orgs/",
            "/a.b/..c/d../...",
            "/_next/static/chunks/%5Bid%5D.js",
            "/a%20b/%C3%A4",
            "/100%25",
            "/100%25/a%25b",
            "/a;v=1/b",
        ] {
            assert!(is_plain(path), "{path}");
        }
    }

    #[test]
    fn tricks_do_not() {
        for path in [
            "",
            "cp/auth",
            "*",
            "//",
            "//evil.example/x",
            "/cp//auth",
            "/cp/auth//",
            "/cp/auth/../admin",
            "/cp/auth/./x",
            "/cp/auth/..",
            "/cp/auth/.",
            "/cp/auth/%2e%2e/admin",
            "/cp/auth/%2E./admin",
            "/cp/auth/.%2e/admin",
            "/cp/auth%2f..%2fadmin",
            "/cp/auth%2Fadmin",
            "/cp/auth%5c..%5cadmin",
            "/cp/auth\\..\\admin",
            "/cp/auth/%252e%252e/admin",
            "/cp/auth/%25252fadmin",
            "/cp/auth/..;/admin",
            "/cp/auth/;/admin",
            "/cp/auth/..;a=b",
            "/cp/auth%00",
            "/cp/auth/%",
            "/cp/auth/%2",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn a_prefix_ends_with_a_segment() {
        assert!(is_below("/cp/orgs", "/cp/orgs"));
        assert!(is_below("/cp/orgs/a", "/cp/orgs"));
        assert!(is_below("/cp/auth/login", "/cp/auth/"));
        assert!(!is_below("/cp/auth", "/cp/auth/"));
        assert!(!is_below("/cp/auth/", "/cp/auth/"));
        assert!(!is_below("/cp/orgsx", "/cp/orgs"));
        assert!(!is_below("/cp/admin", "/cp/auth/"));
    }

    /// What a server may make of a path: decoded up to three times, split at both
    /// slashes, parameters cut off, dots resolved.
    fn resolve(path: &str, times: usize) -> String {
        let mut bytes = path.as_bytes().to_vec();
        for _ in 0..times {
            bytes = decode(&bytes);
        }
        let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
        let mut stack = Vec::new();
        for segment in text.split('/') {
            match segment.split(';').next().unwrap_or_default() {
                "" | "." => {}
                ".." => drop(stack.pop()),
                name => stack.push(name.to_owned()),
            }
        }
        format!("/{}", stack.join("/"))
    }

    fn decode(bytes: &[u8]) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let code = bytes
                .get(at + 1..at + 3)
                .and_then(|c| std::str::from_utf8(c).ok());
            let value = code.and_then(|code| u8::from_str_radix(code, 16).ok());
            match (bytes[at], value) {
                (b'%', Some(value)) => {
                    out.push(value);
                    at += 3;
                }
                (byte, _) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// However often a server decodes and whatever it resolves, a plain path
        /// stays below its prefix.
        #[test]
        fn a_plain_path_never_leaves_its_prefix(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "/", ".", "..", "a", ";", "\\", "%", "%2e", "%2E", "%2f", "%5C", "%25",
                    "2e", "2f", "5c", "25", "%00", "%20", "admin",
                ]),
                0..12,
            ),
            times in 0..4_usize,
        ) {
            let path = format!("/cp/auth/{}", parts.concat());
            if is_plain(&path) {
                let seen = resolve(&path, times);
                prop_assert!(is_below(&seen, "/cp/auth"), "{} is {}", path, seen);
                // The URL parser, too, leaves it as it is.
                let url = url::Url::parse(&format!("http://a{path}")).unwrap();
                prop_assert_eq!(url.path(), path);
            }
        }

        #[test]
        fn any_text_is_answered(path in "\\PC{0,100}") {
            let _ = is_plain(&path);
        }
    }
}
