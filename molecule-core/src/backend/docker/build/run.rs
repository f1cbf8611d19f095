//! One build by the daemon: the tree goes in, lines come out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::BuildInfo;
use bollard::query_parameters::{BuildImageOptions, BuildImageOptionsBuilder};
use futures_util::{StreamExt, stream};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::Tell;
use super::context::{Context, ContextError, DOCKERFILE};
use super::error::BuildError;
use super::images::{self, Layers, Wanted, explained};
use super::log::{self, Digest, Lines};
use super::mask::Mask;
use super::still;
use crate::backend::docker::daemon::{CallError, Daemon};

/// How often a build is tried that met others in the daemon's memory of layers.
const TRIES: u32 = 3;
/// What the daemon says when a layer that it looked at for its cache was removed at
/// that moment, by whomever. It stops the build, though nothing is wrong with it.
const RACES: [&str; 2] = ["unable to find image \"sha256:", "unknown parent image id"];

/// A build of which nothing is heard for this long has hung itself up. A little less
/// than a boot may be quiet by default, so that the log says what was the matter.
const SILENCE: Duration = Duration::from_secs(230);

/// How much of the tree may be in flight between its folder and the daemon.
const PIPE_BYTES: usize = 256 * 1024;

/// What is built how.
pub(super) struct Build<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) mask: &'a Mask,
    pub(super) wanted: &'a Wanted,
    pub(super) tell: &'a Tell<'a>,
}

impl Build<'_> {
    /// Builds the image. What a build that did not end made is removed again.
    pub(super) async fn run(
        &self,
        context: &Context,
        cancel: &CancellationToken,
    ) -> Result<(), BuildError> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let since = chrono::Utc::now();
            let mut log = Log {
                lines: Lines::default(),
                digest: Digest::new(),
                layers: Layers::default(),
                met_others: false,
            };
            let built = self.stream(context, &mut log, cancel).await;
            match &built {
                Ok(()) => return built,
                Err(error) if tries > 0 && log.met_others => {
                    tracing::info!(%error, "a build met others and is tried again");
                }
                Err(_) => {
                    images::discard(self.daemon, log.layers, since).await;
                    return built;
                }
            }
        }
    }

    async fn stream(
        &self,
        context: &Context,
        log: &mut Log,
        cancel: &CancellationToken,
    ) -> Result<(), BuildError> {
        let client = self
            .daemon
            .client()
            .await
            .map_err(|error| explained("build", &error, self.mask))?;
        let (mut writer, reader) = tokio::io::duplex(PIPE_BYTES);
        let reader = ReaderStream::with_capacity(reader, PIPE_BYTES);
        let moves = Arc::new(Notify::new());
        let is_whole = Arc::new(AtomicBool::new(false));
        let body = {
            let (moves, is_whole) = (Arc::clone(&moves), Arc::clone(&is_whole));
            // To the daemon half an archive looks like a whole one, so it must not
            // end like one.
            let end = stream::once(async move { is_whole.load(Ordering::Acquire) });
            let end = end.filter_map(async |is_whole| {
                (!is_whole).then(|| Err(io::Error::from(io::ErrorKind::UnexpectedEof)))
            });
            reader.inspect(move |_| moves.notify_one()).chain(end)
        };
        let body = bollard::body_try_stream(body);
        let mut output = client.build_image(self.options(), None, Some(body));
        let sending = async {
            context.write(&mut writer).await?;
            is_whole.store(true, Ordering::Release);
            writer.shutdown().await.map_err(|_| ContextError::Abandoned)
        };
        tokio::pin!(sending);
        let mut is_sent = false;
        let began = Instant::now();
        let mut told = began;
        let silence = sleep(SILENCE);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(BuildError::Cancelled),
                sent = &mut sending, if !is_sent => {
                    is_sent = true;
                    match sent {
                        // Whoever stopped reading says why.
                        Ok(()) | Err(ContextError::Abandoned) => {}
                        Err(error) => return Err(self.malformed(&error)),
                    }
                }
                said = output.next() => match said {
                    Some(Ok(said)) => self.take(log, &said),
                    Some(Err(error)) => return Err(self.failed(log, error)),
                    None => break,
                },
                // The daemon says nothing until it has all of it.
                () = moves.notified() => {
                    if told.elapsed() >= still::EVERY {
                        told = Instant::now();
                        let secs = began.elapsed().as_secs();
                        (self.tell)(&format!("sending the source to the daemon ({secs} s)"), None);
                    }
                }
                () = &mut silence => {
                    return Err(BuildError::TimedOut(format!(
                        "local-build: nothing was heard of the build for {} s; last output: {}",
                        SILENCE.as_secs(),
                        log.digest.tail(),
                    )));
                }
            }
            silence.as_mut().reset(Instant::now() + SILENCE);
        }
        if let Some(line) = log.lines.end(self.mask) {
            self.line(log, &line);
        }
        Ok(())
    }

    /// Whatever the operator's machine knows stays out: no build arguments.
    fn options(&self) -> BuildImageOptions {
        let wanted = self.wanted;
        let platform = if wanted.foreign {
            &*wanted.platform
        } else {
            ""
        };
        BuildImageOptionsBuilder::default()
            .dockerfile(DOCKERFILE)
            .t(&wanted.reference())
            .labels(&wanted.labels())
            .platform(platform)
            .rm(true)
            .forcerm(true)
            .build()
    }

    fn take(&self, log: &mut Log, said: &BuildInfo) {
        if let Some(text) = &said.stream {
            for line in log.lines.push(text, self.mask) {
                self.line(log, &line);
            }
        }
        // The base image is on its way.
        if let Some(status) = &said.status {
            let layer = said.id.as_deref().unwrap_or_default();
            let mut lines = Lines::default();
            lines.push(&format!("{status} {layer}"), self.mask);
            if let Some(line) = lines.end(self.mask) {
                self.line(log, &line);
            }
        }
    }

    fn line(&self, log: &mut Log, line: &str) {
        log.layers.take(line);
        if log.digest.take(line) {
            (self.tell)(line, log::percent(line));
        }
    }

    fn failed(&self, log: &mut Log, error: Error) -> BuildError {
        let reference = self.wanted.reference();
        let said = match error {
            // A step failed,
            Error::DockerStreamError { error } => error,
            // or it did not even come to the first one.
            Error::DockerResponseServerError {
                status_code: 400,
                message,
            } => message,
            error => {
                let what = format!("build {reference}");
                return explained(&what, &CallError::from(error), self.mask);
            }
        };
        let text = said.to_lowercase();
        log.met_others = RACES.iter().any(|race| text.contains(race));
        BuildError::Refused(format!(
            "local-build: docker build of {reference} failed: {}; last output: {}",
            self.mask.line(&said),
            log.digest.tail()
        ))
    }

    fn malformed(&self, error: &ContextError) -> BuildError {
        BuildError::Refused(format!(
            "local-build: the tree of commit {} cannot be built from: {error}",
            self.wanted.commit.short()
        ))
    }
}

/// What came out of a build so far.
struct Log {
    lines: Lines,
    digest: Digest,
    layers: Layers,
    /// Whether what ended it is one of the [`RACES`].
    met_others: bool,
}
