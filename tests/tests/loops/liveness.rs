//! Agents that fall silent, and servers that could not hear them.

use std::time::Duration;

use molecule_core::config::BackendChoice;
use molecule_hooks::testing::FakeClock;
use molecule_tests::support::{Agent, set_status};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, on_both_engines};
use serde_json::json;

use crate::rounds::{
    QUICK, assert_status, listen, offline_events, only, round, set, sql_time, status,
    wait_for_lead, wait_until_offline,
};

/// Seconds of silence that are allowed in these tests.
const HOSTED: u64 = 60;
const EXTERNAL: u64 = 40;

fn listening(engine: Engine, time: &FakeClock) -> TestAppBuilder {
    only(engine, |cadence| cadence.liveness = QUICK)
        .clock(time.clock())
        .config(|config| {
            config.workspaces.liveness_timeout_secs = HOSTED;
            config.workspaces.remote_stale_after_secs = EXTERNAL;
            // Time passes here without anything being slow.
            config.workspaces.provision_timeout_secs = Some(86_400);
        })
}

/// An external workspace whose agent registered.
async fn external(app: &TestApp, name: &str) -> Agent {
    let body = json!({ "name": name, "external": true });
    let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
    let made = reply.json();
    let agent = Agent {
        id: made["id"].as_str().expect("an id").to_owned(),
        token: made["connection"]["auth_token"]
            .as_str()
            .expect("a token")
            .to_owned(),
    };
    assert_eq!(agent.beat(app, json!({})).send().await.status, 200);
    agent
}

async fn beat(app: &TestApp, agent: &Agent) {
    assert_eq!(agent.beat(app, json!({})).send().await.status, 200);
}

on_both_engines! {
    async fn who_is_silent_goes_offline_and_who_beats_stays(engine: Engine) {
        // Given agents of both kinds, half of which will fall silent
        let time = FakeClock::new();
        let app = listening(engine, &time).start().await;
        wait_for_lead(&app).await;
        let silent = Agent::online(&app, json!({ "name": "silent" })).await;
        let alive = Agent::online(&app, json!({ "name": "alive" })).await;
        let far = external(&app, "far").await;
        let near = external(&app, "near").await;

        // When nobody is silent for too long yet
        listen(&app, &time, EXTERNAL - 10).await;
        for agent in [&silent, &alive, &far, &near] {
            assert_eq!(status(&app, &agent.id).await, "online");
        }
        // And then half of them are
        for _ in 0..4 {
            beat(&app, &alive).await;
            beat(&app, &near).await;
            listen(&app, &time, 10).await;
        }

        // Then those are offline, once, and the external one is waited for
        wait_until_offline(&app, engine, &silent.id).await;
        app.wait_for_status(&far.id, "awaiting_agent").await;
        assert_eq!(status(&app, &alive.id).await, "online");
        assert_eq!(status(&app, &near.id).await, "online");
        for (agent, times) in [(&silent, 1), (&far, 1), (&alive, 0), (&near, 0)] {
            assert_eq!(offline_events(&app, engine, &agent.id).await, times);
        }

        // And a heartbeat brings the one back that nobody restarts
        beat(&app, &far).await;
        app.wait_for_status(&far.id, "online").await;
        listen(&app, &time, 20).await;
        assert_eq!(status(&app, &far.id).await, "online");
    }

    async fn external_agents_are_missed_without_a_backend_too(engine: Engine) {
        let time = FakeClock::new();
        let app = listening(engine, &time)
            .config(|config| config.backend.kind = BackendChoice::None)
            .real_backend()
            .start()
            .await;
        wait_for_lead(&app).await;
        let far = external(&app, "far").await;
        listen(&app, &time, EXTERNAL + 10).await;
        app.wait_for_status(&far.id, "awaiting_agent").await;
    }

    async fn only_online_and_degraded_workspaces_can_go_offline(engine: Engine) {
        // Given a workspace of each status whose last heartbeat is long ago
        let time = FakeClock::new();
        let app = listening(engine, &time).start().await;
        wait_for_lead(&app).await;
        let long_ago = sql_time(time.now() - Duration::from_secs(86_400));
        let mut kept = Vec::new();
        for name in [
            "provisioning", "offline", "failed", "removed", "paused", "hibernated", "hibernating",
            "awaiting_agent",
        ] {
            let agent = Agent::online(&app, json!({ "name": name })).await;
            set(&app, engine, &agent.id, "last_heartbeat_at", &long_ago).await;
            set_status(&app, engine, &agent.id, name).await;
            kept.push((agent.id, name));
        }
        let degraded = Agent::online(&app, json!({ "name": "degraded" })).await;
        set_status(&app, engine, &degraded.id, "degraded").await;

        // When the server listened for long enough
        listen(&app, &time, HOSTED + 10).await;

        // Then only the one that was up went down
        wait_until_offline(&app, engine, &degraded.id).await;
        for (id, status) in kept {
            assert_status(&app, engine, &id, status).await;
        }
    }

    async fn a_server_that_starts_gives_everybody_the_whole_time(engine: Engine) {
        // Given agents whose server was away for a day
        let time = FakeClock::new();
        let app = listening(engine, &time).start().await;
        let alive = Agent::online(&app, json!({ "name": "alive" })).await;
        let dead = Agent::online(&app, json!({ "name": "dead" })).await;
        let backend = app.backend.clone();
        let (database, dir) = app.shutdown().await;
        time.advance(Duration::from_secs(86_400));

        // When it comes back and listens for nearly as long as silence is allowed
        let app = listening(engine, &time).backend(backend).start_on(database, dir).await;
        wait_for_lead(&app).await;
        round(&app, &time).await;
        listen(&app, &time, HOSTED - 10).await;

        // Then it called nobody dead
        assert_eq!(status(&app, &alive.id).await, "online");
        assert_eq!(status(&app, &dead.id).await, "online");

        // And a little later only who really is
        beat(&app, &alive).await;
        listen(&app, &time, 20).await;
        wait_until_offline(&app, engine, &dead.id).await;
        assert_eq!(status(&app, &alive.id).await, "online");
    }

    async fn a_clock_that_jumps_ahead_kills_nobody(engine: Engine) {
        // Given agents that were heard of, and a server that listens for a while
        let time = FakeClock::new();
        let app = listening(engine, &time).start().await;
        wait_for_lead(&app).await;
        let alive = Agent::online(&app, json!({ "name": "alive" })).await;
        let dead = Agent::online(&app, json!({ "name": "dead" })).await;
        listen(&app, &time, HOSTED).await;
        beat(&app, &alive).await;
        beat(&app, &dead).await;

        // When its clock is set forward, or it slept
        time.advance(Duration::from_secs(3600));
        round(&app, &time).await;
        listen(&app, &time, HOSTED - 10).await;

        // Then everybody has the whole time again
        assert_eq!(status(&app, &alive.id).await, "online");
        assert_eq!(status(&app, &dead.id).await, "online");
        beat(&app, &alive).await;
        listen(&app, &time, 20).await;
        wait_until_offline(&app, engine, &dead.id).await;
        assert_eq!(status(&app, &alive.id).await, "online");
    }

    async fn a_clock_that_jumps_back_hides_no_dead_agent(engine: Engine) {
        // Given agents that were heard of by a clock that was an hour ahead
        let time = FakeClock::new();
        let app = listening(engine, &time).start().await;
        wait_for_lead(&app).await;
        let alive = Agent::online(&app, json!({ "name": "alive" })).await;
        let dead = Agent::online(&app, json!({ "name": "dead" })).await;
        listen(&app, &time, 10).await;

        // When it is set back, and only one of them beats on
        time.set(time.now() - Duration::from_secs(3600));
        round(&app, &time).await;
        for _ in 0..4 {
            beat(&app, &alive).await;
            listen(&app, &time, 20).await;
        }

        // Then the other one is found in the usual time, not an hour later
        wait_until_offline(&app, engine, &dead.id).await;
        assert_eq!(status(&app, &alive.id).await, "online");
    }

    async fn heartbeats_that_could_not_be_written_are_not_silence(engine: Engine) {
        // Given an agent that was not heard of for a while, and somebody who locks
        // its row
        let time = FakeClock::new();
        let app = listening(engine, &time)
            .config(|config| config.database.timeout_secs = 2)
            .start()
            .await;
        wait_for_lead(&app).await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listen(&app, &time, HOSTED - 5).await;
        let lock = Lock::take(&app, engine).await;

        // When it beats, and time passes that would be too long
        beat(&app, &agent).await;
        time.advance(Duration::from_secs(6));
        let rounds = tokio::time::Instant::now() + Duration::from_secs(4);
        while tokio::time::Instant::now() < rounds {
            assert_eq!(status(&app, &agent.id).await, "online");
            tokio::time::sleep(QUICK).await;
        }

        // Then it is still there when the lock goes
        lock.release().await;
        listen(&app, &time, 20).await;
        assert_eq!(status(&app, &agent.id).await, "online");
        // And the outage began its time anew
        listen(&app, &time, HOSTED + 10).await;
        wait_until_offline(&app, engine, &agent.id).await;
    }
}

/// Somebody else's transaction that holds up every write to `workspaces`.
enum Lock {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Lock {
    async fn take(app: &TestApp, engine: Engine) -> Self {
        use sqlx::{Connection, Executor};
        let url = app.database.url();
        match engine {
            Engine::Sqlite => {
                let mut held = sqlx::SqliteConnection::connect(url).await.expect("connect");
                held.execute("BEGIN EXCLUSIVE").await.expect("a lock");
                Self::Sqlite(held)
            }
            Engine::Postgres => {
                let mut held = sqlx::PgConnection::connect(url).await.expect("connect");
                held.execute("BEGIN").await.expect("a transaction");
                held.execute("LOCK TABLE workspaces IN SHARE MODE")
                    .await
                    .expect("a lock");
                Self::Postgres(held)
            }
        }
    }

    async fn release(self) {
        use sqlx::Executor;
        match self {
            Self::Sqlite(mut held) => held.execute("ROLLBACK").await.map(drop),
            Self::Postgres(mut held) => held.execute("ROLLBACK").await.map(drop),
        }
        .expect("the lock goes");
    }
}
