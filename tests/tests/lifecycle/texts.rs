//! Every text of these routes with characters that nobody expects.

use molecule_tests::support::{Agent, create, strict};
use molecule_tests::{ADMIN, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::update::patch;

/// Texts that hide, reorder or break something.
fn hostile() -> Vec<String> {
    let controls = (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32);
    let bidi = [
        '\u{202a}', '\u{202b}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}',
    ];
    let breaks = ['\u{2028}', '\u{2029}'];
    let each = controls.chain(bidi).chain(breaks).map(|c| format!("a{c}b"));
    each.chain(["x".repeat(1024 * 1024)]).collect()
}

/// Texts that are only foreign.
const FOREIGN: [&str; 4] = [
    "بحث\u{200f} 1",
    "שלום\u{200e}",
    "👩\u{200d}🔬",
    "e\u{301}\u{fe0f}",
];

async fn roomy(engine: molecule_tests::Engine) -> TestApp {
    let builder = strict(engine).config(|config| config.server.max_body_bytes = 8 * 1024 * 1024);
    builder.start().await
}

on_both_engines! {
    async fn no_field_of_a_creation_takes_what_hides_or_reorders(engine: Engine) {
        let app = roomy(engine).await;
        let before = app.database.dump().await;
        for text in hostile() {
            let path = format!("/srv/{text}");
            for (field, value) in [
                ("name", json!(text)),
                ("role", json!(text)),
                ("model", json!(text)),
                ("runtime", json!(text)),
                ("template", json!(text)),
                ("delivery_mode", json!(text)),
                ("workspace_dir", json!(path)),
                ("workspace_access", json!(text)),
                ("parent_id", json!(text)),
                ("tier", json!(text)),
                ("secrets", json!({ &text: "value" })),
                ("secrets", json!({ "KEY": format!("{}\0", text) })),
            ] {
                let mut body = json!({ "name": "one" });
                body[field] = value;
                let reply = create(&app, body).await;
                let shown: String = text.escape_debug().take(20).collect();
                assert_eq!(reply.status, 400, "{field} {shown}: {}", reply.text);
                assert!(reply.text.len() < 1024, "{field} {shown}");
            }
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn no_field_of_a_change_takes_what_hides_or_reorders(engine: Engine) {
        let app = roomy(engine).await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let before = app.database.dump().await;
        for text in hostile() {
            let path = format!("/srv/{text}");
            for (field, value) in [
                ("name", json!(text)),
                ("role", json!(text)),
                ("runtime", json!(text)),
                ("parent_id", json!(text)),
                ("workspace_dir", json!(path)),
                ("tier", json!(text)),
                ("collapsed", json!(text)),
            ] {
                let reply = patch(&app, &agent.id, json!({ field: value })).await;
                let shown: String = text.escape_debug().take(20).collect();
                assert_eq!(reply.status, 400, "{field} {shown}: {}", reply.text);
                assert!(reply.text.len() < 1024, "{field} {shown}");
            }
            // What is not known is not looked at.
            let reply = patch(&app, &agent.id, json!({ "notes": text })).await;
            assert_eq!(reply.text, r#"{"status":"updated"}"#);
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn foreign_names_stay_as_they_are(engine: Engine) {
        let app = strict(engine).start().await;
        for (n, text) in FOREIGN.into_iter().enumerate() {
            let id = app.create(json!({ "name": text, "role": text })).await;
            let row = app.listed(&id).await.expect("listed");
            assert_eq!((&row["name"], &row["role"]), (&json!(text), &json!(text)));
            let changed = format!("{text} {n}");
            assert_eq!(patch(&app, &id, json!({ "name": changed })).await.status, 200);
            assert_eq!(app.listed(&id).await.expect("listed")["name"], changed.as_str());
        }
    }

    async fn logs_and_memories_take_any_text(engine: Engine) {
        let app = roomy(engine).await;
        for (n, text) in hostile().into_iter().enumerate() {
            let shown: String = text.escape_debug().take(20).collect();
            let memories = json!([
                { "content": text, "scope": "TEAM" },
                { "content": "kept", "scope": text },
            ]);
            let body = json!({ "name": format!("w{n}"), "initial_memories": memories });
            let reply = create(&app, body).await;
            assert_eq!(reply.status, 201, "{shown}: {}", reply.text);
            let id = reply.json()["id"].as_str().expect("an id").to_owned();
            let path = format!("/admin/workspaces/{id}/bootstrap-failed");
            let report = json!({ "error": text, "log_tail": text });
            let reply = app.post(&path, report).bearer(ADMIN).send().await;
            assert_eq!((reply.status, &reply.json()["ok"]), (200, &json!(true)), "{shown}");
            let stored = app.listed(&id).await.expect("listed")["last_sample_error"].clone();
            assert!(stored.as_str().is_some_and(|text| text.len() <= 8192), "{shown}");
        }
        let count = "SELECT count(*) FROM agent_memories WHERE octet_length(content) > 100000";
        assert_eq!(app.database.count(count).await, 0);
    }

    async fn the_wrong_type_is_told_without_its_value(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let value = "hunter2-is-my-password";
        let wrong: [Value; 3] = [json!({ value: 1 }), json!([value]), json!(value)];
        for value in &wrong {
            for field in ["tier", "collapsed", "x"] {
                let reply = patch(&app, &agent.id, json!({ field: value })).await;
                reply.assert_error(400, "invalid request body");
                let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
                assert!(detail.starts_with(field), "{detail}");
                assert!(!reply.text.contains("hunter2"), "{}", reply.text);
            }
        }
    }
}
