//! What passes a proxy and what ends at it.

use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Credentials;
use crate::http::caller::Client;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Of one connection, not of the message; and what a client library does itself.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The headers of a request for the server behind us. Where it came from is said
/// by us alone: what the client wrote about that is dropped.
pub(super) fn of_request(
    headers: &HeaderMap,
    credentials: Credentials,
    host: Option<&[u8]>,
    client: Option<&Client>,
) -> HeaderMap {
    let named = named_by_connection(headers);
    let passes = |name: &HeaderName| {
        let is_credential = [AUTHORIZATION, COOKIE].contains(name);
        let is_origin = [HOST, FORWARDED].contains(name)
            || name.as_str().starts_with("x-forwarded-")
            || name == "x-real-ip";
        let may = credentials == Credentials::Forward || !is_credential;
        may && !is_origin && !HOP_BY_HOP.contains(name) && !named.contains(name)
    };
    let mut forwarded = copy(headers, passes);
    if let Some(host) = host.and_then(|host| HeaderValue::from_bytes(host).ok()) {
        forwarded.insert(FORWARDED_HOST, host);
    }
    if let Some(client) = client
        && let Ok(address) = HeaderValue::try_from(client.address.to_string())
    {
        forwarded.insert(FORWARDED_FOR, address);
    }
    let believed = headers
        .get(FORWARDED_PROTO)
        .filter(|_| client.is_some_and(|client| client.is_proxied))
        .is_some_and(|scheme| scheme == "https");
    let scheme = if believed { "https" } else { "http" };
    forwarded.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    forwarded
}

/// The headers of a response for the client. Which origins may read it is our
/// decision.
pub(super) fn of_response(headers: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(headers);
    copy(headers, |name| {
        !HOP_BY_HOP.contains(name)
            && !named.contains(name)
            && !name.as_str().starts_with("access-control-")
    })
}

fn copy(headers: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut copy = HeaderMap::with_capacity(headers.len() + 3);
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        copy.append(name, value.clone());
    }
    copy
}

/// `Connection: close, x-internal` makes `x-internal` one of this connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}
