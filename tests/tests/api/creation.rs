//! `POST /workspaces`: what is accepted, what is refused, what comes of it.

use molecule_core::backend::WorkspaceAccess;
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, create, recorded, seen, strict};

/// A folder of templates.
fn templates(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    dir
}

on_both_engines! {
    async fn a_workspace_is_accepted_then_started_then_brought_online_by_its_agent(engine: Engine) {
        let app = strict(engine).start().await;
        let mut events = app.events();
        let reply = create(
            &app,
            json!({ "name": "dev lead", "tier": 2, "runtime": "hermes" }),
        )
        .await;
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        let expected = json!({
            "id": id,
            "status": "provisioning",
            "awareness_namespace": format!("workspace:{id}"),
            "workspace_access": "none",
        });
        assert_eq!((reply.status, reply.json()), (201, expected));
        let begun = (
            "WORKSPACE_PROVISIONING",
            json!({ "name": "dev lead", "tier": 2, "runtime": "hermes" }),
        );
        assert_eq!(seen(&mut events, &id), [begun]);
        let agent = Agent::started(&app, id.clone()).await;
        assert_eq!(
            app.get(&format!("/workspaces/{id}")).send().await.json()["status"],
            "provisioning"
        );

        let reply = agent.register(&app).send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (200, r#"{"status":"registered"}"#)
        );
        let card = json!({ "name": "agent" });
        let online =
            json!({ "url": "http://localhost:8000", "agent_card": card, "delivery_mode": "push" });
        assert_eq!(seen(&mut events, &id), [("WORKSPACE_ONLINE", online)]);
        let row = app.listed(&id).await.expect("listed");
        assert_eq!(
            (&row["status"], &row["agent_card"]),
            (&json!("online"), &card)
        );
        assert_eq!(
            (
                recorded(&app, "WORKSPACE_PROVISIONING").await,
                recorded(&app, "WORKSPACE_ONLINE").await
            ),
            (1, 1)
        );
    }

    async fn what_is_left_out_gets_the_documented_defaults(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "plain" })).await;
        let row = app.listed(&agent.id).await.expect("listed");
        let expected = json!({
            "id": agent.id, "name": "plain", "role": null, "tier": 3, "status": "provisioning",
            "url": "http://127.0.0.1:9", "parent_id": null, "agent_card": null, "active_tasks": 0,
            "max_concurrent_tasks": 1, "last_error_rate": 0.0, "last_sample_error": "",
            "uptime_seconds": 0, "current_task": "", "runtime": "langgraph", "workspace_dir": null,
            "monthly_spend": 0,
            "budget_limit": null, "x": 0.0, "y": 0.0, "collapsed": false,
        });
        assert_eq!(row, expected);
        let stored = "SELECT count(*) FROM workspaces \
                      WHERE delivery_mode = 'push' AND workspace_access = 'none'";
        assert_eq!(app.database.count(stored).await, 1);
        let spec = app.backend.starts().remove(0);
        assert_eq!(
            (spec.tier, spec.runtime.as_str(), spec.workspace_access),
            (3, "langgraph", WorkspaceAccess::None)
        );
    }

    async fn empty_texts_and_zeros_count_as_left_out(engine: Engine) {
        let app = strict(engine).start().await;
        let body = json!({
            "name": "plain", "role": "", "template": "", "tier": 0, "model": "", "runtime": "",
            "url": "", "delivery_mode": "", "workspace_dir": "", "workspace_access": "",
            "parent_id": "", "secrets": null, "max_concurrent_tasks": -5, "canvas": {},
            "external": false, "budget_limit": null,
        });
        let agent = Agent::start(&app, body).await;
        let row = app.listed(&agent.id).await.expect("listed");
        assert_eq!(
            (&row["role"], &row["tier"], &row["max_concurrent_tasks"]),
            (&Value::Null, &json!(3), &json!(1))
        );
        assert_eq!(
            (&row["runtime"], &row["workspace_dir"]),
            (&json!("langgraph"), &Value::Null)
        );
    }

    async fn what_the_caller_says_is_kept(engine: Engine) {
        let app = strict(engine).start().await;
        let parent = Agent::start(&app, json!({ "name": "lead" })).await;
        let body = json!({
            "name": "Prüfer №1", "role": "qa: senior", "tier": 4, "model": "x/y",
            "runtime": "claude-code", "delivery_mode": "poll", "workspace_dir": "/srv/work",
            "workspace_access": "read_only", "parent_id": parent.id, "budget_limit": 0,
            "max_concurrent_tasks": 7, "canvas": { "x": -1.5, "y": 2 },
        });
        let reply = create(&app, body).await;
        assert_eq!(reply.json()["workspace_access"], "read_only");
        let agent =
            Agent::started(&app, reply.json()["id"].as_str().expect("an id").to_owned()).await;
        let row = app.listed(&agent.id).await.expect("listed");
        let expected = json!({
            "name": "Prüfer №1", "role": "qa: senior", "tier": 4, "runtime": "claude-code",
            "parent_id": parent.id, "workspace_dir": "/srv/work", "budget_limit": 0,
            "max_concurrent_tasks": 7, "x": -1.5, "y": 2.0,
        });
        for (field, value) in expected.as_object().expect("fields") {
            assert_eq!(&row[field], value, "{field}");
        }
        let spec = app.backend.starts().remove(1);
        assert_eq!(
            (spec.tier, spec.workspace_access),
            (4, WorkspaceAccess::ReadOnly)
        );
        assert_eq!(
            spec.workspace_dir.as_deref(),
            Some(std::path::Path::new("/srv/work"))
        );

        // An agent that polls says so when it comes online.
        let mut events = app.events();
        assert_eq!(agent.register(&app).send().await.status, 200);
        assert_eq!(seen(&mut events, &agent.id)[0].1["delivery_mode"], "poll");
    }

    async fn every_rule_has_its_documented_text_and_stores_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        let before = app.database.dump().await;
        let long = |n: usize| "x".repeat(n);
        let (payload, fields) = ("invalid workspace payload", "invalid workspace fields");
        let (dir, access) = ("invalid workspace directory", "invalid workspace access");
        let table = [
            (json!({}), payload),
            (json!({ "name": "" }), payload),
            (json!({ "name": null }), payload),
            (json!({ "name": long(256) }), fields),
            // Bytes, not characters.
            (json!({ "name": "ä".repeat(128) }), fields),
            (json!({ "name": "a\nb" }), fields),
            (json!({ "name": "a\rb" }), fields),
            (json!({ "name": "a\u{7}b" }), fields),
            (json!({ "name": "a\u{7f}b" }), fields),
            (json!({ "name": "a{b" }), fields),
            (json!({ "name": "a]" }), fields),
            (json!({ "name": "*a" }), fields),
            (json!({ "name": "a&b!" }), fields),
            (json!({ "name": "a", "role": long(1001) }), fields),
            (json!({ "name": "a", "role": "r|s" }), fields),
            (json!({ "name": "a", "role": "r\ns" }), fields),
            (json!({ "name": "a", "model": long(101) }), fields),
            (json!({ "name": "a", "model": "m\nn" }), fields),
            (json!({ "name": "a", "runtime": long(101) }), fields),
            (json!({ "name": "a", "runtime": "r\rs" }), fields),
            (json!({ "name": "a", "tier": -1 }), fields),
            (json!({ "name": "a", "tier": 5 }), fields),
            (
                json!({ "name": "a", "template": "missing" }),
                "invalid template",
            ),
            (
                json!({ "name": "a", "template": "../x" }),
                "invalid template",
            ),
            (
                json!({ "name": "a", "template": "/etc" }),
                "invalid template",
            ),
            (
                json!({ "name": "a", "delivery_mode": "pull" }),
                "delivery_mode must be 'push' or 'poll'",
            ),
            (json!({ "name": "a", "workspace_dir": "relative" }), dir),
            (json!({ "name": "a", "workspace_dir": "/srv/../etc" }), dir),
            (json!({ "name": "a", "workspace_dir": "/etc" }), dir),
            (json!({ "name": "a", "workspace_dir": "/var/lib/x" }), dir),
            (json!({ "name": "a", "workspace_dir": "/" }), dir),
            (json!({ "name": "a", "workspace_access": "all" }), access),
            (
                json!({ "name": "a", "workspace_access": "read_only" }),
                access,
            ),
            (
                json!({ "name": "a", "workspace_access": "read_write" }),
                access,
            ),
            (json!({ "name": "a", "parent_id": "nope" }), payload),
            (
                json!({ "name": "a", "parent_id": "7aa08951-00d1-4c3e-9d6a-0123456789ab" }),
                payload,
            ),
            (json!({ "name": "a", "secrets": { "1BAD": "v" } }), fields),
            (json!({ "name": "a", "secrets": { "A-B": "v" } }), fields),
            (json!({ "name": "a", "secrets": { "": "v" } }), fields),
            (json!({ "name": "a", "secrets": { "PATH": "v" } }), fields),
            (
                json!({ "name": "a", "secrets": { "LD_PRELOAD": "v" } }),
                fields,
            ),
            (
                json!({ "name": "a", "secrets": { "WORKSPACE_ID": "v" } }),
                fields,
            ),
            (
                json!({ "name": "a", "secrets": { "PLATFORM_URL": "v" } }),
                fields,
            ),
            (
                json!({ "name": "a", "secrets": { "ADMIN_TOKEN": "v" } }),
                fields,
            ),
            (
                json!({ "name": "a", "secrets": { "BIG": long(65_537) } }),
                fields,
            ),
            (
                json!({ "name": "a", "external": true, "url": "ftp://x" }),
                fields,
            ),
            (
                json!({ "name": "a", "runtime": "external", "url": "nope" }),
                fields,
            ),
        ];
        for (body, text) in table {
            let shown: String = body.to_string().chars().take(120).collect();
            let reply = create(&app, body).await;
            assert_eq!(
                (reply.status, reply.error().as_str()),
                (400, text),
                "{shown}: {}",
                reply.text
            );
        }
        assert_eq!(app.database.dump().await, before);
        assert_eq!(
            create(
                &app,
                json!({ "name": long(255), "role": long(1000), "model": long(100) })
            )
            .await
            .status,
            201
        );
    }

    async fn runtime_and_model_come_from_the_template_unless_the_caller_says_so(engine: Engine) {
        let dir = templates(&[
            ("top/config.yaml", "runtime: hermes\nmodel: \"top/model\"\n"),
            (
                "nested/config.yaml",
                "runtime: claude-code\nruntime_config:\n  model: nested-model\n",
            ),
            ("broken/config.yaml", "{{{"),
            ("bare/notes.txt", "no configuration"),
            ("langgraph-default/config.yaml", "runtime: langgraph\n"),
        ]);
        let root = dir.path().to_owned();
        let app = strict(engine)
            .config(|config| config.workspaces.templates_dir = Some(root))
            .start()
            .await;
        let table = [
            (
                json!({ "name": "a", "template": "top" }),
                "hermes",
                Some("top/model"),
                Some("top"),
            ),
            (
                json!({ "name": "b", "template": "nested" }),
                "claude-code",
                Some("nested-model"),
                Some("nested"),
            ),
            (
                json!({ "name": "c", "template": "top", "model": "mine" }),
                "hermes",
                Some("mine"),
                Some("top"),
            ),
            (
                json!({ "name": "d", "template": "top", "runtime": "codex" }),
                "codex",
                Some("top/model"),
                Some("top"),
            ),
            (
                json!({ "name": "e", "template": "broken" }),
                "langgraph",
                None,
                Some("broken"),
            ),
            (
                json!({ "name": "f", "template": "bare" }),
                "langgraph",
                None,
                Some("bare"),
            ),
            (
                json!({ "name": "g" }),
                "langgraph",
                None,
                Some("langgraph-default"),
            ),
            (
                json!({ "name": "h", "runtime": "codex" }),
                "codex",
                None,
                None,
            ),
        ];
        for (body, runtime, model, folder) in table {
            let agent = Agent::start(&app, body.clone()).await;
            assert_eq!(
                app.listed(&agent.id).await.expect("listed")["runtime"],
                runtime,
                "{body}"
            );
            assert_eq!(
                app.backend.env(&agent.id).get("MODEL").map(String::as_str),
                model,
                "{body}"
            );
            let started = app.backend.starts();
            let spec = started.last().expect("a start");
            let used = spec
                .template_dir
                .as_deref()
                .and_then(|dir| dir.file_name()?.to_str());
            assert_eq!(used, folder, "{body}");
            // A template's own file is left alone.
            let has_file = matches!(
                folder,
                Some("top" | "nested" | "broken" | "langgraph-default")
            );
            assert_eq!(
                app.backend.file(&agent.id, "config.yaml").is_none(),
                has_file,
                "{body}"
            );
        }
        let reply = create(&app, json!({ "name": "i", "template": "missing" })).await;
        reply.assert_error(400, "invalid template");
    }

    async fn one_parent_has_no_two_children_of_one_name(engine: Engine) {
        let app = strict(engine).start().await;
        let parent = app.create(json!({ "name": "lead" })).await;
        let other = app.create(json!({ "name": "other lead" })).await;
        let child = json!({ "name": "qa", "parent_id": parent });
        let calls = (0..8).map(|_| create(&app, child.clone()));
        let replies = futures_util::future::join_all(calls).await;
        let made: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
        assert_eq!(made.len(), 1);
        for reply in replies.iter().filter(|reply| reply.status != 201) {
            reply.assert_error(
                409,
                "a workspace of that name already exists under this parent",
            );
        }
        // Roots are siblings too.
        create(&app, json!({ "name": "lead" })).await.assert_error(
            409,
            "a workspace of that name already exists under this parent",
        );
        assert_eq!(recorded(&app, "WORKSPACE_PROVISIONING").await, 3);
        assert_eq!(
            create(&app, json!({ "name": "qa", "parent_id": other }))
                .await
                .status,
            201
        );
        // A removed one does not count.
        let path = format!(
            "/workspaces/{}",
            made[0].json()["id"].as_str().expect("an id")
        );
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        assert_eq!(create(&app, child).await.status, 201);
    }

    async fn a_removed_workspace_is_no_parent(engine: Engine) {
        let app = strict(engine).start().await;
        let parent = app.create(json!({ "name": "lead" })).await;
        assert_eq!(
            app.delete(&format!("/workspaces/{parent}"))
                .bearer(ADMIN)
                .send()
                .await
                .status,
            200
        );
        let reply = create(&app, json!({ "name": "qa", "parent_id": parent })).await;
        reply.assert_error(400, "invalid workspace payload");
        assert_eq!(
            app.database.count("SELECT count(*) FROM workspaces").await,
            1
        );
    }
}
