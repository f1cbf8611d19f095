//! The truth table of the contract (§2.10) with what its §8 changes: every
//! credential against every kind of gate, over a socket.
//!
//! What differs from the printed table, and why:
//!
//! | cell | printed | here | reason |
//! |---|---|---|---|
//! | org token, CanvasOrBearer | no | yes | §8.7: one acceptance everywhere |
//! | org token, discovery | no | yes | §8.7 |
//! | ADMIN_TOKEN, discovery | no | yes | §8.7 |
//! | session, WorkspaceAuth and CanvasOrBearer | no | yes | §8.4: sessions instead of headers |
//! | same-origin headers, everywhere | yes | no | §8.4: anybody can write a header |
//! | signed canvas cookie (new row) | | yes | §8.4: what the headers are replaced by |
//! | CORS-listed Origin, CanvasOrBearer | yes | no | §8.4 and §8.6: as above; in development it counts |
//! | good bearer with a stale session, discovery | no | yes | §8.7: a good bearer beats a stale cookie |
//! | A-open with ADMIN_TOKEN or outside the legacy mode | yes | no | §8.2 and §8.3 |

use molecule_tests::support::{Agent, registration, strict};
use molecule_tests::{ADMIN, Request, TestApp, on_both_engines};
use serde_json::json;

use crate::control_plane::{ControlPlane, GOOD};

/// The text of a 401, or nothing for a caller who is let in.
type Answer = Option<&'static str>;

const OK: Answer = None;
const NO_ADMIN: Answer = Some("admin auth required");
const BAD_ADMIN: Answer = Some("invalid admin auth token");
const NO_TOKEN: Answer = Some("missing workspace auth token");
const BAD_TOKEN: Answer = Some("invalid workspace auth token");
const NO_SESSION: Answer = Some("invalid session");

/// The headers that a caller sends, with placeholders.
type Headers = &'static [(&'static str, &'static str)];

/// A name, the headers, then the answers of WorkspaceAuth, AdminAuth,
/// CanvasOrBearer, the registry's gate and the discovery gate.
type Row = (&'static str, Headers, [Answer; 5]);

const OWN: (&str, &str) = ("authorization", "Bearer {own}");
const GARBAGE: (&str, &str) = ("authorization", "Bearer garbage");
const SESSION: (&str, &str) = ("cookie", "{session}");
const STALE: (&str, &str) = ("cookie", "session=stale");
const SIGNED: (&str, &str) = ("cookie", "{canvas}");
const OWN_ORIGIN: (&str, &str) = ("origin", "{url}");
const OWN_REFERER: (&str, &str) = ("referer", "{url}/workspaces");
const REFUSED: [Answer; 5] = [NO_TOKEN, NO_ADMIN, NO_ADMIN, NO_TOKEN, NO_TOKEN];
const REFUSED_BEARER: [Answer; 5] = [BAD_TOKEN, BAD_ADMIN, BAD_ADMIN, BAD_TOKEN, BAD_TOKEN];

/// An administrator token is set (A-set); tokens exist.
const ADMIN_SET: &[Row] = &[
    ("nothing", &[], REFUSED),
    ("token of W", &[OWN], [OK, BAD_ADMIN, OK, OK, OK]),
    (
        "token of another",
        &[("authorization", "Bearer {other}")],
        [BAD_TOKEN, BAD_ADMIN, OK, BAD_TOKEN, BAD_TOKEN],
    ),
    (
        "org token",
        &[("authorization", "Bearer {org}")],
        [OK, OK, OK, BAD_TOKEN, OK],
    ),
    (
        "ADMIN_TOKEN",
        &[("authorization", "bearer {admin}")],
        [OK, OK, OK, BAD_TOKEN, OK],
    ),
    ("session", &[SESSION], [OK, OK, OK, NO_TOKEN, OK]),
    (
        "stale session",
        &[STALE],
        [NO_TOKEN, NO_ADMIN, NO_ADMIN, NO_TOKEN, NO_SESSION],
    ),
    ("garbage bearer", &[GARBAGE], REFUSED_BEARER),
    (
        "garbage bearer and a session",
        &[GARBAGE, SESSION],
        [OK, OK, OK, BAD_TOKEN, OK],
    ),
    (
        "token of W and a stale session",
        &[OWN, STALE],
        [OK, BAD_ADMIN, OK, OK, OK],
    ),
    ("same-origin headers", &[OWN_ORIGIN, OWN_REFERER], REFUSED),
    ("own Referer alone", &[OWN_REFERER], REFUSED),
    (
        "signed canvas cookie",
        &[SIGNED, OWN_ORIGIN],
        [OK, NO_ADMIN, OK, NO_TOKEN, NO_TOKEN],
    ),
    (
        "signed canvas cookie, by Referer",
        &[SIGNED, OWN_REFERER],
        [OK, NO_ADMIN, OK, NO_TOKEN, NO_TOKEN],
    ),
    ("signed canvas cookie of no page", &[SIGNED], REFUSED),
    (
        "signed canvas cookie of another site's page",
        &[SIGNED, ("referer", "http://evil.test/")],
        REFUSED,
    ),
    (
        "signed canvas cookie and a garbage bearer",
        &[SIGNED, OWN_ORIGIN, GARBAGE],
        REFUSED_BEARER,
    ),
    (
        "forged canvas cookie",
        &[
            (
                "cookie",
                "molecule_canvas=99999999999.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ),
            OWN_ORIGIN,
        ],
        REFUSED,
    ),
    (
        "CORS-listed Origin",
        &[("origin", "http://localhost:3000")],
        REFUSED,
    ),
    (
        "forged X-Workspace-ID",
        &[("x-workspace-id", "{own_id}")],
        REFUSED,
    ),
    (
        "forged X-Forwarded-For",
        &[("x-forwarded-for", "127.0.0.1"), ("x-real-ip", "127.0.0.1")],
        REFUSED,
    ),
];

/// No administrator token, the legacy switch, tokens exist (A-legacy).
const LEGACY: &[Row] = &[
    ("nothing", &[], REFUSED),
    ("token of W", &[OWN], [OK, OK, OK, OK, OK]),
    (
        "token of another",
        &[("authorization", "Bearer {other}")],
        [BAD_TOKEN, OK, OK, BAD_TOKEN, BAD_TOKEN],
    ),
    (
        "org token",
        &[("authorization", "Bearer {org}")],
        [OK, OK, OK, BAD_TOKEN, OK],
    ),
    (
        "what would be ADMIN_TOKEN elsewhere",
        &[("authorization", "Bearer {admin}")],
        REFUSED_BEARER,
    ),
    ("session", &[SESSION], [OK, OK, OK, NO_TOKEN, OK]),
    ("garbage bearer", &[GARBAGE], REFUSED_BEARER),
    ("same-origin headers", &[OWN_ORIGIN, OWN_REFERER], REFUSED),
    (
        "CORS-listed Origin",
        &[("origin", "http://localhost:3000")],
        REFUSED,
    ),
];

/// Development without an administrator token; tokens exist.
const DEVELOPMENT: &[Row] = &[
    ("nothing", &[], [OK, OK, NO_ADMIN, NO_TOKEN, OK]),
    ("token of W", &[OWN], [OK, OK, OK, OK, OK]),
    (
        "token of another",
        &[("authorization", "Bearer {other}")],
        [BAD_TOKEN, OK, OK, BAD_TOKEN, OK],
    ),
    (
        "org token",
        &[("authorization", "Bearer {org}")],
        [OK, OK, OK, BAD_TOKEN, OK],
    ),
    ("session", &[SESSION], [OK, OK, OK, NO_TOKEN, OK]),
    ("stale session", &[STALE], [OK, OK, NO_ADMIN, NO_TOKEN, OK]),
    (
        "garbage bearer",
        &[GARBAGE],
        [BAD_TOKEN, OK, BAD_ADMIN, BAD_TOKEN, OK],
    ),
    (
        "CORS-listed Origin",
        &[("origin", "http://localhost:3001")],
        [OK, OK, OK, NO_TOKEN, OK],
    ),
    (
        "same-origin headers",
        &[OWN_ORIGIN],
        [OK, OK, NO_ADMIN, NO_TOKEN, OK],
    ),
];

/// What the placeholders of one server stand for.
struct Values(Vec<(&'static str, String)>);

impl Values {
    fn fill(&self, text: &str) -> String {
        let (text, pairs) = (text.to_owned(), &self.0);
        pairs
            .iter()
            .fold(text, |text, (name, value)| text.replace(name, value))
    }
}

/// One request per gate; each is right in every respect but the caller.
fn gates(app: &TestApp, id: &str) -> Vec<(usize, &'static str, Request)> {
    let tokens = format!("/workspaces/{id}/tokens");
    let ticket = json!({ "workspace_id": id });
    vec![
        (0, "WorkspaceAuth", app.get(&tokens)),
        (1, "AdminAuth", app.get("/org/tokens")),
        (1, "AdminAuth", app.get("/workspaces")),
        (
            1,
            "AdminAuth, for a ticket",
            app.post("/ws/ticket", json!({})),
        ),
        (
            2,
            "CanvasOrBearer",
            app.request("PUT", "/canvas/viewport")
                .json(json!({ "x": 1 })),
        ),
        (
            3,
            "register",
            app.post("/registry/register", registration(id)),
        ),
        (
            3,
            "heartbeat",
            app.post("/registry/heartbeat", json!({ "workspace_id": id })),
        ),
        (4, "discovery", app.post("/ws/ticket", ticket)),
    ]
}

async fn check(app: &TestApp, mode: &str, table: &[Row]) {
    let create = async |name: &str| {
        let reply = app.post("/workspaces", json!({ "name": name }));
        let reply = reply.bearer(ADMIN).send().await;
        if reply.status == 401 {
            return None;
        }
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        Some(Agent::started(app, id).await)
    };
    let own = create("own").await.expect("a workspace");
    let other = match create("other").await {
        Some(other) => other,
        // In the legacy mode the first token closed the door.
        None => {
            let reply = app.post("/workspaces", json!({ "name": "other" }));
            let reply = reply.bearer(&own.token).send().await;
            let id = reply.json()["id"].as_str().expect("an id").to_owned();
            Agent::started(app, id).await
        }
    };
    let minters = [ADMIN, &own.token];
    let mut org = None;
    for minter in minters {
        let reply = app
            .post("/org/tokens", json!({}))
            .bearer(minter)
            .send()
            .await;
        if reply.status == 200 {
            org = reply.json()["auth_token"].as_str().map(str::to_owned);
            break;
        }
    }
    let opened = app
        .request("POST", "/canvas/session")
        .bearer(ADMIN)
        .send()
        .await;
    let canvas = opened.header("set-cookie").unwrap_or_default();
    let canvas = canvas.split(';').next().unwrap_or_default().to_owned();
    let values = Values(vec![
        ("{own}", own.token.clone()),
        ("{other}", other.token.clone()),
        ("{org}", org.expect("an org token")),
        ("{admin}", ADMIN.to_owned()),
        ("{session}", GOOD.to_owned()),
        ("{canvas}", canvas),
        ("{url}", app.url.clone()),
        ("{own_id}", own.id.clone()),
    ]);
    for (name, headers, expected) in table {
        for (column, gate, mut request) in gates(app, &own.id) {
            for (header, value) in *headers {
                request = request.header(header, &values.fill(value));
            }
            let reply = request.send().await;
            let cell = format!("{mode}, {name}, {gate}: {} {}", reply.status, reply.text);
            match expected[column] {
                Some(text) => {
                    assert_eq!((reply.status, reply.error()), (401, text.into()), "{cell}");
                }
                OK => assert_eq!(reply.status, 200, "{cell}"),
            }
        }
    }
}

on_both_engines! {
    async fn every_credential_meets_every_gate_as_the_truth_table_says(engine: Engine) {
        let control_plane = ControlPlane::start().await;
        let app = strict(engine)
            .config(|config| {
                control_plane.configure(config);
                config.server.canvas_proxy_url = Some("http://127.0.0.1:9".to_owned());
            })
            .start()
            .await;
        check(&app, "admin set", ADMIN_SET).await;

        // Development with an administrator token is as strict as anything.
        let app = TestApp::builder(engine)
            .admin_token(ADMIN)
            .config(|config| {
                control_plane.configure(config);
                config.server.canvas_proxy_url = Some("http://127.0.0.1:9".to_owned());
            })
            .start()
            .await;
        check(&app, "development, admin set", ADMIN_SET).await;

        let app = TestApp::builder(engine)
            .config(|config| control_plane.configure(config))
            .start()
            .await;
        check(&app, "development", DEVELOPMENT).await;

        let app = TestApp::builder(engine)
            .strict()
            .config(|config| {
                config.auth.legacy_workspace_admin = true;
                control_plane.configure(config);
            })
            .start()
            .await;
        check(&app, "legacy", LEGACY).await;
    }

    async fn a_server_that_never_had_a_token_is_open_in_the_legacy_mode_only(engine: Engine) {
        let put = |app: &TestApp| app.request("PUT", "/canvas/viewport").json(json!({}));
        let legacy = || {
            TestApp::builder(engine)
                .strict()
                .config(|config| config.auth.legacy_workspace_admin = true)
        };
        let app = legacy().start().await;
        for bearer in ["", "garbage"] {
            assert_eq!(app.get("/org/tokens").bearer(bearer).send().await.status, 200);
            assert_eq!(put(&app).bearer(bearer).send().await.status, 200);
        }
        // An org token ends it too, for good.
        let reply = app.post("/org/tokens", json!({ "name": "first" })).send().await;
        let minted = reply.json();
        assert_eq!(reply.status, 200, "{}", reply.text);
        let token = minted["auth_token"].as_str().expect("a token").to_owned();
        app.get("/org/tokens").send().await.assert_error(401, "admin auth required");
        put(&app).send().await.assert_error(401, "admin auth required");
        let path = format!("/org/tokens/{}", minted["id"].as_str().expect("an id"));
        assert_eq!(app.delete(&path).bearer(&token).send().await.status, 200);
        app.get("/org/tokens")
            .bearer(&token)
            .send()
            .await
            .assert_error(401, "invalid admin auth token");
        let (database, dir) = app.shutdown().await;
        let app = legacy().start_on(database, dir).await;
        app.get("/org/tokens").send().await.assert_error(401, "admin auth required");

        // With an administrator there is no open moment.
        let app = strict(engine).start().await;
        app.get("/org/tokens").send().await.assert_error(401, "admin auth required");
        put(&app).send().await.assert_error(401, "admin auth required");

        // In development the viewport is open until the first token lives.
        let app = TestApp::builder(engine).start().await;
        assert_eq!(put(&app).bearer("garbage").send().await.status, 200);
        Agent::start(&app, json!({ "name": "one" })).await;
        put(&app).send().await.assert_error(401, "admin auth required");
    }
}
