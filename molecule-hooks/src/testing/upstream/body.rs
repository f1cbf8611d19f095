//! Bodies that arrive in a way of their own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use super::super::reply::Body;

pub(super) type Sent = BoxBody<Bytes, io::Error>;

/// A body that is there as a whole.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Sent {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

pub(super) fn scripted(body: Body) -> Sent {
    match body {
        Body::Bytes(bytes) => whole(bytes),
        Body::Streamed(left) => Chunks { left }.boxed(),
        Body::Dripped { bytes, every } => Drops {
            left: Bytes::from(bytes),
            every,
            pause: None,
        }
        .boxed(),
        Body::Truncated(bytes) => Cut {
            promised: bytes.len() as u64,
            half: Some(Bytes::copy_from_slice(&bytes[..bytes.len() / 2])),
            rested: false,
        }
        .boxed(),
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, io::Error>>>;

/// A body of `left` bytes, made as it is sent.
struct Chunks {
    left: u64,
}

static CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
        let size = self.left.min(CHUNK.len() as u64);
        self.left -= size;
        let frame =
            (size > 0).then(|| Ok(Frame::data(Bytes::from_static(&CHUNK[..size as usize]))));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown on purpose: without a length the client must count.
        SizeHint::default()
    }
}

/// A body that comes one byte at a time. Its length is told at once.
struct Drops {
    left: Bytes,
    every: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Drops {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let every = self.every;
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
        ready!(pause.as_mut().poll(context));
        self.pause = None;
        let drop = self.left.split_to(1);
        Poll::Ready(Some(Ok(Frame::data(drop))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// Half of a body whose whole length was promised.
struct Cut {
    promised: u64,
    half: Option<Bytes>,
    rested: bool,
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.rested {
            // Lets the half go out before the error closes the connection.
            self.rested = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("scripted end of the body"))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
