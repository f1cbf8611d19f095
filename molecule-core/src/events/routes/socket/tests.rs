use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::mpsc;

use super::super::super::hub::{Hub, Proof};
use super::super::super::{Event, EventType};
use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(20);

/// Times that never come.
const CALM: Timing = Timing {
    ping: LONG,
    silence: LONG,
    write: LONG,
    farewell: SHORT,
};

/// The server's end of a socket whose client is this test.
struct Fake {
    said: mpsc::UnboundedReceiver<Message>,
    sent: mpsc::UnboundedSender<Message>,
    /// Nobody takes what is sent.
    stalled: bool,
}

impl Stream for Fake {
    type Item = Result<Message, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.said.poll_recv(cx)).map(Ok))
    }
}

impl Sink<Message> for Fake {
    type Error = axum::Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), axum::Error> {
        self.sent.send(message).map_err(axum::Error::new)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        match self.stalled {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        self.poll_flush(cx)
    }
}

struct Good;

#[async_trait]
impl Proof for Good {
    async fn holds(&self) -> Option<bool> {
        Some(true)
    }
}

/// A served socket and the client's ends of it.
struct Served {
    hub: Hub,
    say: mpsc::UnboundedSender<Message>,
    sent: mpsc::UnboundedReceiver<Message>,
    task: tokio::task::JoinHandle<()>,
}

async fn served(timing: Timing, stalled: bool) -> Served {
    let hub = Hub::new();
    let dispatched = hub.clone();
    tokio::spawn(async move { dispatched.dispatch(Instant::now() + LONG).await });
    let subscription = hub.subscribe(Audience::Everything, Arc::new(Good)).await;
    let subscription = subscription.expect("room");
    let (say, said) = mpsc::unbounded_channel();
    let (sent, received) = mpsc::unbounded_channel();
    let fake = Fake {
        said,
        sent,
        stalled,
    };
    Served {
        hub,
        say,
        sent: received,
        task: tokio::spawn(serve(fake, subscription, timing)),
    }
}

impl Served {
    fn offer(&self, number: usize) {
        self.hub.offer(Frame::new(Event {
            event: EventType::WorkspaceOnline,
            workspace_id: Uuid::nil(),
            timestamp: chrono::DateTime::UNIX_EPOCH,
            payload: json!({ "number": number }),
            id: Some(Uuid::now_v7()),
        }));
    }

    async fn received(&mut self) -> Option<Message> {
        let received = tokio::time::timeout(PATIENCE, self.sent.recv()).await;
        received.expect("something is sent")
    }

    async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.received().await.expect("a goodbye") {
                Message::Close(Some(frame)) => return (frame.code, frame.reason.to_string()),
                _ => continue,
            }
        }
    }

    async fn ended(self) {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("it ends").expect("no panic");
        assert!(!self.hub.has_clients());
    }
}

#[tokio::test]
async fn every_event_is_one_text_message_in_order() {
    let mut served = served(CALM, false).await;
    for number in 0..100 {
        served.offer(number);
    }
    for number in 0..100 {
        let message = served.received().await.expect("an event");
        let expected = format!(
            "{{\"event\":\"WORKSPACE_ONLINE\",\"workspace_id\":\"{}\",\
             \"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"payload\":{{\"number\":{number}}}}}",
            Uuid::nil()
        );
        assert_eq!(message, Message::Text(expected.into()));
    }
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let timing = Timing {
        ping: SHORT,
        silence: SHORT * 10,
        ..CALM
    };
    let mut served = served(timing, false).await;
    for _ in 0..20 {
        let message = served.received().await.expect("a ping");
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
        let _ = served.say.send(Message::Pong(Default::default()));
    }
    assert_eq!(served.closed().await.1, "no sign of life");
    served.ended().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let timing = Timing {
        write: SHORT,
        ..CALM
    };
    let stuck = served(timing, true).await;
    stuck.offer(1);
    stuck.ended().await;
    // Also while it is written to, without waiting for the deadline.
    let stuck = served(CALM, true).await;
    stuck.offer(1);
    stuck.hub.end_all(Ended::Slow);
    stuck.ended().await;
}

#[tokio::test]
async fn the_end_has_a_code_and_a_reason() {
    for (why, code) in [
        (Ended::Slow, 1008),
        (Ended::Refused, 1008),
        (Ended::Removed, 1008),
        (Ended::Behind, 1013),
        (Ended::Closing, 1001),
    ] {
        let mut served = served(CALM, false).await;
        served.hub.end_all(why);
        let (found, reason) = served.closed().await;
        assert_eq!(found, code, "{reason}");
        assert!(!reason.is_empty());
        served.ended().await;
    }
}

#[tokio::test]
async fn what_clients_say_is_ignored_but_a_goodbye() {
    let mut served = served(CALM, false).await;
    for message in [
        Message::Text("{\"event\":\"WORKSPACE_ONLINE\"}".into()),
        Message::Binary(vec![0xff; 100].into()),
    ] {
        let _ = served.say.send(message);
    }
    served.offer(7);
    let message = served.received().await.expect("an event");
    assert!(matches!(message, Message::Text(_)), "{message:?}");
    let _ = served.say.send(Message::Close(None));
    served.ended().await;
}

#[test]
fn an_agent_names_one_workspace_or_none() {
    let id = Uuid::new_v4();
    let mut headers = HeaderMap::new();
    assert_eq!(agent(&headers).unwrap(), None);
    headers.append(X_WORKSPACE_ID, id.to_string().parse().expect("a value"));
    assert_eq!(agent(&headers).unwrap(), Some(id));
    headers.append(X_WORKSPACE_ID, id.to_string().parse().expect("a value"));
    assert!(agent(&headers).is_err());
    for bad in ["", "1", "../../etc", "\u{202e}"] {
        let value = http::HeaderValue::from_bytes(bad.as_bytes()).expect("a value");
        headers.insert(X_WORKSPACE_ID, value);
        assert!(agent(&headers).is_err(), "{bad}");
    }
}
