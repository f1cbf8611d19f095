//! Bounds of bringing plugins to a workspace that starts.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::backend::{Phase, PluginSupply, Progress};

/// What all of it may take: an agent without a plugin is better than none.
const TIMEOUT: Duration = Duration::from_secs(180);
/// A start that is not heard of for long is given up.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// When whoever begins now is to be done.
pub(in crate::backend) fn deadline(supply: &dyn PluginSupply) -> Instant {
    let patience = supply.patience().unwrap_or(TIMEOUT);
    Instant::now() + patience.min(TIMEOUT)
}

/// Waits for `work`, which has an end of its own, and gives signs of life meanwhile.
pub(in crate::backend) async fn with_signs<T>(
    progress: &Progress,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        match timeout(SIGN_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => progress.tell(Phase::Plugins, "bringing plugins", None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use molecule_hooks::PluginName;

    use super::*;
    use crate::backend::{PluginDelivery, SupplyResult, WantedPlugin};

    struct Patient(Option<Duration>);

    #[async_trait]
    impl PluginSupply for Patient {
        fn wanted(&self) -> &[WantedPlugin] {
            &[]
        }
        async fn delivery(&self, _: &PluginName) -> Result<PluginDelivery, String> {
            Err("none".to_owned())
        }
        fn patience(&self) -> Option<Duration> {
            self.0
        }
        fn done(&self, _: &PluginName, _: SupplyResult) {}
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_start_or_the_backend_would() {
        let secs = |patience: Option<u64>| {
            let supply = Patient(patience.map(Duration::from_secs));
            (deadline(&supply) - Instant::now()).as_secs()
        };
        assert_eq!(secs(None), 180);
        assert_eq!(secs(Some(20)), 20);
        assert_eq!(secs(Some(100_000)), 180);
        assert_eq!(secs(Some(0)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_long_is_heard_of() {
        let heard = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&heard);
        let progress = Progress::to(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        with_signs(&progress, tokio::time::sleep(Duration::from_secs(1))).await;
        assert_eq!(heard.load(Ordering::Relaxed), 0);
        let done = with_signs(&progress, async {
            tokio::time::sleep(Duration::from_secs(61)).await;
            7
        });
        assert_eq!(done.await, 7);
        assert_eq!(heard.load(Ordering::Relaxed), 12);
    }

    #[test]
    fn a_marker_must_name_the_tree_that_is_wanted() {
        let wanted = |tree: Option<&str>| WantedPlugin {
            name: PluginName::parse("demo").unwrap(),
            tree_sha256: tree.map(str::to_owned),
        };
        let marker = br#"{"version":1,"tree_sha256":"ab","more":[]}"#;
        assert!(wanted(Some("ab")).is_met_by(marker));
        assert!(!wanted(Some("cd")).is_met_by(marker));
        for strange in [&b""[..], b"{}", b"[1]", br#"{"tree_sha256":7}"#, b"\xff"] {
            assert!(!wanted(Some("ab")).is_met_by(strange), "{strange:?}");
            assert!(wanted(None).is_met_by(strange), "{strange:?}");
        }
    }
}
