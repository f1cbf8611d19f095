//! Who may do what: the truth table of the contract (§2.10) and the bearer
//! parser.

use molecule_tests::{ADMIN, Request, TestApp, on_both_engines};
use serde_json::json;

use crate::support::{Agent, any_token, registration, strict};

#[derive(Debug, Clone, Copy)]
enum Credential {
    None,
    Own,
    Other,
    Admin,
    Garbage,
}
use Credential::{Admin, Garbage, None as Nobody, Other, Own};

/// The text of a 401, or nothing for a caller who is let in.
type Answer = Option<&'static str>;

const OK: Answer = None;
const NO_ADMIN: Answer = Some("admin auth required");
const BAD_ADMIN: Answer = Some("invalid admin auth token");
const NO_TOKEN: Answer = Some("missing workspace auth token");
const BAD_TOKEN: Answer = Some("invalid workspace auth token");

/// Credential, then the answers of WorkspaceAuth, AdminAuth and the registry.
type Row = (Credential, Answer, Answer, Answer);

/// An administrator token is set.
const ADMIN_SET: &[Row] = &[
    (Nobody, NO_TOKEN, NO_ADMIN, NO_TOKEN),
    (Own, OK, BAD_ADMIN, OK),
    (Other, BAD_TOKEN, BAD_ADMIN, BAD_TOKEN),
    (Admin, OK, OK, BAD_TOKEN),
    (Garbage, BAD_TOKEN, BAD_ADMIN, BAD_TOKEN),
];

/// No administrator token, the legacy switch, tokens exist.
const LEGACY: &[Row] = &[
    (Nobody, NO_TOKEN, NO_ADMIN, NO_TOKEN),
    (Own, OK, OK, OK),
    (Other, BAD_TOKEN, OK, BAD_TOKEN),
    (Garbage, BAD_TOKEN, BAD_ADMIN, BAD_TOKEN),
];

/// Development without an administrator token.
const DEVELOPMENT: &[Row] = &[
    (Nobody, OK, OK, NO_TOKEN),
    (Own, OK, OK, OK),
    (Other, BAD_TOKEN, OK, BAD_TOKEN),
    (Garbage, BAD_TOKEN, OK, BAD_TOKEN),
];

fn with(request: Request, credential: Credential, own: &Agent, other: &Agent) -> Request {
    match credential {
        Nobody => request,
        Own => request.bearer(&own.token),
        Other => request.bearer(&other.token),
        Admin => request.bearer(ADMIN),
        Garbage => request.bearer("garbage"),
    }
}

async fn check(app: &TestApp, mode: &str, table: &[Row], own: &Agent, other: &Agent) {
    for &(credential, workspace, admin, gate) in table {
        let cells = [
            ("WorkspaceAuth", workspace, app.get(&own.token_path())),
            ("AdminAuth", admin, app.get("/workspaces")),
            ("AdminAuth", admin, app.get("/admin/liveness")),
            (
                "register",
                gate,
                app.post("/registry/register", registration(&own.id)),
            ),
            (
                "heartbeat",
                gate,
                app.post("/registry/heartbeat", json!({ "workspace_id": own.id })),
            ),
        ];
        for (class, expected, request) in cells {
            let reply = with(request, credential, own, other).send().await;
            let cell = format!("{mode}, {credential:?}, {class}: {}", reply.text);
            match expected {
                Some(text) => {
                    assert_eq!((reply.status, reply.error()), (401, text.into()), "{cell}")
                }
                OK => assert_eq!(reply.status, 200, "{cell}"),
            }
        }
    }
}

on_both_engines! {
    async fn every_credential_meets_every_class_as_the_truth_table_says(engine: Engine) {
        let app = strict(engine).hook(any_token()).start().await;
        let own = Agent::start(&app, json!({ "name": "own" })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        check(&app, "admin set", ADMIN_SET, &own, &other).await;

        let app = TestApp::builder(engine).hook(any_token()).start().await;
        let own = Agent::start(&app, json!({ "name": "own" })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        check(&app, "development", DEVELOPMENT, &own, &other).await;

        // Development with an administrator token is as strict as anything.
        let app = TestApp::builder(engine)
            .admin_token(ADMIN)
            .hook(any_token())
            .start()
            .await;
        let own = Agent::start(&app, json!({ "name": "own" })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        check(&app, "development, admin set", ADMIN_SET, &own, &other).await;

        let app = TestApp::builder(engine)
            .strict()
            .config(|config| config.auth.legacy_workspace_admin = true)
            .hook(any_token())
            .start()
            .await;
        // Before the first token everyone is an administrator, whatever they say.
        for request in [
            app.get("/workspaces"),
            app.get("/workspaces").bearer("garbage"),
        ] {
            let reply = request.send().await;
            assert_eq!((reply.status, reply.text.as_str()), (200, "[]"));
        }
        let reply = app
            .get("/workspaces/7aa08951-00d1-4c3e-9d6a-0123456789ab/github-installation-token")
            .send()
            .await;
        reply.assert_error(401, "missing workspace auth token");
        let own = Agent::start(&app, json!({ "name": "own" })).await;
        let reply = app
            .post("/workspaces", json!({ "name": "other" }))
            .bearer(&own.token)
            .send()
            .await;
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        let other = Agent::started(&app, id).await;
        check(&app, "legacy", LEGACY, &own, &other).await;
    }

    async fn the_bearer_scheme_has_any_case_and_the_token_is_trimmed(engine: Engine) {
        let app = strict(engine).start().await;
        for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR    "] {
            for end in ["", "   "] {
                let value = format!("{scheme}{ADMIN}{end}");
                let reply = app
                    .get("/workspaces")
                    .header("authorization", &value)
                    .send()
                    .await;
                assert_eq!(reply.status, 200, "{value:?}");
            }
        }
        let no_bearer = [
            "",
            "Bearer",
            "Bearer ",
            ADMIN,
            &format!("Bearer{ADMIN}"),
            &format!("Basic {ADMIN}"),
            &format!("Token {ADMIN}"),
        ];
        for value in no_bearer {
            let reply = app
                .get("/workspaces")
                .header("authorization", value)
                .send()
                .await;
            reply.assert_error(401, "admin auth required");
        }
        let wrong = [
            format!("Bearer {ADMIN}x"),
            format!("Bearer {}", &ADMIN[1..]),
            format!("Bearer {ADMIN} {ADMIN}"),
            format!("Bearer {}", ADMIN.to_uppercase()),
        ];
        for value in wrong {
            let reply = app
                .get("/workspaces")
                .header("authorization", &value)
                .send()
                .await;
            reply.assert_error(401, "invalid admin auth token");
        }
    }

    async fn a_workspace_token_counts_for_its_own_path_only(engine: Engine) {
        let app = strict(engine).hook(any_token()).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for path in ["not-a-uuid", "7aa08951-00d1-4c3e-9d6a-0123456789ab", "%FF"] {
            let path = format!("/workspaces/{path}/github-installation-token");
            let reply = app.get(&path).bearer(&agent.token).send().await;
            assert_eq!(reply.status, 401, "{path}: {}", reply.text);
        }
    }

    async fn a_header_that_is_not_text_is_no_credential(engine: Engine) {
        let app = strict(engine).start().await;
        let mut request =
            b"GET /workspaces HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer "
                .to_vec();
        request.extend_from_slice(b"\xff\xfe\r\n\r\n");
        let answer = crate::support::raw(&app, &request).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}
