//! One terminal from its first byte to its end: a pump in each direction and a
//! watch over both. Whoever does not take what is sent holds up the other side
//! instead of filling memory, and is let go after a while.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, close_code};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use uuid::Uuid;

use super::super::protocol::{self, Told};
use super::super::{Opened, Outcome};
use super::Right;
use crate::app::App;
use crate::backend::{BackendError, TerminalControl};

/// Words about refused control messages that wait to be sent.
const NOTES: usize = 16;

/// How long things may take.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    /// Between two pings.
    ping: Duration,
    /// Without a sign of life from the client, be it the answer to a ping.
    silence: Duration,
    /// For the other side to take what is sent.
    write: Duration,
    /// For the backend to change the size.
    resize: Duration,
    /// Between two looks at everything else.
    look: Duration,
    /// A right is asked for again this often even if nothing was revoked.
    right: Duration,
    /// For the client to answer a goodbye.
    farewell: Duration,
    /// Without a byte in either direction.
    idle: Duration,
}

impl Timing {
    fn new(idle: Duration) -> Self {
        Self {
            ping: Duration::from_secs(30),
            silence: Duration::from_secs(75),
            write: Duration::from_secs(60),
            resize: Duration::from_secs(10),
            look: Duration::from_secs(2),
            right: Duration::from_secs(300),
            farewell: Duration::from_secs(1),
            idle,
        }
    }
}

/// What a terminal was opened for, and with.
pub(super) struct Visit {
    pub(super) app: App,
    pub(super) id: Uuid,
    pub(super) right: Right,
}

/// Why a terminal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The shell ended.
    Exited,
    /// The client is gone or said goodbye.
    Left,
    /// The client gets a reason: its code, its text, and the word for the record.
    Because(u16, &'static str, &'static str),
}

const TOO_BIG: End = End::Because(close_code::SIZE, "message too big", "message too big");
const SLOW: End = End::Because(close_code::POLICY, "too slow", "slow client");
const STUCK: End = End::Because(
    close_code::POLICY,
    "the shell does not take what is typed",
    "stuck shell",
);
const LOST: End = End::Because(close_code::ERROR, "the terminal was lost", "lost");
const SILENT: End = End::Because(close_code::POLICY, "no sign of life", "silent client");
const IDLE: End = End::Because(close_code::POLICY, "idle for too long", "idle");
const REFUSED: End = End::Because(
    close_code::POLICY,
    "credentials are no longer valid",
    "revoked",
);
const STOPPED: End = End::Because(
    close_code::POLICY,
    "the workspace was stopped",
    "workspace stopped",
);
const CLOSING: End = End::Because(close_code::AWAY, "server is shutting down", "shutdown");

impl End {
    fn reason(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Left => "client left",
            Self::Because(_, _, reason) => reason,
        }
    }
}

/// When something was last heard.
struct Heard {
    /// Anything at all from the client.
    client: Mutex<Instant>,
    /// Bytes in either direction.
    bytes: Mutex<Instant>,
}

impl Heard {
    fn new() -> Self {
        Self {
            client: Mutex::new(Instant::now()),
            bytes: Mutex::new(Instant::now()),
        }
    }

    fn now(what: &Mutex<Instant>) {
        *what.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ago(what: &Mutex<Instant>) -> Duration {
        what.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

/// Serves a socket until its terminal ends, and ends what is left of that.
pub(super) async fn serve<S>(socket: S, mut opened: Opened, visit: Visit)
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    let idle = visit.app.config.workspaces.terminal_idle_secs;
    let timing = Timing::new(Duration::from_secs(idle));
    let (mut sink, mut stream) = socket.split();
    let Some(session) = opened.session() else {
        return;
    };
    let heard = Heard::new();
    let (notes, noted) = mpsc::channel(NOTES);
    let end = tokio::select! {
        end = typed(&mut stream, &mut session.input, &*session.control, &notes, &heard, timing) => end,
        end = shown(&mut sink, &mut session.output, noted, &heard, timing) => end,
        end = watch(&visit, &heard, timing) => end,
    };
    let exit_code = match end {
        End::Exited => session.control.exit_code().await,
        _ => None,
    };
    opened.end(Outcome {
        reason: end.reason(),
        exit_code,
    });
    let goodbye = farewell(&mut sink, &mut stream, end, exit_code);
    let _ = timeout(timing.farewell, goodbye).await;
}

/// Hands on what is typed.
async fn typed(
    stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    input: &mut (impl AsyncWrite + Unpin),
    control: &dyn TerminalControl,
    notes: &mpsc::Sender<Told>,
    heard: &Heard,
    timing: Timing,
) -> End {
    while let Some(said) = stream.next().await {
        Heard::now(&heard.client);
        match said {
            Ok(Message::Binary(mut bytes)) => {
                Heard::now(&heard.bytes);
                while !bytes.is_empty() {
                    match timeout(timing.write, input.write(&bytes)).await {
                        Ok(Ok(written)) if written > 0 => {
                            drop(bytes.split_to(written));
                            // Nobody listens to it meanwhile.
                            Heard::now(&heard.client);
                        }
                        // It ended, which its output tells.
                        Ok(_) => return std::future::pending().await,
                        Err(_) => return STUCK,
                    }
                }
                if timeout(timing.write, input.flush()).await.is_err() {
                    return STUCK;
                }
            }
            Ok(Message::Text(text)) => {
                let changed = match protocol::resize(&text) {
                    Ok(size) => match timeout(timing.resize, control.resize(size)).await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(_)) | Err(_) => Err("the size could not be changed"),
                    },
                    Err(message) => Err(message),
                };
                if let Err(message) = changed {
                    // Who sends so much nonsense is not told about all of it.
                    let _ = notes.try_send(Told::Error { message });
                }
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Close(_)) => return End::Left,
            // What the library says of a message over the limit.
            Err(error) if error.to_string().contains("Space limit exceeded") => return TOO_BIG,
            Err(_) => return End::Left,
        }
    }
    End::Left
}

/// Hands on what is printed, and what else there is to say.
async fn shown(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    output: &mut BoxStream<'static, Result<Bytes, BackendError>>,
    mut notes: mpsc::Receiver<Told>,
    heard: &Heard,
    timing: Timing,
) -> End {
    let mut ping = interval_at(tokio::time::Instant::now() + timing.ping, timing.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            printed = output.next() => match printed {
                Some(Ok(bytes)) => {
                    Heard::now(&heard.bytes);
                    Message::Binary(bytes)
                }
                Some(Err(_)) => return LOST,
                None => return End::Exited,
            },
            Some(note) = notes.recv() => Message::Text(note.to_json().into()),
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        match timeout(timing.write, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Left,
            Err(_) => return SLOW,
        }
    }
}

/// Ends a terminal that must not go on.
async fn watch(visit: &Visit, heard: &Heard, timing: Timing) -> End {
    let app = &visit.app;
    let (mut revocations, mut proven) = (app.auth.revocations(), Instant::now());
    loop {
        tokio::select! {
            () = app.closing.cancelled() => return CLOSING,
            () = tokio::time::sleep(timing.look) => {}
        }
        if Heard::ago(&heard.client) > timing.silence {
            return SILENT;
        }
        if Heard::ago(&heard.bytes) > timing.idle {
            return IDLE;
        }
        let now = app.auth.revocations();
        if now != revocations || proven.elapsed() > timing.right {
            match timeout(timing.resize, visit.right.holds(app, visit.id)).await {
                Ok(Some(true)) => (revocations, proven) = (now, Instant::now()),
                Ok(Some(false)) => return REFUSED,
                // Nobody answers: it is asked again at the next look.
                Ok(None) | Err(_) => {}
            }
        }
        let may_stay = timeout(timing.resize, app.terminals.may_stay(visit.id)).await;
        if !may_stay.unwrap_or(true) {
            return STOPPED;
        }
    }
}

async fn farewell(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    end: End,
    exit_code: Option<i64>,
) -> Result<(), axum::Error> {
    let (code, reason) = match end {
        End::Exited => {
            let exit = Told::Exit { code: exit_code };
            sink.send(Message::Text(exit.to_json().into())).await?;
            (close_code::NORMAL, "")
        }
        End::Left => return sink.close().await,
        End::Because(code, reason, _) => (code, reason),
    };
    let reason = Utf8Bytes::from_static(reason);
    sink.send(Message::Close(Some(CloseFrame { code, reason })))
        .await?;
    // A connection that is closed with words unread may lose ours.
    while let Some(Ok(_)) = stream.next().await {}
    sink.close().await
}

#[cfg(test)]
mod tests;
