//! Connections over real sockets, with limits short enough to wait for.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use axum::routing::get;
use bytes::Bytes;
use http::Response;
use http_body_util::{Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn short() -> Limits {
    Limits {
        connections: 100,
        head: Duration::from_millis(300),
        idle: PATIENCE * 10,
        stalled: PATIENCE * 10,
    }
}

async fn serve(router: Router, limits: Limits) -> (Serving, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (
        Serving::start(listener, router, limits, Vec::new()),
        address,
    )
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

async fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(bytes).await.expect("write");
    stream
}

/// Reads until `text` came.
async fn read_until(stream: &mut TcpStream, text: &str) {
    let (mut all, mut buffer) = (String::new(), [0; 1024]);
    while !all.contains(text) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let count = read.expect("in time").expect("bytes");
        assert!(count > 0, "closed after {all:?}");
        all.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

/// Waits until the server closed the connection; says how long that took.
async fn closed(stream: &mut TcpStream) -> Duration {
    let (started, mut rest) = (Instant::now(), Vec::new());
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A reset is an end too.
    let _ = read.expect("closed in time");
    started.elapsed()
}

/// Becomes true when the handler that holds it is no more.
#[derive(Clone, Default)]
struct Gone(Arc<AtomicBool>);

struct GoneGuard(Gone);

impl Drop for GoneGuard {
    fn drop(&mut self) {
        self.0.0.store(true, SeqCst);
    }
}

/// A handler that says that it began and never ends.
fn hanging() -> (Router, Gone, mpsc::UnboundedReceiver<()>) {
    let (gone, (began, begun)) = (Gone::default(), mpsc::unbounded_channel());
    let of_handler = gone.clone();
    let handler = async move || {
        let _guard = GoneGuard(of_handler);
        let _ = began.send(());
        pending::<&str>().await
    };
    (Router::new().route("/", get(handler)), gone, begun)
}

#[tokio::test]
async fn half_a_head_and_no_head_at_all_are_closed_after_the_limit() {
    let (_serving, address) = serve(hello(), short()).await;
    for sent in ["", "GET /hea", "GET / HTTP/1.1\r\nHost: a\r\n", "PRI * HTT"] {
        let mut stream = connect(address, sent.as_bytes()).await;
        let took = closed(&mut stream).await;
        assert!(took >= short().head / 2, "{sent:?}: {took:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_longer_than_half_a_head() {
    let (_serving, address) = serve(hello(), short()).await;
    let mut stream = connect(address, GET).await;
    read_until(&mut stream, "hello").await;
    // Idle for longer than a head may take
    let mut byte = [0];
    let waited = timeout(short().head * 3, stream.read(&mut byte)).await;
    assert!(waited.is_err(), "closed: {waited:?}");
    stream.write_all(GET).await.expect("still open");
    read_until(&mut stream, "hello").await;
    // The second head of a connection is bounded like the first.
    stream.write_all(b"GET /").await.expect("still open");
    closed(&mut stream).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_limit() {
    let limits = Limits {
        idle: Duration::from_millis(300),
        ..short()
    };
    let (_serving, address) = serve(hello(), limits).await;
    let mut stream = connect(address, GET).await;
    read_until(&mut stream, "hello").await;
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_request_may_take_longer_than_its_head() {
    let handler = async || {
        tokio::time::sleep(short().head * 3).await;
        "slow but sure"
    };
    let (_serving, address) = serve(Router::new().route("/", get(handler)), short()).await;
    let mut stream = connect(address, GET).await;
    read_until(&mut stream, "slow but sure").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    // Given more than the sockets buffer, and a client that does not read
    let gone = Gone::default();
    let of_handler = gone.clone();
    let handler = async move || {
        let guard = GoneGuard(of_handler);
        let endless = futures_util::stream::repeat_with(move || {
            let _ = &guard;
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(&[b'x'; 65_536])))
        });
        Response::new(Body::new(StreamBody::new(endless)))
    };
    let limits = Limits {
        stalled: Duration::from_millis(300),
        ..short()
    };
    let (_serving, address) = serve(Router::new().route("/", get(handler)), limits).await;
    let _stream = connect(address, GET).await;
    let deadline = Instant::now() + PATIENCE;
    while !gone.0.load(SeqCst) {
        assert!(Instant::now() < deadline, "still sending");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let limits = Limits {
        connections: 1,
        ..short()
    };
    let (_serving, address) = serve(hello(), limits).await;
    let mut first = connect(address, GET).await;
    read_until(&mut first, "hello").await;
    let mut second = connect(address, GET).await;
    let mut byte = [0];
    let waited = timeout(Duration::from_millis(300), second.read(&mut byte)).await;
    assert!(waited.is_err(), "served without a place");
    drop(first);
    read_until(&mut second, "hello").await;
}

#[tokio::test]
async fn shutdown_closes_what_carries_no_request_at_once() {
    let limits = Limits {
        head: PATIENCE * 10,
        ..short()
    };
    let (serving, address) = serve(hello(), limits).await;
    let mut idle = connect(address, GET).await;
    read_until(&mut idle, "hello").await;
    let mut half = connect(address, b"GET /hea").await;
    let mut second_half = connect(address, GET).await;
    read_until(&mut second_half, "hello").await;
    second_half.write_all(b"GET /hea").await.expect("write");
    let mut silent = connect(address, b"").await;
    // They were accepted before this one.
    let mut last = connect(address, GET).await;
    read_until(&mut last, "hello").await;

    let started = Instant::now();
    assert_eq!(serving.shutdown(PATIENCE).await, 0);

    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
    for stream in [&mut idle, &mut half, &mut second_half, &mut silent] {
        closed(stream).await;
    }
    assert!(TcpStream::connect(address).await.is_err(), "still accepts");
}

#[tokio::test]
async fn a_response_being_sent_is_finished_during_shutdown() {
    // Given a response of which one half was sent
    let (send, receive) = mpsc::unbounded_channel::<&'static str>();
    let receive = Arc::new(tokio::sync::Mutex::new(receive));
    let handler = async move || {
        let body = futures_util::stream::unfold(receive, |receive| async move {
            let text = receive.lock().await.recv().await?;
            let frame = Frame::data(Bytes::from_static(text.as_bytes()));
            Some((Ok::<_, std::convert::Infallible>(frame), receive))
        });
        Response::new(Body::new(StreamBody::new(body)))
    };
    let (serving, address) = serve(Router::new().route("/", get(handler)), short()).await;
    let mut stream = connect(address, GET).await;
    send.send("one half").expect("a handler");
    read_until(&mut stream, "one half").await;

    // When the server ends, and the other half comes later
    let shutdown = tokio::spawn(serving.shutdown(PATIENCE));
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(FAREWELL * 4).await;
    send.send("the other").expect("still being sent");
    drop(send);

    // Then it was waited for
    read_until(&mut stream, "the other").await;
    assert_eq!(shutdown.await.expect("no panic"), 0);
}

#[tokio::test]
async fn nothing_of_a_request_that_was_cut_runs_on() {
    let (router, gone, mut begun) = hanging();
    let (serving, address) = serve(router, short()).await;
    let mut stream = connect(address, GET).await;
    begun.recv().await.expect("it began");
    assert_eq!(serving.shutdown(Duration::from_millis(100)).await, 1);
    assert!(gone.0.load(SeqCst), "the handler runs on");
    closed(&mut stream).await;
}

#[tokio::test]
async fn dropping_it_cuts_every_connection() {
    let (router, gone, mut begun) = hanging();
    let (serving, address) = serve(router, short()).await;
    let mut stream = connect(address, GET).await;
    begun.recv().await.expect("it began");
    drop(serving);
    closed(&mut stream).await;
    assert!(gone.0.load(SeqCst), "the handler runs on");
}

#[tokio::test]
async fn http2_requests_are_finished_or_cut_too() {
    // Given one HTTP/2 connection with a request that ends and one that does not
    let (router, gone, mut begun) = hanging();
    let (release, released) = oneshot::channel::<()>();
    let released = Arc::new(tokio::sync::Mutex::new(Some(released)));
    let slow = async move || {
        let released = released.lock().await.take();
        let _ = released.expect("called once").await;
        "in the end"
    };
    let (serving, address) = serve(router.route("/slow", get(slow)), short()).await;
    let io = TokioIo::new(connect(address, b"").await);
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://a{path}");
        Request::get(uri)
            .body(Empty::<Bytes>::new())
            .expect("valid")
    };
    let hangs = tokio::spawn(client.send_request(request("/")));
    let slow = tokio::spawn(client.send_request(request("/slow")));
    begun.recv().await.expect("it began");

    let shutdown = tokio::spawn(serving.shutdown(Duration::from_secs(2)));
    release.send(()).expect("a handler");

    let response = slow.await.expect("no panic").expect("a response");
    assert_eq!(response.status(), 200);
    assert!(shutdown.await.expect("no panic") > 0);
    assert!(gone.0.load(SeqCst), "the handler runs on");
    assert!(hangs.await.expect("no panic").is_err());
}
