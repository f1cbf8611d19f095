//! The chain: order, errors, and registration while it runs.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use molecule_hooks::testing::run_hook;
use molecule_hooks::{
    EnvMap, EnvMutator, EnvSource, HookError, Registry, Token, TokenProvider, TokenRequest,
    WorkspaceContext, async_trait,
};
use tokio::sync::Semaphore;

/// Adds its name to `TRACE`.
struct Tracer(&'static str);

#[async_trait]
impl EnvMutator for Tracer {
    fn name(&self) -> &str {
        self.0
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        let trace = format!("{}{} ", env.get("TRACE").unwrap_or_default(), self.0);
        Ok(env.set("TRACE", trace)?)
    }
}

/// Writes a variable, then fails.
struct Failing;

#[async_trait]
impl EnvMutator for Failing {
    fn name(&self) -> &str {
        "failing"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        env.set("HALF_DONE", "yes")?;
        env.remove("TRACE");
        let cause = std::io::Error::other("connection refused");
        Err(HookError::transient("vault is down").with_source(cause))
    }
}

fn workspace() -> WorkspaceContext {
    WorkspaceContext::new("7aa08951-00d4-4c11-9f6e-2f1f8d0c5b1a")
}

#[tokio::test]
async fn hooks_run_in_the_order_they_were_registered() {
    let registry = Registry::new()
        .with(Tracer("c"))
        .with(Tracer("a"))
        .with(Tracer("b"));
    let mut env = EnvMap::new();
    registry.run(&workspace(), &mut env).await.unwrap();
    assert_eq!(env.get("TRACE"), Some("c a b "));
    assert_eq!(registry.names(), ["c", "a", "b"]);
    assert_eq!(registry.len(), 3);
}

#[tokio::test]
async fn the_same_instance_registered_twice_runs_twice() {
    let hook: Arc<dyn EnvMutator> = Arc::new(Tracer("twin"));
    let registry = Registry::new();
    registry.register(Arc::clone(&hook));
    registry.register(hook);
    let mut env = EnvMap::new();
    registry.run(&workspace(), &mut env).await.unwrap();
    assert_eq!(env.get("TRACE"), Some("twin twin "));
}

#[tokio::test]
async fn an_empty_chain_changes_nothing() {
    let registry = Registry::new();
    let mut env = EnvMap::new();
    env.set("A", "1").unwrap();
    registry.run(&workspace(), &mut env).await.unwrap();
    assert!(registry.is_empty());
    assert!(registry.first_token_provider().is_none());
    assert_eq!(env.iter().collect::<Vec<_>>(), [("A", "1")]);
}

#[tokio::test]
async fn the_first_error_ends_the_chain_and_names_the_hook() {
    let registry = Registry::new()
        .with(Tracer("before"))
        .with(Failing)
        .with(Tracer("after"));
    let mut env = EnvMap::new();

    let error = registry.run(&workspace(), &mut env).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "provisionhook \"failing\": vault is down"
    );
    assert_eq!(error.hook, "failing");
    assert!(error.cause.is_transient());
    assert_eq!(error.cause.chain(), "vault is down: connection refused");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "vault is down");
    assert_eq!(cause.source().unwrap().to_string(), "connection refused");
    assert_eq!(env.get("TRACE"), Some("before "), "earlier changes stay");
    assert!(!env.contains("HALF_DONE"), "its own changes do not");
}

#[tokio::test]
async fn the_writer_of_each_variable_is_noted_and_the_callers_one_is_restored() {
    let registry = Registry::new().with(Tracer("a")).with(Tracer("b"));
    let mut env = EnvMap::new();
    env.set_writer(EnvSource::WorkspaceSecret);
    env.set("TRACE", "").unwrap();
    registry.run(&workspace(), &mut env).await.unwrap();
    let hook = |name: &str| EnvSource::Hook {
        name: name.to_owned(),
        version: String::new(),
    };
    assert_eq!(
        env.provenance("TRACE"),
        [EnvSource::WorkspaceSecret, hook("a"), hook("b")]
    );
    env.set("LATER", "").unwrap();
    assert_eq!(env.provenance("LATER"), [EnvSource::WorkspaceSecret]);
}

/// Starts from an empty map and pretends to be somebody else.
struct Usurper;

#[async_trait]
impl EnvMutator for Usurper {
    fn name(&self) -> &str {
        "usurper"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        let kept = env.get("KEPT").unwrap_or_default().to_owned();
        *env = EnvMap::new();
        env.set_writer(EnvSource::GlobalSecret);
        env.set("KEPT", kept)?;
        env.set("CHANGED", "mine")?;
        env.set("SCRATCH", "x")?;
        env.remove("SCRATCH");
        env.set_writer(EnvSource::Identity);
        env.set("PASSING", "x")?;
        env.set_writer(EnvSource::Platform);
        env.remove("PASSING");
        Ok(env.set("NEW", "one")?)
    }
}

#[tokio::test]
async fn a_hook_cannot_hide_what_it_did() {
    let registry = Registry::new().with(Tracer("a")).with(Usurper);
    let mut env = EnvMap::new();
    env.set_writer(EnvSource::WorkspaceSecret);
    for name in ["KEPT", "CHANGED", "LOST"] {
        env.set_secret(name, name).unwrap();
    }
    env.set("EARLIER", "").unwrap();
    env.set_writer(EnvSource::Identity);
    env.remove("EARLIER");
    registry.run(&workspace(), &mut env).await.unwrap();

    let hook = |name: &str| EnvSource::Hook {
        name: name.to_owned(),
        version: String::new(),
    };
    let history = |name: &str| -> Vec<(EnvSource, bool)> {
        let steps = env.history(name);
        steps
            .into_iter()
            .map(|step| (step.source, step.removed))
            .collect()
    };
    let ours = EnvSource::WorkspaceSecret;
    assert_eq!(history("KEPT"), [(ours.clone(), false)]);
    assert!(env.is_secret("KEPT"), "an unchanged secret stays secret");
    assert_eq!(
        history("CHANGED"),
        [(ours.clone(), false), (hook("usurper"), false)]
    );
    assert_eq!(
        history("LOST"),
        [(ours.clone(), false), (hook("usurper"), true)]
    );
    assert_eq!(
        history("TRACE"),
        [(hook("a"), false), (hook("usurper"), true)]
    );
    assert_eq!(
        history("EARLIER"),
        [(ours, false), (EnvSource::Identity, true)]
    );
    assert_eq!(history("NEW"), [(hook("usurper"), false)]);
    assert!(history("SCRATCH").is_empty() && history("PASSING").is_empty());
    assert_eq!(
        env.removed_names().collect::<Vec<_>>(),
        ["EARLIER", "LOST", "TRACE"]
    );
}

/// Waits for a permit, so that a test can hold a provision under way.
struct Gate {
    entered: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

#[async_trait]
impl EnvMutator for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        self.entered.add_permits(1);
        let permit = self.open.acquire().await;
        permit
            .map(drop)
            .map_err(|_| HookError::permanent("the gate is gone"))
    }
}

#[tokio::test]
async fn a_provision_under_way_keeps_the_chain_it_started_with() {
    let (entered, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let registry = Registry::new().with(Gate {
        entered: Arc::clone(&entered),
        open: Arc::clone(&open),
    });
    let running = registry.clone();
    let run = tokio::spawn(async move {
        let mut env = EnvMap::new();
        running.run(&workspace(), &mut env).await.map(|()| env)
    });
    let _ = entered.acquire().await.unwrap();

    registry.register(Arc::new(Tracer("late")));
    open.add_permits(10);

    assert!(!run.await.unwrap().unwrap().contains("TRACE"));
    let mut env = EnvMap::new();
    registry.run(&workspace(), &mut env).await.unwrap();
    assert_eq!(env.get("TRACE"), Some("late "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn registration_and_execution_may_overlap_freely() {
    struct Counter(Arc<AtomicUsize>);
    #[async_trait]
    impl EnvMutator for Counter {
        fn name(&self) -> &str {
            "counter"
        }
        async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(())
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let registry = Registry::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (writer, reader) = (registry.clone(), registry.clone());
        let calls = Arc::clone(&calls);
        tasks.spawn(async move { writer.register(Arc::new(Counter(calls))) });
        tasks.spawn(async move {
            let mut env = EnvMap::new();
            reader.run(&workspace(), &mut env).await.unwrap();
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(registry.len(), 50);
    let before = calls.load(Ordering::Relaxed);
    registry
        .run(&workspace(), &mut EnvMap::new())
        .await
        .unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), before + 50);
}

#[tokio::test]
async fn the_first_hook_with_the_capability_serves_tokens() {
    struct Minter(&'static str);
    #[async_trait]
    impl EnvMutator for Minter {
        fn name(&self) -> &str {
            self.0
        }
        async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
            Ok(())
        }
        fn token_provider(&self) -> Option<&dyn TokenProvider> {
            Some(self)
        }
    }
    #[async_trait]
    impl TokenProvider for Minter {
        async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
            let expires_at =
                molecule_hooks::Clock::system().now() + std::time::Duration::from_secs(60);
            Ok(Token::new(self.0, expires_at))
        }
    }
    let registry = Registry::new()
        .with(Tracer("plain"))
        .with(Minter("first"))
        .with(Minter("second"));
    let hook = registry.first_token_provider().unwrap();
    let provider = hook.token_provider().unwrap();
    let token = provider.token(&TokenRequest::admin()).await.unwrap();
    assert_eq!(token.secret.expose(), "first");
}

#[tokio::test]
async fn the_convenience_runs_one_hook_on_the_pairs_given() {
    let env = run_hook(Tracer("one"), &workspace(), [("TRACE", "zero ")])
        .await
        .unwrap();
    assert_eq!(env.get("TRACE"), Some("zero one "));
    let refused = run_hook(Tracer("one"), &workspace(), [("ADMIN_TOKEN", "x")]).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "provisionhook \"one\": ADMIN_TOKEN is reserved for the platform"
    );
}
