//! One request over one connection, to an `http://` URL.
//!
//! Redirects are not followed, so a bearer never leaves the configured host.
//! Proxy variables are ignored.

use std::io::{BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::HttpError;
use super::deadline::{DeadlineStream, remaining};
use super::url::BaseUrl;
use super::wire::{Head, read_response_body};

/// The time for a whole exchange, from the name lookup to the last byte.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// One dead address must not use up the time of the next one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// `100 Continue` and its kind before the real answer.
const MAX_INTERIM_RESPONSES: usize = 4;

/// A status and a body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends `GET path`.
pub(crate) fn get(base: &BaseUrl, path: &str, bearer: Option<&str>) -> Result<Response, HttpError> {
    exchange(base, "GET", path, bearer, None)
}

/// Sends `POST path` with a JSON body.
pub(crate) fn post(
    base: &BaseUrl,
    path: &str,
    bearer: Option<&str>,
    json: &serde_json::Value,
) -> Result<Response, HttpError> {
    exchange(base, "POST", path, bearer, Some(json.to_string()))
}

fn exchange(
    base: &BaseUrl,
    method: &str,
    path: &str,
    bearer: Option<&str>,
    body: Option<String>,
) -> Result<Response, HttpError> {
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    let mut request = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: echo-agent/{}\r\nAccept: application/json\r\nConnection: close\r\n",
        base.target(path),
        base.authority,
        env!("CARGO_PKG_VERSION"),
    );
    if let Some(bearer) = bearer {
        request.push_str(&format!("Authorization: Bearer {bearer}\r\n"));
    }
    if let Some(body) = &body {
        request.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    request.push_str("\r\n");
    request.push_str(body.as_deref().unwrap_or_default());

    let mut stream = DeadlineStream::new(connect(base, deadline)?, deadline);
    stream.write_all(request.as_bytes())?;
    read_response(&mut BufReader::new(stream))
}

fn read_response(reader: &mut impl std::io::BufRead) -> Result<Response, HttpError> {
    for _ in 0..=MAX_INTERIM_RESPONSES {
        let head = Head::read(reader)?;
        let status = head.status()?;
        let body = match status {
            100..=199 => continue,
            204 | 304 => Vec::new(),
            _ => read_response_body(reader, head.framing()?)?,
        };
        return Ok(Response { status, body });
    }
    Err(HttpError::Malformed("response"))
}

fn connect(base: &BaseUrl, deadline: Instant) -> Result<TcpStream, HttpError> {
    let mut failure = HttpError::Unresolved;
    for address in resolve(base, deadline)? {
        let timeout = remaining(deadline)?.min(CONNECT_TIMEOUT);
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Looks the name up. The system call cannot be given a timeout, so it runs in
/// a thread of its own, which ends with the call.
fn resolve(base: &BaseUrl, deadline: Instant) -> Result<Vec<SocketAddr>, HttpError> {
    if let Ok(address) = base.host.parse::<IpAddr>() {
        return Ok(vec![(address, base.port).into()]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = (base.host.clone(), base.port);
    std::thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || {
            let found = (name.0.as_str(), name.1)
                .to_socket_addrs()
                .map(Iterator::collect::<Vec<_>>);
            // The receiver is gone when the deadline came first.
            let _ = sender.send(found);
        })?;
    match receiver.recv_timeout(remaining(deadline)?) {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(_)) => Err(HttpError::Unresolved),
        Err(_) => Err(HttpError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::TcpListener;

    /// Answers one connection with fixed bytes and gives back what it read.
    fn one_answer(bytes: &'static [u8]) -> (BaseUrl, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = vec![0; 4096];
            let length = stream.read(&mut seen).unwrap();
            stream.write_all(bytes).unwrap();
            String::from_utf8_lossy(&seen[..length]).into_owned()
        });
        (
            BaseUrl::parse(&format!("http://localhost:{port}/base/")).unwrap(),
            served,
        )
    }

    #[test]
    fn a_get_carries_the_bearer_and_reads_chunks() {
        let (base, served) = one_answer(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        );
        let response = get(&base, "/x", Some("tok")).unwrap();
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, b"{}".as_slice())
        );
        let request = served.join().unwrap();
        assert!(request.starts_with("GET /base/x HTTP/1.1\r\n"), "{request}");
        assert!(
            request.contains("\r\nAuthorization: Bearer tok\r\n"),
            "{request}"
        );
    }

    #[test]
    fn a_redirect_is_an_answer_and_not_followed() {
        let (base, served) = one_answer(
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(get(&base, "/", None).unwrap().status, 302);
        served.join().unwrap();
    }

    #[test]
    fn hostile_answers_are_errors() {
        for bytes in [
            b"".as_slice(),
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n",
            b"HTTP/1.1 100 a\r\n\r\nHTTP/1.1 100 a\r\n\r\nHTTP/1.1 100 a\r\n\r\nHTTP/1.1 100 a\r\n\r\nHTTP/1.1 100 a\r\n\r\n",
        ] {
            let (base, served) = one_answer(bytes);
            assert!(get(&base, "/", None).is_err());
            served.join().unwrap();
        }
    }

    #[test]
    fn nobody_listening_is_an_error() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let base = BaseUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        assert!(matches!(get(&base, "/", None), Err(HttpError::Io(_))));
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        let base = BaseUrl::parse("http://no-such-host.invalid").unwrap();
        assert!(get(&base, "/", None).is_err());
    }
}
