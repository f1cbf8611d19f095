//! The agent's own HTTP server: one request per connection, few threads.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::HttpError;
use crate::http::deadline::DeadlineStream;
use crate::http::wire::{Framing, Head, read_request_body};
use crate::plugins::Loader;
use crate::settings::{Env, Settings};
use crate::status::Status;
use crate::{a2a, credentials, log};

const MAX_CONNECTIONS: usize = 32;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed `accept`, which is usually a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long and how much is read after an early answer, see [`linger`].
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 4 << 20;

/// What the server answers with.
pub(crate) struct Served {
    pub(crate) card: Value,
    pub(crate) env: Env,
    pub(crate) config_dir: PathBuf,
    pub(crate) status: Arc<Status>,
    pub(crate) plugins: Arc<Loader>,
}

/// A status and a JSON body.
type Answer = (u16, Value);

/// Binds the port: loopback for a child process of the server, every
/// interface inside a container.
pub(crate) fn bind(settings: &Settings) -> io::Result<TcpListener> {
    let host = if settings.is_local_only() {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    TcpListener::bind((host, settings.listen_port()))
}

/// Serves in a thread of its own, until the process ends.
pub(crate) fn spawn(listener: TcpListener, served: Served) -> io::Result<()> {
    std::thread::Builder::new()
        .name("accept".to_owned())
        .spawn(move || accept_loop(&listener, &Arc::new(served)))?;
    Ok(())
}

fn accept_loop(listener: &TcpListener, served: &Arc<Served>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::line(&format!("cannot accept: {}", error.kind()));
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let slot = Slot::take(&open);
        if open.load(Ordering::Relaxed) > MAX_CONNECTIONS {
            // Dropping the socket is the cheapest refusal; an answer could
            // block this only thread that accepts.
            continue;
        }
        let served = Arc::clone(served);
        let spawned = std::thread::Builder::new()
            .name("connection".to_owned())
            .spawn(move || {
                let _slot = slot;
                serve_connection(stream, &served);
            });
        if let Err(error) = spawned {
            log::line(&format!("cannot start a thread: {}", error.kind()));
        }
    }
}

/// Counts one open connection for as long as it lives.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve_connection(stream: TcpStream, served: &Served) {
    let stream = DeadlineStream::new(stream, Instant::now() + READ_TIMEOUT);
    let mut reader = BufReader::new(stream);
    let (status, body) = match read_and_route(&mut reader, served) {
        Ok(answer) => answer,
        Err(error) => match refusal(error) {
            Some(answer) => answer,
            // Nobody is left to read an answer.
            None => return,
        },
    };
    let early = status >= 400;
    let stream = reader.get_mut();
    stream.set_deadline(Instant::now() + WRITE_TIMEOUT);
    if stream.write_all(&response(status, &body)).is_ok() && early {
        linger(stream);
    }
}

fn read_and_route(
    reader: &mut BufReader<DeadlineStream>,
    served: &Served,
) -> Result<Answer, HttpError> {
    let head = Head::read(reader)?;
    let (method, target) = head.request()?;
    let path = target.split('?').next().unwrap_or(target);
    match (method, path) {
        ("POST", "/") => {
            if !may_call(&head, served) {
                return Ok((401, json!({"error": "invalid platform secret"})));
            }
            let framing = head.framing()?;
            // Large clients wait for this before they send the body.
            let waits = head
                .header("expect")
                .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
            if waits && framing != Framing::Unframed {
                reader
                    .get_mut()
                    .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = read_request_body(reader, framing)?;
            Ok((
                200,
                a2a::answer(&body, &served.env, &served.plugins, &served.status),
            ))
        }
        ("GET", "/health") => Ok((200, json!({"status": "ok"}))),
        ("GET", "/.well-known/agent-card.json" | "/.well-known/agent.json") => {
            Ok((200, served.card.clone()))
        }
        (_, "/" | "/health" | "/.well-known/agent-card.json" | "/.well-known/agent.json") => {
            Ok((405, json!({"error": "method not allowed"})))
        }
        _ => Ok((404, json!({"error": "not found"}))),
    }
}

/// The platform forwards A2A calls without any bearer, so none is accepted; a
/// bearer that is there must be the secret the platform shares with us. The
/// file is read each time, so a rotated secret counts at once.
fn may_call(head: &Head, served: &Served) -> bool {
    let Some(presented) = head.header("authorization") else {
        return true;
    };
    let Some(secret) = credentials::read(&served.config_dir, credentials::INBOUND_SECRET) else {
        return true;
    };
    presented
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .is_some_and(|(_, bearer)| equal_in_constant_time(bearer.trim(), &secret))
}

fn equal_in_constant_time(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left
            .bytes()
            .zip(right.bytes())
            .fold(0, |difference, (l, r)| difference | (l ^ r))
            == 0
}

/// The answer to a request that could not be read.
fn refusal(error: HttpError) -> Option<Answer> {
    let (status, text) = match error {
        HttpError::Timeout => (408, "request timeout"),
        HttpError::HeadTooLarge => (431, "request head too large"),
        HttpError::BodyTooLarge => (413, "request body too large"),
        HttpError::Malformed(_) => (400, "bad request"),
        HttpError::UnsupportedCoding => (501, "transfer coding not implemented"),
        HttpError::Closed | HttpError::Unresolved | HttpError::Io(_) => return None,
    };
    Some((status, json!({"error": text})))
}

fn response(status: u16, body: &Value) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        _ => "Error",
    };
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads off some of what the client still sends. Closing a socket with unread
/// input resets it, and the client would lose the answer just written.
fn linger(stream: &mut DeadlineStream) {
    let _ = stream.socket().shutdown(Shutdown::Write);
    stream.set_deadline(Instant::now() + LINGER_TIMEOUT);
    let _ = io::copy(&mut stream.take(LINGER_BYTES), &mut io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_compare_as_text() {
        assert!(equal_in_constant_time("abc", "abc"));
        assert!(!equal_in_constant_time("abc", "abd"));
        assert!(!equal_in_constant_time("abc", "ab"));
        assert!(!equal_in_constant_time("", "a"));
    }
}
