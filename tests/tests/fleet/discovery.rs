//! `GET /registry/discover/{id}`.

use molecule_tests::{ADMIN, Engine, Reply, TestApp, on_both_engines};
use serde_json::json;

use crate::support::{Agent, set_status, sql_id, strict};
use crate::{UNKNOWN, external, remove};

async fn discover(app: &TestApp, caller: &str, bearer: &str, target: &str) -> Reply {
    app.get(&format!("/registry/discover/{target}"))
        .header("X-Workspace-ID", caller)
        .bearer(bearer)
        .send()
        .await
}

/// Sets the stored URL, as no request would. The agent must not have registered: the
/// server then looks its address up, in the background.
async fn set_url(app: &TestApp, engine: Engine, id: &str, url: &str) {
    let id = sql_id(engine, id);
    let sql = format!("UPDATE workspaces SET url = '{url}' WHERE id = {id}");
    app.database.execute(&sql).await;
}

on_both_engines! {
    async fn an_agent_in_a_container_is_found_under_its_name_on_the_network(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.put_in_containers();
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::start(&app, json!({ "name": "Researcher" })).await;
        for state in ["online", "degraded"] {
            set_status(&app, engine, &two.id, state).await;
            let reply = discover(&app, &one.id, &one.token, &two.id).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            let url = format!("http://ws-{}:8000", &two.id[..12]);
            assert_eq!(reply.json(), json!({ "id": two.id, "url": url, "name": "Researcher" }));
        }
        for state in ["provisioning", "offline", "failed", "paused", "hibernated", "hibernating", "awaiting_agent"] {
            set_status(&app, engine, &two.id, state).await;
            let reply = discover(&app, &one.id, &one.token, &two.id).await;
            assert_eq!(reply.status, 503);
            assert_eq!(reply.json(), json!({ "error": "workspace not available", "status": state }));
        }
    }

    async fn an_agent_on_the_network_of_the_host_is_found_where_its_row_says(engine: Engine) {
        // Given one that was started by another server, as far as this one remembers
        let app = strict(engine).start().await;
        app.backend.put_in_containers();
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::start(&app, json!({ "name": "two", "tier": 4 })).await;
        set_status(&app, engine, &two.id, "online").await;
        set_url(&app, engine, &two.id, "http://127.0.0.1:20001").await;

        // Then it is found at its port of the host, in a list too
        let reply = discover(&app, &one.id, &one.token, &two.id).await;
        assert_eq!(reply.json()["url"], "http://host.docker.internal:20001", "{}", reply.text);
        let path = format!("/registry/{}/peers", one.id);
        let peers = app.get(&path).bearer(&one.token).send().await.json();
        let peer = peers.as_array().into_iter().flatten().find(|peer| peer["id"] == two.id.as_str());
        assert_eq!(peer.expect("a peer")["url"], "http://host.docker.internal:20001");
    }

    async fn an_agent_on_this_machine_is_found_where_it_listens(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::start(&app, json!({ "name": "two" })).await;
        set_status(&app, engine, &two.id, "online").await;
        let reply = discover(&app, &one.id, &one.token, &two.id.to_uppercase()).await;
        assert_eq!(reply.json(), json!({ "id": two.id, "url": "http://127.0.0.1:9", "name": "two" }));
        // Itself, too.
        assert_eq!(discover(&app, &one.id, &one.token, &one.id).await.status, 200);
        // No URL, no address.
        set_url(&app, engine, &two.id, "").await;
        let reply = discover(&app, &one.id, &one.token, &two.id).await;
        assert_eq!(reply.json(), json!({ "error": "workspace not available", "status": "online" }));
    }

    async fn an_external_agent_is_where_it_says_in_any_status(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.put_in_containers();
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let far = external(&app, "far", "https://1.1.1.1/agent").await;
        for state in ["online", "offline", "awaiting_agent", "paused"] {
            set_status(&app, engine, &far, state).await;
            let reply = discover(&app, &one.id, &one.token, &far).await;
            assert_eq!(reply.json(), json!({ "id": far, "url": "https://1.1.1.1/agent", "name": "far" }));
        }
        // Without a URL it is like any other.
        let silent = app.create(json!({ "name": "silent", "external": true })).await;
        let reply = discover(&app, &one.id, &one.token, &silent).await;
        assert_eq!(reply.json(), json!({ "error": "workspace not available", "status": "awaiting_agent" }));
    }

    async fn a_url_that_leads_inside_is_not_handed_out(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.put_in_containers();
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let far = external(&app, "far", "https://1.1.1.1/agent").await;
        for url in [
            "http://localhost:8000", "http://127.0.0.1:8000", "http://127.1", "http://2130706433",
            "http://0x7f000001", "http://[::1]:8000", "http://[::ffff:127.0.0.1]", "http://0.0.0.0",
            "http://169.254.169.254/latest/meta-data", "http://10.0.0.1", "http://172.16.0.1",
            "http://192.168.0.1", "http://100.64.0.1", "http://192.0.2.1", "http://[fd00::1]",
            "http://[fe80::1]", "http://[ff02::1]", "http://[64:ff9b::7f00:1]", "http://[2002:7f00:1::]",
            "http://user:pw@1.1.1.1", "ftp://1.1.1.1", "http://no-such-host.invalid",
            "http://127.0.0.1.no-such-host.invalid", "not a url",
        ] {
            set_url(&app, engine, &far, url).await;
            let reply = discover(&app, &one.id, &one.token, &far).await;
            reply.assert_error(503, "workspace URL failed safety check");
            assert!(!reply.text.contains("127"), "{}", reply.text);
        }
    }

    async fn only_the_workspace_itself_and_administrators_ask_in_its_name(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::online(&app, json!({ "name": "two" })).await;
        let gone = Agent::online(&app, json!({ "name": "gone" })).await;
        remove(&app, &gone.id).await;
        let path = format!("/registry/discover/{}", two.id);
        // Forged: somebody else's id with one's own token.
        for bearer in ["garbage", &two.token, &gone.token] {
            discover(&app, &one.id, bearer, &two.id).await
                .assert_error(401, "invalid workspace auth token");
        }
        discover(&app, &gone.id, &gone.token, &two.id).await
            .assert_error(401, "invalid workspace auth token");
        app.get(&path).header("X-Workspace-ID", &one.id).send().await
            .assert_error(401, "missing workspace auth token");
        for bearer in [&one.token, ADMIN] {
            assert_eq!(discover(&app, &one.id, bearer, &two.id).await.status, 200);
        }
        // No name, no answer, whoever asks.
        for request in [app.get(&path), app.get(&path).bearer(&one.token), app.get(&path).header("X-Workspace-ID", "")] {
            request.send().await.assert_error(400, "X-Workspace-ID header is required");
        }
        let hidden = format!("{}\u{202e}", one.id);
        for strange in ["one", "' OR 1=1", &hidden, &"9".repeat(4096)] {
            discover(&app, strange, ADMIN, &two.id).await
                .assert_error(400, "X-Workspace-ID header is required");
        }
    }

    async fn cousins_the_removed_and_the_unknown_look_the_same(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        let two = Agent::online(&app, json!({ "name": "two" })).await;
        let below = |parent: &str| json!({ "name": "child", "parent_id": parent });
        let cousin = Agent::online(&app, below(&two.id)).await;
        let child = Agent::online(&app, below(&one.id)).await;
        let gone = Agent::online(&app, json!({ "name": "gone" })).await;
        remove(&app, &gone.id).await;
        for target in [&cousin.id, &gone.id, UNKNOWN, "one", "%00", "%FF", "%F0%9F%98%80"] {
            discover(&app, &child.id, &child.token, target).await
                .assert_error(403, "not authorized to discover this workspace");
        }
        for target in [&one.id, &child.id] {
            assert_eq!(discover(&app, &child.id, &child.token, target).await.status, 200);
        }
        assert_eq!(discover(&app, &one.id, &one.token, &child.id).await.status, 200);
        // An administrator may ask in anybody's name, also in that of nobody.
        discover(&app, UNKNOWN, ADMIN, UNKNOWN).await.assert_error(404, "workspace not found");
        discover(&app, &gone.id, ADMIN, &gone.id).await.assert_error(404, "workspace not found");
    }

    async fn a_lookup_that_fails_is_no_permission_and_no_refusal(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::online(&app, json!({ "name": "one" })).await;
        assert_eq!(discover(&app, &one.id, &one.token, &one.id).await.status, 200);
        app.database.execute("ALTER TABLE workspaces RENAME COLUMN external TO away").await;
        discover(&app, &one.id, &one.token, &one.id).await.assert_error(500, "lookup failed");
        let peers = format!("/registry/{}/peers", one.id);
        app.get(&peers).bearer(&one.token).send().await.assert_error(500, "lookup failed");
        app.database.execute("ALTER TABLE workspaces RENAME COLUMN away TO external").await;
        assert_eq!(discover(&app, &one.id, &one.token, &one.id).await.status, 200);
    }

    async fn in_development_local_agents_are_found_and_called_as_the_caller_must(engine: Engine) {
        // Given a development server whose agents are in containers
        let app = TestApp::builder(engine).start().await;
        app.backend.put_in_containers();
        let hosted = Agent::online(&app, json!({ "name": "hosted" })).await;
        let far = external(&app, "far", "https://1.1.1.1").await;
        let near = external(&app, "near", "http://localhost:8000/a2a?x=127.0.0.1").await;
        let ask = |caller: &str, target: &str| {
            app.get(&format!("/registry/discover/{target}")).header("X-Workspace-ID", caller).bearer("garbage").send()
        };
        // Then a container is told the name of this machine, and nobody else is
        let url = "http://host.docker.internal:8000/a2a?x=127.0.0.1";
        assert_eq!(ask(&hosted.id, &near).await.json()["url"], url);
        assert_eq!(ask(&far, &near).await.json()["url"], "http://localhost:8000/a2a?x=127.0.0.1");
        for (stored, told) in [
            ("http://127.0.0.1:8000", "http://host.docker.internal:8000"),
            ("http://[::1]:8000/", "http://host.docker.internal:8000/"),
            ("http://192.168.7.7:8000", "http://192.168.7.7:8000"),
        ] {
            set_url(&app, engine, &near, stored).await;
            assert_eq!(ask(&hosted.id, &near).await.json()["url"], told);
            assert_eq!(ask(&far, &near).await.json()["url"], stored);
        }
        // A name that only begins like an address is looked up like any other.
        set_url(&app, engine, &near, "http://127.0.0.1.no-such-host.invalid").await;
        ask(&hosted.id, &near).await.assert_error(503, "workspace URL failed safety check");
        // Some places are nobody's.
        set_url(&app, engine, &near, "http://169.254.169.254").await;
        ask(&hosted.id, &near).await.assert_error(503, "workspace URL failed safety check");
    }
}
