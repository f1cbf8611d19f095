//! Plants secrets everywhere, does everything that can be done, and looks for
//! them where they must not be: in the log, in every row, in every event, in
//! every response that is not documented to carry one.

use std::time::Duration;

use molecule_tests::database::{TestDatabase, postgres_is_wanted};
use molecule_tests::fake_backend::Fault;
use molecule_tests::{Engine, TestApp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::plants::{CANARY, Plants, Recorder};
use crate::process::{Deployment, ServerProcess};

/// A deployment that knows every plant that can be configured.
fn plant(deployment: &mut Deployment, plants: &mut Plants, database: &TestDatabase) {
    let user = |url: &str| {
        let (user, rest) = url.strip_prefix("postgres://")?.split_once('@')?;
        // One that needs a password of its own cannot carry ours.
        (!user.contains(':')).then(|| (user.to_owned(), rest.to_owned()))
    };
    let url = match user(database.url()) {
        // The test server trusts; a password is carried along all the same.
        Some((user, rest)) => format!(
            "postgres://{user}:{}@{rest}",
            plants.get("database password")
        ),
        // Where it is not part of the configuration it is nobody's secret.
        None => {
            plants.0.remove("database password");
            database.url().to_owned()
        }
    };
    let secret_file = deployment.dir.path().join("hook-secret");
    std::fs::write(&secret_file, plants.get("hook file secret")).expect("a file");
    deployment
        .set("log.filter", "trace")
        .set("hooks.timeout_secs", 1)
        .set("auth", json!({}))
        .set("secrets", json!({}))
        .set(
            "hooks.config.a-first",
            json!({
                "behaviour": "writes-secret", "password_file": secret_file,
            }),
        )
        .set(
            "hooks.config.m-middle",
            json!({
                "behaviour": "by-name", "password": plants.get("hook config secret"),
            }),
        )
        .set("hooks.config.z-last.behaviour", "ok")
        .set("hooks.config.token-source", json!({}))
        .env("ADMIN_TOKEN", plants.get("admin token"))
        .env("SECRETS_ENCRYPTION_KEY", plants.get("encryption key"))
        .env("FAULT_TOKEN", plants.get("hook env token"))
        .env("DATABASE_URL", &url);
}

fn secrets_of(plants: &Plants) -> Value {
    let pem = format!(
        "-----BEGIN PLANT-----\n{}\n{}\n-----END PLANT-----",
        plants.get("pem line one"),
        plants.get("pem line two")
    );
    json!({
        "HEARTBEAT_SECS": "0.2",
        "CREATE_SECRET": plants.get("create secret"),
        "QUOTED": plants.get("quoted secret"),
        "TABBED": plants.get("tabbed secret"),
        "SHAPED": plants.get("shape inside"),
        "PEM": pem,
        "ANTHROPIC_API_KEY": plants.get("a model key"),
        "GH": plants.get("github token"),
    })
}

async fn wait_for(server: &ServerProcess, admin: &str, id: &str, statuses: &[&str]) -> Value {
    let deadline = tokio::time::Instant::now() + molecule_tests::PATIENCE;
    loop {
        let list = server
            .request("GET", "/workspaces")
            .bearer(admin)
            .send()
            .await
            .json();
        let row = list
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["id"] == id).cloned());
        if let Some(row) = row
            .as_ref()
            .filter(|row| statuses.iter().any(|status| row["status"] == *status))
        {
            return row.clone();
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{statuses:?}: {row:?}\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A workspace that boots, and its agent's credentials.
async fn boot(
    deployment: &Deployment,
    server: &ServerProcess,
    plants: &mut Plants,
    calls: &mut Recorder,
) -> String {
    let admin = plants.get("admin token").to_owned();
    let body = json!({ "name": "ok", "secrets": secrets_of(plants) });
    let request = server
        .request("POST", "/workspaces")
        .bearer(&admin)
        .json(body);
    let reply = calls.expect(201, "create", request).await.json();
    let id = reply["id"].as_str().expect("an id").to_owned();
    wait_for(server, &admin, &id, &["online"]).await;
    for (what, file) in [
        ("workspace token", ".auth_token"),
        ("inbound secret", ".platform_inbound_secret"),
    ] {
        let path = deployment.folder(&id).join("configs").join(file);
        plants.add(
            what,
            std::fs::read_to_string(path).expect("a credential").trim(),
        );
    }
    id
}

/// An agent that gives away all it knows, and more.
async fn chatter(server: &ServerProcess, id: &str, plants: &Plants, calls: &mut Recorder) {
    let (token, text) = (plants.get("workspace token"), plants.text());
    let post = |path: &str, body: Value| server.request("POST", path).bearer(token).json(body);
    let beat = json!({
        "workspace_id": id, "error_rate": 0.9, "sample_error": text, "current_task": text,
    });
    calls
        .expect(200, "heartbeat", post("/registry/heartbeat", beat))
        .await;
    let wedged = json!({
        "workspace_id": id, "runtime_state": "wedged", "sample_error": text, "current_task": text,
    });
    calls
        .expect(200, "wedged heartbeat", post("/registry/heartbeat", wedged))
        .await;
    let card = json!({ "name": CANARY, "description": text, "nested": { "list": [text] } });
    let register = json!({ "id": id, "url": "http://localhost:1", "agent_card": card });
    calls
        .expect(200, "register", post("/registry/register", register))
        .await;
    let url = format!("http://user:{}@localhost:1", plants.get("url password"));
    let userinfo = json!({ "id": id, "url": url, "agent_card": {} });
    calls
        .expect(
            400,
            "register with a password in the URL",
            post("/registry/register", userinfo),
        )
        .await;
}

/// Requests that are wrong, with a plant wherever one can stand.
async fn blunders(server: &ServerProcess, id: &str, plants: &Plants, calls: &mut Recorder) {
    let admin = plants.get("admin token");
    for (what, value) in &plants.0 {
        let bodies = [
            json!({ "name": "x", "secrets": { "A": [value] } }),
            json!({ "name": "x", "tier": value }),
            json!({ "name": "x", "parent_id": value }),
            json!({ "name": "x", "template": format!("../{value}") }),
            json!({ "name": "x", "secrets": { "A-B": value } }),
            json!({ "name": "x", "secrets": { "ADMIN_TOKEN": value } }),
            json!({ "name": "x", "external": true, "url": format!("http://u:{value}@example.org") }),
            json!({ "workspace_id": value }),
            json!([value]),
            json!(value),
        ];
        for path in [
            "/workspaces",
            "/admin/env-plan",
            "/registry/register",
            "/registry/heartbeat",
        ] {
            for body in &bodies {
                let request = server
                    .request("POST", path)
                    .bearer(admin)
                    .json(body.clone());
                let reply = calls
                    .send(&format!("{path} with {what}: {body}"), request)
                    .await;
                assert!(
                    (400..500).contains(&reply.status),
                    "{path} {body}: {} {}",
                    reply.status,
                    reply.text
                );
            }
            let broken = format!("{{\"name\": \"{value}");
            let request = server.request("POST", path).bearer(admin).body(broken);
            calls
                .expect(400, &format!("{path} with broken JSON"), request)
                .await;
        }
        // As a credential where it is none, in paths, in queries
        if !matches!(*what, "admin token" | "workspace token")
            && value.is_ascii()
            && !value.contains('\t')
        {
            for path in [
                "/workspaces",
                &format!("/workspaces/{id}/github-installation-token"),
            ] {
                calls
                    .expect(
                        401,
                        "a wrong bearer",
                        server.request("GET", path).bearer(value),
                    )
                    .await;
            }
        }
        let word: String = value.bytes().map(|b| format!("%{b:02X}")).collect();
        for path in [
            format!("/{word}"),
            format!("/workspaces/{word}"),
            format!("/workspaces?token={word}"),
        ] {
            calls
                .send(
                    "a plant in the path",
                    server.request("GET", &path).bearer(admin),
                )
                .await;
        }
    }
}

/// Every route that is there to read.
async fn look_around(server: &ServerProcess, id: &str, plants: &Plants, calls: &mut Recorder) {
    let admin = plants.get("admin token");
    let one = format!("/workspaces/{id}");
    for path in [
        "/health",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/admin/liveness",
        "/workspaces",
        &one,
        &format!("/admin{one}/env-plan"),
    ] {
        calls
            .expect(200, path, server.request("GET", path).bearer(admin))
            .await;
    }
    // Documented to carry the token, and nothing else of ours
    for path in [
        "/admin/github-installation-token",
        &format!("{one}/github-installation-token"),
    ] {
        let reply = server.request("GET", path).bearer(admin).send().await;
        assert_eq!(
            reply.json()["token"],
            plants.get("hook env token"),
            "{}",
            reply.text
        );
    }
}

/// Boots that fail in every way.
async fn failures(server: &ServerProcess, plants: &Plants, calls: &mut Recorder) {
    let admin = plants.get("admin token");
    let faults = [
        "error",
        "panic",
        "hang",
        "reserved-name",
        "invalid-name",
        "huge-value",
    ];
    let read_only = json!({
        "name": "mount", "workspace_dir": "/srv", "workspace_access": "read_only", "secrets": secrets_of(plants),
    });
    let bodies = faults.map(|name| json!({ "name": name, "secrets": secrets_of(plants) }));
    for body in bodies.into_iter().chain([read_only]) {
        let request = server
            .request("POST", "/admin/env-plan")
            .bearer(admin)
            .json(body.clone());
        calls.expect(200, "an env plan", request).await;
        let request = server
            .request("POST", "/workspaces")
            .bearer(admin)
            .json(body.clone());
        let reply = calls.expect(201, "create", request).await.json();
        let id = reply["id"].as_str().expect("an id");
        wait_for(server, admin, id, &["failed"]).await;
        calls
            .expect(
                200,
                "a failed one",
                server.request("GET", &format!("/workspaces/{id}")),
            )
            .await;
    }
}

async fn nothing_leaks(engine: Engine, format: &str) {
    let mut plants = Plants::new();
    let database = TestDatabase::create(engine).await;
    let mut deployment = Deployment::new();
    plant(&mut deployment, &mut plants, &database);
    deployment.set("log.format", format);
    let mut calls = Recorder {
        replies: Vec::new(),
    };

    // Given a server that is used well, badly, and by agents that talk too much
    let server = deployment.start().await;
    let id = boot(&deployment, &server, &mut plants, &mut calls).await;
    chatter(&server, &id, &plants, &mut calls).await;
    failures(&server, &plants, &mut calls).await;
    blunders(&server, &id, &plants, &mut calls).await;
    look_around(&server, &id, &plants, &mut calls).await;
    let admin = plants.get("admin token").to_owned();
    let external = json!({ "name": "remote", "external": true });
    let reply = server
        .request("POST", "/workspaces")
        .bearer(&admin)
        .json(external)
        .send()
        .await;
    plants.add(
        "external token",
        reply.json()["connection"]["auth_token"]
            .as_str()
            .expect("a token"),
    );
    let remote = reply.json()["id"].as_str().expect("an id").to_owned();
    let beat = json!({ "workspace_id": remote, "sample_error": plants.text() });
    let beat = server
        .request("POST", "/registry/heartbeat")
        .bearer(plants.get("external token"))
        .json(beat);
    calls.expect(200, "external heartbeat", beat).await;
    let mut log = server.stop().await;

    // And by a second one that runs no agents and hands out enrolment secrets
    deployment.set("backend", json!({ "kind": "none" }));
    let server = deployment.start().await;
    // Of tokens it has only hashes until their owners show up.
    for (id, token) in [(&id, "workspace token"), (&remote, "external token")] {
        let request = server
            .request("POST", "/registry/heartbeat")
            .bearer(plants.get(token));
        calls
            .expect(
                200,
                "heartbeat",
                request.json(json!({ "workspace_id": id })),
            )
            .await;
    }
    let body = json!({ "name": "enrolled", "secrets": secrets_of(&plants) });
    let reply = server
        .request("POST", "/workspaces")
        .bearer(&admin)
        .json(body)
        .send()
        .await
        .json();
    plants.add(
        "enrolment secret",
        reply["enrolment_secret"].as_str().expect("a secret"),
    );
    let enrolled = reply["id"].as_str().expect("an id").to_owned();
    let card = json!({ "id": enrolled, "url": "http://localhost:1", "agent_card": { "text": plants.text() } });
    let register = server
        .request("POST", "/registry/register")
        .bearer(plants.get("enrolment secret"))
        .json(card);
    let reply = register.send().await.json();
    plants.add(
        "enrolled token",
        reply["auth_token"].as_str().expect("a token"),
    );
    look_around(&server, &enrolled, &plants, &mut calls).await;
    log += &server.stop().await;
    let rows = database.dump().await;

    // And that deletes what there is
    let server = deployment.start().await;
    for id in [&id, &remote, &enrolled] {
        let request = server
            .request("DELETE", &format!("/workspaces/{id}"))
            .bearer(&admin);
        calls.expect(200, "delete", request).await;
    }
    log += &server.stop().await;
    let rows = rows + &database.dump().await;

    // Then what is no secret is there
    assert!(log.contains("provisionhook"), "{log}");
    assert!(
        rows.contains(CANARY)
            && calls
                .replies
                .iter()
                .any(|(_, reply)| reply.text.contains(CANARY))
    );
    // And nothing that is one
    let mut leaks = plants.found_in("the log", &log);
    leaks.extend(plants.found_in("the database", &rows));
    leaks.extend(calls.leaks(&plants));
    if engine == Engine::Sqlite {
        let path = database.url().trim_start_matches("sqlite://").to_owned();
        for file in [path.clone(), format!("{path}-wal")] {
            let bytes = std::fs::read(&file).unwrap_or_default();
            leaks.extend(plants.found_in("the database file", &String::from_utf8_lossy(&bytes)));
        }
    }
    let shown: Vec<String> = leaks
        .iter()
        .map(|leak| leak.chars().take(600).collect())
        .collect();
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        shown.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_planted_secret_is_found_anywhere_on_sqlite_with_json_logs() {
    nothing_leaks(Engine::Sqlite, "json").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_planted_secret_is_found_anywhere_on_postgres_with_human_logs() {
    if postgres_is_wanted() {
        nothing_leaks(Engine::Postgres, "human").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backend_says_reaches_neither_rows_nor_events_nor_clients() {
    const PLANT: &str = "plant-in-the-words-of-a-backend";
    let app = TestApp::builder(Engine::Sqlite)
        .admin_token(molecule_tests::ADMIN)
        .start()
        .await;
    let mut events = app.events();
    for fault in [
        Fault::StartFails(PLANT.to_owned()),
        Fault::StartPanics(PLANT.to_owned()),
    ] {
        app.backend.set_fault(fault);
        let id = app.create(json!({ "name": Uuid::new_v4() })).await;
        app.wait_for_status(&id, "failed").await;
        assert!(
            !app.get(&format!("/workspaces/{id}"))
                .send()
                .await
                .text
                .contains(PLANT)
        );
    }
    app.backend.set_fault(Fault::StopFails);
    let id = app.create(json!({ "name": "b" })).await;
    molecule_tests::eventually("it starts", async || app.backend.agent_token(&id).is_some()).await;
    let reply = app
        .delete(&format!("/workspaces/{id}"))
        .bearer(molecule_tests::ADMIN)
        .send()
        .await;
    assert_eq!(reply.status, 500, "{}", reply.text);
    assert!(
        !reply.text.contains("secret-backend-detail"),
        "{}",
        reply.text
    );
    let rows = app.database.dump().await;
    assert!(!rows.contains(PLANT) && !rows.contains("secret-backend-detail"));
    while let Ok(event) = events.try_recv() {
        assert!(
            !event.payload.to_string().contains(PLANT),
            "{:?}",
            event.payload
        );
    }
    app.shutdown().await;
}
