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

/// The cookie by which this server knows its canvas, as `auth` names it.
const CANVAS_COOKIE: &str = "molecule_canvas";

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
    drop_own_cookie(&mut forwarded);
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

/// Our own cookie is nobody else's business: who has it is an administrator here.
fn drop_own_cookie(headers: &mut HeaderMap) {
    let is_own = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii() == CANVAS_COOKIE.as_bytes()
    };
    let lines: Vec<_> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let pairs = || line.as_bytes().split(|byte| *byte == b';');
        if !pairs().any(|pair| is_own(&pair)) {
            // As it came.
            headers.append(COOKIE, line);
            continue;
        }
        let others: Vec<_> = pairs()
            .filter(|pair| !is_own(pair))
            .map(<[u8]>::trim_ascii)
            .collect();
        if let Ok(others) = HeaderValue::from_bytes(&others.join(&b"; "[..]))
            && !others.is_empty()
        {
            headers.append(COOKIE, others);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cookie_stays_here_and_others_pass() {
        let passed = |lines: &[&'static str]| -> Vec<String> {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, HeaderValue::from_static(line));
            }
            let sent = of_request(&headers, Credentials::Forward, None, None);
            let sent = sent.get_all(COOKIE).iter();
            sent.map(|line| line.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(passed(&["a=b;c=d"]), ["a=b;c=d"]);
        assert_eq!(passed(&["a=b; molecule_canvas=x; c=d"]), ["a=b; c=d"]);
        assert_eq!(passed(&["molecule_canvas=x", "a=b"]), ["a=b"]);
        assert_eq!(passed(&[" molecule_canvas =x;molecule_canvas"]), [""; 0]);
        assert_eq!(passed(&["xmolecule_canvas=x"]), ["xmolecule_canvas=x"]);
    }
}
