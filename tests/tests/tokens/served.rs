//! `GET /workspaces/:id/credentials` and `…/credentials/:provider` of a server with the hook
//! crates `oauth2` and `gitlab-token`.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use molecule_hook_gitlab_token as _;
use molecule_hook_oauth2 as _;
use molecule_hooks::testing::gitlab::GitlabStandIn;
use molecule_hooks::testing::oauth2::OauthIssuer;
use molecule_hooks::testing::{FakeClock, Fault};
use molecule_hooks::{HooksConfig, Registry};
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, on_both_engines};
use serde_json::json;

const MANAGER: &str = "glpat-of-the-maintainer";
const CLIENT_SECRET: &str = "the-secret-of-the-client";
const GITLAB: &str = "gitlab-token";
const OAUTH2: &str = "oauth2";

/// A server and the two services that its hooks ask, by one clock.
struct World {
    app: TestApp,
    clock: FakeClock,
    gitlab: GitlabStandIn,
    issuer: OauthIssuer,
}

impl World {
    async fn start(engine: Engine) -> Self {
        let clock = FakeClock::at(Utc::now());
        let gitlab = GitlabStandIn::start_with_clock(MANAGER, clock.clock())
            .await
            .unwrap();
        gitlab.add_project("team/app");
        let issuer = OauthIssuer::start().await.unwrap();
        issuer.add_client("molecule", CLIENT_SECRET, &["read"]);
        let mut config = HooksConfig::new()
            .with_section(
                GITLAB,
                json!({ "url": gitlab.url(), "token": MANAGER, "project": "team/app" }),
            )
            .with_section(
                OAUTH2,
                json!({
                    "token_url": issuer.token_url(),
                    "client_id": "molecule",
                    "client_secret": CLIENT_SECRET,
                    "scopes": ["read"],
                    "service": "company-api",
                    "variable": "API_TOKEN",
                }),
            );
        config.context.clock = clock.clock();
        let registry = Registry::from_linked(&config).unwrap();
        let app = strict(engine)
            .registry(registry)
            .clock(clock.clock())
            .start()
            .await;
        Self {
            app,
            clock,
            gitlab,
            issuer,
        }
    }

    async fn ask(&self, agent: &Agent, tail: &str) -> Reply {
        let path = format!("/workspaces/{}/credentials{tail}", agent.id);
        self.app.get(&path).bearer(&agent.token).send().await
    }

    async fn token(&self, agent: &Agent, provider: &str) -> String {
        let reply = self.ask(agent, &format!("/{provider}")).await;
        assert_eq!(reply.status, 200, "{provider}: {}", reply.text);
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// Fails unless the agent is told, in the documented words, that there is none.
    async fn assert_no_token(&self, agent: &Agent, provider: &str) {
        let reply = self.ask(agent, &format!("/{provider}")).await;
        let text = r#"{"error":"token refresh failed"}"#;
        assert_eq!((reply.status, reply.text.as_str()), (500, text));
    }

    /// Breaks the service behind a provider, or mends it.
    fn set_dead(&self, provider: &str, dead: bool) {
        match (provider, dead) {
            (GITLAB, true) => self.gitlab.break_down(Fault::Dead),
            (GITLAB, false) => self.gitlab.mend(),
            (_, true) => self.issuer.break_down(Fault::Dead),
            (_, false) => self.issuer.mend(),
        }
    }
}

fn wire(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

on_both_engines! {
    async fn the_tokens_of_two_hook_crates_are_booted_with_listed_and_served(engine: Engine) {
        // Given a server with both hook crates, and a workspace
        let world = World::start(engine).await;
        let agent = Agent::start(&world.app, json!({ "name": "one" })).await;

        // Then it booted with a token of each
        let env = world.app.backend.env(&agent.id);
        let of_gitlab = world.gitlab.live_tokens().remove(0).token;
        let of_issuer = world.issuer.issued().remove(0);
        assert_eq!((&env["GITLAB_TOKEN"], &env["API_TOKEN"]), (&of_gitlab, &of_issuer));
        assert_eq!(env["GITLAB_HOST"], world.gitlab.upstream().address().to_string());

        // And both are listed
        let listed = world.ask(&agent, "").await;
        assert_eq!(
            (listed.status, listed.text.as_str()),
            (200, concat!(
                r#"{"credentials":[{"provider":"gitlab-token","service":"gitlab","scope":"shared"},"#,
                r#"{"provider":"oauth2","service":"company-api","scope":"shared"}]}"#,
            ))
        );

        // And each gives the token that is live, to this workspace and to the next
        let other = Agent::start(&world.app, json!({ "name": "two" })).await;
        for (provider, service, token, hours) in [
            (GITLAB, "gitlab", &of_gitlab, 8),
            (OAUTH2, "company-api", &of_issuer, 1),
        ] {
            let ends_at = wire(world.clock.now() + TimeDelta::hours(hours));
            let text = format!(
                r#"{{"token":"{token}","expires_at":"{ends_at}","provider":"{provider}","service":"{service}"}}"#
            );
            for agent in [&agent, &other] {
                let reply = world.ask(agent, &format!("/{provider}")).await;
                assert_eq!((reply.status, reply.text.as_str()), (200, text.as_str()));
                assert_eq!(reply.header("cache-control"), Some("no-store"));
            }
        }
        assert_eq!((world.gitlab.tokens().len(), world.issuer.issued().len()), (1, 1));

        // And neither is GitHub's
        let of_agent = world.app.get(&agent.token_path()).bearer(&agent.token).send().await;
        of_agent.assert_error(404, "no token provider registered");
        let path = "/admin/github-installation-token";
        let of_admin = world.app.get(path).bearer(ADMIN).send().await;
        of_admin.assert_error(404, "no token provider registered");

        // And no row has a token or what makes them
        let rows = world.app.database.dump().await;
        for secret in [&of_gitlab, &of_issuer, MANAGER, CLIENT_SECRET] {
            assert!(!rows.contains(secret), "{secret} is in the database");
        }
        world.app.shutdown().await;
    }

    async fn a_token_that_ends_is_followed_by_the_next_one(engine: Engine) {
        let world = World::start(engine).await;
        let agent = Agent::start(&world.app, json!({ "name": "one" })).await;
        let first = (world.token(&agent, GITLAB).await, world.token(&agent, OAUTH2).await);
        // The one that lives for an hour ends, the other one goes on
        world.clock.advance(Duration::from_secs(2 * 3600));
        assert_eq!(world.token(&agent, GITLAB).await, first.0);
        let second = world.token(&agent, OAUTH2).await;
        assert_ne!(second, first.1);
        assert_eq!(world.issuer.issued(), [first.1, second]);
        // And the other one ends
        world.clock.advance(Duration::from_secs(7 * 3600));
        let next = world.token(&agent, GITLAB).await;
        assert_ne!(next, first.0);
        assert!(world.gitlab.live_tokens().iter().any(|live| live.token == next));
        world.app.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_whose_service_is_dead_hurts_no_other() {
    let world = World::start(Engine::Sqlite).await;
    let agent = Agent::start(&world.app, json!({ "name": "one" })).await;
    let variable = |provider| match provider {
        GITLAB => "GITLAB_TOKEN",
        _ => "API_TOKEN",
    };
    for (dead, alive) in [(GITLAB, OAUTH2), (OAUTH2, GITLAB)] {
        let before = world.token(&agent, dead).await;
        // While the token is good nobody notices
        world.set_dead(dead, true);
        assert_eq!(world.token(&agent, dead).await, before);

        // When it ended
        world.clock.advance(Duration::from_secs(9 * 3600));

        // Then it is not served, still listed, and the other one lives
        world.assert_no_token(&agent, dead).await;
        let served = world.token(&agent, alive).await;
        let listed = world.ask(&agent, "").await.json();
        assert_eq!(listed["credentials"].as_array().unwrap().len(), 2);
        // And workspaces boot, without the one that is not to be had
        let body =
            json!({ "name": format!("without {dead}"), "secrets": { variable(dead): "by hand" } });
        let next = Agent::start(&world.app, body).await;
        let env = world.app.backend.env(&next.id);
        assert_eq!(env[variable(dead)], "by hand");
        assert_eq!(env[variable(alive)], served);

        // And when its service is back it is served after the pause
        world.set_dead(dead, false);
        world.clock.advance(Duration::from_secs(60));
        assert_ne!(world.token(&agent, dead).await, before);
        assert_eq!(world.token(&agent, alive).await, served);
    }
    world.app.shutdown().await;
}
