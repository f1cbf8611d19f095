//! The hook against a GitLab that keeps book of its tokens.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::time::{Duration, Instant};

use chrono::{NaiveDate, TimeDelta};
use molecule_hook_gitlab_token as _;
use molecule_hooks::testing::gitlab::GitlabStandIn;
use molecule_hooks::testing::{FakeClock, Fault, Reply};
use molecule_hooks::{
    EnvMap, HookError, HookErrorKind, HooksConfig, RegisteredHook, Registry, RegistryError, Token,
    TokenRequest, TokenScope, WorkspaceContext,
};
use serde_json::{Value, json};

const MANAGER: &str = "glpat-of-the-maintainer";

/// A hook that is configured for a GitLab of its own. Both follow one clock, which
/// starts at midnight.
struct World {
    gitlab: GitlabStandIn,
    clock: FakeClock,
    hook: RegisteredHook,
}

fn build(config: &HooksConfig) -> Result<RegisteredHook, RegistryError> {
    let registry = Registry::from_linked(config)?;
    Ok(registry.snapshot().pop().expect("the hook is configured"))
}

fn refusal(section: Value) -> String {
    let config = HooksConfig::new().with_section("gitlab-token", section);
    let error = build(&config).expect_err("start-up must refuse");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

impl World {
    async fn new() -> Self {
        Self::with(json!({ "project": "team/sub/app" })).await
    }

    async fn with(more: Value) -> Self {
        let clock = FakeClock::new();
        let gitlab = GitlabStandIn::start_with_clock(MANAGER, clock.clock())
            .await
            .unwrap();
        gitlab.add_project("team/sub/app");
        gitlab.add_group("7");
        let mut section = json!({ "url": gitlab.url(), "token": MANAGER });
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        let mut config = HooksConfig::new().with_section("gitlab-token", section);
        config.context.clock = clock.clock();
        let hook = build(&config).unwrap();
        Self {
            gitlab,
            clock,
            hook,
        }
    }

    async fn token(&self) -> Result<Token, HookError> {
        let provider = self.hook.token_provider().expect("it provides tokens");
        provider.token(&TokenRequest::admin()).await
    }

    async fn boot(&self) -> (Result<(), HookError>, EnvMap) {
        let mut env = EnvMap::new();
        env.set_secret("GITLAB_TOKEN", "stored-by-hand").unwrap();
        let workspace = WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001");
        let result = self.hook.apply(&workspace, &mut env).await;
        (result, env)
    }
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_boot_gets_a_project_token_with_the_documented_request() {
    let world = World::new().await;

    let (result, env) = world.boot().await;

    result.unwrap();
    let made = world.gitlab.live_tokens().remove(0);
    assert_eq!(env.get("GITLAB_TOKEN"), Some(made.token.as_str()));
    assert!(env.is_secret("GITLAB_TOKEN") && !env.is_secret("GITLAB_HOST"));
    let host = world.gitlab.upstream().address().to_string();
    assert_eq!(env.get("GITLAB_HOST"), Some(host.as_str()));
    let ends_at = world.clock.now() + TimeDelta::hours(8);
    assert_eq!(env.expires_at("GITLAB_TOKEN"), Some(ends_at));
    assert_eq!(made.owner, "projects/team/sub/app");
    assert_eq!((made.access_level, made.scopes.len()), (30, 2));
    assert_eq!(
        made.expires_at,
        NaiveDate::from_ymd_opt(2026, 1, 2).unwrap()
    );
    assert!(made.name.starts_with("molecule 2026-01-01 00:00:00 "));
    let request = world.gitlab.upstream().requests().remove(0);
    assert_eq!(request.method, "POST");
    assert_eq!(
        request.path,
        "/api/v4/projects/team%2Fsub%2Fapp/access_tokens"
    );
    assert_eq!(request.header("private-token"), Some(MANAGER));
}

#[tokio::test]
async fn a_group_and_other_rights_can_be_chosen() {
    let world = World::with(json!({
        "group": "7",
        "scopes": ["read_api"],
        "access_level": "reporter",
        "life_hours": 24,
    }))
    .await;
    let token = world.token().await.unwrap();
    assert_eq!(token.expires_at, world.clock.now() + TimeDelta::hours(24));
    let made = world.gitlab.live_tokens().remove(0);
    assert_eq!((made.owner.as_str(), made.access_level), ("groups/7", 20));
    assert_eq!(made.scopes, ["read_api"]);
    // It works to the end of the day it ends in, so that it never ends early.
    assert_eq!(
        made.expires_at,
        NaiveDate::from_ymd_opt(2026, 1, 3).unwrap()
    );
}

#[tokio::test]
async fn boots_and_routes_share_one_token() {
    let world = World::new().await;
    let (_, env) = world.boot().await;
    for _ in 0..5 {
        let served = world.token().await.unwrap();
        assert_eq!(env.get("GITLAB_TOKEN"), Some(served.secret.expose()));
    }
    assert_eq!(world.gitlab.tokens().len(), 1);
    let provider = world.hook.token_provider().unwrap();
    assert_eq!(
        (provider.scope(), provider.service()),
        (TokenScope::Shared, "gitlab")
    );
}

#[tokio::test]
async fn a_token_whose_time_has_passed_is_revoked() {
    let world = World::new().await;
    let first = world.token().await.unwrap();
    world.clock.advance(Duration::from_secs(9 * 3600));

    let second = world.token().await.unwrap();

    assert_ne!(first.secret, second.secret);
    eventually("the first one is revoked", || {
        world.gitlab.tokens()[0].revoked
    })
    .await;
    let live = world.gitlab.live_tokens();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].token, second.secret.expose());
}

#[tokio::test]
async fn a_token_still_in_use_is_not_revoked() {
    let world = World::new().await;
    world.token().await.unwrap();
    // In its last five minutes it is served while the next one is made.
    world.clock.advance(Duration::from_secs(8 * 3600 - 240));
    world.token().await.unwrap();
    eventually("the next one is made", || world.gitlab.tokens().len() == 2).await;
    assert!(!world.gitlab.tokens()[0].revoked);
}

#[tokio::test]
async fn a_revocation_that_finds_nothing_is_fine() {
    let world = World::new().await;
    world.token().await.unwrap();
    world.clock.advance(Duration::from_secs(3 * 24 * 3600));
    // GitLab's own end came first; the answer to the revocation is 404 or 204.
    world.token().await.unwrap();
    eventually("it is settled", || world.gitlab.live_tokens().len() == 1).await;
}

#[tokio::test]
async fn a_token_whose_making_was_not_confirmed_is_revoked_before_the_next_is_made() {
    let world = World::new().await;
    world.gitlab.lose_next_creation();
    assert!(world.token().await.unwrap_err().is_transient());
    let lost = world.gitlab.tokens().remove(0);
    // Past the pause after a failure.
    world.clock.advance(Duration::from_secs(60));

    let token = world.token().await.unwrap();

    let live = world.gitlab.live_tokens();
    assert_eq!(live.len(), 1, "{live:?}");
    assert_eq!(live[0].token, token.secret.expose());
    assert_ne!(live[0].name, lost.name);
}

#[tokio::test]
async fn a_token_whose_making_was_not_confirmed_is_revoked_while_nobody_asks() {
    let world = World::new().await;
    world.gitlab.lose_next_creation();
    world.token().await.unwrap_err();
    eventually("it is revoked", || world.gitlab.tokens()[0].revoked).await;
}

#[tokio::test]
async fn a_revocation_that_was_refused_is_tried_again_later() {
    let world = World::with(json!({ "project": "team/sub/app", "life_hours": 1 })).await;
    world.token().await.unwrap();
    world.gitlab.set_refuses_revocations(true);
    let refused = || {
        let requests = world.gitlab.upstream().requests();
        requests
            .iter()
            .filter(|request| request.method == "DELETE")
            .count()
    };
    world.clock.advance(Duration::from_secs(2 * 3600));
    world.token().await.unwrap();
    eventually("a revocation is refused", || refused() == 1).await;
    assert!(!world.gitlab.tokens()[0].revoked);

    world.gitlab.set_refuses_revocations(false);
    world.clock.advance(Duration::from_secs(2 * 3600));
    world.token().await.unwrap();

    eventually("it is revoked", || world.gitlab.tokens()[0].revoked).await;
}

#[tokio::test]
async fn a_shorter_life_set_by_an_administrator_is_believed() {
    let world = World::with(json!({ "project": "team/sub/app", "life_hours": 72 })).await;
    let made = json!({ "id": 5, "token": "glpat-short-lived-one", "expires_at": "2026-01-02" });
    world.gitlab.upstream().reply(Reply::json(201, made));
    let token = world.token().await.unwrap();
    assert_eq!(token.expires_at, world.clock.now() + TimeDelta::hours(24));
}

#[tokio::test]
async fn refusals_stop_the_boot_and_say_why() {
    let world = World::with(json!({ "project": "team/other" })).await;
    let error = world.boot().await.0.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "gitlab-token: create an access token: status 404: Project Not Found"
    );

    let world = World::new().await;
    world.gitlab.revoke_maintainer();
    let (result, env) = world.boot().await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "gitlab-token: create an access token: status 401: Unauthorized"
    );
    assert_eq!(env.get("GITLAB_TOKEN"), Some("stored-by-hand"));

    let world = World::new().await;
    let refused = json!({ "message": {
        "access_level": ["is too high glpat-PLANTEDPLANTED"],
        "somebody": ["PLANTED"],
    } });
    world.gitlab.upstream().reply(Reply::json(400, refused));
    let error = world.boot().await.0.unwrap_err();
    assert!(error.to_string().contains("access_level"), "{error}");
    assert!(!format!("{error:?}").contains("PLANTED"), "{error:?}");
}

#[tokio::test]
async fn trouble_lets_the_workspace_boot() {
    for fault in [
        Fault::Fails(502),
        Fault::RateLimited(Duration::from_secs(30)),
        Fault::Dead,
        Fault::Silent,
        Fault::Slow(Duration::from_secs(60)),
        Fault::Garbled,
        Fault::Truncated,
    ] {
        let world = World::with(json!({ "project": "team/sub/app", "timeout_secs": 1 })).await;
        world.gitlab.break_down(fault);
        let (result, env) = world.boot().await;
        result.unwrap();
        assert_eq!(env.get("GITLAB_TOKEN"), Some("stored-by-hand"), "{fault:?}");
        assert!(world.token().await.unwrap_err().is_transient(), "{fault:?}");
    }
}

#[tokio::test]
async fn nonsense_is_permanent_and_not_quoted() {
    for body in [
        json!({ "id": 1 }),
        json!({ "id": 1, "token": "" }),
        json!({ "id": "planted7f3a91c2", "token": "x" }),
        json!({ "id": 1, "token": "planted7f3a91c2", "expires_at": "planted7f3a91c2" }),
        json!([]),
    ] {
        let world = World::new().await;
        world
            .gitlab
            .upstream()
            .reply(Reply::json(201, body.clone()));
        let error = world.token().await.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent, "{body}");
        assert!(
            !format!("{error} {error:?}").contains("planted"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_dropped_hook_leaves_no_task() {
    let World {
        gitlab,
        clock,
        hook,
    } = World::new().await;
    let mut env = EnvMap::new();
    let running = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = running();
    hook.apply(&WorkspaceContext::new("7aa08951"), &mut env)
        .await
        .unwrap();
    assert!(running() > before, "its reaper runs");

    drop(hook);

    eventually("its tasks end", || running() == before).await;
    let requests = gitlab.upstream().request_count();
    clock.advance(Duration::from_secs(9 * 3600));
    // Longer than the reaper would rest once a token has ended.
    let later = Instant::now() + Duration::from_secs(2);
    eventually("a reaper would have looked", || Instant::now() > later).await;
    assert_eq!(gitlab.upstream().request_count(), requests);
    assert!(!gitlab.tokens()[0].revoked);
}

#[test]
fn without_an_address_the_hook_is_off() {
    for config in [
        HooksConfig::new(),
        HooksConfig::new().with_env("GITLAB_API_TOKEN", "glpat-x"),
    ] {
        let registry = Registry::from_linked(&config).unwrap();
        assert_eq!(registry.skipped(), ["gitlab-token"]);
    }
}

#[test]
fn everything_wrong_is_reported_together() {
    let problem = refusal(json!({
        "url": "gitlab.invalid",
        "project": "team/../app",
        "scopes": ["sudo"],
        "access_level": "owner",
        "life_hours": 0,
        "timeout_secs": 0,
    }));
    for part in [
        "url (GITLAB_URL) is not a URL",
        "token (GITLAB_API_TOKEN) is required",
        "project and group must be an id or a full path",
        "scopes must be some of api, read_api",
        "access_level must be guest, reporter, developer or maintainer",
        "life_hours must be between 1 and 720",
        "timeout_secs must be between 1 and 30",
    ] {
        assert!(problem.contains(part), "{part} is missing in {problem}");
    }
    let url = "https://gitlab.invalid";
    for more in [json!({}), json!({ "project": "a/b", "group": "a" })] {
        let mut section = json!({ "url": url, "token": "glpat-planted7f3a91c2" });
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        let problem = refusal(section);
        assert!(problem.contains("set either project or group"), "{problem}");
        assert!(!problem.contains("planted"));
    }
}
