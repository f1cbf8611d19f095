//! Archives on their way into a container.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::UploadToContainerOptionsBuilder;
use tokio::time::timeout;

use super::archive::{self, ArchiveError, Pack};
use super::daemon::{CallError, Daemon};

/// An upload of which nothing moves for so many times what a usual call takes has
/// failed.
const STALL_FACTOR: u32 = 2;

/// How writing an archive ended, and how sending it did. Half an archive can look like a
/// whole one to the daemon: it arrived only if both went well.
pub(super) type Sent = (Result<(), ArchiveError>, Result<(), CallError>);

/// Writes an archive into the folder `path` of a container, running or not. Dropping
/// the future ends it; what arrived by then stays.
///
/// # Errors
/// [`CallError`] when it did not even begin.
pub(super) async fn send(
    daemon: &Daemon,
    container: &str,
    path: &str,
    content: impl Pack,
) -> Result<Sent, CallError> {
    let client = daemon.client().await?;
    let options = UploadToContainerOptionsBuilder::default()
        .path(path)
        .build();
    let (writing, stream) = archive::write(content);
    // Also when this is dropped half-way.
    let stop = writing.stop.drop_guard();
    let body = bollard::body_try_stream(stream);
    let bound = daemon.timeout() * STALL_FACTOR;
    let call = client.upload_to_container(container, Some(options), body);
    let sent = while_moving(bound, &writing.moved, call).await;
    // Who refused an archive does not read the rest of it.
    if sent.is_err() {
        drop(stop);
    }
    let written = writing.task.await;
    Ok((written.unwrap_or(Err(ArchiveError::Abandoned)), sent))
}

/// Waits for `call` as long as `moved` grows within every `bound`.
async fn while_moving(
    bound: Duration,
    moved: &AtomicU64,
    call: impl Future<Output = Result<(), Error>>,
) -> Result<(), CallError> {
    let mut call = std::pin::pin!(call);
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        if let Ok(ended) = timeout(bound, &mut call).await {
            return ended.map_err(CallError::from);
        }
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return Err(CallError::Timeout);
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_may_last_as_long_as_it_moves() {
        let bound = Duration::from_secs(10);
        let moved = AtomicU64::new(0);
        let slow = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        while_moving(bound, &moved, slow).await.unwrap();

        let began = tokio::time::Instant::now();
        let stuck = async {
            moved.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        };
        let error = while_moving(bound, &moved, stuck).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout), "{error:?}");
        assert!(began.elapsed() <= 2 * bound);
    }
}
