//! The accept loop: every connection is counted, watched and owned, so that none
//! can hold a descriptor for nothing and none outlives the server.

mod activity;
mod peers;
mod tasks;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tower::Service;

use activity::{Activity, Stream, Verdict};
use peers::{PeerPlace, Peers};
use tasks::Tasks;

use super::caller::Client;
use crate::cidr::Cidr;

/// A dead peer of an HTTP/2 connection is noticed after twice this.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// After an accept error, for which the peer is not to blame: often no descriptor
/// is free, and trying at once would only keep a core busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A connection that ends may say so for this long, twice.
const FAREWELL: Duration = Duration::from_millis(50);
/// A task that was aborted ends where it next waits.
const ABORT_PATIENCE: Duration = Duration::from_secs(1);

/// One network may have one in so many of the connections.
const NETWORK_SHARE: usize = 4;

/// A connection's place among all and among those of its network.
type Place = (OwnedSemaphorePermit, PeerPlace);

/// What one connection, and all of them, may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at a time; more wait in the system's queue.
    pub(crate) connections: usize,
    /// Time for the head of a request, from its first byte, and for the first
    /// request of a connection, from its start.
    pub(crate) head: Duration,
    /// Time without a request. Longer than clients commonly keep a connection, so
    /// that it is the client who closes and no request meets a closing server.
    pub(crate) idle: Duration,
    /// Time in which a client takes nothing of a response.
    pub(crate) stalled: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            stalled: Duration::from_secs(60),
        }
    }
}

/// A router being served. Dropping it cuts every connection.
pub(crate) struct Serving {
    accepting: JoinHandle<()>,
    stop: CancellationToken,
    tasks: Tasks,
}

impl Serving {
    /// Serves HTTP/1.1 and HTTP/2 without TLS until it is shut down.
    /// One network has at most a quarter of the connections, but for `proxies`.
    pub(crate) fn start(
        listener: TcpListener,
        router: Router,
        limits: Limits,
        proxies: Vec<Cidr>,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), Tasks::default());
        let acceptor = Acceptor {
            places: Arc::new(Semaphore::new(limits.connections)),
            peers: Peers::new(limits.connections / NETWORK_SHARE, proxies),
            protocol: Arc::new(protocol(tasks.clone())),
            router,
            limits,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        Self {
            accepting: tokio::spawn(acceptor.run(listener)),
            stop,
            tasks,
        }
    }

    /// Stops accepting, closes connections that carry no request, lets the others
    /// finish within `bound` and cuts those that do not. Returns how many were cut.
    pub(crate) async fn shutdown(mut self, bound: Duration) -> usize {
        self.stop.cancel();
        let _ = (&mut self.accepting).await;
        self.tasks.finish(bound, ABORT_PATIENCE).await
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
        self.tasks.close();
    }
}

type Protocol = auto::Builder<Tasks>;

fn protocol(tasks: Tasks) -> Protocol {
    let mut builder = auto::Builder::new(tasks);
    // `Activity` does this with one timer per connection instead of one per request,
    // and knows a connection that is idle from one that is late.
    builder.http1().header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE)
        .enable_connect_protocol();
    builder
}

struct Acceptor {
    router: Router,
    limits: Limits,
    places: Arc<Semaphore>,
    peers: Peers,
    protocol: Arc<Protocol>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Acceptor {
    /// Ends when it is told to, never on an error.
    async fn run(self, listener: TcpListener) {
        let stop = self.stop.clone();
        let accepting = async {
            let mut full = false;
            loop {
                let Some(place) = self.place(&mut full).await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, peer)) => match self.peers.admit(peer.ip()) {
                        Some(share) => self.serve(stream, peer.ip(), (place, share)),
                        // Closed: a peer that took its share cannot take the queue, too.
                        None => {
                            tracing::debug!(peer = %peer.ip(), "too many connections of one network");
                        }
                    },
                    Err(error) if is_of_the_peer(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
    }

    /// `None` would mean that the semaphore was closed, which nobody does.
    async fn place(&self, full: &mut bool) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            *full = false;
            return Some(place);
        }
        if !std::mem::replace(full, true) {
            let limit = self.limits.connections;
            tracing::warn!(limit, "too many connections: new ones have to wait");
        }
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    fn serve(&self, stream: TcpStream, peer: IpAddr, place: Place) {
        // Answers are written whole; waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::default());
        let stream = Stream::new(stream, Arc::clone(&activity), place);
        let (protocol, router) = (Arc::clone(&self.protocol), self.router.clone());
        let (limits, stop) = (self.limits, self.stop.child_token());
        let serving = Connection {
            router,
            client: Client::new(peer),
            activity,
            limits,
            stop,
        };
        self.tasks.spawn(async move {
            serving.run(stream, &protocol).await;
        });
    }
}

/// The peer gave up before it was accepted.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    let kinds = [
        ConnectionAborted,
        ConnectionRefused,
        ConnectionReset,
        Interrupted,
    ];
    kinds.contains(&error.kind())
}

/// One connection from its first byte to its last.
struct Connection {
    router: Router,
    client: Client,
    activity: Arc<Activity>,
    limits: Limits,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: Stream, protocol: &Protocol) {
        let Self {
            router,
            client,
            activity,
            limits,
            stop,
        } = self;
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(client);
            let under_way = activity.begin(request.version());
            let is_change = !request.method().is_safe();
            // A router is always ready.
            let mut response = Box::pin(router.clone().call(request));
            // A change that arrived whole is begun, even if its client is gone by
            // now: hyper would drop it without a look.
            let early = is_change.then(|| (&mut response).now_or_never()).flatten();
            async move {
                let response = match early {
                    Some(response) => response?,
                    None => response.await?,
                };
                Ok::<_, std::convert::Infallible>(
                    response.map(|body: Body| under_way.until_sent(body)),
                )
            }
        });
        let io = TokioIo::new(stream);
        let mut serving = pin!(protocol.serve_connection_with_upgrades(io, service));

        let tick = limits.head / 5;
        let mut timer = interval_at(Instant::now() + tick, tick);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stalled = 0;
        loop {
            // The connection first: what arrived before the end is answered.
            tokio::select! {
                biased;
                // An error here is the peer's: it went away or spoke something else.
                _ = serving.as_mut() => return,
                () = stop.cancelled() => break,
                _ = timer.tick() => match activity.judge(limits, tick, &mut stalled) {
                    Verdict::Keep => {}
                    Verdict::Close => break,
                    Verdict::Cut => return,
                },
            }
        }

        serving.as_mut().graceful_shutdown();
        let mut timer = interval_at(Instant::now() + FAREWELL, FAREWELL);
        let mut quiet = false;
        loop {
            tokio::select! {
                biased;
                _ = serving.as_mut() => return,
                // Half a request is none: nobody waits for the rest of it.
                _ = timer.tick() => match (activity.is_quiet(), quiet) {
                    (true, true) => return,
                    (now, _) => quiet = now,
                },
            }
        }
    }
}
