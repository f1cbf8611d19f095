//! The runner with hooks that do what they must not.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use molecule_hooks::{EnvMap, EnvMutator, HookError, Registry, WorkspaceContext, async_trait};
use tokio::sync::oneshot;

use super::HookRunner;
use crate::config::HooksSection;
use crate::redact::Redactor;

const BLOCKED: Duration = Duration::from_secs(3);

/// Blocks its thread, as a hook with a synchronous client does.
struct Blocking;

#[async_trait]
impl EnvMutator for Blocking {
    fn name(&self) -> &str {
        "blocking"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        env.set("TOO_LATE", "yes")?;
        std::thread::sleep(BLOCKED);
        Ok(())
    }
}

/// Says when its call begins, and by hanging up when it was dropped.
struct Hanging(Mutex<Option<(oneshot::Sender<()>, oneshot::Sender<()>)>>);

#[async_trait]
impl EnvMutator for Hanging {
    fn name(&self) -> &str {
        "hanging"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        let (begun, _alive) = self.0.lock().unwrap().take().unwrap();
        begun.send(()).unwrap();
        std::future::pending().await
    }
}

fn runner(registry: Registry, timeout_secs: u64) -> HookRunner {
    let config = HooksSection {
        timeout_secs,
        ..HooksSection::default()
    };
    HookRunner::new(registry, &config, Redactor::default())
}

/// A blocking hook fails at its deadline, and timers fire in the meantime.
async fn a_blocking_hook_holds_up_nobody() {
    let runner = runner(Registry::new().with(Blocking), 1);
    let mut env = EnvMap::new();
    let started = Instant::now();
    let ticking = async {
        let mut longest = Duration::ZERO;
        for _ in 0..25 {
            let before = Instant::now();
            tokio::time::sleep(Duration::from_millis(20)).await;
            longest = longest.max(before.elapsed());
        }
        longest
    };
    let workspace = WorkspaceContext::new("7aa0");
    let (ran, longest) = tokio::join!(runner.run(&workspace, &mut env), ticking);
    let took = started.elapsed();
    let error = ran.unwrap_err().to_string();
    assert!(error.contains("did not finish within 1 s"), "{error}");
    assert!(took < BLOCKED - Duration::from_millis(500), "{took:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(env.is_empty(), "what a late hook wrote was taken over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_hook_holds_up_nobody_on_many_threads() {
    a_blocking_hook_holds_up_nobody().await;
}

#[tokio::test]
async fn a_blocking_hook_holds_up_nobody_on_one_thread() {
    a_blocking_hook_holds_up_nobody().await;
}

#[tokio::test]
async fn a_call_ends_with_its_caller() {
    // Given a hook under way
    let (begun, begins) = oneshot::channel();
    let (alive, ended) = oneshot::channel::<()>();
    let hook = Hanging(Mutex::new(Some((begun, alive))));
    let runner = runner(Registry::new().with(hook), 600);
    let caller = tokio::spawn(async move {
        let workspace = WorkspaceContext::new("7aa0");
        runner.run(&workspace, &mut EnvMap::new()).await
    });
    begins.await.unwrap();

    // When the provision is cancelled
    caller.abort();

    // Then so is the hook
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(ended.expect("the call went on").is_err());
}
