use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_util::stream;

use super::*;
use crate::backend::TerminalSize;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(20);

/// Times that never come.
const CALM: Timing = Timing {
    ping: LONG,
    silence: LONG,
    write: LONG,
    resize: LONG,
    look: LONG,
    right: LONG,
    farewell: LONG,
    idle: LONG,
};

/// A client that takes so many messages and no more.
struct Takes(usize, Vec<Message>);

impl Sink<Message> for Takes {
    type Error = axum::Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        match self.1.len() < self.0 {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), axum::Error> {
        self.1.push(message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        self.poll_flush(cx)
    }
}

/// A shell whose size changes when it is told so, or never.
struct Sized(bool);

#[async_trait]
impl TerminalControl for Sized {
    async fn resize(&self, _: TerminalSize) -> Result<(), BackendError> {
        match self.0 {
            true => Ok(()),
            false => std::future::pending().await,
        }
    }

    async fn exit_code(&self) -> Option<i64> {
        None
    }

    async fn close(&self) {}
}

fn said(messages: Vec<Message>) -> impl Stream<Item = Result<Message, axum::Error>> + Unpin + Send {
    stream::iter(messages.into_iter().map(Ok))
}

#[tokio::test]
async fn a_client_that_takes_nothing_stops_the_shell_and_is_let_go() {
    // Given a shell that prints without end
    let read = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&read);
    let mut output = stream::repeat_with(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Bytes::from_static(b"yes\n"))
    })
    .boxed();
    let (_notes, noted) = mpsc::channel(1);
    let timing = Timing {
        write: SHORT,
        ..CALM
    };
    let mut client = Takes(3, Vec::new());
    let end = shown(&mut client, &mut output, noted, &Heard::new(), timing).await;
    // Then no more of it was read than the client took, but for one piece.
    assert_eq!(end, SLOW);
    assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_shell_that_takes_nothing_stops_the_client_and_ends() {
    // Nobody reads at the other end.
    let (mut input, _shell) = tokio::io::duplex(8);
    let (notes, _noted) = mpsc::channel(1);
    let mut client = said(vec![Message::Binary(Bytes::from(vec![b'x'; 100]))]);
    let timing = Timing {
        write: SHORT,
        ..CALM
    };
    let heard = Heard::new();
    let end = typed(
        &mut client,
        &mut input,
        &Sized(true),
        &notes,
        &heard,
        timing,
    )
    .await;
    assert_eq!(end, STUCK);
}

#[tokio::test]
async fn a_size_that_never_changes_is_told_and_nonsense_in_bounds() {
    let (mut input, _shell) = tokio::io::duplex(8);
    let (notes, mut noted) = mpsc::channel(2);
    let resize = Message::Text(r#"{"type":"resize","cols":1,"rows":1}"#.into());
    let nonsense = Message::Text("x".into());
    let mut client = said(vec![resize, nonsense.clone(), nonsense.clone(), nonsense]);
    let timing = Timing {
        resize: SHORT,
        ..CALM
    };
    let heard = Heard::new();
    let end = typed(
        &mut client,
        &mut input,
        &Sized(false),
        &notes,
        &heard,
        timing,
    )
    .await;
    assert_eq!(end, End::Left);
    drop(notes);
    let mut told = Vec::new();
    while let Some(Told::Error { message }) = noted.recv().await {
        told.push(message);
    }
    let expected = ["the size could not be changed", "invalid control message"];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn an_output_that_breaks_is_told_apart_from_one_that_ends() {
    let (_notes, mut noted) = mpsc::channel(1);
    for (item, expected) in [(None, End::Exited), (Some(BackendError::Cancelled), LOST)] {
        let mut output = stream::iter(item.map(Err)).boxed();
        let (_kept, next) = mpsc::channel(1);
        let notes = std::mem::replace(&mut noted, next);
        let mut client = Takes(9, Vec::new());
        let end = shown(&mut client, &mut output, notes, &Heard::new(), CALM).await;
        assert_eq!(end, expected);
    }
}
