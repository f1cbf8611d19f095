//! Hooks whose tokens are broken.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_hooks::testing::{FakeClock, HookContract};
use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, NoConfig, Token, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait, register_hook, tracing,
};

use crate::ids;

#[derive(Clone, Copy)]
enum How {
    NotBroken,
    Fails,
    FailsForTheAdminRoute,
    Panics,
    Hangs,
    Empty,
    Expired,
    RefusesCompany,
    Quotes,
    Logs,
    NeverEnds,
    LivesTooLong,
    StaysBusyWhenDropped,
    SlicesTheId,
    NamesNoService,
    ChangesItsService,
    WritesItUndated,
    WritesItVisibly,
    ReadsItsOwnClock,
}

struct Minter {
    how: How,
    scope: TokenScope,
    time: FakeClock,
    at_once: AtomicUsize,
}

#[async_trait]
impl EnvMutator for Minter {
    fn name(&self) -> &str {
        "minter"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        match self.how {
            How::WritesItUndated => env.set_secret("TOKEN", "a-minted-token")?,
            How::WritesItVisibly => env.set("TOKEN", "a-minted-token")?,
            _ => {}
        }
        Ok(())
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for Minter {
    async fn token(&self, request: &TokenRequest) -> Result<Token, HookError> {
        let later = self.time.now() + Duration::from_secs(60);
        match self.how {
            How::NotBroken => {}
            How::Fails => return Err(HookError::transient("no token today")),
            How::FailsForTheAdminRoute if request.workspace.is_none() => {
                return Err(HookError::permanent("for whom?"));
            }
            How::FailsForTheAdminRoute => {}
            How::Panics => panic!("on purpose"),
            How::Hangs => pending().await,
            How::Empty => return Ok(Token::new("", later)),
            How::Expired => return Ok(Token::new("a-minted-token", self.time.now())),
            How::RefusesCompany => {
                let company = self.at_once.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.at_once.fetch_sub(1, Ordering::SeqCst);
                if company > 0 {
                    return Err(HookError::transient("one at a time"));
                }
            }
            How::Quotes => {
                return Err(HookError::transient("refused: an-upstream-token"));
            }
            How::Logs => tracing::trace!(token = "a-minted-token", "minted"),
            How::NeverEnds => return Ok(Token::new("a-minted-token", DateTime::<Utc>::MAX_UTC)),
            How::LivesTooLong => {
                return Ok(Token::new(
                    "a-minted-token",
                    later + Duration::from_secs(60),
                ));
            }
            How::StaysBusyWhenDropped => {
                while self.at_once.swap(1, Ordering::SeqCst) != 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.at_once.store(0, Ordering::SeqCst);
            }
            How::SlicesTheId => {
                let workspace = request.workspace.as_ref();
                drop(workspace.map(|workspace| workspace.id[..8].to_owned()));
            }
            How::NamesNoService
            | How::ChangesItsService
            | How::WritesItUndated
            | How::WritesItVisibly
            | How::ReadsItsOwnClock => {}
        }
        Ok(Token::new("a-minted-token", later))
    }

    fn scope(&self) -> TokenScope {
        self.scope
    }

    fn service(&self) -> &str {
        match self.how {
            How::NamesNoService => "Git Lab",
            How::ChangesItsService => match self.at_once.fetch_add(1, Ordering::SeqCst) % 2 {
                0 => "gitlab",
                _ => "github",
            },
            _ => "gitlab",
        }
    }
}

fn contract(how: How, scope: TokenScope) -> HookContract {
    let time = FakeClock::new();
    let clock = time.clock();
    HookContract::of_instance(Arc::new(Minter {
        how,
        scope,
        time,
        at_once: AtomicUsize::new(0),
    }))
    .clock(clock)
    .token_lifetime(Duration::from_secs(60))
    .deadline(Duration::from_secs(2))
}

#[tokio::test]
async fn a_provider_in_order_passes() {
    for scope in [TokenScope::Shared, TokenScope::PerWorkspace] {
        assert_eq!(ids(contract(How::NotBroken, scope)).await, [""; 0]);
    }
}

#[tokio::test]
async fn each_broken_token_is_found() {
    for (how, expected) in [
        (How::Fails, "token-failed"),
        (How::Panics, "token-panics"),
        (How::Empty, "token-empty"),
        (How::Expired, "token-expired"),
        (How::Logs, "secret-in-log"),
        (How::LivesTooLong, "token-overstated"),
        (How::SlicesTheId, "token-panics"),
        (How::NamesNoService, "token-service-invalid"),
        (How::ChangesItsService, "token-service-invalid"),
        (How::WritesItUndated, "token-undated"),
    ] {
        assert_eq!(ids(contract(how, TokenScope::Shared)).await, [expected]);
    }
}

#[tokio::test]
async fn token_not_concurrent() {
    let found = ids(contract(How::RefusesCompany, TokenScope::Shared)).await;
    assert_eq!(
        found,
        ["token-not-concurrent", "token-not-cancel-safe"],
        "a dropped request counts as company for ever"
    );
}

#[tokio::test]
async fn token_endless() {
    let found = ids(contract(How::NeverEnds, TokenScope::Shared)).await;
    assert_eq!(found, ["token-endless", "token-overstated"]);
}

#[tokio::test]
async fn token_not_cancel_safe() {
    let contract = contract(How::StaysBusyWhenDropped, TokenScope::Shared);
    let found = ids(contract).await;
    assert!(found.contains(&"token-not-cancel-safe"), "{found:?}");
}

#[tokio::test]
async fn a_visible_token_is_found_without_being_told_of() {
    let found = ids(contract(How::WritesItVisibly, TokenScope::Shared)).await;
    assert_eq!(found, ["token-undated", "secret-visible"]);
}

#[tokio::test]
async fn token_outlived() {
    fn build(_: NoConfig, context: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Minter {
            how: How::ReadsItsOwnClock,
            scope: TokenScope::Shared,
            // Stands still, whatever the context's clock says later.
            time: FakeClock::at(context.clock.now()),
            at_once: AtomicUsize::new(0),
        })))
    }
    register_hook! {
        name: "minter-with-a-clock",
        description: "x",
        config: NoConfig,
        build: build,
        token_provider: true,
    }
    let found = ids(HookContract::new("minter-with-a-clock")).await;
    assert_eq!(found, ["name-mismatch", "token-outlived"]);
}

#[tokio::test]
async fn token_timeout() {
    let contract = contract(How::Hangs, TokenScope::Shared).deadline(Duration::from_millis(100));
    assert_eq!(ids(contract).await, ["token-timeout"]);
}

#[tokio::test]
async fn an_upstreams_token_in_an_error_is_found() {
    let contract = contract(How::Quotes, TokenScope::Shared).secret("an-upstream-token");
    assert_eq!(ids(contract).await, ["secret-in-error", "token-failed"]);
}

#[tokio::test]
async fn only_a_token_for_one_workspace_may_be_refused_on_the_admin_route() {
    let how = How::FailsForTheAdminRoute;
    let shared = ids(contract(how, TokenScope::Shared)).await;
    assert_eq!(shared, ["token-failed"]);
    let own = ids(contract(how, TokenScope::PerWorkspace)).await;
    assert_eq!(own, [""; 0]);
}

#[tokio::test]
async fn token_provider_undeclared() {
    fn build(_: NoConfig, context: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Minter {
            how: How::NotBroken,
            scope: TokenScope::Shared,
            time: FakeClock::at(context.clock.now()),
            at_once: AtomicUsize::new(0),
        })))
    }
    register_hook! { name: "minter", description: "x", config: NoConfig, build: build }
    assert_eq!(
        ids(HookContract::new("minter")).await,
        ["token-provider-undeclared", "token-outlived"],
        "it has a clock of its own, too"
    );
}
