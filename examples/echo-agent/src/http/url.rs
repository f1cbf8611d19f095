//! The `http://` URLs the client can call.

/// An `http://host[:port][/prefix]` URL without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    /// The name or address to connect to, without brackets.
    pub(crate) host: String,
    /// The port to connect to.
    pub(crate) port: u16,
    /// The value of the `Host` header.
    pub(crate) authority: String,
    prefix: String,
}

impl BaseUrl {
    /// Parses a URL; the error continues a sentence that starts with its name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if starts_with_ignore_case(text, "https://") {
            return Err("must start with http:// (this agent has no TLS)");
        }
        if !starts_with_ignore_case(text, "http://") {
            return Err("must start with http://");
        }
        let rest = &text["http://".len()..];
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'))
        {
            return Err("must not have a query, a fragment or blanks");
        }
        let (host, port) = split_port(authority)?;
        Ok(Self {
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    /// The request target for an absolute path below this URL.
    pub(crate) fn target(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

fn starts_with_ignore_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

fn split_port(authority: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has a broken IPv6 address")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("has a broken IPv6 address");
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("has a broken IPv6 address"),
        }
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let named = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !named {
            return Err("has no plain host name (credentials in it are refused)");
        }
        (host, port)
    };
    match port {
        None => Ok((host, 80)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(port) if port != 0 => Ok((host, port)),
            _ => Err("has a port outside 1 to 65535"),
        },
        Some(_) => Err("has a port that is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_urls_split_into_host_port_and_prefix() {
        for (text, host, port, target) in [
            ("http://platform", "platform", 80, "/x"),
            ("HTTP://platform:8080/", "platform", 8080, "/x"),
            ("http://10.0.0.1:1/a/b//", "10.0.0.1", 1, "/a/b/x"),
            ("http://[::1]:9", "::1", 9, "/x"),
            ("http://[::1]", "::1", 80, "/x"),
            (
                "http://host.docker.internal:8080",
                "host.docker.internal",
                8080,
                "/x",
            ),
        ] {
            let url = BaseUrl::parse(text).unwrap();
            assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
            assert_eq!(url.target("/x"), target, "{text}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for text in [
            "",
            "platform:8080",
            "ftp://platform",
            "https://platform",
            "http://",
            "http:///path",
            "http://user:secret@platform",
            "http://plat form",
            "http://platform\r\nX: y",
            "http://platform/a\nb",
            "http://platform/?q",
            "http://platform/#f",
            "http://platform:",
            "http://platform:0",
            "http://platform:65536",
            "http://platform:+80",
            "http://platform:80:80",
            "http://[::1",
            "http://[::1]x",
            "http://[nonsense]",
            "http://\u{e9}",
            "htt\u{e9}://x",
        ] {
            assert!(BaseUrl::parse(text).is_err(), "{text:?}");
        }
    }
}
