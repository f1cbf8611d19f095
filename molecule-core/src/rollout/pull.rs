//! Pulling the images of several runtimes side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendError, Images, ObtainedImage};

/// Pulls at once: layers are unpacked on one disk.
const AT_ONCE: usize = 4;

/// What came of it, by runtime.
#[derive(Default)]
pub(super) struct Pulled {
    pub(super) pulled: BTreeMap<String, ObtainedImage>,
    pub(super) failed: BTreeMap<String, BackendError>,
}

/// Pulls the images of these runtimes; what is not done within `limit` failed.
pub(super) async fn all(
    images: &dyn Images,
    runtimes: Vec<String>,
    limit: Duration,
    cancel: &CancellationToken,
) -> Pulled {
    let deadline = Instant::now() + limit;
    // Ends what the backend still does when the time is over, or nobody wants it.
    let cancel = cancel.child_token();
    let guard = cancel.clone().drop_guard();
    let pulls = runtimes.into_iter().map(|runtime| {
        let cancel = &cancel;
        async move {
            let pulling = images.refresh(&runtime, cancel);
            let pulled = timeout_at(deadline, pulling).await;
            let late = BackendError::Timeout {
                operation: "refresh image",
            };
            (runtime, pulled.unwrap_or(Err(late)))
        }
    });
    let mut done = Pulled::default();
    let mut pulls = stream::iter(pulls).buffer_unordered(AT_ONCE);
    while let Some((runtime, pulled)) = pulls.next().await {
        match pulled {
            Ok(image) => drop(done.pulled.insert(runtime, image)),
            Err(error) => drop(done.failed.insert(runtime, error)),
        }
    }
    drop(guard);
    done
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::time::sleep;

    use super::*;
    use crate::backend::{ImageDigest, ImageRequest, ImageUser, Progress};

    /// Pulls take a minute each, `stuck` for ever, and `gone` fails.
    #[derive(Default)]
    struct Slow {
        /// Pulls under way, and the most there ever were.
        busy: Mutex<(usize, usize)>,
    }

    #[async_trait]
    impl Images for Slow {
        fn builds_locally(&self) -> bool {
            false
        }

        fn reference(&self, request: &ImageRequest) -> Result<String, BackendError> {
            Ok(request.runtime.clone())
        }

        async fn obtain(
            &self,
            _: &ImageRequest,
            _: &Progress,
            _: &CancellationToken,
        ) -> Result<ObtainedImage, BackendError> {
            Err(BackendError::Cancelled)
        }

        async fn refresh(
            &self,
            runtime: &str,
            _: &CancellationToken,
        ) -> Result<ObtainedImage, BackendError> {
            {
                let mut busy = self.busy.lock().unwrap();
                busy.0 += 1;
                busy.1 = busy.1.max(busy.0);
            }
            match runtime {
                "stuck" => std::future::pending().await,
                _ => sleep(Duration::from_secs(60)).await,
            }
            self.busy.lock().unwrap().0 -= 1;
            if runtime == "gone" {
                return Err(BackendError::NoConfig);
            }
            Ok(ObtainedImage {
                reference: runtime.to_owned(),
                digest: None,
                stale: false,
            })
        }

        async fn latest(&self, _: &str) -> Result<ImageDigest, BackendError> {
            Err(BackendError::Cancelled)
        }

        async fn users_of(&self, _: &str) -> Result<Vec<ImageUser>, BackendError> {
            Ok(Vec::new())
        }

        async fn retry_stale(&self, _: &CancellationToken) -> Vec<String> {
            Vec::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pulls_run_side_by_side_and_end_with_the_time_for_all_of_them() {
        let images = Slow::default();
        let mut runtimes: Vec<String> = (0..10).map(|n| format!("r{n}")).collect();
        runtimes.extend(["stuck".to_owned(), "gone".to_owned()]);
        let (started, limit) = (Instant::now(), Duration::from_secs(300));
        let cancel = CancellationToken::new();
        let done = all(&images, runtimes, limit, &cancel).await;
        assert_eq!(started.elapsed(), limit);
        assert_eq!(done.pulled.len(), 10);
        let failed: Vec<_> = done.failed.keys().map(String::as_str).collect();
        assert_eq!(failed, ["gone", "stuck"]);
        assert_eq!(done.failed["stuck"].class(), "timeout");
        assert_eq!(images.busy.lock().unwrap().1, AT_ONCE);
        assert!(!cancel.is_cancelled(), "the caller goes on");
    }
}
