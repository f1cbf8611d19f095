//! What is heard of a start that takes its time.

use std::time::{Duration, Instant};

use molecule_tests::fake_images::Registry;
use molecule_tests::live::Socket;
use molecule_tests::support::{Agent, fields, recorded};
use molecule_tests::{ADMIN, eventually, on_both_engines};
use serde_json::json;

use crate::fleet::{count, in_secs, of_runtime, with_images};

on_both_engines! {
    async fn clients_hear_what_a_start_is_busy_with_now_and_then(engine: Engine) {
        let app = with_images(engine).start().await;
        let headers = [("authorization", &*format!("Bearer {ADMIN}"))];
        let mut socket = Socket::open(&app, "/ws", &headers).await.expect("a socket");
        // A secret that the server knows, a line end and far too much of it.
        let secret = json!({ "key": "REGISTRY_PASSWORD", "value": "hunter2-hunter2" });
        assert_eq!(app.post("/admin/secrets", secret).bearer(ADMIN).send().await.status, 200);
        let detail = format!("layer 7\nhunter2-hunter2\u{1b}{}", "é".repeat(4000));
        app.backend.images.set_registry(Registry::Slow(250, Duration::from_millis(10), detail));
        let started = Instant::now();
        let agent = Agent::start(&app, of_runtime("codex")).await;
        assert_eq!(agent.register(&app).send().await.status, 200);
        let (mut heard, mut highest) = (0, 0);
        loop {
            let event = socket.event().await;
            assert!(!event.to_string().contains("hunter2"), "{event}");
            match event["event"].as_str() {
                Some("WORKSPACE_PROVISION_PROGRESS") => {
                    assert_eq!(event["workspace_id"], agent.id);
                    let payload = &event["payload"];
                    assert_eq!(fields(payload).into_iter().collect::<Vec<_>>(), ["detail", "percent", "phase"]);
                    assert_eq!(payload["phase"], "pull");
                    let detail = payload["detail"].as_str().expect("a text");
                    assert!(detail.starts_with("layer 7 ") && detail.chars().count() <= 200, "{detail:?}");
                    assert!(!detail.contains(char::is_control), "{detail:?}");
                    let percent = payload["percent"].as_u64().expect("a number");
                    assert!(percent >= highest && percent <= 100);
                    (heard, highest) = (heard + 1, percent);
                }
                Some("WORKSPACE_ONLINE") => break,
                _ => {}
            }
        }
        let most = started.elapsed().as_secs() + 2;
        assert!((1..=most).contains(&heard), "{heard} of at most {most}");
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_PROGRESS").await, 0);
    }

    async fn progress_keeps_the_row_fresh_and_silence_does_not(engine: Engine) {
        let app = with_images(engine).start().await;
        let step = Duration::from_millis(100);
        app.backend.images.set_registry(Registry::Slow(100_000, step, "layer".to_owned()));
        let moving = app.create(of_runtime("codex")).await;
        eventually("the pull", || async { app.backend.images.obtained().len() == 1 }).await;
        app.backend.images.set_registry(Registry::Silent);
        let silent = app.create(of_runtime("hermes")).await;
        eventually("the other pull", || async { app.backend.images.obtained().len() == 2 }).await;
        let later = in_secs(1);
        eventually("the row is touched", || async {
            count(&app, &moving, &format!("updated_at > {later}")).await == 1
        }).await;
        assert_eq!(count(&app, &silent, &format!("updated_at > {later}")).await, 0);
    }
}
