//! Bodies: keys in any case, and caps that never cut silently.

use molecule_tests::{ADMIN, Engine, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, raw, strict};

on_both_engines! {
    async fn keys_match_in_any_case_down_to_what_is_free(engine: Engine) {
        let app = strict(engine).start().await;
        let body = r#"{
            "NAME": "shouted", "Role": "tester", "TIER": 2,
            "Canvas": {"X": 3, "y": 4},
            "SECRETS": {"Token": "a", "TOKEN": "b", "name": "c"}
        }"#;
        let reply = app.request("POST", "/workspaces").bearer(ADMIN).body(body).send().await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        let agent = Agent::started(&app, id).await;
        let env = app.backend.env(&agent.id);
        for (key, value) in [("Token", "a"), ("TOKEN", "b"), ("name", "c")] {
            assert_eq!(env.get(key).map(String::as_str), Some(value), "{key}");
        }
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!((&row["name"], &row["role"]), (&json!("shouted"), &json!("tester")));
        assert_eq!((row["tier"].clone(), row["x"].as_f64(), row["y"].as_f64()), (json!(2), Some(3.0), Some(4.0)));

        let registration = json!({
            "ID": agent.id, "Url": "http://localhost:8000",
            "Agent_Card": { "Name": "card", "SKILLS": [{ "Id": 1 }] },
        });
        let reply = app.post("/registry/register", registration).bearer(&agent.token).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!(row["agent_card"], json!({ "Name": "card", "SKILLS": [{ "Id": 1 }] }));

        let beat = json!({ "Workspace_ID": agent.id, "ACTIVE_TASKS": 7 });
        let reply = app.post("/registry/heartbeat", beat).bearer(&agent.token).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        molecule_tests::eventually("the beat is written", || async {
            app.listed(&agent.id).await.expect("a row")["active_tasks"] == 7
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exact_key_wins_and_nonsense_is_refused() {
    let app = strict(Engine::Sqlite).start().await;
    let name = async |body: &str| -> Value {
        let reply = app
            .request("POST", "/workspaces")
            .bearer(ADMIN)
            .body(body)
            .send()
            .await;
        match reply.status {
            201 => {
                let id = reply.json()["id"].as_str().expect("an id").to_owned();
                app.listed(&id).await.expect("a row")["name"].clone()
            }
            status => json!(status),
        }
    };
    for (body, expected) in [
        (r#"{"name":"a","NAME":"b","external":true}"#, json!("a")),
        (r#"{"NAME":"b","name":"a2","external":true}"#, json!("a2")),
        (r#"{"NAME":"b","Name":"c","EXTERNAL":true}"#, json!("c")),
        (r#"{"NAME":5,"name":"a3","external":true}"#, json!("a3")),
        (r#"{"name":"a","name":"b"}"#, json!(400)),
        (r#"{"NAME":5}"#, json!(400)),
        (r#"{"Name":["a"]}"#, json!(400)),
        (r#"{"NAME":"a","Tier":1.0}"#, json!(400)),
        (r#"{"NAME":"a","Canvas":[1,2]}"#, json!(400)),
        (r#"{"NAME":"a","Canvas":{"X":"one"}}"#, json!(400)),
        (r#"{"NAME":"a""#, json!(400)),
    ] {
        assert_eq!(name(body).await, expected, "{body}");
    }
    let depth = format!(r#"{{"NAME":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert_eq!(name(&depth).await, json!(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_cap_is_a_413_however_it_comes() {
    let app = strict(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let before = app.database.dump().await;
    let cap = 1024 * 1024;
    for (path, cap, token) in [
        ("/workspaces", cap, ADMIN),
        ("/registry/register", cap / 4, &agent.token),
        ("/registry/heartbeat", cap / 4, &agent.token),
    ] {
        // A whole JSON document in front, so that a cut would go unnoticed.
        let start = json!({ "id": agent.id, "workspace_id": agent.id, "name": "cut" }).to_string();
        let body = format!("{start}{}", " ".repeat(cap + 1 - start.len()));
        let reply = app
            .request("POST", path)
            .bearer(token)
            .body(body.clone())
            .send()
            .await;
        reply.assert_error(413, "request body too large");
        // The same without a length
        let chunked = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let answer = raw(&app, chunked.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
        assert!(
            answer.contains("request body too large"),
            "{path}: {answer}"
        );
    }
    assert_eq!(app.database.dump().await, before);
}
