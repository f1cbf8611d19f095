//! `PATCH /workspaces/:id` and `GET /workspaces/:id/state`.

use molecule_tests::support::{Agent, changes, create, fields, recorded, set_status, strict};
use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

/// A change by the administrator.
pub(crate) async fn patch(app: &TestApp, id: &str, body: Value) -> Reply {
    let request = app.request("PATCH", &format!("/workspaces/{id}"));
    request.bearer(ADMIN).json(body).send().await
}

async fn state(app: &TestApp, id: &str, bearer: &str) -> Reply {
    let request = app.get(&format!("/workspaces/{id}/state"));
    request.bearer(bearer).send().await
}

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

on_both_engines! {
    async fn all_fields_change_together_with_one_event_that_names_them(engine: Engine) {
        // Given two workspaces side by side
        let app = strict(engine).start().await;
        let lead = Agent::online(&app, json!({ "name": "lead" })).await;
        let agent = Agent::online(&app, json!({ "name": "one", "budget_limit": 7 })).await;
        let mut events = app.events();

        // When everything that may change does
        let body = json!({
            "name": "Prüfer №1", "role": "qa: senior", "tier": 1, "parent_id": lead.id,
            "runtime": "codex", "workspace_dir": "/srv/work", "collapsed": true, "x": -1.5, "y": 2,
            "budget_limit": 99, "status": "removed", "unknown": { "a": [1] },
        });
        let reply = patch(&app, &agent.id, body.clone()).await;

        // Then the row says so, and the agent goes on
        let expected = json!({ "status": "updated", "needs_restart": true });
        assert_eq!((reply.status, reply.json()), (200, expected.clone()));
        let row = app.listed(&agent.id).await.expect("listed");
        let expected_row = json!({
            "name": "Prüfer №1", "role": "qa: senior", "tier": 1, "parent_id": lead.id,
            "runtime": "codex", "workspace_dir": "/srv/work", "collapsed": true, "x": -1.5, "y": 2.0,
            "status": "online", "budget_limit": 7,
        });
        for (field, value) in expected_row.as_object().expect("fields") {
            assert_eq!(&row[field], value, "{field}");
        }
        let names = [
            "name", "role", "tier", "parent_id", "runtime", "workspace_dir", "collapsed", "x", "y",
        ];
        let event = ("WORKSPACE_UPDATED", json!({ "changed": names }));
        assert_eq!(changes(&mut events, &agent.id), [event]);
        assert_eq!(recorded(&app, "WORKSPACE_UPDATED").await, 1);

        // And the same again is no event
        let reply = patch(&app, &agent.id, body).await;
        assert_eq!((reply.status, reply.json()), (200, expected));
        let reply = patch(&app, &agent.id, json!({})).await;
        assert_eq!((reply.status, reply.text.as_str()), (200, r#"{"status":"updated"}"#));
        let reply = patch(&app, &agent.id, json!({ "x": 3, "y": 2 })).await;
        assert_eq!(reply.status, 200);
        let event = ("WORKSPACE_UPDATED", json!({ "changed": ["x"] }));
        assert_eq!(changes(&mut events, &agent.id), [event]);
    }

    async fn null_and_nothing_clear_what_may_be_empty(engine: Engine) {
        let app = strict(engine).start().await;
        let lead = app.create(json!({ "name": "lead" })).await;
        for nothing in [json!(null), json!("")] {
            let full = json!({
                "name": format!("one {nothing}"), "role": "qa", "parent_id": lead,
                "workspace_dir": "/srv/work",
            });
            let id = app.create(full).await;
            let body = json!({ "role": nothing, "parent_id": nothing, "workspace_dir": nothing });
            let reply = patch(&app, &id, body).await;
            let expected = json!({ "status": "updated", "needs_restart": true });
            assert_eq!((reply.status, reply.json()), (200, expected), "{}", reply.text);
            let row = app.listed(&id).await.expect("listed");
            assert_eq!(
                (&row["role"], &row["parent_id"], &row["workspace_dir"]),
                (&Value::Null, &Value::Null, &Value::Null)
            );
        }
    }

    async fn what_is_wrong_is_refused_whole_and_nothing_changes(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let before = app.database.dump().await;
        let long = |n: usize| "x".repeat(n);
        let body = "invalid request body";
        let dir = "invalid workspace directory";
        let table = [
            (json!({ "name": 5 }), body),
            (json!({ "name": null }), body),
            (json!({ "role": ["qa"] }), body),
            (json!({ "tier": "2" }), body),
            (json!({ "tier": 2.0 }), body),
            (json!({ "tier": null }), body),
            (json!({ "parent_id": 7 }), body),
            (json!({ "parent_id": "nope" }), body),
            (json!({ "parent_id": UNKNOWN }), body),
            (json!({ "runtime": null }), body),
            (json!({ "runtime": true }), body),
            (json!({ "workspace_dir": 1 }), body),
            (json!({ "collapsed": "true" }), body),
            (json!({ "collapsed": null }), body),
            (json!({ "collapsed": 1 }), body),
            (json!({ "x": 1 }), body),
            (json!({ "y": 1 }), body),
            (json!({ "x": 1, "y": null }), body),
            (json!({ "x": "1", "y": 2 }), body),
            (json!({ "name": "" }), "name must not be empty"),
            (json!({ "runtime": "" }), "runtime must not be empty"),
            (json!({ "name": "a\nb" }), "name must not contain newline characters"),
            (json!({ "role": "a\rb" }), "role must not contain newline characters"),
            (json!({ "runtime": "a\nb" }), "runtime must not contain newline characters"),
            (json!({ "role": "r|s" }), "role contains invalid characters"),
            (json!({ "name": "{a}" }), "name contains invalid characters"),
            (json!({ "name": long(256) }), "name must be at most 255 characters"),
            (json!({ "role": long(1001) }), "role must be at most 1000 characters"),
            (json!({ "runtime": long(101) }), "runtime must be at most 100 characters"),
            (json!({ "tier": 0 }), "tier must be between 1 and 4"),
            (json!({ "tier": 5 }), "tier must be between 1 and 4"),
            (json!({ "workspace_dir": "srv" }), dir),
            (json!({ "workspace_dir": "/srv/../etc" }), dir),
            (json!({ "workspace_dir": "/etc/x" }), dir),
            (json!({ "workspace_dir": "/" }), dir),
            (json!({ "runtime": "external" }), "runtime cannot be changed to external"),
        ];
        for (mut sent, text) in table {
            let needs_detail = text == body || text == dir;
            let shown: String = sent.to_string().chars().take(60).collect();
            // A field that is fine by itself does not get through beside a bad one.
            if sent.get("collapsed").is_none() {
                sent["collapsed"] = json!(true);
            }
            let reply = patch(&app, &agent.id, sent).await;
            assert_eq!((reply.status, reply.error().as_str()), (400, text), "{shown}");
            assert_eq!(reply.json()["detail"].is_string(), needs_detail, "{shown}: {}", reply.text);
        }
        for raw in ["", "[]", "null", "5", "{", r#"{"name":"a"} x"#, "\u{0}", r#"{"x":1e999,"y":1}"#] {
            let request = app.request("PATCH", &format!("/workspaces/{}", agent.id));
            let reply = request.bearer(ADMIN).body(raw).send().await;
            assert_eq!((reply.status, reply.error().as_str()), (400, body), "{raw}");
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn only_a_workspace_that_is_there_can_be_changed(engine: Engine) {
        let app = strict(engine).start().await;
        let gone = app.create(json!({ "name": "gone" })).await;
        let path = format!("/workspaces/{gone}");
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        let before = app.database.dump().await;
        for id in [gone.as_str(), UNKNOWN] {
            for body in [json!({ "name": "new" }), json!({ "parent_id": UNKNOWN }), json!({ "x": 1, "y": 1 })] {
                patch(&app, id, body).await.assert_error(404, "workspace not found");
            }
        }
        for id in ["nope", "7aa08951", "%00"] {
            let reply = patch(&app, id, json!({ "name": "new" })).await;
            reply.assert_error(400, "invalid workspace ID");
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn a_name_stays_unique_under_its_parent(engine: Engine) {
        let taken = "a workspace of that name already exists under this parent";
        let app = strict(engine).start().await;
        let lead = app.create(json!({ "name": "lead" })).await;
        let qa = app.create(json!({ "name": "qa", "parent_id": lead })).await;
        let root = app.create(json!({ "name": "qa" })).await;
        patch(&app, &root, json!({ "name": "lead" })).await.assert_error(409, taken);
        patch(&app, &root, json!({ "parent_id": lead })).await.assert_error(409, taken);
        patch(&app, &qa, json!({ "parent_id": null })).await.assert_error(409, taken);
        // Another name on the way is fine.
        let reply = patch(&app, &root, json!({ "parent_id": lead, "name": "qa 2" })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);

        // Of many who want one name, one gets it
        let mut ids = Vec::new();
        for n in 0..6 {
            ids.push(app.create(json!({ "name": format!("w{n}") })).await);
        }
        let calls = ids.iter().map(|id| patch(&app, id, json!({ "name": "wanted" })));
        let replies = futures_util::future::join_all(calls).await;
        assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1);
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            reply.assert_error(409, taken);
        }
    }

    async fn an_agent_changes_itself_and_nobody_else(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::online(&app, json!({ "name": "two" })).await;
        let change = |id: &str| {
            app.request("PATCH", &format!("/workspaces/{id}"))
                .json(json!({ "role": "changed" }))
        };
        assert_eq!(change(&one.id).bearer(&one.token).send().await.status, 200);
        let reply = change(&two.id).bearer(&one.token).send().await;
        reply.assert_error(401, "invalid workspace auth token");
        let reply = change(&two.id).send().await;
        reply.assert_error(401, "missing workspace auth token");
        assert_eq!(app.listed(&two.id).await.expect("listed")["role"], Value::Null);
    }

    async fn an_agent_gets_no_further_by_changing_itself(engine: Engine) {
        // Given an agent of tier 2 with a folder of the host, and one without
        let app = strict(engine).start().await;
        let full = json!({ "name": "one", "tier": 2, "workspace_dir": "/srv/work" });
        let one = Agent::online(&app, full).await;
        let bare = Agent::online(&app, json!({ "name": "two", "tier": 2 })).await;
        let own = async |agent: &Agent, body: Value| {
            let request = app.request("PATCH", &format!("/workspaces/{}", agent.id));
            request.bearer(&agent.token).json(body).send().await
        };
        let before = app.database.dump().await;

        // When they ask for more isolation to be taken away, or for other folders
        let tier = "a workspace cannot raise its own tier";
        let dir = "a workspace cannot change its own workspace_dir";
        for (agent, body, text) in [
            (&one, json!({ "tier": 3 }), tier),
            (&one, json!({ "tier": 4, "role": "qa" }), tier),
            (&one, json!({ "workspace_dir": "/srv" }), dir),
            (&one, json!({ "workspace_dir": null, "role": "qa" }), dir),
            (&one, json!({ "workspace_dir": "" }), dir),
            (&bare, json!({ "workspace_dir": "/srv/work", "tier": 1 }), dir),
        ] {
            own(agent, body).await.assert_error(403, text);
        }

        // Then nothing of it is done, and what takes nothing away is
        assert_eq!(app.database.dump().await, before);
        for (agent, body) in [
            (&one, json!({ "tier": 2, "workspace_dir": "/srv/work" })),
            (&bare, json!({ "tier": 2, "workspace_dir": null })),
            (&one, json!({ "tier": 1, "role": "qa" })),
        ] {
            let reply = own(agent, body).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        own(&one, json!({ "tier": 2 })).await.assert_error(403, tier);
        let reply = patch(&app, &one.id, json!({ "tier": 4, "workspace_dir": "/srv" })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let row = app.listed(&one.id).await.expect("listed");
        assert_eq!((&row["tier"], &row["workspace_dir"]), (&json!(4), &json!("/srv")));
    }

    async fn an_agent_keeps_the_identity_it_was_given_where_that_is_fixed(engine: Engine) {
        // Given a server whose hooks go by the roles of agents
        let app = strict(engine).config(|config| config.workspaces.fixed_identity = true);
        let app = app.start().await;
        let one = Agent::online(&app, json!({ "name": "one", "role": "qa" })).await;
        let own = async |body: Value| {
            let request = app.request("PATCH", &format!("/workspaces/{}", one.id));
            request.bearer(&one.token).json(body).send().await
        };
        let before = app.database.dump().await;

        // When it asks for another one, then nothing of it is done
        for (body, field) in [
            (json!({ "name": "two" }), "name"),
            (json!({ "role": "deployer", "tier": 1 }), "role"),
            (json!({ "role": null }), "role"),
            (json!({ "runtime": "codex" }), "runtime"),
        ] {
            own(body).await.assert_error(403, &format!("a workspace cannot change its own {field}"));
        }
        assert_eq!(app.database.dump().await, before);

        // And to say what is so, or to change the rest, is no offence; nor is it for an administrator
        let same = json!({ "name": "one", "role": "qa", "runtime": "langgraph", "tier": 1 });
        assert_eq!(own(same).await.status, 200);
        assert_eq!(patch(&app, &one.id, json!({ "role": "deployer" })).await.status, 200);
        assert_eq!(app.listed(&one.id).await.expect("listed")["role"], "deployer");
    }

    async fn a_folder_that_leads_into_the_system_is_not_mounted(engine: Engine) {
        // Given links to folders of this machine
        let app = strict(engine).start().await;
        let dir = tempfile::tempdir().expect("a folder");
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).expect("a folder");
        let path = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
        for (link, target) in [("good", inside.to_str().expect("a path")), ("bad", "/etc"), ("root", "/")] {
            std::os::unix::fs::symlink(target, path(link)).expect("a link");
        }

        // Then a workspace with one that leads into the system fails, and says why
        for name in ["bad", "root"] {
            let id = app.create(json!({ "name": name, "workspace_dir": path(name) })).await;
            app.wait_for_status(&id, "failed").await;
            let row = app.listed(&id).await.expect("listed");
            let error = row["last_sample_error"].as_str().expect("an error");
            assert!(error.starts_with("invalid workspace directory: workspace_dir"), "{error}");
            assert!(!error.contains(dir.path().to_str().expect("a path")), "{error}");
        }
        assert!(app.backend.starts().is_empty());
        // And others start, also where the folder is not there (yet).
        for name in ["good", "inside", "nowhere"] {
            let id = app.create(json!({ "name": name, "workspace_dir": path(name) })).await;
            Agent::started(&app, id).await;
        }
    }

    async fn the_next_start_sees_what_was_changed(engine: Engine) {
        // Given a workspace whose start hangs until its server is gone
        let app = strict(engine).start().await;
        app.backend.set_fault(molecule_tests::fake_backend::Fault::StartHangs);
        let id = app.create(json!({ "name": "one", "role": "old" })).await;
        molecule_tests::eventually("it starts", async || !app.backend.starts().is_empty()).await;

        // When it is changed meanwhile
        let reply = patch(&app, &id, json!({ "role": "new", "tier": 2, "runtime": "codex" })).await;
        assert_eq!(reply.status, 200);
        let (database, dir) = app.shutdown().await;

        // Then the next server starts what the row says
        let app = strict(engine).start_on(database, dir).await;
        let agent = Agent::started(&app, id).await;
        let spec = app.backend.starts().remove(0);
        assert_eq!((spec.tier, spec.runtime.as_str()), (2, "codex"));
        assert_eq!(app.backend.env(&agent.id)["MOLECULE_AGENT_ROLE"], "new");
    }

    async fn the_state_is_told_to_the_agent_and_to_administrators(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let other = Agent::online(&app, json!({ "name": "two" })).await;
        for bearer in [agent.token.as_str(), ADMIN] {
            let reply = state(&app, &agent.id, bearer).await;
            let expected = json!({
                "workspace_id": agent.id, "status": "online", "paused": false, "deleted": false,
            });
            assert_eq!((reply.status, reply.json()), (200, expected));
        }
        set_status(&app, engine, &agent.id, "paused").await;
        let reply = state(&app, &agent.id, &agent.token).await;
        assert_eq!((&reply.json()["status"], &reply.json()["paused"]), (&json!("paused"), &json!(true)));

        state(&app, &agent.id, &other.token).await.assert_error(401, "invalid workspace auth token");
        let reply = app.get(&format!("/workspaces/{}/state", agent.id)).send().await;
        reply.assert_error(401, "missing workspace auth token");
        state(&app, "nope", ADMIN).await.assert_error(400, "invalid workspace ID");

        let path = format!("/workspaces/{}", agent.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        let reply = state(&app, &agent.id, ADMIN).await;
        assert_eq!(reply.status, 404);
        assert_eq!(fields(&reply.json()), ["deleted", "error", "status", "workspace_id"].into());
        assert_eq!((&reply.json()["deleted"], &reply.json()["status"]), (&json!(true), &json!("removed")));
        state(&app, &agent.id, &agent.token).await.assert_error(401, "invalid workspace auth token");
        let reply = state(&app, UNKNOWN, ADMIN).await;
        assert_eq!(reply.status, 404);
        assert_eq!(fields(&reply.json()), ["deleted", "error", "workspace_id"].into());
    }

    async fn a_place_is_found_again_where_the_layout_was_lost(engine: Engine) {
        let app = strict(engine).start().await;
        let reply = create(&app, json!({ "name": "one", "canvas": { "x": 5, "y": 6 } })).await;
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        app.database.execute("DELETE FROM canvas_layouts").await;
        assert_eq!(patch(&app, &id, json!({ "collapsed": true })).await.status, 200);
        assert_eq!(patch(&app, &id, json!({ "x": 1.25, "y": -3 })).await.status, 200);
        let row = app.listed(&id).await.expect("listed");
        assert_eq!(
            (&row["x"], &row["y"], &row["collapsed"]),
            (&json!(1.25), &json!(-3.0), &json!(true))
        );
    }
}
