//! What tests of images share.

pub(crate) mod build_world;
pub(crate) mod gate;
pub(crate) mod git_host;
pub(crate) mod registry;

use std::time::Duration;

use tokio::time::Instant;

/// Waits for what must happen, on a machine that may be slow.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
