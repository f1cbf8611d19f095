//! `GET /ws`: who gets in, what it looks like, how it ends.

use std::time::{Duration, Instant};

use molecule_tests::live::{Said, Socket};
use molecule_tests::support::{Agent, assert_time, fields, strict};
use molecule_tests::{ADMIN, Engine, TestApp, eventually, on_both_engines};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::protocol::Message;

const PAGE: &str = "http://localhost:3000";

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

async fn as_admin(app: &TestApp) -> Socket {
    let (name, value) = bearer(ADMIN);
    Socket::open(app, "/ws", &[(name, &value)])
        .await
        .expect("a socket")
}

async fn as_agent(app: &TestApp, agent: &Agent) -> Socket {
    let (name, value) = bearer(&agent.token);
    let headers = [(name, value.as_str()), ("x-workspace-id", &agent.id)];
    Socket::open(app, "/ws", &headers).await.expect("a socket")
}

on_both_engines! {
    async fn an_event_has_the_documented_shape_and_nothing_else(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let mut socket = as_admin(&app).await;
        assert_eq!(agent.register(&app).send().await.status, 200);
        let event = socket.wait_for("WORKSPACE_ONLINE", &agent.id).await;
        assert_eq!(
            fields(&event).into_iter().collect::<Vec<_>>(),
            ["event", "payload", "timestamp", "workspace_id"]
        );
        assert_time(&event["timestamp"]);
        assert_eq!(event["payload"]["agent_card"], json!({ "name": "agent" }));
        // Events that are not recorded, too.
        agent.beat(&app, json!({ "current_task": "shapes" })).send().await;
        let event = socket.wait_for("TASK_UPDATED", &agent.id).await;
        assert_eq!(event["payload"], json!({ "current_task": "shapes", "active_tasks": 0 }));
        app.shutdown().await;
    }

    async fn nothing_is_said_of_what_was_rolled_back(engine: Engine) {
        // Given a database that refuses to commit one kind of event
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let poison: &[&str] = match engine {
            Engine::Sqlite => &[
                "CREATE TABLE poison (missing BLOB REFERENCES workspaces (id) DEFERRABLE INITIALLY DEFERRED)",
                "CREATE TRIGGER poison AFTER INSERT ON structure_events WHEN NEW.event_type = 'WORKSPACE_ONLINE' \
                 BEGIN INSERT INTO poison VALUES (x'00'); END",
            ],
            Engine::Postgres => &[
                "CREATE TABLE poison (missing UUID REFERENCES workspaces (id) DEFERRABLE INITIALLY DEFERRED)",
                "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN INSERT INTO poison VALUES (gen_random_uuid()); RETURN NEW; END $$",
                "CREATE TRIGGER poison AFTER INSERT ON structure_events FOR EACH ROW \
                 WHEN (NEW.event_type = 'WORKSPACE_ONLINE') EXECUTE FUNCTION poison()",
            ],
        };
        for sql in poison {
            app.database.execute(sql).await;
        }
        let mut socket = as_admin(&app).await;
        let refused = agent.register(&app).send().await;
        assert!(refused.status >= 500, "{}", refused.text);

        // When it commits again, then only that is told
        let heal = match engine {
            Engine::Sqlite => "DROP TRIGGER poison",
            Engine::Postgres => "DROP TRIGGER poison ON structure_events",
        };
        app.database.execute(heal).await;
        assert_eq!(agent.register(&app).send().await.status, 200);
        let one = app.create(json!({ "name": "two" })).await;
        let mut online = 0;
        loop {
            let event = socket.event().await;
            online += usize::from(event["event"] == "WORKSPACE_ONLINE");
            if event["workspace_id"] == one.as_str() {
                break;
            }
        }
        assert_eq!(online, 1);
        app.shutdown().await;
    }

    async fn only_the_own_token_opens_a_workspaces_socket(engine: Engine) {
        let app = strict(engine).start().await;
        let mine = Agent::start(&app, json!({ "name": "mine" })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        let unknown = uuid::Uuid::new_v4().to_string();
        for (id, token, refusal) in [
            (mine.id.as_str(), Some(other.token.as_str()), "invalid workspace auth token"),
            (&mine.id, Some(ADMIN), "invalid workspace auth token"),
            (&mine.id, Some("garbage"), "invalid workspace auth token"),
            (&mine.id, None, "missing workspace auth token"),
            (&unknown, Some(&mine.token), "invalid workspace auth token"),
        ] {
            let authorization = token.map(bearer);
            let mut headers = vec![("x-workspace-id", id)];
            headers.extend(authorization.as_ref().map(|(name, value)| (*name, value.as_str())));
            let refused = Socket::open(&app, "/ws", &headers).await;
            let (status, body) = refused.err().expect("a refusal");
            assert_eq!((status, body), (401, json!({ "error": refusal }).to_string()));
        }
        as_agent(&app, &mine).await;
        app.shutdown().await;
    }

    async fn a_ticket_ends_with_the_token_that_asked_for_it(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let minted = app.post("/org/tokens", json!({ "name": "ops" })).bearer(ADMIN).send().await.json();
        let org = minted["auth_token"].as_str().expect("a token");
        let own = format!("/workspaces/{}/tokens", agent.id);
        let second = app.post(&own, json!({})).bearer(ADMIN).send().await.json();
        let other = second["auth_token"].as_str().expect("a token");
        let ticket = async |bearer: &str, body| {
            let reply = app.post("/ws/ticket", body).bearer(bearer).send().await;
            format!("/ws?ticket={}", reply.json()["ticket"].as_str().expect("a ticket"))
        };
        let open = async |path: String| Socket::open(&app, &path, &[("origin", PAGE)]).await;
        let scoped = json!({ "workspace_id": agent.id });
        // Given sockets by tickets of three tokens, and tickets that nobody used yet
        let mut canvas = open(ticket(org, json!({})).await).await.expect("a socket");
        let mut view = open(ticket(other, scoped.clone()).await).await.expect("a socket");
        let mut stays = open(ticket(ADMIN, json!({})).await).await.expect("a socket");
        let mut agents = open(ticket(&agent.token, scoped.clone()).await).await.expect("a socket");
        let unused = [ticket(org, json!({})).await, ticket(other, scoped).await];

        // When two of the tokens are revoked
        let revoked = format!("/org/tokens/{}", minted["id"].as_str().expect("an id"));
        assert_eq!(app.delete(&revoked).bearer(ADMIN).send().await.status, 200);
        let listed = app.get(&own).bearer(ADMIN).send().await.json();
        let tokens = listed["tokens"].as_array().cloned().unwrap_or_default();
        let mine = tokens.iter().find(|token| other.starts_with(token["prefix"].as_str().unwrap_or("-")));
        let revoked = format!("{own}/{}", mine.expect("listed")["id"].as_str().expect("an id"));
        assert_eq!(app.delete(&revoked).bearer(ADMIN).send().await.status, 200);

        // Then what they opened ends, what they asked for opens nothing, and others stay
        let ended = Said::Closed(1008, "credentials are no longer valid".to_owned());
        assert_eq!(canvas.end().await, ended);
        assert_eq!(view.end().await, ended);
        for path in unused {
            let refused = open(path).await.err();
            let body = json!({ "error": "invalid or expired ticket" }).to_string();
            assert_eq!(refused, Some((401, body)));
        }
        agent.beat(&app, json!({ "current_task": "still here" })).send().await;
        stays.wait_for("TASK_UPDATED", &agent.id).await;
        agents.wait_for("TASK_UPDATED", &agent.id).await;
        app.shutdown().await;
    }

    async fn a_removed_workspace_closes_its_socket_and_no_other(engine: Engine) {
        let app = strict(engine).start().await;
        let leaver = Agent::online(&app, json!({ "name": "leaver" })).await;
        let stayer = Agent::online(&app, json!({ "name": "stayer" })).await;
        let mut leaving = as_agent(&app, &leaver).await;
        let mut staying = as_agent(&app, &stayer).await;
        let mut canvas = as_admin(&app).await;
        let started = Instant::now();
        let reply = app.delete(&format!("/workspaces/{}?confirm=true", leaver.id));
        assert_eq!(reply.bearer(ADMIN).send().await.status, 200);
        // The removal is the last it hears.
        leaving.wait_for("WORKSPACE_REMOVED", &leaver.id).await;
        assert_eq!(
            leaving.next().await,
            Said::Closed(1008, "workspace removed".to_owned())
        );
        assert!(started.elapsed() < Duration::from_secs(10));
        // A sibling hears of it, too, and goes on.
        staying.wait_for("WORKSPACE_REMOVED", &leaver.id).await;
        canvas.wait_for("WORKSPACE_REMOVED", &leaver.id).await;
        stayer.beat(&app, json!({ "current_task": "still here" })).send().await;
        staying.wait_for("TASK_UPDATED", &stayer.id).await;
        canvas.wait_for("TASK_UPDATED", &stayer.id).await;
        app.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_need_to_be_listed_and_other_clients_need_a_token() {
    let app = strict(Engine::Sqlite).start().await;
    let (name, admin) = bearer(ADMIN);
    let host = app.url.clone();
    let own = app.url.replace("http://", "https://");
    for (origins, allowed) in [
        (vec![PAGE], true),
        (vec!["HTTP://LOCALHOST:3001"], true),
        (vec![], true),
        (vec![host.as_str()], true),
        (vec![own.as_str()], true),
        (vec!["http://localhost:3002"], false),
        (vec!["https://evil.example"], false),
        (vec!["http://localhost:3000.evil.example"], false),
        (vec!["null"], false),
        (vec![""], false),
        (vec![PAGE, "https://evil.example"], false),
    ] {
        let mut headers = vec![(name, admin.as_str())];
        headers.extend(origins.iter().map(|origin| ("origin", *origin)));
        match Socket::open(&app, "/ws", &headers).await {
            Ok(_) => assert!(allowed, "{origins:?}"),
            Err(refusal) => {
                assert!(!allowed, "{origins:?}");
                assert_eq!(refusal, (403, "Forbidden".to_owned()));
            }
        }
    }
    // Neither a page nor a missing one replaces credentials.
    for headers in [
        vec![],
        vec![("origin", PAGE)],
        vec![("referer", host.as_str())],
    ] {
        let (status, body) = Socket::open(&app, "/ws", &headers)
            .await
            .err()
            .expect("a refusal");
        assert_eq!(
            (status, body),
            (401, json!({ "error": "admin auth required" }).to_string())
        );
    }
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_development_server_still_refuses_strange_pages() {
    let app = TestApp::builder(Engine::Sqlite).start().await;
    Socket::open(&app, "/ws", &[]).await.expect("a local tool");
    Socket::open(&app, "/ws", &[("origin", PAGE)])
        .await
        .expect("the canvas");
    let own = app.url.clone();
    Socket::open(&app, "/ws", &[("origin", &own)])
        .await
        .expect("its own page");
    for origin in ["https://evil.example", "null"] {
        let refused = Socket::open(&app, "/ws", &[("origin", origin)]).await;
        assert_eq!(
            refused.err(),
            Some((403, "Forbidden".to_owned())),
            "{origin}"
        );
    }
    let port = app.url.rsplit(':').next().expect("a port");
    // A name of the stranger's own that leads here.
    let rebound = format!("evil.example:{port}");
    let origin = format!("http://{rebound}");
    let reply = app
        .get("/ws")
        .header("host", &rebound)
        .header("origin", &origin)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await;
    assert_eq!((reply.status, reply.text.as_str()), (403, "Forbidden"));
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_websocket_request_is_refused_in_a_word() {
    let app = strict(Engine::Sqlite).start().await;
    let reply = app.get("/ws").bearer(ADMIN).send().await;
    assert_eq!((reply.status, reply.text.as_str()), (400, "Bad Request"));
    let wrong = [
        ("upgrade", "websocket", "12", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("upgrade", "h2c", "13", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("close", "websocket", "13", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (connection, upgrade, version, key) in wrong {
        let reply = app
            .get("/ws")
            .bearer(ADMIN)
            .header("connection", connection)
            .header("upgrade", upgrade)
            .header("sec-websocket-version", version)
            .header("sec-websocket-key", key)
            .send()
            .await;
        assert_eq!((reply.status, reply.text.as_str()), (400, "Bad Request"));
    }
    for id in ["", "1", "not-a-uuid"] {
        let reply = app.get("/ws").header("x-workspace-id", id).send().await;
        reply.assert_error(400, "invalid workspace ID");
    }
    let reply = app.get("/ws?ticket=never-minted").send().await;
    assert_eq!((reply.status, reply.text.as_str()), (400, "Bad Request"));
    let refused = Socket::open(&app, "/ws?ticket=never-minted", &[]).await;
    let refusal = json!({ "error": "invalid or expired ticket" }).to_string();
    assert_eq!(refused.err(), Some((401, refusal)));
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_is_ignored_within_reason() {
    let app = strict(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let mut socket = as_admin(&app).await;
    let mut witness = as_admin(&app).await;
    socket
        .send(Message::Text("{\"event\":\"WORKSPACE_REMOVED\"}".into()))
        .await;
    socket.send(Message::Binary(vec![0; 4096].into())).await;
    socket.send(Message::Ping(vec![1, 2, 3].into())).await;
    assert_eq!(
        socket.frame().await,
        Some(Message::Pong(vec![1, 2, 3].into()))
    );
    agent
        .beat(&app, json!({ "current_task": "heard" }))
        .send()
        .await;
    socket.wait_for("TASK_UPDATED", &agent.id).await;
    // Too much of it ends the connection, with a reason if it arrives.
    socket.send(Message::Binary(vec![0; 4097].into())).await;
    let end = socket.end().await;
    assert!(
        end == Said::Cut || end == Said::Closed(1009, "message too big".to_owned()),
        "{end:?}"
    );
    agent
        .beat(&app, json!({ "current_task": "still" }))
        .send()
        .await;
    witness.wait_for("TASK_UPDATED", &agent.id).await;
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_cut_off_and_costs_the_others_nothing() {
    // Given one client with little room that reads nothing, and one that reads
    let app = strict(Engine::Sqlite)
        .config(|config| config.server.rate_limit = 1_000_000)
        .start()
        .await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let small = TcpSocket::new_v4().expect("a socket");
    small.set_recv_buffer_size(4096).expect("a small buffer");
    let (name, admin) = bearer(ADMIN);
    let mut stalled = Socket::open_with(&app.url, "/ws", &[(name, &admin)], small)
        .await
        .expect("a socket");
    let mut reader = as_admin(&app).await;

    // When more is said than fits anywhere
    let mut slowest = Duration::ZERO;
    for number in 0..1_500 {
        let task = format!("{number} {}", "x".repeat(8_000));
        let started = Instant::now();
        agent
            .beat(&app, json!({ "current_task": task }))
            .send()
            .await;
        let event = reader.wait_for("TASK_UPDATED", &agent.id).await;
        assert!(
            event["payload"]["current_task"]
                .as_str()
                .expect("a task")
                .starts_with(&format!("{number} "))
        );
        slowest = slowest.max(started.elapsed());
    }

    // Then the one is cut off, and the other heard everything at once
    assert_ne!(
        std::mem::discriminant(&stalled.end().await),
        std::mem::discriminant(&Said::Event(json!(null)))
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let metrics = app.get("/metrics").send().await.text;
    assert!(
        metrics.contains("molecule_live_slow_clients_total"),
        "{metrics}"
    );
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_sockets_are_counted_and_a_shutdown_tells_them_quickly() {
    let app = strict(Engine::Sqlite).start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(as_admin(&app).await);
    }
    eventually("they are counted", || async {
        let metrics = app.get("/metrics").send().await.text;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("molecule_websocket_connections_active "));
        // Other tests of this process have sockets, too.
        line.and_then(|count| count.parse::<f64>().ok())
            .is_some_and(|count| count >= 20.0)
    })
    .await;
    let started = Instant::now();
    let ends = tokio::spawn(async move {
        let mut ends = Vec::new();
        for mut socket in sockets {
            ends.push(socket.end().await);
        }
        ends
    });
    app.shutdown().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    for end in ends.await.expect("no panic") {
        assert_eq!(
            end,
            Said::Closed(1001, "server is shutting down".to_owned())
        );
    }
}
