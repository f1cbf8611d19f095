//! `/workspaces/{id}/tokens`.

use molecule_tests::support::{Agent, assert_time, fields, set_status, strict};
use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::time::MovableClock;

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

fn path(agent: &Agent) -> String {
    format!("/workspaces/{}/tokens", agent.id)
}

async fn mint(app: &TestApp, agent: &Agent) -> Reply {
    let request = app.request("POST", &path(agent));
    request.bearer(&agent.token).send().await
}

async fn list(app: &TestApp, agent: &Agent, query: &str) -> Value {
    let request = app.get(&format!("{}{query}", path(agent)));
    let reply = request.bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

on_both_engines! {
    async fn a_workspace_mints_lists_and_revokes_its_own_tokens(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let reply = mint(&app, &agent).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let new = reply.json();
        assert_eq!(fields(&new), ["auth_token", "workspace_id", "message"].into());
        assert_eq!(new["workspace_id"], json!(agent.id));
        assert_eq!(new["message"], "Save this token now — it cannot be retrieved again.");
        let token = new["auth_token"].as_str().expect("a token").to_owned();
        assert_eq!(token.len(), 43);

        let listed = list(&app, &agent, "").await;
        assert_eq!(listed["count"], 2);
        let item = &listed["tokens"][0];
        let names = ["id", "prefix", "created_at", "last_used_at"];
        assert_eq!(fields(item), names.into());
        assert_eq!((&item["prefix"], &item["last_used_at"]), (&json!(token[..8]), &Value::Null));
        assert_time(&item["created_at"]);
        assert_eq!(listed["tokens"][1]["prefix"], json!(agent.token[..8]));

        // Known in memory, and dead at once.
        for _ in 0..2 {
            assert_eq!(app.get(&path(&agent)).bearer(&token).send().await.status, 200);
        }
        let revoke = format!("{}/{}", path(&agent), item["id"].as_str().expect("an id"));
        let reply = app.delete(&revoke).bearer(&token).send().await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "revoked" })));
        let refused = app.get(&path(&agent)).bearer(&token).send().await;
        refused.assert_error(401, "invalid workspace auth token");
        assert_eq!(app.get(&path(&agent)).bearer(&agent.token).send().await.status, 200);
        assert_eq!(list(&app, &agent, "").await["count"], 1);
        let again = app.delete(&revoke).bearer(ADMIN).send().await;
        again.assert_error(404, "token not found or already revoked");
    }

    async fn the_token_of_another_workspace_is_not_found(engine: Engine) {
        let app = strict(engine).start().await;
        let one = Agent::start(&app, json!({ "name": "one" })).await;
        let two = Agent::start(&app, json!({ "name": "two" })).await;
        let listed = list(&app, &two, "").await;
        let id = listed["tokens"][0]["id"].as_str().expect("an id");
        for id in [id, UNKNOWN, "not-a-uuid"] {
            let reply = app.delete(&format!("{}/{id}", path(&one)));
            let reply = reply.bearer(&one.token).send().await;
            reply.assert_error(404, "token not found or already revoked");
        }
        assert_eq!(app.get(&path(&two)).bearer(&two.token).send().await.status, 200);
    }

    async fn fifty_live_tokens_are_the_most_also_for_those_who_come_at_once(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let replies = futures_util::future::join_all((0..60).map(|_| mint(&app, &agent))).await;
        let minted = replies.iter().filter(|reply| reply.status == 201).count();
        assert_eq!(minted, 49, "one was there before");
        for reply in replies.iter().filter(|reply| reply.status != 201) {
            reply.assert_error(429, "maximum 50 active tokens per workspace");
        }
        let listed = list(&app, &agent, "?limit=200").await;
        assert_eq!(listed["count"], 50);
        // One less, one more.
        let id = listed["tokens"][0]["id"].as_str().expect("an id");
        let revoke = format!("{}/{id}", path(&agent));
        assert_eq!(app.delete(&revoke).bearer(ADMIN).send().await.status, 200);
        assert_eq!(mint(&app, &agent).await.status, 201);
    }

    async fn pages_are_cut_as_asked_and_nonsense_is_the_default(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for _ in 0..3 {
            assert_eq!(mint(&app, &agent).await.status, 201);
        }
        let ids = |list: &Value| -> Vec<Value> {
            let tokens = list["tokens"].as_array().expect("tokens").iter();
            tokens.map(|token| token["id"].clone()).collect()
        };
        let all = ids(&list(&app, &agent, "").await);
        assert_eq!(all.len(), 4);
        assert_eq!(ids(&list(&app, &agent, "?limit=2").await), all[..2]);
        assert_eq!(ids(&list(&app, &agent, "?limit=2&offset=1").await), all[1..3]);
        assert_eq!(ids(&list(&app, &agent, "?offset=9").await), all[..0]);
        for query in ["?limit=0", "?limit=201", "?limit=-1", "?limit=x", "?limit=99999999999999999999",
            "?offset=-1", "?offset=x", "?limit=1.5", "?limit=", "?limit=%00"] {
            assert_eq!(ids(&list(&app, &agent, query).await), all, "{query}");
        }
    }

    async fn unknown_and_removed_workspaces_get_no_tokens(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        set_status(&app, engine, &agent.id, "removed").await;
        for id in [agent.id.as_str(), UNKNOWN] {
            let path = format!("/workspaces/{id}/tokens");
            let reply = app.request("POST", &path).bearer(ADMIN).send().await;
            reply.assert_error(404, "workspace not found");
            let gone = format!("{path}/{UNKNOWN}");
            let reply = app.delete(&gone).bearer(ADMIN).send().await;
            reply.assert_error(404, "token not found or already revoked");
        }
        let unknown = app.get(&format!("/workspaces/{UNKNOWN}/tokens"));
        unknown.bearer(ADMIN).send().await.assert_error(404, "workspace not found");
        for id in ["not-a-uuid", "6F0C", "%20"] {
            let path = format!("/workspaces/{id}/tokens");
            for request in [app.get(&path), app.request("POST", &path), app.delete(&format!("{path}/x"))] {
                request.bearer(ADMIN).send().await.assert_error(400, "invalid workspace ID");
            }
        }
    }

    async fn revoking_the_last_token_leaves_the_door_shut(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let listed = list(&app, &agent, "").await;
        let id = listed["tokens"][0]["id"].as_str().expect("an id");
        let revoke = format!("{}/{id}", path(&agent));
        assert_eq!(app.delete(&revoke).bearer(&agent.token).send().await.status, 200);
        let registration = || app.post("/registry/register", molecule_tests::support::registration(&agent.id));
        registration().send().await.assert_error(401, "missing workspace auth token");
        registration().bearer(&agent.token).send().await
            .assert_error(401, "invalid workspace auth token");
        // The administrator can hand out a new one.
        let reply = app.request("POST", &path(&agent)).bearer(ADMIN).send().await;
        let token = reply.json()["auth_token"].as_str().expect("a token").to_owned();
        assert_eq!(registration().bearer(&token).send().await.status, 200);
    }

    async fn a_use_is_written_at_most_once_a_minute(engine: Engine) {
        let clock = MovableClock::default();
        let app = strict(engine).clock(clock.clock()).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let last_use = async || list(&app, &agent, "").await["tokens"][0]["last_used_at"].clone();
        let beat = async || agent.beat(&app, json!({})).send().await.status;
        let changes_from = async |before: &Value| {
            molecule_tests::eventually("the use is written", async || last_use().await != *before).await;
            last_use().await
        };
        assert_eq!(beat().await, 200);
        let first = changes_from(&Value::Null).await;
        assert_time(&first);
        clock.advance_secs(50);
        assert_eq!(beat().await, 200);
        // What would be written is, when the server ends.
        clock.advance_secs(20);
        assert_eq!(beat().await, 200);
        let second = changes_from(&first).await;
        let at = |value: &Value| {
            let text = value.as_str().expect("a time");
            chrono::DateTime::parse_from_rfc3339(text).expect("a time")
        };
        let between = (at(&second) - at(&first)).num_seconds();
        assert!(between >= 69, "the use in between was written: {between}");
    }
}
