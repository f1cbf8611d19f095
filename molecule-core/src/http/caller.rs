//! Who sent a request, as far as its connection and its proxies tell.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;

use crate::cidr::Cidr;

/// Hops of `X-Forwarded-For` that are looked at. Chains of own proxies are short;
/// a longer list was written by somebody else.
const MAX_HOPS: usize = 16;

/// Where a request came from. The accept loop puts it into the extensions, the
/// shell completes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// The other end of the connection.
    pub(super) peer: IpAddr,
    /// The client, as trusted proxies tell it; else the peer.
    pub(super) address: IpAddr,
    /// The peer is a trusted proxy.
    pub(super) is_proxied: bool,
    pub(super) caller: Caller,
}

/// Whom a limit of requests counts: the holder of a valid credential, else a
/// network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// SHA-256 of the credential.
    Credential([u8; 32]),
    V4([u8; 4]),
    /// The first 64 bits: one customer of one provider has them all.
    V6([u8; 8]),
    /// No connection is known, as in a test without a socket.
    Unknown,
}

impl Client {
    pub(super) fn new(peer: IpAddr) -> Self {
        let peer = peer.to_canonical();
        Self {
            peer,
            address: peer,
            is_proxied: false,
            caller: Caller::of(peer),
        }
    }

    /// Believes what trusted proxies say about the client.
    pub(super) fn resolve(&mut self, headers: &HeaderMap, trusted: &[Cidr]) {
        self.is_proxied = trusted.iter().any(|network| network.contains(self.peer));
        if self.is_proxied {
            self.address = forwarded_for(self.peer, headers, trusted);
            self.caller = Caller::of(self.address);
        }
    }
}

impl Caller {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The network a request came from, whatever credential it has, as a name for
/// limits of their own.
pub(crate) struct Network(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for Network {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let client = parts.extensions.get::<Client>();
        let network = client.map_or(Caller::Unknown, |client| Caller::of(client.address));
        Ok(Self(match network {
            Caller::V4(address) => std::net::Ipv4Addr::from(address).to_string(),
            Caller::V6([a, b, c, d, e, f, g, h]) => {
                let [a, b, c, d] = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_be_bytes);
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            Caller::Credential(_) | Caller::Unknown => "unknown".to_owned(),
        }))
    }
}

/// The address a request came from, for records of who did something.
pub(crate) struct RemoteAddress(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for RemoteAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let client = parts.extensions.get::<Client>();
        let address = client.map(|client| client.address.to_string());
        Ok(Self(address.unwrap_or_else(|| "unknown".to_owned())))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let client = parts.extensions.get::<Client>();
        Ok(client.map_or(Self::Unknown, |client| client.caller))
    }
}

/// The rightmost hop that no trusted proxy is. Everything left of it was written
/// by that hop itself and may be invented.
fn forwarded_for(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let lines = headers.get_all("x-forwarded-for").into_iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = peer;
    for hop in hops.take(MAX_HOPS) {
        // What is no address ends the chain: the last proxy that made sense is as
        // far as we know.
        let Some(address) = hop_address(hop) else {
            break;
        };
        client = address;
        if !trusted.iter().any(|network| network.contains(address)) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or
/// `[2001:db8::1]:4711`.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let address = hop
        .parse()
        .ok()
        .or_else(|| {
            hop.parse()
                .ok()
                .map(|socket: std::net::SocketAddr| socket.ip())
        })
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<Cidr> {
        ["10.0.0.0/8", "2001:db8:1::/48"]
            .map(|text| text.parse().unwrap())
            .into()
    }

    fn resolved(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
        }
        let mut client = Client::new(peer.parse().unwrap());
        client.resolve(&headers, &trusted());
        assert_eq!(client.caller, Caller::of(client.address));
        client.address.to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(resolved("203.0.113.1", &["1.2.3.4"]), "203.0.113.1");
        assert_eq!(resolved("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(resolved("::ffff:10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(
            resolved("2001:db8:1::9", &["2001:db8:2::1"]),
            "2001:db8:2::1"
        );
        assert_eq!(resolved("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_rightmost_hop_that_is_no_proxy_is_the_client() {
        for (lines, expected) in [
            (vec!["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            (vec!["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            (vec!["6.6.6.6, 1.2.3.4, 10.0.0.2", "10.0.0.3"], "1.2.3.4"),
            (vec!["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            (vec!["1.2.3.4:555"], "1.2.3.4"),
            (vec!["[2001:db8:2::1]:555"], "2001:db8:2::1"),
            (vec!["[2001:db8:2::1]"], "2001:db8:2::1"),
            (vec!["::ffff:1.2.3.4"], "1.2.3.4"),
            // Nonsense ends the chain at the last good hop.
            (vec!["1.2.3.4, unknown"], "10.0.0.1"),
            (vec!["1.2.3.4, , 10.0.0.2"], "10.0.0.2"),
            (vec!["1.2.3.4, 10.0.0.2, <script>, 10.0.0.3"], "10.0.0.3"),
            (vec![""], "10.0.0.1"),
            (vec![","], "10.0.0.1"),
        ] {
            assert_eq!(resolved("10.0.0.1", &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_chain_without_end_is_not_followed() {
        let chain = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(
            resolved("10.0.0.1", &[&format!("1.2.3.4,{chain}")]),
            "10.0.0.2"
        );
    }

    #[test]
    fn a_customer_of_a_provider_is_one_caller() {
        let caller = |text: &str| Client::new(text.parse().unwrap()).caller;
        assert_eq!(caller("2001:db8::1"), caller("2001:db8::ffff:1"));
        assert_ne!(caller("2001:db8::1"), caller("2001:db8:0:1::1"));
        assert_ne!(caller("192.0.2.1"), caller("192.0.2.2"));
        assert_eq!(caller("192.0.2.1"), caller("::ffff:192.0.2.1"));
    }

    proptest! {
        #[test]
        fn whatever_stands_left_of_the_client_does_not_matter(
            junk in "[ -~]{0,200}",
            client in any::<u32>(),
            proxies in 0..5_usize,
        ) {
            let client = std::net::Ipv4Addr::from_bits(client);
            prop_assume!(client.octets()[0] != 10);
            let mut line = format!("{junk},{client}");
            for proxy in 0..proxies {
                line.push_str(&format!(", 10.0.0.{proxy}"));
            }
            prop_assert_eq!(resolved("10.0.0.1", &[&line]), client.to_string());
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes: Vec<u8> = bytes.into_iter().filter(|b| *b >= 32 && *b != 127).collect();
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_bytes(&bytes).unwrap());
            let mut client = Client::new("10.0.0.1".parse().unwrap());
            client.resolve(&headers, &trusted());
        }
    }
}
