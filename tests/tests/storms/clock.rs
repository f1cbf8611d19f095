//! A wall clock that jumps back by an hour and forward by a day.

use std::time::Duration;

use molecule_hooks::testing::FakeClock;
use molecule_tests::fake_backend::Fault;
use molecule_tests::live::Socket;
use molecule_tests::support::{Agent, recorded};
use molecule_tests::{ADMIN, TestApp, eventually, on_both_engines};
use serde_json::json;

use crate::tools::{QUICK, act, external, is_leased, leads, quiet, set_secret, status};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn jump(time: &FakeClock, number: usize) {
    match number {
        0 => time.set(time.now() - HOUR),
        _ => time.advance(DAY),
    }
}

/// Lets a second pass, and waits until the liveness monitor looked at it.
async fn round(app: &TestApp, time: &FakeClock) {
    time.advance(Duration::from_secs(1));
    let now = time
        .now()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    eventually("the liveness monitor looks", async || {
        let reply = app.get("/admin/liveness").bearer(ADMIN).send().await;
        reply.json()["subsystems"]["liveness-monitor"]["last_tick_at"] == *now
    })
    .await;
}

on_both_engines! {
    async fn nobody_is_locked_out_and_who_beats_is_left_alone(engine: Engine) {
        // Given agents, people and readers of a server whose loops look all the time
        let time = FakeClock::new();
        let app = quiet(engine)
            .clock(time.clock())
            .cadence(|cadence| {
                cadence.liveness = QUICK;
                cadence.health = QUICK;
                cadence.tokens = QUICK;
                cadence.hibernation = QUICK;
            })
            .config(|config| config.server.rate_limit = 10_000)
            .start()
            .await;
        eventually("it leads", async || leads(&app).await).await;
        let hosted = Agent::online(&app, json!({ "name": "hosted" })).await;
        let far = external(&app, "far").await;
        let minted = app.post("/org/tokens", json!({ "name": "one" })).bearer(ADMIN).send().await;
        let minted = minted.json()["auth_token"].as_str().expect("a token").to_owned();
        let starts = app.backend.starts().len();

        for number in [0, 1, 0, 0, 1] {
            // When the clock jumps
            jump(&time, number);

            // Then all credentials work
            for _ in 0..5 {
                for agent in [&hosted, &far] {
                    let reply = agent.beat(&app, json!({})).send().await;
                    assert_eq!(reply.status, 200, "{}", reply.text);
                }
                let reply = app.get("/workspaces").bearer(&minted).send().await;
                assert_eq!(reply.status, 200, "{}", reply.text);
                round(&app, &time).await;
            }
            let reply = app.post("/ws/ticket", json!({})).bearer(ADMIN).send().await;
            let ticket = reply.json()["ticket"].as_str().map(str::to_owned);
            let ticket = ticket.unwrap_or_else(|| panic!("{}", reply.text));
            let socket = Socket::open(&app, &format!("/ws?ticket={ticket}"), &[]).await;
            assert!(socket.is_ok(), "{:?}", socket.err());

            // And nobody was taken for dead, put to sleep or restarted
            assert_eq!(status(&app, &hosted.id).await, "online");
            assert_eq!(status(&app, &far.id).await, "online");
            assert_eq!(app.backend.starts().len(), starts);
        }
        assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 0);
        assert!(leads(&app).await);
        app.shutdown().await;
    }

    async fn restarts_go_on_whatever_the_clock_does(engine: Engine) {
        // Given a workspace
        let time = FakeClock::new();
        let app = quiet(engine).clock(time.clock()).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let mut expected = 1;
        for number in [0, 1, 0] {
            // When the clock jumps between a change and the restart that follows it
            // A boot under way holds it up.
            app.backend.set_fault(Fault::StartSlow(Duration::from_millis(400)));
            assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
            expected += 1;
            eventually("the boot is under way", async || {
                app.backend.starts_of(&agent.id).len() == expected
            }).await;
            let reply = set_secret(&app, &agent.id, "KEY", &expected.to_string()).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            jump(&time, number);
            expected += 1;

            // Then it is restarted all the same, in seconds
            eventually("it runs with the change", async || {
                let value = (expected - 1).to_string();
                !is_leased(&app, &agent.id).await
                    && app.backend.env(&agent.id).get("KEY").is_some_and(|found| *found == value)
            }).await;
        }
        app.shutdown().await;
    }

    async fn who_was_put_to_sleep_or_paused_can_be_brought_back_after_a_jump(engine: Engine) {
        let time = FakeClock::new();
        let app = quiet(engine).clock(time.clock()).start().await;
        for number in [0, 1] {
            let asleep = Agent::online(&app, json!({ "name": format!("asleep {number}") })).await;
            let paused = Agent::online(&app, json!({ "name": format!("paused {number}") })).await;
            assert_eq!(act(&app, &asleep.id, "hibernate").await.status, 200);
            assert_eq!(act(&app, &paused.id, "pause").await.status, 200);
            jump(&time, number);
            assert_eq!(act(&app, &asleep.id, "restart").await.status, 200);
            assert_eq!(act(&app, &paused.id, "resume").await.status, 200);
            for agent in [asleep, paused] {
                let again = Agent::started(&app, agent.id).await;
                assert_eq!(again.register(&app).send().await.status, 200);
                assert_eq!(status(&app, &again.id).await, "online");
            }
        }
        app.shutdown().await;
    }
}
