//! Watching the registry for newer images, where the operator wants it; and trying
//! pulls again that failed while an older image had to do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use super::Rollout;
use crate::backend::{BackendError, ImageDigest, Images};

/// Questions to registries at once.
const AT_ONCE: usize = 4;
/// A registry has this long to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// The content that was seen last and that workspaces were brought to, by runtime.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<HashMap<String, ImageDigest>>>);

impl Watched {
    /// Whether this content is another one than workspaces were brought to; none when
    /// it is the first that is seen.
    fn is_news(&self, runtime: &str, latest: &ImageDigest) -> Option<bool> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(runtime).map(|digest| digest != latest)
    }

    /// Workspaces were brought to this content, or run it already.
    fn settle(&self, runtime: String, latest: ImageDigest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(runtime, latest);
    }

    /// Forgets runtimes that nobody uses.
    fn keep(&self, runtimes: &BTreeSet<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|runtime, _| runtimes.contains(runtime));
    }
}

impl Rollout {
    /// Starts the loops, if there are images to look after. They look this often.
    pub(crate) fn start(&self, period: Duration) {
        let services = &self.services;
        if services.backend.images().is_none() {
            return;
        }
        let this = self.clone();
        (services.supervisor).every("stale-images", period, move || {
            let this = this.clone();
            async move { this.retry_stale(period).await }
        });
        if !services.config.backend.docker.image_auto_refresh {
            return;
        }
        let this = self.clone();
        let watching = move || {
            let this = this.clone();
            async move { this.watch(period).await }
        };
        (services.leader).every(&services.supervisor, "image-watcher", period, watching);
    }

    /// A newer image that came late counts from the next boot: nobody asked for a
    /// restart when it was missed.
    async fn retry_stale(&self, period: Duration) {
        let services = &self.services;
        let Some(images) = services.backend.images() else {
            return;
        };
        tokio::time::sleep(jitter(period)).await;
        for runtime in images.retry_stale(&services.supervisor.token()).await {
            tracing::info!(runtime, "an image that could not be pulled is here now");
            metrics::counter!("molecule_stale_images_renewed_total").increment(1);
        }
    }

    /// One look at the registry for every runtime in use.
    async fn watch(&self, period: Duration) {
        let services = &self.services;
        let Some(images) = services.backend.images() else {
            return;
        };
        // Servers that were started together do not ask together.
        tokio::time::sleep(jitter(period)).await;
        let in_use = match services.workspaces.runtimes_in_use().await {
            Ok(in_use) => in_use,
            Err(error) => return tracing::warn!(?error, "runtimes in use could not be listed"),
        };
        self.watched.keep(&in_use);
        let pulled = in_use
            .into_iter()
            .filter(|runtime| self.is_pulled(images, runtime));
        let asking = pulled.map(|runtime| async {
            // Where somebody decided on the content, nothing newer counts.
            if services.images.pin_of(&runtime).await.is_some() {
                return None;
            }
            let latest = latest(images, &runtime).await?;
            let is_news = self.is_news(&runtime, &latest).await;
            is_news.then_some((runtime, latest))
        });
        let news: Vec<_> = stream::iter(asking)
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        for (runtime, latest) in news {
            self.bring(images, runtime, latest).await;
        }
    }

    /// Whether somebody is to be brought to this content. What this server never saw
    /// before may have come while nobody watched, or while another server did and
    /// could not roll it out: then the rows tell.
    async fn is_news(&self, runtime: &str, latest: &ImageDigest) -> bool {
        if let Some(is_news) = self.watched.is_news(runtime, latest) {
            return is_news;
        }
        match self.services.workspaces.run_another(runtime, latest).await {
            Ok(true) => true,
            Ok(false) => {
                self.watched.settle(runtime.to_owned(), latest.clone());
                false
            }
            Err(error) => {
                tracing::warn!(runtime, ?error, "what workspaces run could not be read");
                false
            }
        }
    }

    /// Refreshes a runtime; if anything of it fails, it is done again next time.
    async fn bring(&self, images: &dyn Images, runtime: String, latest: ImageDigest) {
        tracing::info!(runtime, digest = %latest, "the registry has a newer image");
        let refresh = self.refresh_in_turn(images, vec![runtime.clone()], true);
        match self.turn.of_watcher(refresh).await {
            Some(Ok(done)) if done.failed.is_empty() => self.watched.settle(runtime, latest),
            Some(Ok(_)) => tracing::warn!(runtime, "newer image not pulled; will retry"),
            Some(Err(error)) => {
                tracing::warn!(runtime, ?error, "newer image not rolled out; will retry");
            }
            None => {
                tracing::info!(runtime, "an administrator refreshes images; will retry");
                self.services.workspaces.poke_restarts();
            }
        }
    }
}

async fn latest(images: &dyn Images, runtime: &str) -> Option<ImageDigest> {
    let asked = tokio::time::timeout(ASK_TIMEOUT, images.latest(runtime)).await;
    let late = BackendError::Timeout {
        operation: "ask registry",
    };
    match asked.unwrap_or(Err(late)) {
        Ok(latest) => Some(latest),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(runtime, error, "the registry did not say what is new");
            None
        }
    }
}

/// Up to a tenth of the period.
fn jitter(period: Duration) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    period.mul_f64((random % 1000) as f64 / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> ImageDigest {
        ImageDigest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap()
    }

    #[test]
    fn the_first_sight_tells_nothing_and_news_stay_news_until_settled() {
        let watched = Watched::default();
        let (old, new) = (digest('a'), digest('b'));
        assert_eq!(watched.is_news("codex", &old), None);
        assert_eq!(watched.is_news("codex", &old), None, "nobody said so yet");
        watched.settle("codex".to_owned(), old.clone());
        assert_eq!(watched.is_news("codex", &old), Some(false));
        assert_eq!(watched.is_news("codex", &new), Some(true));
        let again = watched.is_news("codex", &new);
        assert_eq!(again, Some(true), "it was not brought to anybody");
        watched.settle("codex".to_owned(), new.clone());
        assert_eq!(watched.is_news("codex", &new), Some(false));
        assert_eq!(watched.is_news("codex", &old), Some(true));
        watched.keep(&BTreeSet::new());
        let forgotten = watched.is_news("codex", &old);
        assert_eq!(forgotten, None, "forgotten with its last user");
    }

    #[test]
    fn jitter_is_a_small_part_of_the_period() {
        let period = Duration::from_secs(300);
        for _ in 0..100 {
            assert!(jitter(period) <= period / 10);
        }
    }
}
