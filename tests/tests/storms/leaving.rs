//! Clients that leave in the middle of a change.

use std::time::Duration;

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::fake_backend::Fault;
use molecule_tests::support::{Agent, seen};
use molecule_tests::{ADMIN, Engine, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::tools::{is_leased, quiet, row_has, status};

/// Sends a request as the administrator.
async fn ask(app: &TestApp, method: &str, path: &str, body: &Value) -> TcpStream {
    let address = app.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("write");
    stream
}

/// The same, and leaves at once.
async fn ask_and_leave(app: &TestApp, method: &str, path: &str, body: &Value) {
    drop(ask(app, method, path, body).await);
}

on_both_engines! {
    async fn who_asks_and_leaves_is_served_to_the_end(engine: Engine) {
        let app = quiet(engine).start().await;
        for round in 0..3 {
            let agent = Agent::online(&app, json!({ "name": format!("agent {round}") })).await;
            let path = format!("/workspaces/{}", agent.id);
            let id = agent.id.as_str();
            let mut events = app.events();
            let nothing = json!({});

            let renamed = json!({ "name": format!("renamed {round}"), "role": "lead" });
            ask_and_leave(&app, "PATCH", &path, &renamed).await;
            let told = |kind: &'static str, events: &mut _| seen(events, id).iter().any(|(event, _)| *event == kind);
            let mut found = false;
            for _ in 0..500 {
                found = found || told("WORKSPACE_UPDATED", &mut events);
                if found { break; }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(found, "the change is told");
            let condition = format!("name = 'renamed {round}' AND role = 'lead'");
            assert!(row_has(&app.database, id, &condition).await);

            ask_and_leave(&app, "POST", &format!("{path}/secrets"), &json!({ "key": "KEY", "value": "one" })).await;
            eventually("it runs with the secret", async || {
                !is_leased(&app, id).await && app.backend.runs(id)
                    && app.backend.env(id).get("KEY").is_some_and(|value| value == "one")
            }).await;
            ask_and_leave(&app, "POST", &format!("{path}/restart"), &nothing).await;
            eventually("it is restarted", async || {
                app.backend.starts_of(id).len() == 3 && !is_leased(&app, id).await
            }).await;
            ask_and_leave(&app, "DELETE", &format!("{path}/secrets/KEY"), &nothing).await;
            eventually("it runs without the secret", async || {
                app.backend.starts_of(id).len() == 4 && !is_leased(&app, id).await
                    && !app.backend.env(id).contains_key("KEY")
            }).await;
            let again = Agent::started(&app, agent.id.clone()).await;
            assert_eq!(again.register(&app).send().await.status, 200);

            ask_and_leave(&app, "POST", &format!("{path}/hibernate?force=true"), &nothing).await;
            eventually("it sleeps", async || status(&app, id).await == "hibernated").await;
            assert!(!app.backend.runs(id) && app.backend.stores(id));
            ask_and_leave(&app, "POST", &format!("{path}/pause"), &nothing).await;
            eventually("it is paused", async || status(&app, id).await == "paused").await;
            ask_and_leave(&app, "POST", &format!("{path}/resume"), &nothing).await;
            eventually("it runs again", async || !is_leased(&app, id).await && app.backend.runs(id)).await;
            ask_and_leave(&app, "DELETE", &format!("{path}?confirm=true&purge=true"), &nothing).await;
            eventually("nothing is left", async || {
                app.backend.is_empty() && app.database.count("SELECT count(*) FROM workspaces").await == 0
            }).await;
        }
    }

    async fn who_leaves_while_a_pause_waits_for_a_boot_gets_it_whole(engine: Engine) {
        // Given a boot under way, which a pause has to end first
        let app = quiet(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(json!({ "name": "one" })).await;
        eventually("the start hangs", async || app.backend.starts().len() == 1).await;
        let stream = ask(&app, "POST", &format!("/workspaces/{id}/pause"), &json!({})).await;
        eventually("the row is paused", async || status(&app, &id).await == "paused").await;
        drop(stream);
        eventually("the boot was ended and what ran was stopped", async || {
            app.backend.cancelled() == 1 && !app.backend.stops().is_empty()
        }).await;
        assert!(!is_leased(&app, &id).await && !app.backend.runs(&id));
        app.shutdown().await;
    }
}

/// Lets every commit that touches these tables take a while.
async fn slow_commits(app: &TestApp, tables: &[&str]) {
    let function = "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$";
    app.database.execute(function).await;
    for table in tables {
        let trigger = format!(
            "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT OR UPDATE ON {table}
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle()"
        );
        app.database.execute(&trigger).await;
    }
}

/// Sends a request and leaves while its change is being committed.
async fn leave_in_mid_commit(app: &TestApp, method: &str, path: &str, body: &Value) {
    let stream = ask(app, method, path, body).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually("the commit is under way", async || {
        app.database.count(waiting).await > 0
    })
    .await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_commit_follows_it_also_when_the_client_left() {
    if !postgres_is_wanted() {
        return;
    }
    let app = quiet(Engine::Postgres).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
    let path = format!("/workspaces/{}", agent.id);
    let list = app
        .get(&format!("{path}/tokens"))
        .bearer(ADMIN)
        .send()
        .await;
    let token = list.json()["tokens"][0]["id"].as_str().map(str::to_owned);
    let token = token.unwrap_or_else(|| panic!("{}", list.text));
    slow_commits(&app, &["workspaces", "workspace_auth_tokens"]).await;

    // A change is told
    let mut events = app.events();
    leave_in_mid_commit(&app, "PATCH", &path, &json!({ "name": "two" })).await;
    let mut told = Vec::new();
    for _ in 0..150 {
        told.extend(seen(&mut events, &agent.id));
        if !told.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let expected = ("WORKSPACE_UPDATED", json!({ "changed": ["name"] }));
    assert_eq!(told, [expected]);

    // A token that was revoked does not work any more
    leave_in_mid_commit(
        &app,
        "DELETE",
        &format!("{path}/tokens/{token}"),
        &json!({}),
    )
    .await;
    eventually("the token is dead", async || {
        agent.beat(&app, json!({})).send().await.status == 401
    })
    .await;

    // A workspace that was created is started, long before anybody would take it
    // over
    let before = std::time::Instant::now();
    leave_in_mid_commit(&app, "POST", "/workspaces", &json!({ "name": "new" })).await;
    eventually("it is started", async || app.backend.starts().len() == 2).await;
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
    app.shutdown().await;
}
