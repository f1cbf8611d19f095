//! Who may ask, how often, and what a stubborn hook costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use molecule_hooks::HookError;
use molecule_tests::hooks::FnHook;
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, PATIENCE, eventually, on_both_engines};
use serde_json::json;

use crate::shared::{ask, contents, named, plan, started, try_out};

on_both_engines! {
    async fn only_an_administrator_may_ask_for_what_exists(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, named("one")).await;
        let path = format!("/admin/workspaces/{}/env-plan", agent.id);
        for token in [None, Some("wrong"), Some(agent.token.as_str())] {
            let requests = [app.get(&path), app.post("/admin/env-plan", named("two"))];
            for request in requests {
                let request = match token {
                    Some(token) => request.bearer(token),
                    None => request,
                };
                let reply = request.send().await;
                assert_eq!(reply.status, 401, "{token:?}: {}", reply.text);
            }
        }
        ask(&app, "7aa08951-00d1-4c3e-9d6a-0123456789ab").await
            .assert_error(404, "workspace not found");
        for id in ["x", "1", "%00", "7aa08951", "workspaces"] {
            ask(&app, id).await.assert_error(400, "invalid workspace ID");
        }
        let removed = format!("/workspaces/{}?confirm=true", agent.id);
        assert_eq!(app.delete(&removed).bearer(ADMIN).send().await.status, 200);
        ask(&app, &agent.id).await.assert_error(404, "workspace not found");
    }

    async fn asking_writes_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        let id = started(&app, json!({ "name": "one", "secrets": { "A": "1" } })).await;
        let before = contents(&app).await;
        for _ in 0..3 {
            plan(&app, &id).await;
        }
        assert!(contents(&app).await == before, "something was stored");
    }

    async fn too_many_plans_are_put_off(engine: Engine) {
        let app = strict(engine).start().await;
        let id = started(&app, named("one")).await;
        let mut refused = None;
        for _ in 0..200 {
            let reply = ask(&app, &id).await;
            if reply.status != 200 {
                refused = Some(reply);
                break;
            }
        }
        let refused = refused.expect("a limit");
        refused.assert_error(429, "too many env plans");
        assert_eq!(refused.header("retry-after"), Some("1"));
        eventually("a little later it works again", || async {
            ask(&app, &id).await.status == 200
        }).await;
    }

    async fn hooks_that_block_use_up_the_places_of_plans_and_nothing_else(engine: Engine) {
        let blocks = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&blocks);
        let hook = FnHook::new("blocking", move |workspace, _| {
            // Only the workspace that is tried out: boots go on. Not for ever, so that
            // a test that fails ends.
            let begun = Instant::now();
            while flag.load(Ordering::Relaxed) && workspace.name == "stuck" && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok::<_, HookError>(())
        });
        let app = strict(engine).hook(hook)
            .config(|config| {
                config.hooks.timeout_secs = 1;
                config.server.request_timeout_secs = 4;
            })
            .start().await;
        blocks.store(true, Ordering::Relaxed);
        let stuck = || try_out(&app, named("stuck"));
        let (a, b, c, d) = tokio::join!(stuck(), stuck(), stuck(), stuck());
        for reply in [a, b, c, d] {
            assert_eq!(reply.json()["error"]["hook"], "blocking", "{}", reply.text);
        }
        // Their deadlines have passed; their threads are still in the hook.
        let reply = stuck().await;
        reply.assert_error(429, "too many env plans at once");
        assert!(reply.header("retry-after").is_some());
        started(&app, named("a boot")).await;
        blocks.store(false, Ordering::Relaxed);
        eventually("the places are free again", || async {
            try_out(&app, named("free")).await.status == 200
        }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_describes_both_routes_and_every_field() {
    let app = strict(Engine::Sqlite).start().await;
    let document = app.get("/openapi.json").send().await.json();
    let get = &document["paths"]["/admin/workspaces/{id}/env-plan"]["get"];
    let post = &document["paths"]["/admin/env-plan"]["post"];
    for operation in [get, post] {
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(schema["$ref"], "#/components/schemas/EnvPlan");
        assert!(operation["responses"]["429"].is_object());
        assert!(operation["security"].is_null(), "not public");
    }
    for name in [
        "EnvPlan",
        "PlannedKey",
        "Booted",
        "PlanError",
        "IgnoredSecret",
    ] {
        let fields = document["components"]["schemas"][name]["properties"].as_object();
        assert!(fields.is_some_and(|fields| !fields.is_empty()), "{name}");
    }
}
