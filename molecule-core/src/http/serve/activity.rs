//! What a connection is doing, seen from its socket and from its requests. Only
//! atomics: a request costs a few stores.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Version;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Limits, Place};

/// Shared by the parts of one connection.
pub(super) struct Activity {
    /// Requests that arrived and are not answered yet.
    requests: AtomicUsize,
    /// Ticks since something began or ended.
    quiet: AtomicU32,
    /// Bytes came that are no whole head yet; also before the first request.
    in_head: AtomicBool,
    /// HTTP/2: bytes come without a request too.
    multiplexed: AtomicBool,
    /// The client does not take what is written.
    blocked: AtomicBool,
    /// It took something since the last tick.
    wrote: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            requests: AtomicUsize::new(0),
            quiet: AtomicU32::new(0),
            in_head: AtomicBool::new(true),
            multiplexed: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
        }
    }
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// It waited too long for a request.
    Close,
    /// Its client takes nothing, not even a farewell.
    Cut,
}

impl Activity {
    /// Notes that a request arrived.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> UnderWay {
        if version == Version::HTTP_2 {
            self.multiplexed.store(true, Relaxed);
        }
        self.requests.fetch_add(1, Relaxed);
        self.in_head.store(false, Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// No request is under way and no answer waits to be taken.
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.load(Relaxed) == 0 && !self.blocked.load(Relaxed)
    }

    /// To be asked every `tick`; `stalled` belongs to the one who asks.
    pub(super) fn judge(&self, limits: Limits, tick: Duration, stalled: &mut u32) -> Verdict {
        let took_something = self.wrote.swap(false, Relaxed);
        if self.blocked.load(Relaxed) && !took_something {
            *stalled += 1;
            if tick * *stalled > limits.stalled {
                return Verdict::Cut;
            }
        } else {
            *stalled = 0;
        }
        if !self.is_quiet() {
            return Verdict::Keep;
        }
        let quiet = self.quiet.fetch_add(1, Relaxed) + 1;
        let limit = match self.in_head.load(Relaxed) {
            true => limits.head,
            false => limits.idle,
        };
        if tick * quiet > limit {
            return Verdict::Close;
        }
        Verdict::Keep
    }

    fn received(&self) {
        let between_requests = self.requests.load(Relaxed) == 0;
        if between_requests && !self.multiplexed.load(Relaxed) && !self.in_head.swap(true, Relaxed)
        {
            self.quiet.store(0, Relaxed);
        }
    }

    fn written(&self, result: &Poll<io::Result<usize>>) {
        self.blocked.store(result.is_pending(), Relaxed);
        if matches!(result, Poll::Ready(Ok(_))) {
            self.wrote.store(true, Relaxed);
        }
    }
}

/// A request that arrived and is not answered yet.
pub(super) struct UnderWay(Arc<Activity>);

impl UnderWay {
    /// The request is under way as long as its response is.
    pub(super) fn until_sent(self, body: Body) -> Sending {
        Sending {
            body,
            _under_way: self,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.quiet.store(0, Relaxed);
        // What came meanwhile belonged to this request.
        self.0.in_head.store(false, Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// The body of a response; dropped when the last of it was handed to the socket.
pub(super) struct Sending {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that reports. It has its place among the connections until it is
/// closed, also after an upgrade.
pub(super) struct Stream {
    stream: TcpStream,
    activity: Arc<Activity>,
    _place: Place,
}

impl Stream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, place: Place) -> Self {
        Self {
            stream,
            activity,
            _place: place,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.received();
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
