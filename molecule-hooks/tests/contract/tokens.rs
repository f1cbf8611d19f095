//! Hooks whose tokens are broken.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
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
        }
        Ok(Token::new("a-minted-token", later))
    }

    fn scope(&self) -> TokenScope {
        self.scope
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
        (How::RefusesCompany, "token-not-concurrent"),
        (How::Logs, "secret-in-log"),
    ] {
        assert_eq!(ids(contract(how, TokenScope::Shared)).await, [expected]);
    }
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
        ["token-provider-undeclared"]
    );
}
