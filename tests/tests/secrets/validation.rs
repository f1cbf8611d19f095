//! Keys and values that are refused, and those that are not.

use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::{Value, json};

use crate::requests::{admin, assert_saved, set, workspace};

/// Longest value.
const MOST: usize = 64 * 1024;
/// Must be found in no answer.
const MARK: &str = "hunter2";

/// Bodies that break a rule, with what the detail names.
fn bad_bodies() -> Vec<(Value, &'static str)> {
    let secret = |key: &str, value: &str| json!({ "key": key, "value": value });
    let mut bodies = vec![
        (json!({}), "key"),
        (json!({ "key": "KEY" }), "value"),
        (json!({ "value": MARK }), "key"),
        (json!({ "key": null, "value": MARK }), "key"),
        (json!({ "key": "KEY", "value": null }), "value"),
        (secret("", MARK), "key"),
        (secret("KEY", ""), "value"),
        (json!({ "key": "KEY", "value": [MARK] }), "value"),
        (json!({ "key": "KEY", "value": 5 }), "value"),
        (json!({ "key": { MARK: 1 }, "value": "v" }), "key"),
        (json!([MARK]), "wrong type"),
        (json!(MARK), "wrong type"),
        (secret("KEY", &format!("{MARK}\0")), "NUL"),
        (secret("KEY", &MARK.repeat(MOST / MARK.len() + 1)), "65536"),
        (secret("MODEL_PROVIDER", &MARK.repeat(20)), "100"),
        (secret("MODEL_PROVIDER", "a\nhunter2"), "control"),
    ];
    for key in [
        "1KEY",
        "A-B",
        "A B",
        "A=B",
        "A.B",
        "\u{c4}",
        "\u{202e}KEY",
        "KEY\u{200f}",
        "KEY\n",
        "KEY\u{7}",
        "KEY\0",
        " KEY",
        "$(id)",
        "hunter2;rm -rf /",
        &"x".repeat(129),
        &"hunter2".repeat(40_000),
    ] {
        bodies.push((secret(key, MARK), "key: must be letters"));
    }
    for key in [
        "PATH",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "WORKSPACE_ID",
        "WORKSPACE_CONFIG_PATH",
        "PLATFORM_URL",
        "MOLECULE_URL",
        "TIER",
        "ADMIN_TOKEN",
        "MOLECULE_ADMIN_TOKEN",
        "CP_ADMIN_API_TOKEN",
        "CP_ADMIN_TOKEN",
    ] {
        bodies.push((secret(key, MARK), key));
    }
    bodies
}

on_both_engines! {
    async fn a_bad_key_or_value_is_refused_by_every_route_and_repeated_by_none(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let path = format!("/workspaces/{}/secrets", agent.id);
        let before = app.database.dump().await;
        for (body, names) in bad_bodies() {
            for (method, path) in [
                ("POST", path.as_str()), ("PUT", path.as_str()), ("POST", "/settings/secrets"),
                ("PUT", "/settings/secrets"), ("POST", "/admin/secrets"),
            ] {
                let reply = app.request(method, path).json(body.clone()).bearer(ADMIN).send().await;
                let shown: String = body.to_string().chars().take(80).collect();
                assert_eq!((reply.status, reply.error().as_str()), (400, "invalid request body"), "{method} {path} {shown}");
                let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
                assert!(detail.contains(names), "{shown}: {detail}");
                assert!(!reply.text.contains(MARK), "{shown}: {}", reply.text);
            }
        }
        for broken in [&b""[..], b"{", b"{\"key\":\"A\",\"value\":\"hunter2", b"\xff\xfe", b"null"] {
            let reply = app.request("POST", &path).body(broken).bearer(ADMIN).send().await;
            reply.assert_error(400, "invalid request body");
            assert!(!reply.text.contains(MARK), "{}", reply.text);
        }
        // And a mebibyte does not even get that far
        let reply = set(&app, &path, "KEY", &"x".repeat(1024 * 1024)).await;
        reply.assert_error(413, "request body too large");
        assert_eq!(app.database.dump().await, before);
        app.shutdown().await;
    }

    async fn every_value_that_an_environment_can_carry_is_kept_as_it_is(engine: Engine) {
        let app = strict(engine).start().await;
        let values = [
            "x".to_owned(),
            " ".to_owned(),
            "\u{202e}\u{200f}\u{feff}right to left".to_owned(),
            (1_u8..32).map(char::from).collect(),
            "line\r\nline\n".to_owned(),
            "\"quotes\" and \\ and 'more' and ${HOME} and `id`".to_owned(),
            "\u{1f980}".repeat(1000),
            "x".repeat(MOST),
        ];
        let secrets: serde_json::Map<String, Value> = values.iter().enumerate()
            .map(|(number, value)| (format!("KEY_{number}"), json!(value))).collect();
        for (key, value) in &secrets {
            let value = value.as_str().expect("a text");
            assert_saved(&set(&app, "/settings/secrets", key, value).await, key);
        }
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let reply = app.get(&format!("/workspaces/{}/secrets/values", agent.id)).bearer(&agent.token).send().await;
        assert_eq!((reply.status, reply.json()), (200, Value::Object(secrets)));
        app.shutdown().await;
    }

    async fn a_workspace_has_at_most_256_secrets_of_its_own(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, path) = workspace(&app, "one").await;
        for number in 0..256 {
            assert_eq!(set(&app, &path, &format!("KEY_{number}"), "v").await.status, 200);
        }
        let reply = set(&app, &path, "ONE_MORE", "v").await;
        reply.assert_error(400, "invalid request body");
        assert!(reply.json()["detail"].as_str().is_some_and(|text| text.contains("256")), "{}", reply.text);
        assert_eq!(set(&app, &path, "KEY_7", "w").await.status, 200);
        // The model has its own route and its own place
        let model = app.request("PUT", &format!("/workspaces/{id}/model"));
        assert_eq!(model.json(json!({ "model": "anthropic/x" })).bearer(ADMIN).send().await.status, 200);
        let list = admin(&app, "GET", &path).await.json();
        assert_eq!(list.as_array().map(Vec::len), Some(258));
        app.shutdown().await;
    }

    async fn a_secret_can_be_checked_without_being_stored(engine: Engine) {
        let app = strict(engine).start().await;
        let before = app.database.dump().await;
        let check = async |body: Value| {
            app.post("/secrets/validate", body).bearer(ADMIN).send().await
        };
        let reply = check(json!({ "key": "API_KEY", "value": MARK })).await;
        assert_eq!((reply.status, reply.text.as_str()), (200, r#"{"valid":true}"#));
        for (body, names) in bad_bodies() {
            let reply = check(body.clone()).await;
            let shown: String = body.to_string().chars().take(80).collect();
            assert!(!reply.text.contains(MARK), "{shown}: {}", reply.text);
            let texts = body["key"].is_string() && body["value"].is_string();
            match texts {
                true => {
                    let said = reply.json();
                    assert_eq!((reply.status, &said["valid"]), (200, &json!(false)), "{shown}");
                    let error = said["error"].as_str().expect("an error");
                    assert!(error.contains(names), "{shown}: {error}");
                }
                false => reply.assert_error(400, "invalid request body"),
            }
        }
        check(json!({ "key": "K", "value": "x".repeat(1024 * 1024) })).await.assert_error(413, "request body too large");
        assert_eq!(app.database.dump().await, before);
        app.shutdown().await;
    }
}
